"""What `plan --experts` and `new` show of a run with domains: who gets how much."""

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from peer.experts.divided import difficulties, read_texts
from peer.experts.division import DIVISIONS
from peer.experts.settings import undivided
from peer.experts.table import as_data, notes, render, rows_of, totals_lines, totals_of
from peer.experts.undivided import domains_of
from peer.settings import read_settings
from protocol.errors import ConfigError
from protocol.manifest import Manifest


def show_division(manifest: Manifest, settings: dict[str, Any], console: Console) -> None:
    """Prints how a run that has been founded with these settings is divided."""
    tables = settings["domains"]
    _show(manifest, [table["name"] for table in tables if "difficulty" not in table], console)


def plan_experts(
    path: Path, *, probe: bool | None, division: str | None, as_json: bool, console: Console
) -> None:
    """Prints how a run would be divided; nothing is founded.

    Args:
        path: Of run.toml.
        probe: Whether difficulties that nobody gave are measured; None: if the division needs them.
        division: Instead of the one in run.toml.
        as_json: Print one JSON object.
        console: For people.

    Raises:
        ConfigError: a setting is wrong, a domain has no text or another's, or a share cannot be
            had.
    """
    if division is not None and division not in DIVISIONS:
        *others, last = DIVISIONS
        raise ConfigError(f"--division {division}: it is {', '.join(others)} or {last}")
    settings = read_settings(path)
    if not settings.get("domains"):
        raise ConfigError(f"{path} has no [[domains]]; see docs/experts.md")
    if division is not None:
        experts = settings.get("experts", {})
        settings["experts"] = {**experts, "division": division} if isinstance(experts, dict) else 0
    found = undivided({**settings, "founder": "nobody"})
    unknown = found.unknown("both" if probe else found.manifest.experts.division)
    with Console(stderr=True).status("reading the text") as status:
        corpora = read_texts(found, status.update)  # also if none is measured, as `new` does
        measured = [] if probe is False else unknown
        probed = difficulties(found, corpora, measured, status.update)
    manifest = found.manifest.model_copy(update={"domains": domains_of(found, probed)})
    totals = totals_of(found, probed)
    if as_json:
        print(json.dumps(as_data(manifest, rows_of(manifest, probed), totals), allow_nan=False))
        return
    _show(manifest, probed, console)
    console.print(Text("\nDivisions at equal compute:", style="bold"))
    for line in totals_lines(totals):
        console.print(Text("  " + line), highlight=False)


def _show(manifest: Manifest, probed: Container[str], console: Console) -> None:
    rows = rows_of(manifest, probed)
    console.print(render(rows))
    for line in notes(manifest, rows):
        console.print(Text(line, style="dim"), highlight=False)
