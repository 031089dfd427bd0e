"""What happened in a run of `benchmarks.chaos`, read from files when all is over.

Three witnesses: the events that each peer wrote, the steps that each trainer noted, and the
chronicle of what the harness did. All use the machine's monotonic clock, which is one for all of
its processes and jumps with nobody's wall clock.

    life    of a peer: from one `joined` to the next one, or until its process ended
    run     of a trainer: the steps of one process
    away    from the strike that ended a trainer to the first step of the next one
    frozen  from SIGSTOP to SIGCONT
"""

import itertools
import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos_plan import BOOTSTRAP, Places
from peer.telemetry import read_events

Event = dict[str, Any]
Span = tuple[float, float]
"""From one time to another, in seconds of the monotonic clock."""

ENDING = ("kill", "kill-trainer", "kill-daemon")
"""Faults that end a trainer at once."""
LEAVE_S = 20.0
"""Who is told to leave does so within this time."""
MARGIN_S = 2.0
"""The chronicle and those it tells of need not agree to the moment."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault, as it was."""

    number: int
    kind: str
    seats: tuple[str, ...]
    """Empty: all."""
    began_s: float
    ended_s: float
    has_fired: bool
    evidence: Event

    def concerns(self, seat: str) -> bool:
        """Whether it struck this seat."""
        return not self.seats or seat in self.seats


@dataclass(frozen=True, slots=True)
class Life:
    """Of one peer."""

    seat: str
    number: int
    began_s: float
    """When it had joined."""
    ended_s: float
    """When it ended, or was over with everything else."""
    events: tuple[Event, ...]
    is_last: bool

    def named(self, *names: str) -> list[Event]:
        """Returns its events of these names, in order."""
        return [event for event in self.events if event["event"] in names]


@dataclass(frozen=True, slots=True)
class Run:
    """The steps of one trainer process."""

    pid: int
    ends_s: tuple[float, ...]
    """When each step ended."""


@dataclass(slots=True)
class History:
    """All of it; make one with `read_history`.

    Attributes:
        begins_s, ends_s: Of the measurement.
        events: By seat.
        runs: By seat.
        chronicle: What the harness wrote.
        strikes: In the order of time.
        growth: What processes held, every five seconds.
    """

    begins_s: float
    ends_s: float
    events: dict[str, list[Event]]
    runs: dict[str, list[Run]]
    chronicle: list[Event]
    strikes: list[Strike] = field(default_factory=list)
    growth: list[Event] = field(default_factory=list)

    @property
    def seats(self) -> list[str]:
        """Of everybody who was ever there."""
        return list(self.events)

    def told(self, *names: str) -> list[Event]:
        """Returns what the harness wrote under these names."""
        return [line for line in self.chronicle if line["event"] in names]

    def spans(self, seat: str, *kinds: str) -> list[Span]:
        """Returns when faults of these kinds had a seat in their hands."""
        return [
            (strike.began_s, strike.ended_s)
            for strike in self.strikes
            if strike.kind in kinds and strike.concerns(seat)
        ]

    def lives(self, seat: str) -> list[Life]:
        """Returns the lives of a peer, in order."""
        events = self.events[seat]
        joins = [number for number, event in enumerate(events) if event["event"] == "joined"]
        over_s = max((line["t_mono_s"] for line in self.told("final")), default=self.ends_s)
        found: list[Life] = []
        for number, (start, stop) in enumerate(itertools.pairwise([*joins, len(events)]), start=1):
            own = tuple(events[start:stop])
            began_s = own[0]["t_mono_s"]
            next_s = events[stop]["t_mono_s"] if stop < len(events) else over_s
            next_s = min([next_s, *(e["t_mono_s"] for e in own if e["event"] == "left")])
            ended_s = min((t for t in self._ends(seat) if t > began_s), default=next_s)
            is_last = stop == len(events) and ended_s >= over_s
            found.append(Life(seat, number, began_s, min(ended_s, next_s), own, is_last))
        return found

    def away(self, seat: str) -> list[Span]:
        """Returns when its trainer was gone because we had ended it, until it stepped again."""
        ends_s = [span[0] for span in self.spans(seat, *ENDING)]
        # Who is told to leave goes on until it has left.
        leaves_s = [span[0] for span in self.spans(seat, "leave-storm")]
        leaves_s += [span[1] for span in self.spans(seat, "join-storm")]
        spans: list[Span] = []
        for before, after in self._between(seat):
            if ended := [t for t in ends_s if before - MARGIN_S <= t <= after]:
                spans.append((min(ended), after))
            elif any(before - LEAVE_S <= t <= after for t in leaves_s):
                spans.append((before, after))
        return spans

    def _between(self, seat: str) -> list[Span]:
        """Returns the times from the last step of each trainer to the first of the next one."""
        runs = self.runs[seat]
        if not runs:
            return []
        spans = [(a.ends_s[-1], b.ends_s[0]) for a, b in itertools.pairwise(runs)]
        return [*spans, (runs[-1].ends_s[-1], self.ends_s)]

    def _ends(self, seat: str) -> list[float]:
        """Returns when it was ended or started, as the harness knows it."""
        lines = self.told("ended", "killed", "started")
        told_s = [line["t_mono_s"] for line in lines if line["seat"] == seat]
        return sorted([*told_s, *(span[0] for span in self.spans(seat, "kill", "kill-trainer"))])


def read_history(places: Places) -> History:
    """Returns what happened in a run that is over."""
    chronicle = _lines(places.chronicle)
    begins_s = next((e["t_mono_s"] for e in chronicle if e["event"] == "begins"), 0.0)
    ends_s = next((e["t_mono_s"] for e in chronicle if e["event"] == "ends"), begins_s)
    came = {e["seat"] for e in chronicle if e["event"] == "started"}
    seats = sorted((seat for seat in came if not seat.startswith(BOOTSTRAP)), key=_number)
    return History(
        begins_s=begins_s,
        ends_s=ends_s,
        events={s: read_events(p) if (p := places.events(s)).exists() else [] for s in seats},
        runs={seat: read_runs(places.steps(seat)) for seat in seats},
        chronicle=chronicle,
        strikes=strikes_of(chronicle, ends_s),
        growth=_lines(places.growth),
    )


def strikes_of(chronicle: Iterable[Event], ends_s: float) -> list[Strike]:
    """Returns the faults that a chronicle tells of; one without an end lasted to the end."""
    begun: dict[int, Event] = {}
    found: list[Strike] = []
    for line in chronicle:
        if line["event"] == "strikes":
            begun[line["number"]] = line
        elif line["event"] == "struck" and line["number"] in begun:
            found.append(_strike(begun.pop(line["number"]), line))
    found += [_strike(line, {"t_mono_s": ends_s, "fired": False}) for line in begun.values()]
    return sorted(found, key=lambda strike: strike.began_s)


def read_runs(path: Path) -> list[Run]:
    """Returns the trainers of a seat, and when their steps ended."""
    steps: list[tuple[int, float]] = []
    for line in path.read_text().split("\n")[:-1] if path.exists() else ():
        words = line.split()
        if len(words) == 3:  # what a killed trainer left half written is not
            steps.append((int(words[0]), float(words[1])))
    grouped = itertools.groupby(steps, key=lambda step: step[0])
    return [Run(pid, tuple(ended_s for _, ended_s in own)) for pid, own in grouped]


def covered_s(span: Span, spans: Iterable[Span]) -> float:
    """Returns how much of a span is in the union of others."""
    begins_s, ends_s = span
    total, reached = 0.0, begins_s
    for start, stop in sorted(spans):
        start, stop = max(start, reached), min(stop, ends_s)
        if stop > start:
            total += stop - start
            reached = stop
    return total


def overlaps(span: Span, spans: Iterable[Span], *, margin_s: float = 0.0) -> bool:
    """Whether a span has anything in common with one of the others, or comes near it."""
    return any(start - margin_s < span[1] and span[0] < stop + margin_s for start, stop in spans)


def num_between(ends_s: Sequence[float], span: Span) -> int:
    """Returns how many of these times, in order, are in a span."""
    return bisect_left(ends_s, span[1]) - bisect_left(ends_s, span[0])


def _strike(begin: Event, end: Event) -> Strike:
    known = {"t_mono_s", "event", "number", "kind", "fired"}
    return Strike(
        number=begin["number"],
        kind=begin["kind"],
        seats=tuple(begin["seats"]),
        began_s=begin["t_mono_s"],
        ended_s=end["t_mono_s"],
        has_fired=bool(end.get("fired")),
        evidence={key: value for key, value in end.items() if key not in known},
    )


def _lines(path: Path) -> list[Event]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def _number(seat: str) -> int:
    return int(seat.rpartition("-")[2])
