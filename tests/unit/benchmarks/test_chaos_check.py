"""The checker finds nothing in a sound history, and each thing that is wrong in a doctored one."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.chaos_check import CHECKS, check_all
from benchmarks.chaos_history import Run
from tests.unit.benchmarks.chaos_histories import (
    BEGINS_S,
    ENDS_S,
    PLAN,
    ROUND_S,
    SEATS,
    Doctored,
    landing,
    live,
    sound,
)

FIRST, SECOND, THIRD, FOURTH = SEATS
MIDDLE_S = BEGINS_S + 60


def broken(doctored: Doctored) -> dict[str, list[str]]:
    found = check_all(doctored.history, PLAN)
    return {name: finding.violations for name, finding in found.items() if finding.violations}


def test_a_sound_history_has_no_violation_and_every_check_has_looked_at_something() -> None:
    found = check_all(sound().history, PLAN)
    assert not broken(sound())
    looked = {name for name, finding in found.items() if finding.checked}
    assert looked == CHECKS.keys() - {"nothing again"}  # nobody has resumed


def land_twice(doctored: Doctored) -> None:
    doctored.add(FIRST, MIDDLE_S + 30, **again(doctored, 12))


def again(doctored: Doctored, round: int) -> dict[str, Any]:
    event = doctored.find(FIRST, "landed", round=round)
    return {key: value for key, value in event.items() if not key.startswith("t_")}


def contribute_in_both_lives(doctored: Doctored) -> None:
    cut_life(doctored, FIRST, MIDDLE_S, MIDDLE_S + 10)
    live(doctored, FIRST, MIDDLE_S + 10, ENDS_S, round=14)
    doctored.find(FIRST, "landed", round=16)["exchange_id"] = f"{5:032x}"


def apply_what_the_checkpoint_has(doctored: Doctored) -> None:
    cut_life(doctored, FIRST, MIDDLE_S, MIDDLE_S + 10)
    live(doctored, FIRST, MIDDLE_S + 10, ENDS_S, round=14)
    event = doctored.find(FIRST, "landed", round=16)
    event["exchange_id"], event["contributed"] = f"{5:032x}", False


def fall_back(doctored: Doctored) -> None:
    doctored.find(FIRST, "landed", round=12)["round"] = 9


def fork_silently(doctored: Doctored) -> None:
    for round in (12, 13, 14):
        doctored.find(FIRST, "landed", round=round)["digest"] = f"other {round}"


def fork_at_the_end(doctored: Doctored) -> None:
    last = [event for event in doctored.events[FIRST] if event["event"] == "landed"][-2:]
    for event in last:
        event["digest"] = "other"


def lose_tokens(doctored: Doctored) -> None:
    doctored.find(FIRST, "progress", step=200)["tokens"] -= PLAN.step_tokens


def count_work_twice(doctored: Doctored) -> None:
    for event in doctored.events[FIRST]:
        if event["event"] == "progress":
            event["contributed_tokens"] *= 2


def lose_work(doctored: Doctored) -> None:
    for event in doctored.events[FIRST]:
        if event["event"] == "progress":
            event["contributed_tokens"] = event["contributed_tokens"] * 2 // 3


def wait_for_ever(doctored: Doctored) -> None:
    begins_s = BEGINS_S + 20
    doctored.without(FIRST, begins_s, ENDS_S + 1)
    doctored.add(FIRST, begins_s + 1, "exchange_begins", fragment=0, round=4, exchange_id="e")
    for tick in range(50):
        doctored.add(FIRST, begins_s + 2 + 2 * tick, "note_lost")
    doctored.add(FIRST, begins_s + 80, "exchange_failed", fragment=0, round=4, exchange_id="e")


def miss_a_deadline(doctored: Doctored) -> None:
    doctored.add(FIRST, MIDDLE_S, "overdue", what="the trainer to land an anchor")


def fall_silent(doctored: Doctored) -> None:
    doctored.without(FIRST, MIDDLE_S, MIDDLE_S + 15)


def get_stuck(doctored: Doctored) -> None:
    doctored.tell(MIDDLE_S, "stuck", seat=FIRST, life=2)


def crash(doctored: Doctored) -> None:
    doctored.tell(MIDDLE_S, "ended", seat=FIRST, life=1, exit_code=1, tail="it broke")


def leave_in_disorder(doctored: Doctored) -> None:
    doctored.chronicle[-1]["exit_codes"][FIRST] = None


def be_missing_at_the_end(doctored: Doctored) -> None:
    next(e for e in doctored.chronicle if e["event"] == "final")["up"].remove(FIRST)


def land_no_more(doctored: Doctored) -> None:
    doctored.events[FIRST] = [
        event
        for event in doctored.events[FIRST]
        if event["event"] not in ("landed", "exchange_begins") or event["t_mono_s"] < MIDDLE_S
    ]


def go_on_alone(doctored: Doctored) -> None:
    for event in doctored.events[FIRST]:
        if event["event"] == "landed" and event["t_mono_s"] > MIDDLE_S:
            event["round"] += 5


def leave_a_process(doctored: Doctored) -> None:
    doctored.chronicle[-1]["leaked"].append({"pid": 7, "role": "daemon"})


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (land_twice, "contributed once"),
        (contribute_in_both_lives, "contributed once"),
        (apply_what_the_checkpoint_has, "nothing again"),
        (fall_back, "rounds rise"),
        (fork_silently, "one anchor"),
        (fork_at_the_end, "one swarm at the end"),
        (lose_tokens, "tokens add up"),
        (count_work_twice, "tokens add up"),
        (lose_work, "tokens add up"),
        (wait_for_ever, "waits end"),
        (miss_a_deadline, "waits end"),
        (fall_silent, "nobody is silent"),
        (get_stuck, "nobody is silent"),
        (crash, "nobody ends by itself"),
        (leave_in_disorder, "nobody ends by itself"),
        (be_missing_at_the_end, "one swarm at the end"),
        (land_no_more, "one swarm at the end"),
        (go_on_alone, "one swarm at the end"),
        (leave_a_process, "nothing leaks"),
    ],
)
def test_what_is_wrong_is_found(spoil: Callable[[Doctored], None], check: str) -> None:
    doctored = sound()
    spoil(doctored)
    assert check in broken(doctored)


def cut_life(doctored: Doctored, seat: str, from_s: float, until_s: float) -> None:
    """Kills a peer; what it said later is not said."""
    doctored.without(seat, from_s, ENDS_S + 1)
    doctored.strike("kill", from_s, until_s - 1, seat)
    doctored.tell(until_s - 1, "started", seat=seat, life=2, pid=2, how="resume")
    (run,) = doctored.runs[seat]
    before = tuple(end_s for end_s in run.ends_s if end_s < from_s)
    after = tuple(end_s for end_s in run.ends_s if end_s > until_s)
    doctored.runs[seat] = [Run(1, before), Run(2, after)]


def test_a_peer_that_is_killed_and_resumes_breaks_nothing() -> None:
    doctored = sound()
    cut_life(doctored, FIRST, MIDDLE_S, MIDDLE_S + 12)
    live(doctored, FIRST, MIDDLE_S + 10, ENDS_S, round=14)
    # What its checkpoint does not have is replayed, without its work.
    event = doctored.find(FIRST, "landed", round=15)
    event["contributed"] = False
    assert not broken(doctored)
    assert check_all(doctored.history, PLAN)["nothing again"].checked > 5


def test_a_frozen_peer_is_excused_for_as_long_as_it_is_frozen() -> None:
    doctored = sound()
    doctored.without(FIRST, MIDDLE_S, MIDDLE_S + 30)
    doctored.strike("freeze", MIDDLE_S, MIDDLE_S + 29, FIRST)
    assert not broken(doctored)


def test_whoever_has_come_up_just_before_the_end_need_not_have_landed() -> None:
    doctored = sound()
    land_no_more(doctored)
    assert broken(doctored).keys() == {"one swarm at the end"}
    doctored.tell(ENDS_S - 10, "up", seat=FIRST, life=2, took_s=50.0)
    assert not broken(doctored)


def test_whoever_has_left_may_take_its_time_to_end() -> None:
    doctored = sound()
    doctored.without(FIRST, ENDS_S - 30, ENDS_S + 1)
    doctored.add(FIRST, ENDS_S - 30, "left", step=1)
    doctored.tell(ENDS_S - 10, "up", seat=FIRST, life=2, took_s=50.0)
    assert not broken(doctored)


def test_a_full_disk_excuses_a_gap_in_the_log_of_its_peer_alone() -> None:
    doctored = sound()
    for seat in (FIRST, SECOND):
        doctored.without(seat, MIDDLE_S, MIDDLE_S + 18)
    doctored.strike("disk-full", MIDDLE_S, MIDDLE_S + 17, FIRST)
    assert [words[: len(SECOND)] for words in broken(doctored)["nobody is silent"]] == [SECOND]


def test_a_fork_that_is_told_of_and_healed_is_counted_and_no_violation() -> None:
    doctored = sound()
    for round in (12, 13):
        doctored.find(FIRST, "landed", round=round)["digest"] = f"other {round}"
    at_s = doctored.find(FIRST, "landed", round=13)["t_mono_s"]
    doctored.add(FIRST, at_s + 1, "anchor_differs", fragment=0, round=13, partners=[SECOND])
    doctored.add(FIRST, at_s + 2, "caught_up", fragment=0, round=13, src=SECOND)
    assert not broken(doctored)
    assert check_all(doctored.history, PLAN)["one anchor"].facts["forks"] == 2


def test_whoever_takes_over_another_anchor_may_fall_back_once() -> None:
    doctored = sound()
    at_s = doctored.find(FIRST, "landed", round=13)["t_mono_s"]
    doctored.add(FIRST, at_s + 0.1, "anchor_differs", fragment=0, round=13, partners=[SECOND])
    doctored.add(FIRST, at_s + 0.2, "caught_up", fragment=0, round=11, src=SECOND)
    assert not broken(doctored)
    doctored.add(FIRST, at_s + 0.3, "caught_up", fragment=0, round=10, src=SECOND)
    assert "rounds rise" in broken(doctored)


def test_one_landing_at_another_time_is_no_repetition() -> None:
    doctored = sound()
    doctored.add(FIRST, ENDS_S - ROUND_S / 2, "landed", **landing(10_000, digest="new"))
    assert "contributed once" not in broken(doctored)
