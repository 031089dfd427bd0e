"""What `join` shows: a live screen in a terminal, plain lines anywhere else."""

import asyncio
import math
import time

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from peer.cli.waiting import wait_rows, wait_words
from peer.domains.table import domain_line, domain_table
from peer.status import PeerStatus
from peer.units import format_bytes

PLAIN_EVERY_S = 10.0
REFRESH_S = 0.25
NARROW_COLUMNS = 70
"""Below that one value a row."""


async def show(status: PeerStatus, console: Console, *, title: str, plain: bool) -> None:
    """Shows a peer's status until cancelled."""
    if plain or not console.is_terminal:
        await _show_lines(status, console)
        return
    with Live(console=console, refresh_per_second=1 / REFRESH_S, transient=False) as live:
        while True:
            live.update(_screen(status, title, width=console.width))
            await asyncio.sleep(REFRESH_S)


async def _show_lines(status: PeerStatus, console: Console) -> None:
    """One line when the phase changes before training, then one every few seconds.

    Before training, that one is of the longest wait, if there is any.
    """
    last_phase, next_at_s, num_notices, last_domains = "", 0.0, 0, ""
    while True:
        domains = domain_line(status.standings)
        if domains != last_domains and time.monotonic() >= next_at_s:
            console.print(domains, markup=False, highlight=False, soft_wrap=True)
            last_domains = domains
        for notice in status.notices[num_notices:]:
            console.print(f"note: {notice}", markup=False, highlight=False, soft_wrap=True)
        num_notices = len(status.notices)
        is_training = status.tokens_per_s > 0
        if is_training and time.monotonic() >= next_at_s:
            console.print(line(status), markup=False, highlight=False, soft_wrap=True)
            next_at_s = time.monotonic() + PLAIN_EVERY_S
        elif not is_training and status.phase != last_phase:
            console.print(status.phase, markup=False, highlight=False, soft_wrap=True)
            last_phase = status.phase
            next_at_s = time.monotonic() + PLAIN_EVERY_S
        elif not is_training and time.monotonic() >= next_at_s and (words := _waiting(status)):
            console.print(words, markup=False, highlight=False, soft_wrap=True)
            next_at_s = time.monotonic() + PLAIN_EVERY_S
        await asyncio.sleep(REFRESH_S)


def line(status: PeerStatus) -> str:
    """Returns the status as one line."""
    parts = [
        f"step {status.step}",
        f"{_number(status.loss_bits_per_byte)} bits/byte",
        f"{status.tokens_per_s:,.0f} tokens/s",
        f"round {status.round}",
        f"domain {status.domain}" if status.domain else "",
        f"{len(status.members)} others",
        f"exchanges {status.exchanges_done} done {status.exchanges_failed} failed",
        f"up {format_bytes(status.sent_bytes)} down {format_bytes(status.received_bytes)}",
        f"ways: {status.ways_words}" if status.ways_words else "",
        status.phase,
        _waiting(status),
    ]
    return " | ".join(filter(None, parts))


def _waiting(status: PeerStatus) -> str:
    """The longest wait in words, if one is long enough to be shown."""
    waits = status.waits
    return "".join(f"waiting for {wait_words(wait, waits.now_s())}" for wait in waits.longest(1))


def _screen(status: PeerStatus, title: str, *, width: int) -> Panel:
    is_narrow = width < NARROW_COLUMNS
    table = Table.grid(padding=(0, 3))
    rows: list[tuple[tuple[str, str], ...]] = [
        (
            ("step", f"{status.step:,}" + (" (done)" if status.is_done else "")),
            ("tokens/s", f"{status.tokens_per_s:,.0f}"),
        ),
        (
            ("training loss", f"{_number(status.loss_bits_per_byte)} bits/byte"),
            ("validation", f"{_number(status.validation_bits_per_byte)} bits/byte"),
        ),
        (
            ("round", f"{status.round:,}"),
            ("other peers", f"{len(status.members)}"),
        ),
        (
            ("exchanges", f"{status.exchanges_done} done, {status.exchanges_failed} failed"),
            ("partners", ", ".join(peer[-6:] for peer in status.partners) or "-"),
        ),
        (
            ("sent", format_bytes(status.sent_bytes)),
            ("received", format_bytes(status.received_bytes)),
        ),
        (
            ("your part", _contribution(status)),
            ("exchange work", f"{status.overhead_s:.1f} s, waited {status.waited_s:.1f} s"),
        ),
    ]
    if status.ways_words:
        rows.append((("ways", status.ways_words),))
    for pair in rows:
        cells = [Text(*cell) for name, value in pair for cell in ((name, "dim"), (value, ""))]
        for row in filter(None, (cells[:2], cells[2:])) if is_narrow else (cells,):
            table.add_row(*row)
    notices = [Text(notice, style="yellow") for notice in status.notices[-3:]]
    now = Text.assemble(("now  ", "dim"), (status.phase, "bold"))
    longest = status.waits.longest()
    waits = [wait_rows(longest, status.waits.now_s())] if longest else []
    domains = []
    if status.standings:
        domains.append(domain_table(status.standings, width=width - 4, ours=status.domain))
    return Panel(
        Group(now, *waits, Text(""), table, *domains, *notices),
        title=title,
        subtitle="Ctrl+C leaves with a checkpoint",
        border_style="cyan",
    )


def _contribution(status: PeerStatus) -> str:
    share = f", {100 * status.share_frac:.0f} % of the swarm" if status.swarm_tokens else ""
    return f"{status.tokens:,} tokens{share}, in {status.contributions} rounds"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
