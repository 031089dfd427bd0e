"""Figures of rivals under chaos against histories whose figures are known by construction."""

from typing import Any

import pytest

from benchmarks.chaos_history import Run
from benchmarks.chaos_rivals_figures import Round, figures
from tests.unit.benchmarks.chaos_histories import BEGINS_S, ENDS_S, PLAN, SEATS, Doctored, sound

FIRST, SECOND, *_ = SEATS
MIDDLE_S = BEGINS_S + 60


def report(doctored: Doctored, rounds: list[Round] | None = None) -> dict[str, Any]:
    return figures(doctored.history, rounds or [], PLAN)


def gap(doctored: Doctored, seat: str, from_s: float, until_s: float, *, pid: int = 1) -> None:
    """Takes the steps of a time away; those after it are of the process `pid`."""
    ends_s = [end_s for run in doctored.runs[seat] for end_s in run.ends_s]
    before = tuple(end_s for end_s in ends_s if end_s <= from_s)
    after = tuple(end_s for end_s in ends_s if end_s >= until_s)
    runs = [Run(1, before), Run(pid, after)] if pid > 1 else [Run(1, before + after)]
    doctored.runs[seat] = [run for run in runs if run.ends_s]


def ended(doctored: Doctored, seat: str, at_s: float) -> None:
    doctored.tell(
        at_s, "ended", seat=seat, exit_code=1, tail="line\nRuntimeError: quorum\nINFO still here"
    )


def longest(stalls: list[dict[str, Any]]) -> float:
    return max((float(stall["s"]) for stall in stalls), default=0.0)


def test_who_stands_still_for_no_reason_of_its_own_is_stalled() -> None:
    doctored = sound()
    gap(doctored, FIRST, MIDDLE_S, MIDDLE_S + 7)
    found = report(doctored)
    assert longest(found["longest_stalls"]) == pytest.approx(7, abs=0.5)
    assert found["longest_stalls"][0]["seat"] == FIRST
    assert found["stalls_over_1_s"] == 1


def test_who_never_goes_on_is_stalled_to_the_end() -> None:
    doctored = sound()
    gap(doctored, FIRST, MIDDLE_S, ENDS_S + 1)
    assert longest(report(doctored)["longest_stalls"]) == pytest.approx(60, abs=0.5)


def test_whom_we_stopped_is_not_stalled() -> None:
    doctored = sound()
    gap(doctored, FIRST, MIDDLE_S, MIDDLE_S + 7)
    doctored.strike("freeze", MIDDLE_S, MIDDLE_S + 7, FIRST)
    assert longest(report(doctored)["longest_stalls"]) < 1


def test_who_ended_by_itself_has_crashed_and_its_next_step_ends_the_outage() -> None:
    doctored = sound()
    gap(doctored, FIRST, MIDDLE_S, MIDDLE_S + 9, pid=2)
    ended(doctored, FIRST, MIDDLE_S + 2)
    found = report(doctored)
    assert (found["crashes"], found["crashes_of_healthy"]) == (1, 1)
    assert found["first_crashes"][0]["error"] == "RuntimeError: quorum"
    assert longest(found["longest_outages"]) == pytest.approx(9, abs=0.5)
    assert longest(found["longest_stalls"]) == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(("thawed_s", "healthy"), [(5, 0), (45, 1)])
def test_a_crash_soon_after_a_freeze_is_not_one_of_a_healthy_replica(
    thawed_s: float, healthy: int
) -> None:
    doctored = sound()
    doctored.strike("freeze", MIDDLE_S - 5, MIDDLE_S, FIRST)
    doctored.strike("freeze", MIDDLE_S, MIDDLE_S + thawed_s, SECOND)
    ended(doctored, FIRST, MIDDLE_S + thawed_s)
    assert report(doctored)["crashes_of_healthy"] == healthy


def test_who_ends_before_its_first_step_has_failed_to_start_and_was_not_healthy() -> None:
    doctored = sound()
    gap(doctored, FIRST, MIDDLE_S, MIDDLE_S + 20, pid=2)
    doctored.strike("kill", MIDDLE_S, MIDDLE_S + 3, FIRST)
    doctored.tell(MIDDLE_S + 3, "started", seat=FIRST, pid=3)
    ended(doctored, FIRST, MIDDLE_S + 10)
    found = report(doctored)
    assert (found["crashes"], found["crashes_of_healthy"], found["failed_starts"]) == (1, 0, 1)


def test_whom_we_killed_has_not_crashed() -> None:
    doctored = sound()
    gap(doctored, FIRST, MIDDLE_S, MIDDLE_S + 9, pid=2)
    doctored.strike("kill", MIDDLE_S, MIDDLE_S + 3, FIRST)
    doctored.tell(MIDDLE_S, "killed", seat=FIRST)
    found = report(doctored)
    assert found["crashes"] == 0
    assert longest(found["longest_stalls"] + found["longest_outages"]) < 1


def test_a_round_alone_is_no_average() -> None:
    rounds: list[Round] = [
        (MIDDLE_S, "landed", "1"),
        (MIDDLE_S, "landed", "4"),
        (MIDDLE_S, "failed", "commit"),
    ]
    assert report(sound(), rounds)["rounds"] == {
        "landed": 1,
        "landed_alone": 1,
        "failed": 1,
        "mean_members": 2.5,
    }


def test_the_death_of_the_coordinator_shows_steps_rounds_and_crashes_of_its_absence() -> None:
    doctored = sound()
    doctored.strike("kill-bootstrap", MIDDLE_S, MIDDLE_S + 10)
    gap(doctored, FIRST, MIDDLE_S, MIDDLE_S + 10)
    ended(doctored, FIRST, MIDDLE_S + 3)
    ended(doctored, SECOND, MIDDLE_S - 3)
    rounds: list[Round] = [
        (MIDDLE_S + 5, "failed", "commit"),
        (MIDDLE_S + 15, "landed", "4"),
        (MIDDLE_S + 55, "landed", "4"),
    ]
    (death,) = report(doctored, rounds)["coordinator_deaths"]
    assert death["away_s"] == 10
    assert death["steps_of_those_possible_meanwhile"] == pytest.approx(3 / 4, abs=0.03)
    assert death["rounds_meanwhile"] == {"failed": 1}
    assert death["rounds_in_30_s_after"] == {"landed": 1}
    assert death["crashed"] == [FIRST]
