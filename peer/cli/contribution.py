"""`thinwire contribution`: what became of a peer's work, and what others say of it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer.cli.join import run_loop
from peer.cli.status import load_visit, looking, ticket_of
from peer.cli.swarm_screen import plain, short
from peer.contribution import ContributionFile
from peer.identity_file import load_identity
from peer.run_folder import IDENTITY, folder_here, read_ticket
from protocol.errors import ConfigError
from protocol.identity import PeerId
from protocol.manifest import RunId
from protocol.report import Contribution
from protocol.ticket import Ticket

if TYPE_CHECKING:
    from peer.evidence import Evidence


def contribution(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="The peer's folder; default is the one here."),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the swarm what it has seen of this peer's work.")
    ] = False,
    ticket: Annotated[
        str | None, typer.Option(help="Ask with this ticket instead of the folder's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Ask, and write the signed answers to this file, for anybody to check."),
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Check such a file, and show what it says.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=1, help="Seconds to look for somebody who knows the run.")
    ] = 30.0,
) -> None:
    """Show what became of a peer's work: how much of it is in the model, and who has seen it."""
    console = Console()
    if verify is not None:
        if directory or ask or ticket or out:
            raise ConfigError("--verify looks at a file alone; leave the rest out")
        _show_verified(verify, console)
        return
    folder = directory or folder_here(Path())
    kept = read_ticket(folder)
    asked = ticket_of(ticket) if ticket else kept
    if asked.run_id != kept.run_id:
        raise ConfigError(f"the ticket is of run {asked.run_id[:12]}, {folder} of another one")
    peer_id = _peer_of(folder)
    ours = ContributionFile(folder, run_id=kept.run_id, peer_id=peer_id).read().contribution
    if ask or ticket or out:
        load_visit()
        run_loop(_ask(peer_id, asked, ours, console, out=out, wait_s=wait))
    else:
        _show_own(peer_id, kept.run_id, ours, console)
        if not ours.trained_tokens:
            console.print(
                "nothing is kept yet: a peer writes it down every ten seconds of training"
            )


async def _ask(
    peer_id: PeerId,
    ticket: Ticket,
    ours: Contribution,
    console: Console,
    *,
    out: Path | None,
    wait_s: float,
) -> None:
    """Asks the swarm; what the peer says itself, if it runs, is newer than what is kept."""
    async with looking(ticket, wait_s=wait_s) as visit:
        from peer.evidence import evidence_of, write_evidence

        evidence = evidence_of(peer_id, visit.manifest, visit.observer.signed)
    own = evidence.own
    _show_own(peer_id, ticket.run_id, own.contribution if own else ours, console)
    _show_attested(evidence, console)
    if out is not None:
        write_evidence(out, evidence)
        words = f"{_number(len(evidence.reports), 'signed report')} written to {out}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)


def _show_verified(path: Path, console: Console) -> None:
    from peer.evidence import read_evidence

    evidence = read_evidence(path)
    ours = evidence.own.contribution if evidence.own else None
    _show_own(evidence.peer_id, evidence.manifest.run_id, ours, console)
    _show_attested(evidence, console)
    console.print(
        f"{_number(len(evidence.reports), 'report')}, all signatures hold", highlight=False
    )


def _peer_of(folder: Path) -> PeerId:
    """Returns the id of the peer in a folder.

    Raises:
        ConfigError: there is none.
    """
    if not (folder / IDENTITY).is_file():  # to load it would make a new one
        raise ConfigError(f"{folder} is no peer's folder: there is no {IDENTITY} in it")
    return load_identity(folder / IDENTITY).peer_id


# ---- on the screen


def part_in_words(folder: Path, run_id: RunId) -> str:
    """Returns what a peer's folder says of its work in the run, in a line; "" if it did none."""
    peer_id = _peer_of(folder)
    ours = ContributionFile(folder, run_id=run_id, peer_id=peer_id).read().contribution
    if not ours.trained_tokens:
        return ""
    return "your part: " + "; ".join(f"{name} {words}" for name, words in _rows(ours))


def _show_own(peer_id: PeerId, run_id: RunId, ours: Contribution | None, console: Console) -> None:
    """Prints what a peer says of its own work, if it says anything."""
    console.print(Text.assemble(("peer ", "dim"), (short(peer_id), "bold"), f", run {run_id[:12]}"))
    if ours is not None:
        console.print(_facts(ours))


def _facts(ours: Contribution) -> Table:
    table = Table.grid(padding=(0, 3))
    last = ""
    for name, words in _rows(ours):
        table.add_row(Text("" if name == last else name, "dim"), Text(words))
        last = name
    return table


def _rows(ours: Contribution) -> list[tuple[str, str]]:
    """Returns what became of a peer's work, as names and words."""
    used_frac = min(ours.used_tokens / ours.trained_tokens, 1) if ours.trained_tokens else 0.0
    share = f" ({100 * used_frac:.0f} %)" if ours.trained_tokens else ""
    rows = [
        ("trained", f"{ours.trained_tokens:,} tokens"),
        ("used", f"{ours.used_tokens:,} tokens{share}, in {_number(ours.used_rounds, 'average')}"),
    ]
    if ours.late_rounds:
        averages = _number(ours.late_rounds, "average")
        rows.append(("late", f"for {averages}: this work went, or goes, with a later one"))
    refused = ((plain(reason), _number(times, "time")) for reason, times in ours.refused)
    return rows + [("refused", f"{times}: {reason}") for reason, times in refused]


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _show_attested(evidence: "Evidence", console: Console) -> None:
    """Prints what others say of a peer's work."""
    console.print()
    witnesses, attested = evidence.witnesses, evidence.attested
    if not witnesses:
        console.print("nobody who is there now has seen its work land", highlight=False)
        return
    claimed = f" of {own.contribution.used_tokens:,}" if (own := evidence.own) else ""
    console.print(
        f"attested: {attested.tokens:,}{claimed} used tokens, by {_number(len(witnesses), 'peer')}",
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("witness", no_wrap=True)
    for heading in ("averages", "tokens", "said at (UTC)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for witness, seen in witnesses:
        at_unix_s = evidence.reports[witness].report.at_unix_s
        table.add_row(short(witness), f"{seen.rounds:,}", f"{seen.tokens:,}", _time(at_unix_s))
    console.print(table)
    console.print(
        "Witnesses count the tokens that a peer announced before an average. What it trained while "
        "it waited for the others is used, too, and not attested.",
        style="dim",
    )


def _time(unix_s: float) -> str:
    """Returns a time by somebody's clock, who may have sent any number."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_s))
    except (ValueError, OverflowError, OSError):
        return "-"
