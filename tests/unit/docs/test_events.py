"""`docs/events.md` has every event that the code writes, with its fields, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.waits import Waits
from peer.watchdog import _end_of

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "events.md").read_text("utf-8")
WRITERS = {"events", "_events"}
"""What the event log is called, wherever it is written to."""
OF_MACHINES = frozenset({"fragment", "round"})
"""Fields that every event of a state machine has."""


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", cell))


def rows(heading: str) -> Iterator[list[str]]:
    """Yields the rows of the tables that begin with this heading, as cells."""
    is_in = False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            is_in = False
        elif cells[0] == heading:
            is_in = True
        elif is_in and not cells[0].startswith("---"):
            yield cells


def documented() -> dict[str, set[str]]:
    """Returns the fields of each event of the page."""
    cells = {row[0].strip("`"): row[2] for row in rows("event")}
    return {
        name: words(cells[same[1]] if (same := re.match(r"as `(\w+)`", cell)) else cell)
        for name, cell in cells.items()
    }


def texts(node: ast.expr) -> set[str]:
    """Returns the texts that an expression may be."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def calls(path: Path) -> Iterator[tuple[ast.Call, bool]]:
    """Yields the calls of a file that write an event, and whether a state machine does."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        whose = node.func.value
        name = whose.attr if isinstance(whose, ast.Attribute) else getattr(whose, "id", "")
        if node.func.attr == "write" and name in WRITERS:
            yield node, False
        elif node.func.attr == "_tell" and path.is_relative_to(ROOT / "protocol"):
            yield node, True


CALLS = [
    (path, call, is_machine)
    for room in ("peer", "protocol", "bootstrap")
    for path in sorted((ROOT / room).rglob("*.py"))
    for call, is_machine in calls(path)
]


def written() -> dict[str, list[tuple[set[str], bool]]]:
    """Returns, for each event, the fields with which it is written, and whether these are all."""
    found: dict[str, list[tuple[set[str], bool]]] = {}
    for _, call, is_machine in CALLS:
        fields = {keyword.arg for keyword in call.keywords if keyword.arg}
        fields |= OF_MACHINES if is_machine else set()
        is_all = all(keyword.arg for keyword in call.keywords)
        for name in texts(call.args[0]):
            found.setdefault(name, []).append((fields, is_all))
    return found


WRITTEN, DOCUMENTED = written(), documented()


def test_the_page_has_every_event_and_none_that_nobody_writes() -> None:
    assert len(WRITTEN) > 30  # else the code is not read as it is written
    assert DOCUMENTED.keys() == WRITTEN.keys()


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_an_event_has_the_fields_that_the_page_says(name: str) -> None:
    for fields, is_all in WRITTEN[name]:
        assert fields <= DOCUMENTED[name]
        if is_all:
            assert fields == DOCUMENTED[name]


def test_waits_have_the_fields_that_the_page_says() -> None:
    waits = Waits(lambda: 0.0)
    facts = waits.begin("key", "a checkpoint", within_s=1.0).facts(0.0)
    assert DOCUMENTED["waiting"] == DOCUMENTED["overdue"] == facts.keys()
    assert DOCUMENTED["waited"] == _end_of(facts).keys()


def test_progress_has_the_fields_that_the_page_says() -> None:
    tree = ast.parse((ROOT / "peer" / "life.py").read_text("utf-8"))
    (told,) = (
        node.value
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name == "progress"
        for node in ast.walk(function)
        if isinstance(node, ast.Return)
    )
    assert isinstance(told, ast.Dict)
    keys = {key.value for key in told.keys if isinstance(key, ast.Constant)}
    assert DOCUMENTED["progress"] == DOCUMENTED["left"] == keys


def test_events_are_written_by_name() -> None:
    """Only the driver passes on what a state machine calls them."""
    unnamed = [path.name for path, call, _ in CALLS if not texts(call.args[0])]
    assert unnamed == ["driver.py"]


def test_every_field_is_explained_and_none_that_no_event_has() -> None:
    explained = set().union(*(words(row[0]) for row in rows("field")))
    common = {"event", "t_unix_s", "t_mono_s", "run_id", "peer_id", "domain"}
    assert explained == common | set().union(*DOCUMENTED.values())
