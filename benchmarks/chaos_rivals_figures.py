"""What a run of `benchmarks.chaos_rivals` achieved: steps, stalls, crashes, rounds.

stall       between two steps of one process that was not stopped meanwhile, or from its last
            one to its end, or to the end of the measurement
outage      from the last step of a process that ended by itself to the first of the next one
"""

import itertools
from typing import Any

from benchmarks.chaos_figures import training_of
from benchmarks.chaos_history import History, Span, Strike, overlaps, read_history
from benchmarks.chaos_plan import Places, Plan

HEALTHY_S = 30.0
AFTERMATH_S = 30.0
_SHOWN = 12

Round = tuple[float, str, str]
"""When it ended; `landed` or `failed`; with how many, or why."""


def report(places: Places, plan: Plan) -> dict[str, Any]:
    """Returns what one run has shown."""
    history = read_history(places)
    loads = [history.told(name)[0]["load"] for name in ("begins", "ends")]
    return {"loads": loads} | figures(history, _rounds(places, history), plan)


def figures(history: History, rounds: list[Round], plan: Plan) -> dict[str, Any]:
    """Returns what a history says; rounds are those within the measurement."""
    training = training_of(history, plan)
    crashes = _crashes(history)
    stalls = sorted(_stalls(history), reverse=True)
    outages = sorted(_outages(history), reverse=True)
    landed = [int(detail) for _, outcome, detail in rounds if outcome == "landed"]
    return {
        "steps_per_peer_s": round(training.steps_per_s, 4),
        "raw_steps": training.raw_steps,
        "away_s": round(training.away_s, 1),
        "frozen_s": round(training.frozen_s, 1),
        "longest_stalls": [_placed(stall, history) for stall in stalls[:5]],
        "stalls_over_1_s": sum(length_s > 1 for length_s, _, _ in stalls),
        "longest_outages": [_placed(outage, history) for outage in outages[:5]],
        "rounds": {
            "landed": sum(number > 1 for number in landed),
            "landed_alone": landed.count(1),
            "failed": sum(outcome == "failed" for _, outcome, _ in rounds),
            "mean_members": round(sum(landed) / len(landed), 2) if landed else None,
        },
        "crashes": len(crashes),
        "crashes_of_healthy": sum(crash["is_healthy"] for crash in crashes),
        "failed_starts": sum(not crash["has_trained"] for crash in crashes),
        "first_crashes": crashes[:_SHOWN],
        "coordinator_deaths": [
            _death(strike, history, rounds, plan)
            for strike in history.strikes
            if strike.kind == "kill-bootstrap"
        ],
        "faults": _counts([strike.kind for strike in history.strikes]),
        "faults_unseen": sum(not strike.has_fired for strike in history.strikes),
        "faults_without_a_chance": _counts([e["kind"] for e in history.told("not_fired")]),
    }


def compare(calm: dict[str, Any], storm: dict[str, Any]) -> dict[str, Any]:
    """Returns what the faults cost."""
    return {
        "goodput_ratio": round(storm["steps_per_peer_s"] / calm["steps_per_peer_s"], 4),
        "raw_ratio": round(storm["raw_steps"] / calm["raw_steps"], 4),
        "rounds_ratio": round(storm["rounds"]["landed"] / max(1, calm["rounds"]["landed"]), 4),
    }


def _death(strike: Strike, history: History, rounds: list[Round], plan: Plan) -> dict[str, Any]:
    """Returns what became of the replicas when the coordinator was gone."""
    gone = (strike.began_s, strike.ended_s)
    after = (strike.ended_s, min(strike.ended_s + AFTERMATH_S, history.ends_s))
    steps = [t for runs in history.runs.values() for run in runs for t in run.ends_s]
    possible = (gone[1] - gone[0]) * plan.peers / plan.step_s
    return {
        "at_s": round(gone[0] - history.begins_s, 1),
        "away_s": round(gone[1] - gone[0], 1),
        "steps_of_those_possible_meanwhile": round(
            sum(_is_in(t, gone) for t in steps) / possible, 3
        ),
        "rounds_meanwhile": _counts([outcome for t, outcome, _ in rounds if _is_in(t, gone)]),
        "rounds_in_30_s_after": _counts([outcome for t, outcome, _ in rounds if _is_in(t, after)]),
        "crashed": [
            line["seat"]
            for line in history.told("ended")
            if _is_in(line["t_mono_s"], (gone[0], after[1]))
        ],
    }


def _crashes(history: History) -> list[dict[str, Any]]:
    """Returns those who ended by themselves within the measurement."""
    crashes = []
    for line in history.told("ended"):
        at_s, seat = line["t_mono_s"], line["seat"]
        if not _is_in(at_s, (history.begins_s, history.ends_s)):
            continue
        starts_s = [e["t_mono_s"] for e in history.told("started") if e["seat"] == seat]
        life = (max((t for t in starts_s if t < at_s), default=0.0), at_s)
        has_trained = any(_is_in(t, life) for run in history.runs[seat] for t in run.ends_s)
        was_frozen = overlaps((at_s - HEALTHY_S, at_s), history.spans(seat, "freeze"))
        crash = {
            "seat": seat,
            "at_s": round(at_s - history.begins_s, 1),
            "exit_code": line["exit_code"],
            "has_trained": has_trained,
            "is_healthy": has_trained and not was_frozen,
            "error": _error(line["tail"]),
        }
        crashes.append(crash)
    return crashes


def _stalls(history: History) -> list[tuple[float, str, float]]:
    """Returns length, seat and end of each time without a step that was nobody's doing."""
    found = []
    for seat, runs in history.runs.items():
        over_s = [e["t_mono_s"] for e in history.told("ended", "killed") if e["seat"] == seat]
        frozen = history.spans(seat, "freeze")
        for run in runs:
            last_s = run.ends_s[-1]
            end_s = min((t for t in over_s if t >= last_s), default=history.ends_s)
            for span in itertools.pairwise([*run.ends_s, max(end_s, last_s)]):
                found += _within(history, seat, span, frozen)
    return found


def _outages(history: History) -> list[tuple[float, str, float]]:
    """Returns length, seat and end of each time that a crash has cost."""
    found = []
    for seat, runs in history.runs.items():
        ended_s = [e["t_mono_s"] for e in history.told("ended") if e["seat"] == seat]
        firsts_s = [run.ends_s[0] for run in runs]
        lasts_s = [run.ends_s[-1] for run in runs]
        for at_s in ended_s:
            before_s = max((t for t in lasts_s if t <= at_s), default=history.begins_s)
            after_s = min((t for t in firsts_s if t > at_s), default=history.ends_s)
            found += _within(history, seat, (before_s, after_s), [])
    return found


def _within(
    history: History, seat: str, span: Span, frozen: list[Span]
) -> list[tuple[float, str, float]]:
    start, stop = max(span[0], history.begins_s), min(span[1], history.ends_s)
    if stop <= start or overlaps(span, frozen, margin_s=0.1):
        return []
    return [(stop - start, seat, stop)]


def _placed(stall: tuple[float, str, float], history: History) -> dict[str, Any]:
    length_s, seat, end_s = stall
    meanwhile = [
        f"{strike.kind} {' '.join(strike.seats)}".strip()
        for strike in history.strikes
        if strike.began_s < end_s and end_s - length_s - 1 < strike.ended_s
    ]
    at_s = round(end_s - history.begins_s, 1)
    return {"s": round(length_s, 2), "seat": seat, "at_s": at_s, "meanwhile": meanwhile}


def _error(tail: str) -> str:
    """Returns the last line that tells of an error, or the last one."""
    lines = tail.strip().splitlines()
    return ([""] + lines + [line for line in lines if "Error" in line])[-1][:300]


def _rounds(places: Places, history: History) -> list[Round]:
    """Returns the rounds of all replicas within the measurement."""
    rounds: list[Round] = []
    for path in (places.folder / "rounds").iterdir():
        for line in path.read_text().split("\n")[:-1]:
            at_s, outcome, detail = line.split(" ", 2)
            if _is_in(float(at_s), (history.begins_s, history.ends_s)):
                rounds.append((float(at_s), outcome, detail))
    return rounds


def _is_in(at_s: float, span: Span) -> bool:
    return span[0] <= at_s <= span[1]


def _counts(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
