"""Faults of links, by `benchmarks.link_faults`: parts of the swarm, altered and broken streams."""

import random
import time
from collections.abc import Callable, Generator
from pathlib import Path

from benchmarks.chaos_play import Play
from benchmarks.chaos_schedule import Planned
from benchmarks.chaos_seat import Seat
from benchmarks.chaos_swarm import Swarm
from benchmarks.link_faults import Cut, Flips, Resets

_FLIPPED_FRAC = 0.05
_BROKEN_CONNECTIONS = 3
_LONGER_S = 15.0
"""A fault of a link that had nothing to do goes on for so much longer at most."""


def halves(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """Two parts of the swarm that cannot see each other."""
    hosts = _shuffled(swarm, fault)
    one, other = hosts[: len(hosts) // 2], hosts[len(hosts) // 2 :]
    evidence = yield from cut(swarm, fault, _between(one, other))
    return evidence | {"parts": [one, other]}


def bridge(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """Two parts that see each other only through one peer, who sees both."""
    middle, *hosts = _shuffled(swarm, fault)
    one, other = hosts[: len(hosts) // 2], hosts[len(hosts) // 2 :]
    evidence = yield from cut(swarm, fault, _between(one, other))
    return evidence | {"parts": [one, other], "bridge": middle}


def one_way(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """One who hears and is not heard, or the other way round, or only so for one other."""
    (seat,) = seats
    others = [name for name in _shuffled(swarm, fault) if name != seat.name]
    shape = ("mute", "deaf", "mute to one")[fault.seed % 3]
    pairs = [(seat.name, other) for other in others]
    if shape == "deaf":
        pairs = [(other, seat.name) for other in others]
    elif shape == "mute to one":
        target = next((s.name for s in swarm.up if s is not seat), others[0])
        pairs = [(seat.name, target)]
    evidence = yield from cut(swarm, fault, pairs)
    return evidence | {"shape": shape}


def corrupt(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """Bytes of what a peer sends arrive as others, and TCP finds nothing wrong with them."""
    assert swarm.lab is not None
    (seat,) = seats
    flips = Flips(seat.name, frac=_FLIPPED_FRAC, seed=fault.seed)
    before = _counted(swarm, "InCsumErrors")
    swarm.lab.inflict(flips)
    yield from _until(fault, lambda: flips.altered_packets > 0)
    swarm.lab.lift(flips)
    yield 0.2  # what is on its way arrives
    refused = _counted(swarm, "InCsumErrors") - before
    altered = flips.altered_packets
    return {"fired": altered > refused, "altered_packets": altered, "refused_by_tcp": refused}


def truncate(swarm: Swarm, fault: Planned, seats: list[Seat]) -> Play:
    """Connections break while a peer sends over them."""
    assert swarm.lab is not None
    (seat,) = seats
    resets = Resets(seat.name, _BROKEN_CONNECTIONS)
    swarm.lab.inflict(resets)
    yield from _until(fault, lambda: bool(resets.confirmed))
    swarm.lab.lift(resets)
    number, confirmed = len(resets.broken), len(resets.confirmed)
    return {"fired": confirmed > 0, "resets": number, "confirmed": confirmed}


def cut(swarm: Swarm, fault: Planned, pairs: list[tuple[str, str]]) -> Play:
    """Nothing gets through from the first of each pair to the second."""
    assert swarm.lab is not None
    drops = Cut(pairs)
    swarm.lab.inflict(drops)
    yield fault.for_s
    swarm.lab.lift(drops)
    return {"fired": drops.dropped_packets > 0, "dropped_packets": drops.dropped_packets}


def _until(fault: Planned, has_fired: Callable[[], bool]) -> Generator[float, None, None]:
    """Lasts as long as it was told to, and longer if nothing has come its way."""
    yield fault.for_s
    give_up_s = time.monotonic() + _LONGER_S
    while not has_fired() and time.monotonic() < give_up_s:
        yield 0.2


def _counted(swarm: Swarm, name: str) -> int:
    """Returns one of TCP's counts, summed over all hosts."""
    assert swarm.lab is not None
    total = 0
    for host in swarm.hosts:
        text = swarm.lab.on(host, lambda: Path("/proc/thread-self/net/snmp").read_text())
        names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
        total += int(values[names.index(name)])
    return total


def _shuffled(swarm: Swarm, fault: Planned) -> list[str]:
    """Returns all hosts, those who train dealt first, so that they are in both parts."""
    up = {seat.name for seat in swarm.up}
    hosts = [*swarm.hosts]
    random.Random(fault.seed).shuffle(hosts)
    hosts.sort(key=lambda host: host not in up)
    return hosts[::2] + hosts[1::2]


def _between(one: list[str], other: list[str]) -> list[tuple[str, str]]:
    return [pair for a in one for b in other for pair in ((a, b), (b, a))]
