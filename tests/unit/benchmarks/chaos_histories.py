"""Histories of a swarm that nothing happened to, to be doctored by tests."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos_history import Event, History, Run, Strike
from benchmarks.chaos_plan import Plan

PLAN = Plan(peers=4, spares=0)
SEATS = PLAN.names
BEGINS_S, ENDS_S = 1000.0, 1120.0
ROUND_S = 5.0


@dataclass
class Doctored:
    """A sound history that can be spoilt before it is read."""

    events: dict[str, list[Event]] = field(default_factory=dict)
    chronicle: list[Event] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    growth: list[Event] = field(default_factory=list)

    @property
    def history(self) -> History:
        """As the checker gets it."""
        for events in self.events.values():
            events.sort(key=lambda event: event["t_mono_s"])
        self.chronicle.sort(key=lambda line: line["t_mono_s"])
        return History(
            begins_s=BEGINS_S,
            ends_s=ENDS_S,
            events=self.events,
            runs=self.runs,
            chronicle=self.chronicle,
            strikes=self.strikes,
            growth=self.growth,
        )

    def add(self, seat: str, at_s: float, event: str, **fields: Any) -> Event:
        """Writes one event of a peer."""
        line = {"t_mono_s": at_s, "t_unix_s": at_s + 1e9, "event": event} | fields
        self.events.setdefault(seat, []).append(line)
        return line

    def tell(self, at_s: float, event: str, **fields: Any) -> None:
        """Writes one line of the chronicle."""
        self.chronicle.append({"t_mono_s": at_s, "event": event} | fields)

    def strike(self, kind: str, began_s: float, ended_s: float, *seats: str) -> None:
        """Notes a fault that has fired."""
        number = len(self.strikes)
        self.strikes.append(Strike(number, kind, seats, began_s, ended_s, True, {}))

    def find(self, seat: str, event: str, **fields: Any) -> Event:
        """Returns the first event of a peer that is so."""
        return next(
            line
            for line in self.events[seat]
            if line["event"] == event and fields.items() <= line.items()
        )

    def without(self, seat: str, after_s: float, before_s: float) -> None:
        """Takes away what a peer said meanwhile."""
        kept = [e for e in self.events[seat] if not after_s < e["t_mono_s"] < before_s]
        self.events[seat] = kept


def landing(round: int, **others: Any) -> dict[str, Any]:
    """Returns the fields of a landing that all peers of a sound swarm have."""
    fields = {"fragment": 0, "round": round, "exchange_id": f"{round:032x}", "digest": f"d{round}"}
    return fields | {"contributed": True, "step": 0} | others


def live(doctored: Doctored, seat: str, from_s: float, until_s: float, *, round: int) -> None:
    """Lets a peer live soundly from its joining at a round on."""
    doctored.add(seat, from_s, "joined", round=round, step=round * 25, donor=None, members=[])
    tokens = step = 0
    ticks = int((until_s - from_s) / 2)
    for tick in range(1, ticks):
        step, tokens = step + 10, tokens + 10 * PLAN.step_tokens
        contributed = max(0, tokens - PLAN.interval_steps * PLAN.step_tokens)
        fields = {"step": step, "tokens": tokens, "contributed_tokens": contributed}
        doctored.add(seat, from_s + 2 * tick, "progress", round=round + tick // 2, **fields)
    number = 0
    while (at_s := from_s + 1 + ROUND_S * number) < until_s:
        number += 1
        head = {"fragment": 0, "round": round + number - 1, "partners": []}
        name = f"{round + number:032x}"
        doctored.add(seat, at_s - 0.5, "exchange_begins", **head, exchange_id=name)
        doctored.add(seat, at_s, "landed", **landing(round + number))


def sound() -> Doctored:
    """Returns a swarm of four in which nothing happens for two minutes."""
    doctored = Doctored()
    for seat in SEATS:
        doctored.tell(BEGINS_S - 10, "started", seat=seat, life=1, pid=1, how="join")
        live(doctored, seat, BEGINS_S - 5, ENDS_S, round=0)
        num_steps = round((ENDS_S - BEGINS_S + 5) / PLAN.step_s)
        ends_s = tuple(BEGINS_S - 5 + PLAN.step_s * step for step in range(1, num_steps))
        doctored.runs[seat] = [Run(1, ends_s)]
    doctored.tell(ENDS_S + 0.1, "final", up=list(SEATS), expected=list(SEATS))
    codes = dict.fromkeys(SEATS, 0)
    doctored.tell(ENDS_S + 5, "left", exit_codes=codes, leaked=[])
    return doctored
