"""How cells are judged, against journals written by hand; and the search, against its threshold."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.links import Lab
from benchmarks.paced import STEPS
from benchmarks.reality import EVENTS
from benchmarks.utilisation import GRID, Job, row_of, search
from benchmarks.utilisation_swarm import Cell, Plan, Watched
from optim.schedule import Schedule

STEP_S = 0.1
H = 10


def watched(
    folder: Path, *, num_steps: int, landings: list[tuple[int, float]], contributed: bool = True
) -> Watched:
    """A peer whose steps end at 0.1, 0.2, .. s, with landings as (fragment, time)."""
    ends_s = [STEP_S * (step + 1) for step in range(num_steps)]
    (folder / STEPS).write_text("".join(f"{end_s}\n" for end_s in ends_s))
    events = [
        {"event": "landed", "fragment": fragment, "t_mono_s": at_s, "contributed": contributed}
        for fragment, at_s in landings
    ]
    (folder / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))
    return Watched("peer-1", folder, Lab({}), num_parameters=1000)


def test_rounds_that_land_before_the_next_departure_are_done(tmp_path: Path) -> None:
    # Departures at 1, 2, 3, 4 s; the one at 4 s has no next one within the journal.
    peer = watched(tmp_path, num_steps=49, landings=[(0, 1.4), (0, 2.9), (0, 3.2)])
    outcomes = peer.rounds(Schedule(H, 1), STEP_S, 0.0, 4.9)
    assert outcomes == [pytest.approx(0.4), pytest.approx(0.9), pytest.approx(0.2)]


def test_a_round_that_lands_late_is_not_done_and_takes_the_next_ones_place(tmp_path: Path) -> None:
    # That of 1 s lands at 2.6 s, so nothing could depart at 2 s.
    peer = watched(tmp_path, num_steps=49, landings=[(0, 2.6), (0, 3.5)])
    outcomes = peer.rounds(Schedule(H, 1), STEP_S, 0.0, 4.9)
    assert outcomes == [None, pytest.approx(0.6), pytest.approx(0.5)]


def test_a_landing_at_the_next_departure_is_in_time(tmp_path: Path) -> None:
    peer = watched(tmp_path, num_steps=29, landings=[(0, 2.0 + 0.4 * STEP_S)])
    assert peer.rounds(Schedule(H, 1, H), STEP_S, 0.0, 2.9) == [pytest.approx(1.04)]


def test_each_fragment_has_its_own_departures(tmp_path: Path) -> None:
    # Fragment 1 departs at 1.5 s and 2.5 s.
    peer = watched(tmp_path, num_steps=39, landings=[(0, 1.2), (0, 2.2)])
    outcomes = peer.rounds(Schedule(H, 2), STEP_S, 0.0, 3.9)
    assert outcomes == [pytest.approx(0.2), None, pytest.approx(0.2), None]


def test_only_departures_within_what_is_looked_at_count(tmp_path: Path) -> None:
    peer = watched(tmp_path, num_steps=69, landings=[(0, second + 0.5) for second in range(1, 7)])
    assert len(peer.rounds(Schedule(H, 1), STEP_S, 1.5, 5.0)) == 2  # 2 and 3 s; 4 s is over at 5.1
    assert len(peer.rounds(Schedule(H, 1), STEP_S, 1.5, 5.2)) == 3


def test_a_landing_of_others_work_is_not_ours(tmp_path: Path) -> None:
    peer = watched(tmp_path, num_steps=29, landings=[(0, 1.4)], contributed=False)
    assert peer.rounds(Schedule(H, 1), STEP_S, 0.0, 2.9) == [None]


def test_pace_is_that_between_the_first_and_the_last_step_in_sight(tmp_path: Path) -> None:
    peer = watched(tmp_path, num_steps=50, landings=[])
    assert peer.steps_per_s(1.05, 3.05) == pytest.approx(1 / STEP_S)
    assert peer.num_steps(1.05, 3.05) == 20


@given(st.floats(0.031, 9.9), st.integers(0, 4))
def test_the_search_ends_at_the_threshold(threshold: float, bisections: int) -> None:
    tried: list[float] = []

    def keeps_up(capacity: float) -> bool:
        tried.append(capacity)
        return capacity >= threshold

    found = search(keeps_up, GRID, bisections=bisections)
    assert found is not None
    assert found >= threshold
    # Neighbours are at most a factor of 10 / 3 apart, and each try takes its square root.
    assert found / threshold <= (10 / 3) ** (0.5**bisections) * (1 + 1e-9)
    assert len(tried) == len(set(tried)) <= len(GRID) + 2 + bisections


def test_the_search_goes_on_below_the_grid_and_gives_up_above_it() -> None:
    assert search(lambda capacity: True, GRID, bisections=2) == pytest.approx(min(GRID) / 4)
    assert search(lambda capacity: False, GRID, bisections=2) is None


CELL = Cell(
    capacity=1.0,
    round_trip_s=0.02,
    rate_bps=1e6,
    steps_per_s=10.0,
    rounds_due=20,
    rounds_done=20,
    landing_frac=0.3,
    landing_s=1.8,
    sent_bits=0.05,
    waited_s=0.0,
    exchanges_failed=0,
    utilisation=1.0,
)


def test_a_link_holds_if_neither_training_nor_rounds_suffer() -> None:
    assert CELL.holds
    assert replace(CELL, rounds_done=19).holds
    assert not replace(CELL, rounds_done=18).holds
    assert not replace(CELL, utilisation=0.98).holds
    assert not replace(CELL, rounds_due=0, rounds_done=0).holds


def test_the_smallest_capacity_that_holds_is_reported() -> None:
    cells = [
        CELL,
        replace(CELL, capacity=0.3, utilisation=0.995),
        replace(CELL, capacity=0.1, utilisation=0.9),
        replace(CELL, capacity=0.05, rounds_done=10),
    ]
    job = Job(Plan(preset="diloco"), 0.02, GRID, bisections=0)
    assert row_of(job, cells)["holds_from"] == 0.3
    assert row_of(job, cells[2:])["holds_from"] is None


@pytest.mark.parametrize("preset", ["diloco", "streaming", "gossip-stream", "sparseloco"])
def test_an_interval_lasts_equally_long_whatever_the_schedule(preset: str) -> None:
    plan = Plan(preset=preset, interval_s=6.0)
    assert math.isclose(plan.step_s * plan.schedule.interval_steps, 6.0)
