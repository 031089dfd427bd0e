"""The domains of a run, as a table and as one line."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from protocol.standings import Standing

WIDE_COLUMNS = 76
"""Below, there is no room for budgets, bars and copies."""
_BAR_COLUMNS = 12
_STYLES = {"done": "green", "training": ""}
_WAITING = "yellow"


def domain_table(found: Sequence[Standing], *, width: int, ours: str = "") -> Table:
    """Returns the domains of a run as a table.

    Args:
        found: How they stand.
        width: Columns that there are.
        ours: The domain that stands out, because we train there.
    """
    is_wide = width >= WIDE_COLUMNS
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("domain", overflow="fold")
    table.add_column("peers", justify="right", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    if is_wide:
        table.add_column("", width=_BAR_COLUMNS)
        table.add_column("copies", justify="right", no_wrap=True)
    table.add_column("")
    for each in found:
        cells: list[RenderableType] = [
            Text(each.domain, style="bold" if each.domain == ours else ""),
            str(len(each.peers)),
            f"{each.step:,} of {each.total_steps:,}" if is_wide else f"{each.step:,}",
            f"{int(100 * _done_frac(each))} %",
        ]
        if is_wide:
            cells += [_bar(each), str(each.copies)]
        words = Text(each.words, style=_STYLES.get(each.words, _WAITING))
        table.add_row(*cells, words, style="dim" if each.is_done else "")
    return table


def domain_line(found: Sequence[Standing]) -> str:
    """Returns the domains as `law 2 peers 120/300 | math waiting for a peer | wiki done`."""
    return " | ".join(f"{each.domain} {_words(each)}" for each in found)


def _words(standing: Standing) -> str:
    steps = f"{standing.step}/{standing.total_steps}"
    if standing.words == "training":
        num = len(standing.peers)
        return f"{num} peer{'s' * (num > 1)} {steps}"
    return f"{standing.words} at {steps}" if standing.is_open and standing.step else standing.words


def _done_frac(standing: Standing) -> float:
    """Returns the part of its budget that is used up; strangers may boast of more."""
    return 1 if standing.is_done else min(standing.step / standing.total_steps, 1)


def _bar(standing: Standing) -> ProgressBar:
    return ProgressBar(
        total=1,
        completed=_done_frac(standing),
        width=_BAR_COLUMNS,
        complete_style="cyan",
    )
