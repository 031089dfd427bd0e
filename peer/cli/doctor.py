"""`thinwire doctor`: what slows the link of this machine down, and the commands that change it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer.cli.join import Down, Up
from peer.config import cap_of
from peer.doctor import Finding, examine, this_machine
from protocol.errors import ConfigError

WIDEST = 100
_MARKS = {"good": ("ok", "green"), "poor": ("poor", "bold red"), "unknown": ("?", "dim")}


def doctor(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A peer's folder: look at its measured rates, too.")
    ] = None,
    up: Up = None,
    down: Down = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine this machine's link, and tell what would make it faster. Changes nothing.

    With --dir, also whether the caps --up and --down fit. The exit code is 1 if anything is poor.
    """
    if directory is not None and not directory.is_dir():
        raise ConfigError(f"there is no folder {directory}")
    machine = this_machine(folder=directory, up=cap_of("--up", up), down=cap_of("--down", down))
    findings = examine(machine)
    is_well = all(finding.verdict != "poor" for finding in findings)
    if as_json:
        print(json.dumps({"is_well": is_well, "findings": [asdict(each) for each in findings]}))
    else:
        _show(findings, Console())
    if not is_well:
        raise typer.Exit(1)


def _show(findings: list[Finding], console: Console) -> None:
    width = min(console.width, WIDEST)
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    for finding in findings:
        table.add_row(Text(*_MARKS[finding.verdict]), finding.subject, Text(finding.found))
    console.print(table, width=width)
    for finding in findings:
        if finding.fix:
            console.print()
            console.print(Text(f"{finding.subject}: {finding.why}:"), width=width)
            # Never broken into lines: it is to be copied.
            console.print(Text(f"    {finding.fix}", style="bold"), soft_wrap=True)
