"""`thinwire doctor`: whether joining makes sense here, what is poor about it, and the fix."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer.cli.join import LISTEN, LONGEST_PATH, Down, Up, run_loop
from peer.cli.swarm_screen import plain
from peer.config import cap_of, parse_listen
from peer.doctor import fitness, link
from peer.doctor.finding import Finding, conclusion, exit_code
from peer.doctor.machine import Machine, this_machine
from peer.run_folder import read_ticket, with_kept_addresses
from peer.units import parse_duration_s
from protocol.errors import ConfigError
from protocol.ticket import Ticket, parse_ticket

if TYPE_CHECKING:
    from collections.abc import Callable

WIDEST = 100
CHECKS = (*fitness.CHECKS, *link.CHECKS)
_MARKS = {
    "good": ("ok", "green"),
    "unknown": ("?", "dim"),
    "poor": ("poor", "bold yellow"),
    "fatal": ("fails", "bold red"),
}


def doctor(
    ticket: Annotated[
        str | None,
        typer.Argument(help="A run's ticket, or a file or a peer's folder that holds it."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A peer's folder: look at its measured rates, too.")
    ] = None,
    device: Annotated[str, typer.Option(help="As of join, and so are those below.")] = "auto",
    listen: Annotated[str, typer.Option(help="HOST[:PORT]")] = LISTEN,
    announce: Annotated[str | None, typer.Option(help="IP address.")] = None,
    up: Up = None,
    down: Down = None,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints that are kept.")] = 2,
    allow_text: Annotated[
        bool, typer.Option(help="Let a run train on files of yours that its manifest names.")
    ] = False,
    step_s: Annotated[
        str | None, typer.Option("--step-s", help="An inner step takes so long; else measured.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine this machine and its link, and with a ticket the way into that run.

    Says for whatever is poor why, and the fix. Changes nothing, and takes no part in the run. The
    exit code is 0 if all is well, 1 if something is poor, and 2 if joining would fail.
    """
    if ticket is None and directory is not None and not directory.is_dir():
        raise ConfigError(f"there is no folder {directory}")
    try:
        given_step_s = 0.0 if step_s is None else parse_duration_s(step_s)
    except ValueError as error:
        raise ConfigError(f"--step-s {error}") from None
    up_cap, down_cap, place = cap_of("--up", up), cap_of("--down", down), parse_listen(listen)
    progress = Console(stderr=True)
    with _working(progress) as say:
        say("loading")
        machine = this_machine(
            folder=directory,
            up=up_cap,
            down=down_cap,
            device=device,
            listen=place,
            announce=announce,
            keep_checkpoints=keep,
            allow_text=allow_text,
        )
        findings = [finding for check in CHECKS for finding in check(machine)]
        run = ""
        if ticket is not None:
            run, more = _examine_run(machine, ticket, given_step_s, say)
            findings += more
    code = exit_code(findings)
    last = conclusion(findings, run=run)
    if as_json:
        data = {"is_well": code == 0, "exit_code": code, "conclusion": last}
        print(json.dumps({**data, "findings": [asdict(each) for each in findings]}))
    else:
        _show(findings, last, Console())
    if code:
        raise typer.Exit(code)


def _examine_run(
    machine: Machine, word: str, step_s: float, say: "Callable[[str], None]"
) -> tuple[str, list[Finding]]:
    """Returns the run's name, for people, and what stands between the machine and it."""
    from peer.doctor.visit import Visit

    try:
        ticket = _ticket_of(word, machine.folder)
    except ConfigError as error:
        why = "whoever serves the run finds it in ticket.txt, in the run's folder"
        fix = "copy the whole ticket again, or give the file: thinwire doctor ticket.txt"
        return "?", [Finding("ticket", "fatal", str(error), why, fix)]
    visit = Visit(machine, ticket, step_s=step_s, say=say)
    run_loop(visit.make())
    return ticket.run_id[:12], visit.findings


def _ticket_of(word: str, folder: Path | None) -> Ticket:
    is_path = len(word) < LONGEST_PATH and Path(word).exists()
    ticket = read_ticket(Path(word)) if is_path else parse_ticket(word)
    return ticket if folder is None else with_kept_addresses(ticket, folder)


@contextlib.contextmanager
def _working(console: Console) -> "Iterator[Callable[[str], None]]":
    """Yields what shows the work under way: a spinner, or a line each where there is no screen."""
    if not console.is_terminal:
        yield lambda work: console.print(f"{work} ...", markup=False, highlight=False)
        return
    with console.status("") as status:
        yield lambda work: status.update(work)


def _show(findings: list[Finding], last: str, console: Console) -> None:
    width = min(console.width, WIDEST)
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    for finding in findings:
        mark = Text(*_MARKS[finding.verdict])
        table.add_row(mark, Text(plain(finding.subject)), Text(plain(finding.found)))
    console.print(table, width=width)
    for finding in findings:
        if finding.fix:
            console.print()
            console.print(Text(plain(f"{finding.subject}: {finding.why}:")), width=width)
            # Never broken into lines: it is to be copied.
            console.print(Text(plain(f"    {finding.fix}"), style="bold"), soft_wrap=True)
    console.print()
    console.print(Text(plain(last)), width=width)
