"""Faults of peers and nodes: their processes end or stop, their disks fill, their clocks jump."""

import os
import re
import signal
import time
from pathlib import Path

from benchmarks.chaos_play import SETTLE_S, Fault, Play
from benchmarks.chaos_processes import state_of
from benchmarks.chaos_schedule import Planned
from benchmarks.chaos_seat import Seat
from benchmarks.chaos_swarm import Swarm, are_gone
from peer.telemetry import read_events

_LEAVE_S = 15.0
"""Whoever is told to leave has so long."""
_NO_SPACE = re.compile(r"No space left|File too large|\bENOSPC\b|\bEFBIG\b")


def kill(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """SIGKILL for wire, trainer and daemon at once; later a start from the folder."""
    (seat,) = seats
    pids = seat.kill()
    yield SETTLE_S
    gone = are_gone(pids)
    yield fault.for_s
    seat.start()
    return {"fired": gone and len(pids) > 1, "pids": pids}


def kill_part(role: str) -> Fault:
    """Returns the fault that ends one process of a peer; what comes of it is the product's."""

    def play(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
        (seat,) = seats
        pids = seat.pids(role)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if role == "trainer":
            seat.has_no_trainer()
        yield SETTLE_S
        gone = are_gone(pids)
        yield fault.for_s
        return {"fired": bool(pids) and gone, "pids": pids}

    return play


def freeze(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """SIGSTOP for all processes of a peer, as a laptop sleeps."""
    (seat,) = seats
    pids = seat.pids()
    seat.is_frozen = True
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield SETTLE_S
    states = {pid: state_of(pid) for pid in pids}
    yield max(0.0, fault.for_s - SETTLE_S)
    for pid in pids:
        if state_of(pid):
            os.kill(pid, signal.SIGCONT)
    seat.is_frozen = False
    return {"fired": bool(pids) and set(states.values()) == {"T"}, "states": states}


def leave_storm(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """Several leave in order at once, and come back."""
    pids = [pid for seat in seats for pid in seat.pids()]
    for seat in seats:
        seat.interrupt()
    give_up_s = time.monotonic() + _LEAVE_S
    while any(seat.is_alive for seat in seats) and time.monotonic() < give_up_s:
        yield 0.1
    yield SETTLE_S
    codes = {seat.name: swarm.cast.actors[seat.name].exit_code for seat in seats}
    gone = are_gone(pids)
    yield fault.for_s
    for seat in seats:
        if seat.is_alive:
            seat.kill()
        seat.start()
    return {"fired": gone, "exit_codes": codes}


def join_storm(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """Several come at once; some time later they leave, at once, too."""
    for seat in seats:
        seat.start()
    yield SETTLE_S
    came = all(seat.is_alive for seat in seats)
    yield fault.for_s
    were_up = [seat.name for seat in seats if seat.is_up]
    for seat in seats:
        if seat.is_alive:
            seat.interrupt()
    give_up_s = time.monotonic() + _LEAVE_S
    while any(seat.is_alive for seat in seats) and time.monotonic() < give_up_s:
        yield 0.1
    for seat in seats:
        if seat.is_alive:
            seat.kill()
    return {"fired": came, "were_up": were_up}


def kill_bootstrap(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """SIGKILL for a bootstrap node; later a start from its folder."""
    node = swarm.nodes[fault.seed % len(swarm.nodes)]
    pids = swarm.kill_node(node)
    yield SETTLE_S
    gone = are_gone(pids)
    yield fault.for_s
    swarm.start_node(node)
    return {"fired": gone, "node": node, "pids": pids}


def disk_full(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """A peer's disk has no space left, for longer than two checkpoints are apart."""
    (seat,) = seats
    logs = _Tail([swarm.places.logs / seat.name / name for name in ("log.txt", "output.txt")])
    end_s, is_full = time.monotonic() + fault.for_s, False
    while time.monotonic() < end_s:
        is_full = seat.disk.fill(seat.pids("wire", "trainer")) or is_full
        yield 0.5
    seat.disk.empty(seat.pids("wire", "trainer"))
    failed_writes = len(_NO_SPACE.findall(logs.new()))
    return {
        "fired": is_full and failed_writes > 0,
        "is_full": is_full,
        "failed_writes": failed_writes,
    }


def clock(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """A peer's wall clock jumps by five minutes, and back."""
    (seat,) = seats
    began_s = time.monotonic()
    seat.set_clock(fault.clock_jump_s)
    yield fault.for_s
    events = read_events(seat.folder / "events.jsonl")
    shown = [
        event["t_unix_s"] - event["t_mono_s"] - (time.time() - time.monotonic())
        for event in events
        if event["t_mono_s"] > began_s + SETTLE_S
    ]
    seat.set_clock(0.0)
    fired = bool(shown) and all(abs(jump - fault.clock_jump_s) < 1 for jump in shown)
    return {"fired": fired, "jump_s": fault.clock_jump_s, "events_with_it": len(shown)}


class _Tail:
    """What is added to files from now on."""

    def __init__(self, paths: list[Path]) -> None:
        self._from = {path: path.stat().st_size if path.exists() else 0 for path in paths}

    def new(self) -> str:
        text = ""
        for path, start in self._from.items():
            if path.exists():
                text += path.read_bytes()[start:].decode(errors="replace")
        return text
