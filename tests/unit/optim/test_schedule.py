from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.schedule import Schedule


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    H = draw(st.integers(1, 40))
    P = draw(st.integers(1, H))
    turns = st.permutations(range(H)).map(lambda steps: tuple(steps[:P]))
    return Schedule(H, P, draw(st.integers(0, H)), draw(st.none() | turns))


def events(schedule: Schedule, num_steps: int) -> list[tuple[int, str, int]]:
    """Return (step, what, fragment) in the order in which the module's docstring puts them."""
    turns = []
    for t in range(num_steps):
        landings = [(t, "lands", p) for p in schedule.landings(t)]
        departures = [(t, "departs", p) for p in schedule.departures(t)]
        is_instant = schedule.overlap_steps == 0
        turns += departures + landings if is_instant else landings + departures
    return turns


def test_one_fragment_departs_every_interval() -> None:
    schedule = Schedule(100, 1)
    assert [t for t in range(401) if schedule.departures(t)] == [100, 200, 300, 400]


def test_the_example_of_streaming_diloco() -> None:
    schedule = Schedule(100, 2)
    departures = {t: schedule.departures(t) for t in range(351) if schedule.departures(t)}
    assert departures == {100: (0,), 150: (1,), 200: (0,), 250: (1,), 300: (0,), 350: (1,)}


def test_with_several_fragments_under_way_each_lands_in_its_turn() -> None:
    assert events(Schedule(4, 2, 3), 11) == [
        (4, "departs", 0),
        (6, "departs", 1),
        (7, "lands", 0),
        (8, "departs", 0),
        (9, "lands", 1),
        (10, "departs", 1),
    ]


def test_with_an_overlap_of_an_interval_a_fragment_lands_and_departs_again() -> None:
    assert events(Schedule(3, 1, 3), 10) == [
        (3, "departs", 0),
        (6, "lands", 0),
        (6, "departs", 0),
        (9, "lands", 0),
        (9, "departs", 0),
    ]


def test_offsets_choose_the_turns() -> None:
    schedule = Schedule(10, 3, offsets=(7, 0, 2))
    departures = {t: schedule.departures(t) for t in range(21) if schedule.departures(t)}
    assert departures == {10: (1,), 12: (2,), 17: (0,), 20: (1,)}
    assert [schedule.offset(p) for p in range(3)] == [7, 0, 2]


@given(st.integers(1, 60), st.data())
def test_default_offsets_spread_the_turns_evenly(H: int, data: st.DataObject) -> None:
    P = data.draw(st.integers(1, H))
    schedule = Schedule(H, P)
    steps = [t for t in range(2 * H, 4 * H + 1) if schedule.departures(t)]
    assert {b - a for a, b in pairwise(steps)} <= {H // P, -(-H // P)}
    given_explicitly = Schedule(H, P, offsets=tuple(p * H // P for p in range(P)))
    for t in range(3 * H):
        assert schedule.departures(t) == given_explicitly.departures(t)


@given(schedules(), st.integers(0, 100))
def test_s4_every_fragment_departs_once_in_any_window_of_h_steps(
    schedule: Schedule, start: int
) -> None:
    H, P = schedule.interval_steps, schedule.num_fragments
    first = 2 * H + start  # by then every fragment has had its first turn
    window = [p for t in range(first, first + H) for p in schedule.departures(t)]
    assert sorted(window) == list(range(P))


@given(schedules())
def test_s4_never_two_at_the_same_step(schedule: Schedule) -> None:
    for t in range(4 * schedule.interval_steps):
        assert len(schedule.departures(t)) <= 1
        assert len(schedule.landings(t)) <= 1


@given(schedules())
def test_s4_first_departure_after_at_least_h_steps(schedule: Schedule) -> None:
    H, P = schedule.interval_steps, schedule.num_fragments
    for p in range(P):
        steps = [t for t in range(4 * H) if p in schedule.departures(t)]
        assert steps[0] == min(t for t in range(H, 2 * H) if (t - schedule.offset(p)) % H == 0)
        assert all(b - a == H for a, b in pairwise(steps))


@given(schedules())
def test_landings_are_the_departures_of_tau_steps_ago(schedule: Schedule) -> None:
    tau = schedule.overlap_steps
    for t in range(4 * schedule.interval_steps + tau):
        assert schedule.landings(t + tau) == schedule.departures(t)
    assert all(schedule.landings(t) == () for t in range(schedule.interval_steps + tau))


@given(schedules())
def test_every_fragment_lands_before_it_departs_again(schedule: Schedule) -> None:
    turns = events(schedule, 5 * schedule.interval_steps)
    for p in range(schedule.num_fragments):
        whats = [what for _, what, fragment in turns if fragment == p]
        assert whats == [("departs", "lands")[i % 2] for i in range(len(whats))]


@given(st.integers(1, 40), st.data())
def test_about_tau_times_p_over_h_fragments_are_under_way(H: int, data: st.DataObject) -> None:
    P, tau = data.draw(st.integers(1, H)), data.draw(st.integers(0, H))
    under_way, most = 0, 0
    for t, what, _ in events(Schedule(H, P, tau), 5 * H):
        under_way += 1 if what == "departs" else -1
        most = max(most, under_way) if t >= 3 * H else most
    if tau > 0:
        assert tau * P // H <= most <= -(-tau * P // H)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0, 1, 0), "interval_steps must be at least 1"),
        ((4, 0, 0), "num_fragments must be between 1 and interval_steps"),
        ((4, 5, 0), "each fragment departs at a step of its own"),
        ((4, 1, -1), r"overlap_steps must be between 0 and interval_steps \(4\), not -1"),
        ((4, 1, 5), "lands before it departs again"),
    ],
)
def test_impossible_schedules_are_refused(numbers: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Schedule(*numbers)


@pytest.mark.parametrize(
    ("offsets", "sentence"),
    [
        ((0, 2), "one for each of the 3 fragments, not 2"),
        ((0, 1, 4), r"offset of fragment 2 must be between 0 and interval_steps - 1 \(3\), not 4"),
        ((-1, 1, 2), "offset of fragment 0 must be between 0 and"),
        ((3, 1, 3), "fragments 0 and 2 both have offset 3: each fragment departs at a step of its"),
    ],
)
def test_impossible_offsets_are_refused(offsets: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Schedule(4, 3, offsets=offsets)
