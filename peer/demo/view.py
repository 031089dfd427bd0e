"""What is seen of the demo at one moment: its actors, one row each."""

import math
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from peer.demo.screen import bits, clock, megabytes, now_and_next, progress_row


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

    def picture(self) -> RenderableType:
        """Returns it for a terminal."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("who", no_wrap=True)
        table.add_column("what it does", min_width=28, no_wrap=True)
        for heading in ("step", "loss, bits/byte", "round", "sent"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                row.name,
                row.phase,
                "-" if row.step is None else str(row.step),
                bits(row.loss_bits_per_byte),
                "-" if row.round is None else str(row.round),
                megabytes(row.sent_bytes),
                style="dim" if row.is_dead else "",
            )
        words = f"step {self.step} of {self.steps}"
        bar = progress_row(self.elapsed_s, self.step, self.steps, words)
        return Group(Text(), bar, now_and_next(self.now, self.coming), Text(), table)

    def line(self) -> str:
        """Returns it for a log."""
        peers = "; ".join(
            f"{row.name} {row.phase}"
            + (
                f" {row.step} loss {bits(row.loss_bits_per_byte)}"
                if row.step and not row.is_dead
                else ""
            )
            for row in self.rows
        )
        parts = [f"{clock(self.elapsed_s)}  step {self.step}/{self.steps}", self.now, peers]
        return " | ".join(part for part in (*parts, f"next: {self.coming}") if part)
