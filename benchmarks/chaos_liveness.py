"""Nothing is waited for without end, nobody who lives is silent, and calm makes all one swarm."""

import itertools
from collections import defaultdict
from collections.abc import Iterator

from benchmarks.chaos_finding import Finding, since_begin_s
from benchmarks.chaos_history import MARGIN_S, Event, History, Life, covered_s, overlaps
from benchmarks.chaos_plan import Plan

SILENT_S = 10.0
"""A living peer says something every two."""
END_S = 25.0
"""Before the end, everybody has landed within so long."""
LATE_S = 20.0
"""Who has come up only so short before the end may still be catching up."""
END_ROUNDS = 2
"""So far may peers be apart at the end, with mixing `all`."""
OPENING = ("exchange_begins", "replay_begins", "catching_up")
CLOSING = (
    *("landed", "exchange_failed", "caught_up", "merged", "catching_up_failed"),
    *("roster_left", "left"),
)
MUTE = ("freeze", "disk-full")
"""While these last a peer's log may miss something."""


def waits_end(history: History, plan: Plan) -> Finding:
    """Whatever begins ends, well or not, within `exchange_s`; no wait outlives its own deadline."""
    finding = Finding()
    for seat in history.seats:
        excused = history.spans(seat, *MUTE)
        for life in history.lives(seat):
            for begin, ended_s in _openings(life):
                finding.checked += 1
                span = begin["t_mono_s"], ended_s
                took_s = span[1] - span[0] - covered_s(span, excused)
                if took_s > plan.exchange_s + MARGIN_S:
                    words = f"{begin['event']} of round {begin['round']} lasted {took_s:.0f} s"
                    finding.against(seat, since_begin_s(history, begin), words)
            for event in life.named("overdue"):
                span = event["t_mono_s"] - MARGIN_S, event["t_mono_s"]
                if not overlaps(span, excused, margin_s=MARGIN_S):
                    what = event.get("what", event.get("reason", ""))
                    finding.against(seat, since_begin_s(history, event), f"overdue: {what}")
    return finding


def nobody_is_silent(history: History, plan: Plan) -> Finding:
    """Whoever lives says something every few seconds, and whoever is started comes up."""
    finding = Finding(facts={"longest_silence_s": 0.0})
    for seat in history.seats:
        excused = history.spans(seat, *MUTE)
        for life in history.lives(seat):
            times_s = [
                event["t_mono_s"] for event in life.events if event["t_mono_s"] < life.ended_s
            ]
            for span in itertools.pairwise([*times_s, life.ended_s]):
                finding.checked += 1
                silent_s = span[1] - span[0] - covered_s(span, excused)
                longest_s = max(finding.facts["longest_silence_s"], silent_s)
                finding.facts["longest_silence_s"] = round(longest_s, 2)
                if silent_s > SILENT_S:
                    finding.against(
                        seat, span[0] - history.begins_s, f"silent for {silent_s:.1f} s"
                    )
    for line in history.told("stuck"):
        finding.against(line["seat"], since_begin_s(history, line), "made no step after its start")
    return finding


def nobody_ends_by_itself(history: History, plan: Plan) -> Finding:
    """A peer ends when it is killed or told to leave, and then with exit code 0."""
    finding = Finding()
    for line in history.told("ended"):
        finding.checked += 1
        causes = [
            strike.kind
            for strike in history.strikes
            if strike.kind in ("kill-trainer", "kill-daemon")
            and strike.concerns(line["seat"])
            and strike.began_s - MARGIN_S < line["t_mono_s"] < strike.ended_s + 60
        ]
        last = line.get("tail", "").strip().rpartition("\n")[2]
        words = (
            f"ended with exit code {line['exit_code']}, after {causes or 'nothing'}: {last[:200]}"
        )
        finding.against(line["seat"], since_begin_s(history, line), words)
    up = {seat for line in history.told("final") for seat in line["up"]}
    for line in history.told("left"):
        for seat, code in line["exit_codes"].items():
            finding.checked += 1
            if code != 0 and seat in up:  # who is only starting may not listen yet
                finding.against(
                    seat, since_begin_s(history, line), f"did not leave in order: {code}"
                )
    return finding


def one_swarm_at_the_end(history: History, plan: Plan) -> Finding:
    """At the end everybody trains and lands, and with mixing `all` in the same round."""
    finding = Finding()
    up = {seat for line in history.told("final") for seat in line["up"]}
    expected = [seat for line in history.told("final") for seat in line["expected"]]
    late = {
        line["seat"]: round(history.ends_s - line["t_mono_s"], 1)
        for line in history.told("up")
        if line["t_mono_s"] > history.ends_s - LATE_S
    }
    finding.facts["came too late to be judged"] = late
    rounds: dict[str, int] = {}
    newest: dict[tuple[int, int], set[str]] = defaultdict(set)
    for seat in sorted(set(expected) - late.keys()):
        finding.checked += 1
        if seat not in up:
            finding.against(seat, history.ends_s - history.begins_s, "is not up at the end")
            continue
        landed = [
            event
            for event in history.events[seat]
            if event["event"] == "landed"
            and history.ends_s - END_S < event["t_mono_s"] <= history.ends_s
        ]
        if not landed:
            finding.against(seat, history.ends_s - history.begins_s, f"landed nothing in {END_S} s")
            continue
        rounds[seat] = max(event["round"] for event in landed)
        for event in landed:
            newest[event["fragment"], event["round"]].add(event["digest"])
    finding.facts["rounds"] = rounds
    if plan.mixing == "all" and rounds:
        if max(rounds.values()) - min(rounds.values()) > END_ROUNDS:
            finding.violations.append(f"rounds are apart at the end: {rounds}")
        for (fragment, number), digests in newest.items():
            if len(digests) > 1:
                words = f"fragment {fragment}, round {number}: {len(digests)} anchors at the end"
                finding.violations.append(words)
    return finding


def nothing_leaks(history: History, plan: Plan) -> Finding:
    """When all is over, no process is left."""
    finding = Finding()
    for line in history.told("left"):
        finding.checked += 1
        for process in line["leaked"]:
            finding.violations.append(f"the {process['role']} {process['pid']} is still there")
    return finding


def _openings(life: Life) -> Iterator[tuple[Event, float]]:
    """Yields what begins in a life, and when it ended: the next of its fragment that ends one."""
    for number, event in enumerate(life.events):
        if event["event"] not in OPENING:
            continue
        ended_s = life.ended_s
        for later in life.events[number + 1 :]:
            is_ours = later.get("fragment", event["fragment"]) == event["fragment"]
            if is_ours and later["event"] in (*CLOSING, *OPENING):
                ended_s = min(ended_s, later["t_mono_s"])
                break
        yield event, ended_s
