"""A swarm on a terminal: totals, domains, peers, waits, links, what happened, and the loss.

A function of what was seen, and of the room that there is. The peers' table takes the columns that
fit, the most telling ones first, so it is whole at any width. What strangers wrote is shown as it
is, without styles of theirs and without characters that do not print.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from peer.cli.curve import curve
from peer.domains.table import domain_table
from peer.units import format_bytes, format_count, format_duration, format_rate
from peer.watch.diary import LAGS_ROUNDS
from peer.watch.view import EventView, PeerView, SwarmView
from protocol.card import ROLES
from protocol.standings import Standing

WIDEST = 140
MAX_WAITS, MAX_EVENTS = 5, 6
CURVE_ROWS = 3
_MIN_PEERS = 4
"""So many are shown in however low a terminal."""
_LONGEST_CELL = 18
_GAP_COLUMNS = 2
"""Between two columns of a table; half of it on either side."""
_IN = ("peer", "holder")
"""Roles of those who have the model."""
_STYLES = {"came": "green", "back": "green", "left": "dim", "failed": "red", "lags": "yellow"}

_CELLS: dict[str, Callable[[PeerView], str]] = {
    "peer": lambda peer: short(peer.peer_id),
    "role": lambda peer: peer.role,
    "domain": lambda peer: peer.domain,
    "step": lambda peer: f"{peer.step:,}" if peer.role in _IN else "",
    "round": lambda peer: f"{peer.round:,}" if peer.role in _IN else "",
    "": lambda peer: f"{peer.behind_rounds} behind" if _lags(peer) else "",
    "loss": lambda peer: _loss(peer.loss_bits_per_byte),
    "tokens/s": lambda peer: _if_told(peer, format_count(peer.tokens_per_s)),
    "busy": lambda peer: _percent(peer.utilisation_frac),
    "tokens": lambda peer: format_count(peer.tokens) if peer.role in _IN else "",
    "used": lambda peer: _used(peer),
    "attested": lambda peer: _attested(peer),
    "late": lambda peer: _late(peer),
    "refused": lambda peer: _refused(peer),
    "reach": lambda peer: peer.reach,
    "up": lambda peer: format_rate(peer.up_bps) if peer.up_bps else "",
    "down": lambda peer: format_rate(peer.down_bps) if peer.down_bps else "",
}
_ORDER = (
    *("peer", "step", "", "loss", "domain", "round", "tokens/s", "role", "busy"),
    *("used", "attested", "late", "refused", "reach", "up", "down", "tokens"),
)
"""Of importance: when there is no room, the last go first."""
_LEFT_JUSTIFIED = {"peer", "role", "domain", "", "reach"}


def swarm_screen(view: SwarmView, *, width: int, height: int | None = None) -> Group:
    """Returns a swarm as a terminal shows it.

    Args:
        view: What was seen.
        width: Columns that there are.
        height: Lines that there are; without them, all peers are shown, and no curve.
    """
    width = min(width, WIDEST)
    around = [
        *_waits(view, width),
        *_links(view, width),
        *_events(view.events[-MAX_EVENTS:], width),
    ]
    if height is not None:
        around += _curve(view, width)
    domains = [domain_table(_standings(view), width=width)] if view.domains else []
    totals = _totals(view, width)
    title = _line(Text.assemble((plain(view.name), "bold"), plain(_subtitle(view))), width)
    num_shown = len(view.peers)
    if height is not None:
        num_lines = sum(1 if isinstance(part, Text) else part.row_count + 3 for part in domains)
        taken = 2 + totals.row_count + num_lines + len(around) + 5  # the table's own, and one below
        num_shown = max(_MIN_PEERS, height - taken)
    return Group(title, totals, *domains, *_peers(view.peers, num_shown, width), *around)


def plain(text: str) -> str:
    """Returns what a stranger wrote, with a dot in place of every character that does not print."""
    return "".join(each if each.isprintable() else "\u00b7" for each in text)


def short(peer_id: str) -> str:
    """Returns the end of a peer's id, by which people know it."""
    return plain(peer_id[-6:])


# ---- the parts, from above to below


def _subtitle(view: SwarmView) -> str:
    parameters = f"{format_count(view.parameters)} parameters" if view.parameters else ""
    return "".join(
        f", {part}" for part in (f"run {view.run_id[:12]}", view.method, parameters) if part
    )


def _totals(view: SwarmView, width: int) -> Table:
    pairs = [
        ("training", f"{view.num_training:,} {'peer' if view.num_training == 1 else 'peers'}"),
        ("round", f"{view.round:,}"),
        ("tokens", format_count(view.tokens)),
        ("tokens/s", format_count(view.tokens_per_s)),
        ("loss", _loss(view.loss_bits_per_byte) or "-"),
        ("validation", _loss(view.validation_bits_per_byte) or "-"),
        ("sent", format_bytes(view.sent_bytes)),
        ("busy", _percent(view.utilisation_frac) or "-"),
    ]
    a_row = 4 if width >= 80 else 2
    table = Table.grid(padding=(0, 2))
    for at in range(0, len(pairs), a_row):
        row = pairs[at : at + a_row]
        table.add_row(*(Text(*cell) for pair in row for cell in ((pair[0], "dim"), (pair[1], ""))))
    return table


def _standings(view: SwarmView) -> list[Standing]:
    names = [each.name for each in fields(Standing)]
    return [Standing(**{name: domain[name] for name in names}) for domain in view.domains]


def _peers(peers: Sequence[PeerView], num_shown: int, width: int) -> list[RenderableType]:
    if not peers:
        return [Text("nobody is there", style="yellow")]
    shown = sorted(peers, key=_rank)[:num_shown]
    rows = [{name: _cut(plain(cell(peer))) for name, cell in _CELLS.items()} for peer in shown]
    columns = _columns_that_fit(rows, width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    for name in columns:
        justify: JustifyMethod = "left" if name in _LEFT_JUSTIFIED else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for peer, row in zip(shown, rows, strict=True):
        cells = (Text(row[name] or ("-" if name else ""), _style(name)) for name in columns)
        table.add_row(*cells, style="" if peer.role in _IN else "dim")
    left_out = len(peers) - len(shown)
    return [table, *([Text(f"and {left_out:,} more", style="dim")] if left_out else [])]


def _columns_that_fit(rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """Returns those columns, in their order, that say anything and for which there is room."""
    chosen, left = set(), width
    for name in _ORDER:
        cells = [row[name] for row in rows]
        needed = max(map(cell_len, (name, *cells))) + _GAP_COLUMNS
        if any(cells) and needed <= left:
            chosen.add(name)
            left -= needed
    return [name for name in _CELLS if name in chosen]


def _waits(view: SwarmView, width: int) -> list[Text]:
    waits = [(wait["for_s"], peer, wait) for peer in view.peers for wait in peer.waits[:1]]
    waits.sort(key=lambda each: (-each[0], each[1].peer_id))
    return [
        _line(
            Text.assemble(
                (short(peer.peer_id), "bold"),
                (" waits for ", "dim"),
                plain(wait["name"]),
                plain(f" from {wait['whom']}" if wait["whom"] else ""),
                f", {format_duration(round(max(for_s, 0)))}",
            ),
            width,
        )
        for for_s, peer, wait in waits[:MAX_WAITS]
    ]


def _links(view: SwarmView, width: int) -> list[Text]:
    ties = [tie for peer in view.peers for tie in peer.ties]
    if not ties:
        return []
    ways = ", ".join(f"{num:,} {way}" for way, num in Counter(t["way"] for t in ties).most_common())
    trips_s = [tie["round_trip_s"] for tie in ties if tie["round_trip_s"] is not None]
    trip = f", round trip {format_duration(statistics.median(trips_s))}" if trips_s else ""
    return [_line(Text.assemble(("links  ", "dim"), plain(ways), trip), width)]


def _events(events: Iterable[EventView], width: int) -> list[Text]:
    return [
        _line(
            Text.assemble(
                (time.strftime("%H:%M:%S  ", time.localtime(event.unix_s)), "dim"),
                (f"{short(event.peer_id)} ", "bold"),
                (plain(event.words), _STYLES.get(event.kind, "")),
            ),
            width,
        )
        for event in events
    ]


def _curve(view: SwarmView, width: int) -> list[Text]:
    told = [(p.unix_s, p.loss_bits_per_byte) for p in view.history]
    points = [(at_s, loss) for at_s, loss in told if loss is not None and math.isfinite(loss)]
    if len(points) < 2:
        return []
    highest, lowest = (_loss(pick(loss for _, loss in points)) for pick in (max, min))
    labels = [f"loss {highest}", *[""] * (CURVE_ROWS - 2), f"loss {lowest}"]
    margin = max(map(len, labels)) + 2
    columns = min(width, 80) - margin
    if columns < 1:  # whoever claims an absurd loss has a long label
        return []
    rows = curve(points, columns=columns, rows=CURVE_ROWS)
    return [
        Text.assemble((label.ljust(margin), "dim"), (row, "cyan"))
        for label, row in zip(labels, rows, strict=True)
    ]


# ---- one cell


def _rank(peer: PeerView) -> tuple[int, str, str]:
    known = ROLES.index(peer.role) if peer.role in ROLES else len(ROLES)
    return known, peer.domain, peer.peer_id


def _lags(peer: PeerView) -> bool:
    return peer.role in _IN and peer.behind_rounds >= LAGS_ROUNDS


def _if_told(peer: PeerView, words: str) -> str:
    return words if peer.has_report else ""


def _loss(loss_bits_per_byte: float | None) -> str:
    return "" if loss_bits_per_byte is None else f"{loss_bits_per_byte:.3f}"


def _percent(frac: float | None) -> str:
    return "" if frac is None else f"{100 * frac:.0f} %"


def _used(peer: PeerView) -> str:
    return "" if peer.contribution is None else format_count(peer.contribution["used_tokens"])


def _attested(peer: PeerView) -> str:
    return f"{format_count(peer.attested_tokens)} by {peer.attested_by}" if peer.attested_by else ""


def _late(peer: PeerView) -> str:
    late_rounds = peer.contribution["late_rounds"] if peer.contribution else 0
    return f"{late_rounds:,}" if late_rounds else ""


def _refused(peer: PeerView) -> str:
    refused = sum(times for _, times in peer.contribution["refused"]) if peer.contribution else 0
    return f"{refused:,}" if refused else ""


def _style(column: str) -> str:
    return "" if column else "yellow"


def _cut(cell: str) -> str:
    """Returns a cell that no stranger makes wider than a column should be."""
    if cell_len(cell) <= _LONGEST_CELL:
        return cell
    return set_cell_size(cell, _LONGEST_CELL - 1).rstrip() + "\u2026"


def _line(text: Text, width: int) -> Text:
    """Returns a text that takes one line."""
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text
