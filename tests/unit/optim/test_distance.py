"""What a receiver wants next, from what it heard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.codec.distance import NOTICEABLE, Distance

RUNGS = 7
MUCH, LITTLE = NOTICEABLE * 100 + 1, NOTICEABLE * 100 - 1
NEAR, FAR, TOO_FAR = Distance(100.0), Distance(100.0, 0.0, MUCH), Distance(100.0, MUCH, 0.0)
rungs = st.integers(0, RUNGS - 1)
parts = st.floats(0, 50)


@pytest.mark.parametrize(
    ("distance", "wanted", "used", "then"),
    [
        (NEAR, 0, 0, 0),
        (TOO_FAR, 0, 0, 1),
        (FAR, 0, 0, 0),
        (NEAR, 3, 3, 2),
        (FAR, 3, 3, 3),
        (TOO_FAR, 3, 3, 4),
        (NEAR, 0, 4, 0),
        (FAR, 0, 4, 1),
        (TOO_FAR, 0, 4, 1),
        (TOO_FAR, RUNGS - 1, RUNGS - 1, RUNGS - 1),
        (Distance(100.0, LITTLE, 0.0), 0, 0, 0),
        (Distance(100.0, LITTLE, 2.0), 3, 3, 3),
    ],
)
def test_what_is_wanted_next(distance: Distance, wanted: int, used: int, then: int) -> None:
    assert distance.next_rung(wanted, used, RUNGS) == then


@given(wanted=rungs, above=rungs, total=st.floats(100, 1000), missed=parts, far=parts)
def test_whatever_is_heard_moves_a_want_by_one_at_most(
    wanted: int, above: int, total: float, missed: float, far: float
) -> None:
    used = min(wanted + above, RUNGS - 1)
    then = Distance(total, missed, far).next_rung(wanted, used, RUNGS)
    assert abs(then - wanted) <= 1
    assert 0 <= then < RUNGS


def test_a_run_without_wider_codecs_wants_its_own() -> None:
    assert TOO_FAR.next_rung(0, 0, 1) == 0


@given(wanted=rungs)
def test_nothing_heard_nothing_learnt(wanted: int) -> None:
    assert Distance().next_rung(wanted, wanted, RUNGS) == wanted
    assert not Distance().is_noticeable


@given(parts, parts, parts, parts)
def test_frames_add_up(a: float, b: float, c: float, d: float) -> None:
    assert Distance(a, b, c) + Distance(b, c, d) == Distance(a + b, b + c, c + d)
    assert Distance(a, a / 2).missed_frac in (0.5, 0.0)
