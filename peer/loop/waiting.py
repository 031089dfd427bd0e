"""What somebody sees who joins: a line that changes in a terminal, lines anywhere else."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console

from peer.loop.port import WirePort


class Waiting:
    """Shows what the wire process does until the loop may begin.

    Args:
        port: The way to it.
        stream: Where to.
        is_quiet: Show nothing.
    """

    def __init__(self, port: WirePort, stream: TextIO, *, is_quiet: bool) -> None:
        self._port = port
        self._console = Console(file=stream, quiet=is_quiet)
        self._stack = ExitStack()
        self._phase = ""
        self._num_notices = 0

    def __enter__(self) -> Self:
        """Begin to show."""
        self._status = self._console.status("starting the wire process")
        if self._console.is_terminal:
            self._stack.enter_context(self._status)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clear the line."""
        self._stack.close()

    def look(self) -> None:
        """Show what is new."""
        for notice in self._port.notices[self._num_notices :]:
            self.say(f"note: {notice}")
        self._num_notices = len(self._port.notices)
        phase = self._port.news.phase
        if self._console.is_terminal:
            self._status.update(phase)
        elif (kind := phase.partition(":")[0]) != self._phase:  # what follows is how far it is
            self._phase = kind
            self.say(phase)

    def say(self, words: str) -> None:
        """Show a line that stays."""
        self._console.print(f"thinwire: {words}", markup=False, highlight=False, soft_wrap=True)
