"""Every bootstrap node dies, then half of the peers at once; then ten new ones come at once.

The claim that this is for: the run goes on. Whoever comes has nothing but the ticket of a peer that
is still there. What is told is how long each newcomer took to its first step, and to the first
average that has its work in it, of which on a small machine most is loading; and what those who
stayed have lost: inner steps, and time without an average.
"""

import itertools
import shutil
import statistics
import time
from typing import Any

from benchmarks.chaos_figures import Training
from benchmarks.chaos_history import Event, History, num_between
from benchmarks.chaos_plan import Plan
from benchmarks.chaos_run import START_S, Stage, say
from benchmarks.chaos_swarm import Swarm, are_gone
from peer.run_folder import TICKET
from protocol.errors import ThinwireError

NEWCOMERS = 10
BEFORE_S = 30.0
"""Of calm, as the measure of what follows."""
BETWEEN_S = 5.0
"""From the nodes' end to that of half of the peers, and on to the coming of the new ones."""


def play(swarm: Swarm, stage: Stage, *, after_s: float) -> None:
    """Lets it happen.

    Args:
        swarm: All of whose peers are up.
        stage: On which time passes.
        after_s: From the last newcomer's first step on.

    Raises:
        ThinwireError: the newcomers did not come.
    """
    chronicle = swarm.chronicle
    chronicle.write("begins", faults=0)
    stage.last(BEFORE_S)
    pids = [pid for node in swarm.nodes for pid in swarm.kill_node(node)]
    chronicle.write("nodes_killed", pids=pids, gone=are_gone(pids))
    say(f"the bootstrap nodes are gone: {pids}")
    stage.last(BETWEEN_S)
    base = [seat for seat in swarm.seats if not seat.is_spare]
    gone, stayed = base[: len(base) // 2], base[len(base) // 2 :]
    pids = [pid for seat in gone for pid in seat.kill()]
    for seat in gone:
        seat.is_expected = False
    names = [seat.name for seat in gone]
    chronicle.write("half_killed", seats=names, pids=pids, gone=are_gone(pids))
    say(f"half of the peers are gone: {' '.join(names)}")
    stage.last(BETWEEN_S)
    ticket = swarm.places.folder / "survivors-ticket.txt"
    shutil.copyfile(stayed[0].folder / TICKET, ticket)
    newcomers = [seat for seat in swarm.seats if seat.is_spare][:NEWCOMERS]
    chronicle.write("newcomers", seats=[seat.name for seat in newcomers])
    for seat in newcomers:
        seat.is_expected = True
        seat.start(ticket)
    began_s = time.monotonic()
    while not all(seat.is_up for seat in newcomers):
        stage.tick()
        if time.monotonic() - began_s > 2 * START_S:
            late = [seat.name for seat in newcomers if not seat.is_up]
            chronicle.write("ends")
            raise ThinwireError(f"waited for {' '.join(late)} in vain, for {2 * START_S:g} s")
    say(f"all newcomers train, after {time.monotonic() - began_s:.0f} s")
    stage.last(after_s)
    chronicle.write("ends")


def figures(history: History, plan: Plan) -> dict[str, Any]:
    """Returns what became of those who stayed, and of those who came."""
    (killed,) = history.told("half_killed")
    (came,) = history.told("newcomers")
    nodes_s = history.told("nodes_killed")[0]["t_mono_s"]
    stayed = [seat for seat in plan.names[: plan.peers] if seat not in killed["seats"]]
    newcomers = {seat: _arrival(history, seat) for seat in came["seats"]}
    before = (history.begins_s, nodes_s)
    after = (nodes_s, history.ends_s)
    calm, later = (_pace(history, stayed, span) for span in (before, after))
    failed = [
        event
        for seat in stayed
        for event in history.events[seat]
        if event["event"] == "exchange_failed" and event["t_mono_s"] > nodes_s
    ]
    return {
        "newcomers": newcomers,
        "median": {
            name: _median([arrival[name] for arrival in newcomers.values()])
            for name in ("joined_s", "first_step_s", "first_contribution_s")
        },
        "last": {
            name: _last([arrival[name] for arrival in newcomers.values()])
            for name in ("joined_s", "first_step_s", "first_contribution_s")
        },
        "stayed": {
            "seats": stayed,
            "goodput_ratio": round(later.steps_per_s / calm.steps_per_s, 4),
            "steps_lost": round(calm.steps_per_s * later.peer_s - later.steps, 1),
            "exchanges_failed": len(failed),
            "landings_per_peer": _landings(history, stayed, after) / len(stayed),
            "longest_without_landing_s": {
                seat: round(_longest_s(history.events[seat], after), 1) for seat in stayed
            },
        },
    }


def _arrival(history: History, seat: str) -> dict[str, float | None]:
    started_s = next(e["t_mono_s"] for e in history.told("started") if e["seat"] == seat)
    events = history.events[seat]
    joined = (e["t_mono_s"] for e in events if e["event"] == "joined")
    landed = (e["t_mono_s"] for e in events if e["event"] == "landed" and e["contributed"])
    steps = (end_s for run in history.runs[seat] for end_s in run.ends_s)
    first = {
        "joined_s": next(joined, None),
        "first_step_s": next(steps, None),
        "first_contribution_s": next(landed, None),
    }
    return {name: None if t is None else round(t - started_s, 2) for name, t in first.items()}


def _pace(history: History, seats: list[str], span: tuple[float, float]) -> Training:
    steps = sum(
        num_between([end_s for run in history.runs[seat] for end_s in run.ends_s], span)
        for seat in seats
    )
    peer_s = len(seats) * (span[1] - span[0])
    return Training(peer_s, steps, steps, 0.0, 0.0, 0)


def _landings(history: History, seats: list[str], span: tuple[float, float]) -> int:
    return sum(
        event["event"] == "landed" and span[0] < event["t_mono_s"] <= span[1]
        for seat in seats
        for event in history.events[seat]
    )


def _longest_s(events: list[Event], span: tuple[float, float]) -> float:
    times_s = [span[0]]
    times_s += [
        event["t_mono_s"]
        for event in events
        if event["event"] == "landed" and span[0] < event["t_mono_s"] <= span[1]
    ]
    times_s.append(span[1])
    return max(b - a for a, b in itertools.pairwise(times_s))


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 2) if known else None


def _last(values: list[float | None]) -> float | None:
    """Returns the last one's; None if somebody never was there."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
