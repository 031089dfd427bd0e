"""What every demo does on its stage: it founds a run, opens it, and sees its actors in and out."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from peer.demo import script
from peer.demo.cast import ActorDied, Cast
from peer.demo.screen import Screen
from protocol.errors import ThinwireError

FOUNDER = "founder"


class TooSlow(ThinwireError):
    """Something took longer than the demo waits for it."""


class Production(ABC):
    """See the module docstring; each demo has a timeline of its own.

    Args:
        cast: Where actors come from.
        screen: Where to show what happens.
        directory: run.toml is there; everything else goes there.
        thinwire: How the program is started.
    """

    founding = "founding the run: the manifest is written and signed"
    """What happens at first, for people."""
    first_act = ""
    """What comes once the bootstrap node can be reached, for people."""

    def __init__(
        self,
        cast: Cast,
        screen: Screen,
        directory: Path,
        *,
        thinwire: tuple[str, ...] = (sys.executable, "-m", "thinwire"),
    ) -> None:
        self._cast = cast
        self._screen = screen
        self._directory = directory
        self._thinwire = thinwire
        self._begin_s = time.monotonic()
        self._ticket = ""
        self._now = ""
        self._coming = ""
        """What comes next, while the timeline does not say."""

    @property
    def elapsed_s(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._begin_s

    def found(self) -> Path:
        """Founds the run; returns the folder with its manifest.

        Raises:
            ActorDied: the settings were refused.
            TooSlow: it took too long.
        """
        folder = self._directory / "run"
        self._now = self.founding
        self._coming = "the bootstrap node starts"
        command = [*self._thinwire, "new", str(self._directory / "run.toml"), "--dir", str(folder)]
        founder = self._cast.start(FOUNDER, command)
        founder.fate = "founded the run"
        self._wait(lambda: not founder.is_alive, within_s=script.FOUND_S, what="founding the run")
        if founder.exit_code != 0:
            raise ActorDied(founder)
        return folder

    def open(self, run_folder: Path) -> None:
        """Starts the bootstrap node and waits for its ticket.

        Raises:
            ActorDied, TooSlow: there is none.
        """
        self._now = "the bootstrap node starts"
        self._coming = self.first_act
        self._cast.start(script.BOOTSTRAP, [*self._thinwire, "bootstrap", str(run_folder)])
        path = run_folder / "ticket.txt"
        self._wait(path.exists, within_s=script.BOOTSTRAP_S, what="the bootstrap node")
        self._wait(lambda: bool(path.read_text().strip()), within_s=5.0, what="the ticket")
        self._ticket = path.read_text().strip()
        self.say(f"the bootstrap node can be reached; its ticket is {self._ticket[:16]}...")

    def say(self, sentence: str, *, style: str = "") -> None:
        """Says something that stays on the screen."""
        self._screen.say(sentence, elapsed_s=self.elapsed_s, style=style)

    @abstractmethod
    def _look(self) -> None:
        """Takes in and shows what is new.

        Raises:
            ActorDied: somebody died whom nobody had killed.
        """

    def _join(self, name: str, *options: str) -> Path:
        """Starts a peer with nothing but the ticket; returns where it writes its events."""
        folder = self._directory / name
        always = ["--device", "cpu", "--threads", "1", "--plain"]
        self._cast.start(
            name, [*self._thinwire, "join", self._ticket, "--dir", str(folder), *always, *options]
        )
        return folder / "events.jsonl"

    def _kill(self, name: str) -> None:
        actor = self._cast.actors[name]
        actor.fate = "killed"
        actor.kill()

    def _see_out(self, names: Sequence[str]) -> dict[str, int | None]:
        """Asks actors to leave, as Ctrl+C does; returns exit codes as `Cast.dismiss` does."""
        return self._cast.dismiss(names, within_s=script.LEAVE_S)

    def _wait(self, is_over: Callable[[], bool], *, within_s: float, what: str) -> None:
        give_up_at_s = time.monotonic() + within_s
        while not is_over():
            if time.monotonic() > give_up_at_s:
                raise TooSlow(f"{what} took more than {within_s:g} s on this machine")
            self._look()
            time.sleep(0.1)
