"""How a demo ends, however it does: without its processes, with a sentence and an exit code."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from peer.demo.cast import ActorDied, Cast
from peer.demo.production import TooSlow
from protocol.errors import ConfigError

FAILED, MISTAKEN, INTERRUPTED = 1, 2, 130


def exit_code_of(play: Callable[[Cast], int], directory: Path, console: Console) -> int:
    """Plays a demo; all its processes have ended when this returns.

    Args:
        play: Plays it with the cast, shows what came out, and returns the exit code.
        directory: For everything that is written.
        console: Where to say why it ended early.

    Returns:
        What `play` does; or 1 when an actor died, 2 when the operator has to change something, 130
        after Ctrl+C.
    """

    def tell(sentence: str) -> None:
        console.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)

    try:
        with _signals_are_ctrl_c(), Cast(directory) as cast:
            return play(cast)
    except ConfigError as error:
        tell(str(error))
        return MISTAKEN
    except ActorDied as error:
        tell(f"{error}. Its last lines:\n{error.actor.tail()}")
        return FAILED
    except TooSlow as error:
        tell(f"{error}; the logs are in {directory}")
        return FAILED
    except KeyboardInterrupt:
        console.print(f"Interrupted. No process of the demo is left; the logs are in {directory}")
        return INTERRUPTED


@contextlib.contextmanager
def _signals_are_ctrl_c() -> Iterator[None]:
    """Ends in order also when it is terminated, or its terminal is closed."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
