"""What is seen while a demo plays: a live picture in a terminal, a line now and then elsewhere."""

import math
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_LINE_S = 5.0


class Seen(Protocol):
    """All that can be seen at one moment."""

    @property
    def now(self) -> str:
        """What happens, in words."""

    def picture(self) -> RenderableType:
        """Returns it for a terminal."""

    def line(self) -> str:
        """Returns it for a log."""


class Screen:
    """Shows views on a console; a context.

    Args:
        console: Where to show them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._next_line_at_s = 0.0
        self._last_now = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def show(self, view: Seen) -> None:
        """Shows how things are now."""
        if self._live:
            self._live.update(view.picture(), refresh=True)
        elif time.monotonic() >= self._next_line_at_s or view.now != self._last_now:
            self._next_line_at_s = time.monotonic() + PLAIN_LINE_S
            self._last_now = view.now
            self._console.print(view.line(), highlight=False, markup=False, soft_wrap=True)

    def say(self, sentence: str, *, elapsed_s: float, style: str = "") -> None:
        """Says something that stays on the screen."""
        text = Text.assemble((clock(elapsed_s), "dim"), "  ", (sentence, style))
        self._console.print(text, highlight=False, soft_wrap=True)


def megabytes(num_bytes: float) -> str:
    """Returns a number of bytes for people, in megabytes."""
    return "-" if math.isnan(num_bytes) else f"{num_bytes / 1e6:,.1f} MB"


def bits(value: float) -> str:
    """Returns a loss for people."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def clock(elapsed_s: float) -> str:
    """Returns a time for people, in minutes and seconds."""
    return f"{int(elapsed_s) // 60}:{int(elapsed_s) % 60:02d}"


def progress_row(elapsed_s: float, step: int, steps: int, words: str) -> RenderableType:
    """Returns the time and how much of all is done, as a bar and in words."""
    row = Table.grid(padding=(0, 1))
    row.add_row(clock(elapsed_s), ProgressBar(total=steps, completed=step, width=40), words)
    return row


def now_and_next(now: str, coming: str) -> RenderableType:
    """Returns what happens, and what will."""
    return Text.assemble(("now   ", "dim"), (now, "bold"), "\n", ("next  ", "dim"), coming)
