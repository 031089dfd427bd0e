"""`thinwire status`: how a run is, for anybody who has its ticket."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from peer.cli.join import LONGEST_PATH, run_loop
from peer.domains.table import WIDE_COLUMNS, domain_table
from peer.run_folder import read_ticket
from peer.units import format_count, format_rate
from protocol.card import ROLES, Card
from protocol.identity import PeerId
from protocol.ticket import Ticket, parse_ticket

if TYPE_CHECKING:
    from peer.domains.look import Look

WIDEST = 110
_HEADINGS = ("peer", "role", "domain", "step", "round", "tokens", "reach", "up", "down")
_NUMBERS = {"step", "round", "tokens", "up", "down"}
_WIDE_ONLY = {"tokens", "reach", "up", "down"}


def status(
    ticket: Annotated[
        str, typer.Argument(help="The ticket, or a file or a peer's folder that holds it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    wait: Annotated[
        float, typer.Option(min=1, help="Seconds to look for somebody who knows the run.")
    ] = 30.0,
) -> None:
    """Show how a run is: its domains, and its peers. Takes no part in it."""
    run_loop(_look_and_show(_ticket_of(ticket), wait_s=wait, as_json=as_json))


async def _look_and_show(ticket: Ticket, *, wait_s: float, as_json: bool) -> None:
    with Console(stderr=True).status("loading") as doing:  # hivemind takes seconds
        from peer.domains.look import look

        doing.update(f"looking for run {ticket.run_id[:12]}")
        seen = await look(ticket, wait_s=wait_s)
    if as_json:
        print(json.dumps(as_data(seen), allow_nan=False))
    else:
        show(seen, Console())


def show(seen: "Look", console: Console) -> None:
    """Prints what was seen of a run."""
    width = min(console.width, WIDEST)
    manifest = seen.manifest
    title = Text.assemble((manifest.name, "bold"), f", run {manifest.run_id[:12]}")
    console.print(title, highlight=False, width=width)
    if manifest.domains:
        console.print(domain_table(seen.standings, width=width), width=width)
    console.print(_peer_table(seen, width=width), width=width)


def as_data(seen: "Look") -> dict[str, Any]:
    """Returns what was seen of a run, for programs."""
    return {
        "name": seen.manifest.name,
        "run_id": seen.manifest.run_id,
        "domains": [asdict(each) | {"state": each.words} for each in seen.standings],
        "peers": [{"peer_id": peer} | asdict(card) for peer, card in sorted(seen.cards.items())],
    }


def _peer_table(seen: "Look", *, width: int) -> Table:
    left_out = set() if seen.manifest.domains else {"domain"}
    left_out |= _WIDE_ONLY if width < WIDE_COLUMNS else set()
    shown = [heading for heading in _HEADINGS if heading not in left_out]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    for heading in shown:
        justify: JustifyMethod = "right" if heading in _NUMBERS else "left"
        table.add_column(heading, justify=justify, no_wrap=heading != "domain")
    for peer, card in sorted(seen.cards.items(), key=_rank):
        cells = dict(zip(_HEADINGS, _cells(peer, card), strict=True))
        style = "" if _is_in(card) else "dim"
        table.add_row(*(Text(cells[heading]) for heading in shown), style=style)
    return table


def _cells(peer: PeerId, card: Card) -> tuple[str, ...]:
    progress = f"{card.step:,}", f"{card.round:,}", format_count(card.tokens)
    rates = (format_rate(rate) if rate else "-" for rate in (card.up_bps, card.down_bps))
    return (
        *(peer[-6:], card.role, card.domain or "-"),
        *(progress if _is_in(card) else ("-", "-", "-")),
        *(card.reach, *rates),
    )


def _is_in(card: Card) -> bool:
    """Whether a card is that of somebody who has the model."""
    return card.role in ("peer", "holder")


def _rank(item: tuple[PeerId, Card]) -> tuple[int, str, PeerId]:
    peer, card = item
    return ROLES.index(card.role), card.domain, peer


def _ticket_of(word: str) -> Ticket:
    """Returns the ticket that a word is, or that is in the file or folder that it names.

    Raises:
        ConfigError: none of them.
    """
    is_path = len(word) < LONGEST_PATH and Path(word).exists()
    return read_ticket(Path(word)) if is_path else parse_ticket(word)
