"""Waits in words: what for, for whom, how far it has come, and when it ends."""

from rich.table import Table
from rich.text import Text

from peer.units import format_duration
from peer.waits import Wait

MAX_NAMES = 3


def wait_words(wait: Wait, now_s: float) -> str:
    """Returns one wait as `an average (part 3) from 3fA9xQ: 12 s, 45 %, at most 48 s more`."""
    source = f" from {_names(wait)}" if wait.whom else ""
    parts = [_whole(now_s - wait.since_s), _progress(wait), _end(wait, now_s)]
    return f"{wait.name}{source}: " + ", ".join(filter(None, parts))


def wait_rows(waits: list[Wait], now_s: float) -> Table:
    """Returns the waits as rows for the live screen; what should have ended stands out."""
    table = Table.grid(padding=(0, 1))
    for wait in waits:
        style = "red" if wait.is_overdue(now_s) else ""
        table.add_row(Text("waiting for", "dim"), Text(wait_words(wait, now_s), style))
    return table


def _names(wait: Wait) -> str:
    names = ", ".join(peer[-6:] for peer in wait.whom[:MAX_NAMES])
    more = len(wait.whom) - MAX_NAMES
    return names if more <= 0 else f"{names} and {more} more"


def _progress(wait: Wait) -> str:
    if wait.done is None or not wait.done[1]:
        return ""
    done, total = wait.done
    return f"{min(done / total, 1):.0%}".replace("%", " %")


def _end(wait: Wait, now_s: float) -> str:
    if wait.deadline_s is None:
        return f"until {wait.until}"
    left_s = wait.deadline_s - now_s
    if wait.is_overdue(now_s):
        return f"should have ended {_whole(-left_s)} ago"
    return f"at most {_whole(max(left_s, 0.0))} more"


def _whole(duration_s: float) -> str:
    return format_duration(round(duration_s))
