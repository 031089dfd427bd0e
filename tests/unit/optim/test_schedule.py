from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.schedule import Schedule


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    H = draw(st.integers(1, 40))
    return Schedule(H, draw(st.integers(1, H)), draw(st.integers(0, H - 1)))


def test_one_fragment_departs_every_interval() -> None:
    schedule = Schedule(100, 1)
    assert [t for t in range(401) if schedule.departures(t)] == [100, 200, 300, 400]


def test_the_example_of_streaming_diloco() -> None:
    schedule = Schedule(100, 2)
    departures = {t: schedule.departures(t) for t in range(351) if schedule.departures(t)}
    assert departures == {100: (0,), 150: (1,), 200: (0,), 250: (1,), 300: (0,), 350: (1,)}


@given(schedules(), st.integers(0, 100))
def test_s4_each_fragment_departs_once_in_any_window_of_an_interval(
    schedule: Schedule, start: int
) -> None:
    H, P = schedule.interval_steps, schedule.num_fragments
    first = 2 * H + start  # by then every fragment has had its first turn
    window = [p for t in range(first, first + H) for p in schedule.departures(t)]
    assert sorted(window) == list(range(P))


@given(schedules())
def test_s4_no_two_fragments_share_a_step_and_none_departs_before_an_interval(
    schedule: Schedule,
) -> None:
    H, P = schedule.interval_steps, schedule.num_fragments
    turns = {t: schedule.departures(t) for t in range(4 * H)}
    assert all(len(ps) <= 1 for ps in turns.values())
    for p in range(P):
        steps = [0, *(t for t, ps in turns.items() if p in ps)]
        assert all(b - a >= H for a, b in pairwise(steps))
        assert steps[1] < 2 * H


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0, 1), "interval_steps must be at least 1"),
        ((4, 0), "num_fragments must be between 1 and interval_steps"),
        ((4, 5), "each fragment departs at a step of its own"),
        ((4, 1, -1), "overlap_steps must be at least 0"),
        ((4, 1, 4), "lands before it departs again"),
    ],
)
def test_impossible_schedules_are_refused(numbers: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Schedule(*numbers)
