import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from peer.domains.table import domain_line, domain_table
from protocol.identity import PeerId
from protocol.standings import Standing

A, B = PeerId("a"), PeerId("b")
LAW = Standing("law", (A, B), 120, 300, False, "", 1, 100)
MATH = Standing("math", (), 0, 300, False, "", 0, 0)
LOST = Standing("lost", (), 75, 300, False, "", 2, 75)
WIKI = Standing("wiki", (), 305, 300, True, "", 3, 305)
CODE = Standing("code", (), 0, 300, False, "wiki", 0, 0)
ALL = (LAW, MATH, LOST, WIKI, CODE)


def drawn(found: tuple[Standing, ...], width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(domain_table(found, width=width))
    return capture.get()


def test_the_line_says_who_trains_and_what_the_others_wait_for() -> None:
    assert domain_line(ALL) == (
        "law 2 peers 120/300 | math waiting for a peer | lost waiting for a peer at 75/300 | "
        "wiki done | code waits for wiki"
    )
    assert domain_line([Standing("law", (A,), 0, 300, False, "", 0, 0)]) == "law 1 peer 0/300"


@pytest.mark.parametrize("width", [120, 80, 40])
def test_the_table_has_a_row_for_each_domain_and_fits(width: int) -> None:
    rows = drawn(ALL, width).splitlines()
    assert max(map(len, rows)) <= width
    words = {row[1:].split(" ")[0]: row for row in rows}
    for each in ALL:
        assert each.domain in words
    assert "40 %" in words["law"]
    assert "100 %" in words["wiki"]


def test_the_wide_table_says_all_in_one_row() -> None:
    rows = {row.split()[0]: row.split() for row in drawn(ALL, 100).splitlines() if row.strip()}
    assert rows["law"][:6] == ["law", "2", "120", "of", "300", "40"]
    assert rows["law"][-2:] == ["1", "training"]
    assert rows["lost"][-5:] == ["2", "waiting", "for", "a", "peer"]
    assert rows["wiki"][-2:] == ["3", "done"]
    assert rows["code"][-3:] == ["waits", "for", "wiki"]


@given(step=st.integers(0, 1 << 53), total_steps=st.integers(1, 1 << 53))
def test_no_boast_of_a_stranger_breaks_the_table(step: int, total_steps: int) -> None:
    boast = Standing("law", (A,), step, total_steps, False, "", 0, 0)
    assert max(map(len, drawn((boast,), 100).splitlines())) <= 100
