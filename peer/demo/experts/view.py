"""What is seen of a play with domains at one moment: the domains, and the peers."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from peer.demo.experts.watch import MemberView
from peer.demo.screen import bits, clock, now_and_next, progress_row
from peer.domains.table import domain_line, domain_table
from protocol.standings import Standing


@dataclass(frozen=True, slots=True)
class View:
    """All that can be seen at one moment."""

    elapsed_s: float
    now: str
    coming: str
    standings: tuple[Standing, ...]
    peers: Mapping[str, MemberView]
    dead: str
    """The peer that was killed; empty before."""
    width: int
    """Columns that there are."""

    def picture(self) -> RenderableType:
        """Returns it for a terminal."""
        words = f"{self._done} of {len(self.standings)} domains done" if self.standings else ""
        step, steps = self._steps
        return Group(
            Text(),
            progress_row(self.elapsed_s, step, max(steps, 1), words),
            now_and_next(self.now, self.coming),
            domain_table(self.standings, width=self.width) if self.standings else Text(),
            self._peer_table() if self.peers else Text(),
        )

    def line(self) -> str:
        """Returns it for a log."""
        peers = "; ".join(
            f"{name} {'killed' if name == self.dead else self._place(view)}"
            for name, view in self.peers.items()
        )
        parts = (clock(self.elapsed_s), self.now, domain_line(self.standings), peers)
        return " | ".join(part for part in (*parts, f"next: {self.coming}") if part)

    @property
    def _done(self) -> int:
        return sum(standing.is_done for standing in self.standings)

    @property
    def _steps(self) -> tuple[int, int]:
        """Returns steps done and to be done, of all domains."""
        total = sum(standing.total_steps for standing in self.standings)
        return total - sum(standing.remaining_steps for standing in self.standings), total

    def _peer_table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("peer", no_wrap=True)
        table.add_column("domain", no_wrap=True)
        table.add_column("what it does", min_width=24)
        table.add_column("step", justify="right", no_wrap=True)
        table.add_column("bits/byte", justify="right", no_wrap=True)
        table.add_column("keeps", overflow="fold")
        for name, view in self.peers.items():
            is_dead = name == self.dead
            table.add_row(
                name,
                view.domain or "-",
                "killed" if is_dead else view.phase,
                str(view.step) if view.is_training else "-",
                bits(view.number("loss_bits_per_byte")),
                "" if is_dead else _keeps(view),
                style="dim" if is_dead else "",
            )
        return table

    def _place(self, view: MemberView) -> str:
        return f"in {view.domain} at {view.step}" if view.is_training else view.phase


def _keeps(view: MemberView) -> str:
    return ", ".join(
        f"{name}" if kept.is_final else f"{name} at {kept.step}" for name, kept in view.kept.items()
    )
