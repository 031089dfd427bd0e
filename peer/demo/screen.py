"""What is seen while the demo plays: a live table in a terminal, a line now and then elsewhere."""

import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_LINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Row:
    """One actor, as it is now."""

    name: str
    phase: str
    step: int | None = None
    loss_bits_per_byte: float = math.nan
    round: int | None = None
    sent_bytes: float = math.nan
    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """All that can be seen at one moment."""

    elapsed_s: float
    now: str
    coming: str
    step: int
    steps: int
    rows: tuple[Row, ...] = ()


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

    def show(self, view: View) -> None:
        """Shows how things are now."""
        if self._live:
            self._live.update(_picture(view), refresh=True)
        elif time.monotonic() >= self._next_line_at_s or view.now != self._last_now:
            self._next_line_at_s = time.monotonic() + PLAIN_LINE_S
            self._last_now = view.now
            self._console.print(_line(view), highlight=False, markup=False, soft_wrap=True)

    def say(self, sentence: str, *, elapsed_s: float, style: str = "") -> None:
        """Says something that stays on the screen."""
        text = Text.assemble((_clock(elapsed_s), "dim"), "  ", (sentence, style))
        self._console.print(text, highlight=False, soft_wrap=True)


def megabytes(num_bytes: float) -> str:
    """Returns a number of bytes for people, in megabytes."""
    return "-" if math.isnan(num_bytes) else f"{num_bytes / 1e6:,.1f} MB"


def bits(value: float) -> str:
    """Returns a loss for people."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _clock(elapsed_s: float) -> str:
    return f"{int(elapsed_s) // 60}:{int(elapsed_s) % 60:02d}"


def _picture(view: View) -> Group:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("who", no_wrap=True)
    table.add_column("what it does", min_width=28, no_wrap=True)
    for heading in ("step", "loss, bits/byte", "round", "sent"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in view.rows:
        table.add_row(
            row.name,
            row.phase,
            "-" if row.step is None else str(row.step),
            bits(row.loss_bits_per_byte),
            "-" if row.round is None else str(row.round),
            megabytes(row.sent_bytes),
            style="dim" if row.is_dead else "",
        )
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        _clock(view.elapsed_s),
        ProgressBar(total=view.steps, completed=view.step, width=40),
        f"step {view.step} of {view.steps}",
    )
    now = Text.assemble(("now   ", "dim"), (view.now, "bold"))
    coming = Text.assemble(("next  ", "dim"), view.coming)
    return Group(Text(), bar, now, coming, Text(), table)


def _line(view: View) -> str:
    peers = "; ".join(
        f"{row.name} {row.phase}"
        + (
            f" {row.step} loss {bits(row.loss_bits_per_byte)}"
            if row.step and not row.is_dead
            else ""
        )
        for row in view.rows
    )
    parts = [f"{_clock(view.elapsed_s)}  step {view.step}/{view.steps}", view.now, peers]
    return " | ".join(part for part in (*parts, f"next: {view.coming}") if part)
