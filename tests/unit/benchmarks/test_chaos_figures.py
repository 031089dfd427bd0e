"""Figures of chaos against histories whose figures are known by construction."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos_figures import pauses_of, training_of
from benchmarks.chaos_growth import LONG_S, growth_of, report_of
from benchmarks.chaos_history import Run, covered_s, overlaps, read_runs, strikes_of
from tests.unit.benchmarks.chaos_histories import (
    BEGINS_S,
    ENDS_S,
    PLAN,
    SEATS,
    Doctored,
    sound,
)

FIRST, SECOND, *_ = SEATS
MIDDLE_S = BEGINS_S + 60
DURATION_S = ENDS_S - BEGINS_S
PACE = 1 / PLAN.step_s

spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda s: (min(s), max(s))))


@given(spans, st.tuples(st.integers(0, 20), st.integers(20, 40)))
def test_what_is_covered_is_what_a_count_of_seconds_says(
    others: list[tuple[int, int]], span: tuple[int, int]
) -> None:
    seconds = {t for a, b in others for t in range(a, b)} & set(range(*span))
    assert covered_s(span, others) == len(seconds)
    assert bool(seconds) <= overlaps(span, others)


def test_all_steps_of_a_calm_run_count_and_so_does_all_of_its_time() -> None:
    training = training_of(sound().history, PLAN)
    assert training.peer_s == pytest.approx(len(SEATS) * DURATION_S)
    assert training.steps_per_s == pytest.approx(PACE, rel=0.01)
    assert training.raw_steps == training.steps


def steps_without(doctored: Doctored, seat: str, from_s: float, until_s: float) -> None:
    (run,) = doctored.runs[seat]
    kept = tuple(end_s for end_s in run.ends_s if not from_s < end_s < until_s)
    doctored.runs[seat] = [Run(run.pid, kept)]


def restarted(doctored: Doctored, seat: str, from_s: float, until_s: float) -> None:
    (run,) = doctored.runs[seat]
    before = tuple(end_s for end_s in run.ends_s if end_s < from_s)
    after = tuple(end_s for end_s in run.ends_s if end_s > until_s)
    doctored.runs[seat] = [Run(1, before), Run(2, after)]


def test_time_in_which_we_froze_a_peer_is_not_its_own() -> None:
    doctored = sound()
    steps_without(doctored, FIRST, MIDDLE_S, MIDDLE_S + 30)
    doctored.strike("freeze", MIDDLE_S, MIDDLE_S + 30, FIRST)
    training = training_of(doctored.history, PLAN)
    assert training.frozen_s == pytest.approx(30)
    assert training.steps_per_s == pytest.approx(PACE, rel=0.01)
    assert training.raw_steps == pytest.approx(PACE * (4 * DURATION_S - 30), rel=0.01)


def test_time_from_the_end_of_a_trainer_to_the_next_ones_first_step_is_not_its_own_either() -> None:
    doctored = sound()
    restarted(doctored, FIRST, MIDDLE_S, MIDDLE_S + 20)
    doctored.strike("kill", MIDDLE_S, MIDDLE_S + 5, FIRST)
    training = training_of(doctored.history, PLAN)
    assert training.away_s == pytest.approx(20, abs=0.5)
    assert training.steps_per_s == pytest.approx(PACE, rel=0.01)


def test_whoever_is_told_to_leave_may_go_on_for_a_while_and_is_away_from_then_on() -> None:
    doctored = sound()
    restarted(doctored, FIRST, MIDDLE_S + 5, MIDDLE_S + 25)
    doctored.strike("leave-storm", MIDDLE_S, MIDDLE_S + 15, FIRST)
    training = training_of(doctored.history, PLAN)
    assert training.away_s == pytest.approx(20, abs=0.5)
    assert training.steps_per_s == pytest.approx(PACE, rel=0.01)


@pytest.mark.parametrize("kind", ["halves", "corrupt", "disk-full", "clock", "kill-bootstrap"])
def test_steps_that_any_other_fault_has_cost_are_missed(kind: str) -> None:
    doctored = sound()
    steps_without(doctored, FIRST, MIDDLE_S, MIDDLE_S + 30)
    doctored.strike(kind, MIDDLE_S, MIDDLE_S + 30, FIRST)
    lost_frac = 30 / (4 * DURATION_S)
    assert training_of(doctored.history, PLAN).steps_per_s == pytest.approx(
        PACE * (1 - lost_frac), rel=0.01
    )


def test_a_peer_that_ends_by_itself_has_lost_the_time_until_it_is_back() -> None:
    doctored = sound()
    restarted(doctored, FIRST, MIDDLE_S, MIDDLE_S + 30)
    doctored.strike("kill", MIDDLE_S, MIDDLE_S + 5, SECOND)  # another one
    lost_frac = 30 / (4 * DURATION_S)
    assert training_of(doctored.history, PLAN).steps_per_s == pytest.approx(
        PACE * (1 - lost_frac), rel=0.01
    )


def test_the_longest_pause_is_found_and_a_frozen_peers_is_none() -> None:
    doctored = sound()
    steps_without(doctored, FIRST, MIDDLE_S, MIDDLE_S + 3)
    steps_without(doctored, SECOND, MIDDLE_S, MIDDLE_S + 30)
    doctored.strike("freeze", MIDDLE_S, MIDDLE_S + 30, SECOND)
    doctored.strike("halves", MIDDLE_S, MIDDLE_S + 10)
    pauses = pauses_of(doctored.history)
    longest = pauses["longest"][0]
    assert longest["seat"] == FIRST
    assert longest["s"] == pytest.approx(3, abs=2 * PLAN.step_s)
    assert "halves" in longest["meanwhile"]
    assert pauses["median_s"] == pytest.approx(PLAN.step_s)


def test_a_strike_that_was_never_over_has_not_fired() -> None:
    chronicle: list[dict[str, Any]] = [
        {"t_mono_s": 1.0, "event": "strikes", "number": 0, "kind": "kill", "seats": ["peer-1"]},
        {"t_mono_s": 2.0, "event": "strikes", "number": 1, "kind": "clock", "seats": ["peer-2"]},
        {"t_mono_s": 3.0, "event": "struck", "number": 0, "fired": True, "pids": [1]},
    ]
    kill, clock = strikes_of(chronicle, 9.0)
    assert (kill.has_fired, kill.ended_s, kill.evidence) == (True, 3.0, {"pids": [1]})
    assert (clock.has_fired, clock.ended_s) == (False, 9.0)


def test_what_a_killed_trainer_left_half_written_is_no_step(tmp_path: Path) -> None:
    path = tmp_path / "steps"
    path.write_text("7 1.0 1\n7 1.2 2\n7 1.\n8 5.0 1\n8 5.2")
    assert read_runs(path) == [Run(7, (1.0, 1.2)), Run(8, (5.0,))]


def grown(seconds: int, **at: Any) -> Doctored:
    doctored = sound()
    for second in range(0, seconds, 5):
        vitals = {"fds": 40, "threads": 10, "rss_bytes": 100 << 20, "cpu_s": 0.0}
        vitals |= {name: value(second) for name, value in at.items()}
        process = {"seat": FIRST, "pid": 1, "role": "wire"} | vitals
        doctored.growth.append({"t_mono_s": BEGINS_S + second, "processes": [process]})
    return doctored


@pytest.mark.parametrize(
    ("what", "is_grown"),
    [
        ({"fds": lambda s: 40 + s // 30}, True),
        ({"fds": lambda s: 40 + s % 3}, False),
        ({"threads": lambda s: 10 + s // 60}, True),
        ({"rss_bytes": lambda s: (100 << 20) + (s << 16)}, True),
        ({"rss_bytes": lambda s: (100 << 20) + min(s, 20) * (1 << 22)}, False),  # only at its start
        ({}, False),
    ],
)
def test_what_grows_in_a_long_life_is_complained_of(
    what: dict[str, Any], *, is_grown: bool
) -> None:
    growths = growth_of(grown(round(LONG_S) + 10, **what).history)
    assert len(growths) == 1
    assert bool(report_of(growths)["complaints"]) == is_grown


def test_the_memory_of_a_short_life_is_not_judged() -> None:
    growths = growth_of(grown(120, rss_bytes=lambda s: (100 << 20) + (s << 20)).history)
    assert growths[0].rss_frac > 0.05
    assert report_of(growths)["complaints"] == []
