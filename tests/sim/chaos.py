"""Random swarms under random faults, and what must hold for them whatever happens.

`python -m tests.sim.chaos SEED...` replays seeds and prints their traces.
"""

import random
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from peer.bench import Bench
from peer.sim.faults import (
    ClockJump,
    Crash,
    Fault,
    Freeze,
    Join,
    Leave,
    Partition,
    Slow,
    Storm,
    schedule,
)
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyLearner, ToyTask
from protocol.group_exchange import GroupExchange
from protocol.identity import peer_id_of
from protocol.machine import Offer
from protocol.manifest import Manifest, manifest_from

FAULTS_FROM_S, FAULTS_UNTIL_S = 8.0, 25.0
CALM_S = 60.0
"""By then every fault is over, and so are the deadlines and records that it left behind."""
END_S = 100.0
"""By then everybody has gone on; whoever has gone on earlier is looked at then."""
LOOK_S = 2.0

MAY_FORK = ("halves", "bridge", "one-way", "crash", "vanish", "leave", "freeze", "clock", "storm")
"""Whoever is cut off, or ends, just when it has landed may be the only one who did."""

METHODS: tuple[dict[str, Any], ...] = (
    {"mixing": "all", "outer": {"rule": "nesterov"}},
    {"mixing": "all", "outer": {"rule": "nesterov"}, "codec": {"name": "int8", "block": 8}},
    {
        "mixing": "all",
        "outer": {"rule": "plain"},
        "codec": {"name": "int4", "block": 8, "feedback": 0.95},
    },
    {"mixing": "all", "outer": {"rule": "eager"}},
    {"mixing": "all", "outer": {"rule": "co2"}},
    {"mixing": "pairs", "outer": {"rule": "noloco"}},
    {"mixing": "pairs", "outer": {"rule": "noloco"}, "codec": {"name": "mod8", "block": 8}},
)


@dataclass(frozen=True)
class Case:
    """One random swarm and its faults."""

    manifest: Manifest
    seats: tuple[Seat, ...]
    faults: tuple[Fault, ...]


def case_of(seed: int) -> Case:
    """Draws a case."""
    rng = random.Random(seed)
    method = rng.choice(METHODS)
    fragments = rng.choice((1, 1, 2))
    interval = rng.choice((2, 3)) * fragments
    overlap = rng.choice((0, 0, 1, 2))
    manifest = manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "seed": seed,
            "method": {
                "mixing": method["mixing"],
                "outer": {"constants": {}, **method["outer"]},
                "codec": method.get("codec", {}),
                "schedule": {
                    "interval_steps": interval,
                    "fragments": fragments,
                    "overlap_steps": overlap,
                },
            },
            "round": {"exchange_s": 30.0},
        }
    )
    link = LinkSpec(
        up_bps=rng.choice((1e5, 1e6, 20e6)),
        down_bps=rng.choice((1e6, 100e6)),
        latency_s=rng.choice((0.002, 0.02, 0.08)),
        latency_cv=rng.choice((0.0, 0.5)),
        loss_frac=rng.choice((0.0, 0.0, 0.02)),
    )
    seats = tuple(
        Seat(link=link, step_s=rng.uniform(1.2, 2.0), step_cv=0.1) for _ in range(rng.randint(3, 4))
    )
    return Case(manifest, seats, tuple(_fault(rng) for _ in range(rng.randint(1, 3))))


def _fault(rng: random.Random) -> Fault:
    at_s = rng.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S)
    match rng.randrange(10):
        case 0:
            return Crash(at_s=at_s)
        case 1:
            return Crash(at_s=at_s, is_silent=True)
        case 2:
            return Freeze(at_s=at_s, for_s=rng.choice((0.5, 3.0, 12.0)))
        case 3:
            return Slow(at_s=at_s, for_s=15.0)
        case 4:
            return Partition(at_s=at_s, for_s=rng.choice((1.0, 12.0)), shape="halves")
        case 5:
            return Partition(at_s=at_s, for_s=12.0, shape=rng.choice(("bridge", "one-way")))
        case 6:
            return ClockJump(at_s=at_s, for_s=10.0, offset_s=rng.choice((-300.0, -3.0, 3.0, 300.0)))
        case 7:
            return Storm(
                at_s=at_s,
                for_s=10.0,
                lose_frac=0.1,
                duplicate_frac=0.1,
                reorder_s=0.3,
                corrupt_frac=0.2,
            )
        case 8:
            return Join(at_s=at_s, count=rng.randint(1, 2))
        case _:
            return Leave(at_s=at_s)


class Ledger:
    """What one peer's inner steps added, and where it is: in exchanges, or still on top."""

    def __init__(self, peer: SimPeer) -> None:
        self.peer = peer
        self._mixing = mixing = peer.mixing
        self._brought: dict[tuple[int, bytes], torch.Tensor] = {}
        self._dropped: list[tuple[Bench, tuple[int, bytes]]] = []
        self._offer, self._drop, self._discard = mixing.offer, mixing.drop, mixing.discard
        mixing.offer = self.offer  # type: ignore[method-assign]
        mixing.drop = self.drop  # type: ignore[method-assign]
        mixing.discard = self.discard  # type: ignore[method-assign]

    def offer(self, effect: Offer, theta: torch.Tensor) -> torch.Tensor | None:
        start = self._mixing.outer[effect.fragment].copy.start
        ahead = self._offer(effect, theta)
        if (bench := self._mixing._benches.get((effect.fragment, effect.exchange_id))) is not None:
            assert bench.departure is not None
            self._brought[effect.fragment, effect.exchange_id] = theta - start
        return ahead

    def drop(self, fragment: int, exchange_id: bytes) -> Bench | None:
        bench = self._drop(fragment, exchange_id)
        if bench is not None:
            self._dropped.append((bench, (fragment, exchange_id)))
        return bench

    def discard(self, fragment: int, bench: Bench) -> torch.Tensor | None:
        for dropped, key in self._dropped:
            if dropped is bench:
                self._brought.pop(key, None)
        return self._discard(fragment, bench)

    def assert_balanced(self, landed: set[tuple[int, bytes]]) -> None:
        """Each inner step is in an exchange, or still on top of the start: once, not twice."""
        mixing, learner = self._mixing, self.peer.learner
        assert isinstance(learner, ToyLearner)
        for fragment, span in enumerate(mixing.layout.fragments):
            part = slice(span.start, span.stop)
            brought = torch.zeros(len(span))
            for (of, exchange_id), delta in self._brought.items():
                if of == fragment and (mixing.goes_ahead or (of, exchange_id) in landed):
                    brought += delta
            on_top = learner.theta[part] - mixing.outer[fragment].copy.start
            torch.testing.assert_close(brought + on_top, learner.work[part], atol=1e-3, rtol=1e-3)


class Checked(SimSwarm):
    """A swarm whose peers keep ledgers from their first moment."""

    def __init__(self, case: Case, seed: int) -> None:
        super().__init__(ToyTask(case.manifest), seed=seed)
        self.ledgers: list[Ledger] = []

    def join(self, seat: Seat | None = None) -> SimPeer:
        peer = super().join(seat)
        self.ledgers.append(Ledger(peer))
        return peer


def play(seed: int) -> Counter[str]:
    """Runs a seed, and returns the faults that fired.

    Raises:
        AssertionError: something that must hold does not.
    """
    case = case_of(seed)
    with Checked(case, seed) as swarm:
        for seat in case.seats:
            swarm.join(seat)
        schedule(case.faults, swarm, case.seats)
        for until_s in range(5, int(CALM_S), 5):
            swarm.run(until_s)
            assert_bounded(swarm)
        swarm.run(CALM_S)
        before = {peer.peer_id: peer.rounds for peer in swarm.running()}
        while swarm.clock.now_s < END_S and what_is_missing(swarm, before):
            swarm.run(min(END_S, swarm.clock.now_s + LOOK_S))
        for _ in range(300):  # in a busy swarm some landing is nearly always on its way
            if any(is_at_rest(peer) for peer in swarm.running()):
                break
            swarm.run(swarm.clock.now_s + 0.1)
        assert_safe(swarm)
        assert not (missing := what_is_missing(swarm, before)), missing
        assert_nothing_waited(swarm)
        return assert_fired(swarm, case)


def landings(swarm: SimSwarm) -> dict[str, list[dict[str, Any]]]:
    """Returns the landings of each peer, in order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, peer_id, event, fields in swarm.trace.entries:
        if event == "landed":
            found[peer_id].append(fields)
    return found


def done_of(swarm: SimSwarm, peer: SimPeer) -> set[tuple[int, bytes]]:
    """Returns the exchanges that have a peer's work in them, by fragment."""
    return {
        (fields["fragment"], bytes.fromhex(fields["exchange_id"]))
        for fields in landings(swarm)[peer.peer_id]
        if fields["contributed"]
    }


def assert_safe(swarm: Checked) -> None:
    """Nothing is applied twice, no inner step is lost, and equal rounds have equal anchors."""
    all_landings = landings(swarm)
    for peer_id, landed in all_landings.items():
        ids = Counter((fields["fragment"], fields["exchange_id"]) for fields in landed)
        assert max(ids.values()) == 1, f"{peer_id} landed an exchange twice"
        for fragment in range(len(swarm.task.layout.fragments)):
            rounds = [fields["round"] for fields in landed if fields["fragment"] == fragment]
            assert rounds == sorted(set(rounds)), f"{peer_id} took rounds {rounds}"
    num_checked = 0
    for ledger in swarm.ledgers:
        peer = ledger.peer
        if peer.is_running and peer.trained_from_s is not None and is_at_rest(peer):
            ledger.assert_balanced(done_of(swarm, peer))
            assert_tokens_conserved(peer)
            num_checked += 1
    assert num_checked or len(swarm.running()) < 2
    if swarm.task.manifest.method.mixing == "all":
        for fragment in range(len(swarm.task.layout.fragments)):
            outers = [peer.mixing.outer[fragment] for peer in swarm.running()]
            anchors = {(outer.round, outer.digest) for outer in outers}
            rounds = {outer.round for outer in outers}
            assert len(anchors) == len(rounds), f"anchors differ: {anchors}"
        if not any(swarm.network.fired[fault] for fault in MAY_FORK):
            assert_no_forks(all_landings)


def assert_no_forks(all_landings: dict[str, list[dict[str, Any]]]) -> None:
    """A round of a fragment has one exchange, whoever landed it."""
    made_by: dict[tuple[int, int], set[str]] = defaultdict(set)
    for landed in all_landings.values():
        for fields in landed:
            made_by[fields["fragment"], fields["round"]].add(fields["exchange_id"])
    assert all(len(ids) == 1 for ids in made_by.values()), made_by


def assert_tokens_conserved(peer: SimPeer) -> None:
    """What a peer trained is in averages that landed, or waits for one."""
    if peer.mixing.goes_ahead:  # there it may also be on its way
        return
    waiting = sum(peer.trainer.waiting_tokens)
    trained = peer.learner.tokens * len(peer.mixing.outer)
    assert peer.status.contributed_tokens + waiting == trained


def what_is_missing(swarm: SimSwarm, before: dict[Any, list[int]]) -> str:
    """Once all is calm, everybody lands, and nobody is left behind; returns what is not yet so."""
    peers = [peer for peer in swarm.running() if peer.peer_id in before]
    if len(swarm.running()) < 2:
        return ""
    is_one_lottery = swarm.task.manifest.method.mixing == "pairs"
    least = 1 if is_one_lottery or len(swarm.task.layout.fragments) > 1 else 2
    for peer in peers:
        gained = [now - then for now, then in zip(peer.rounds, before[peer.peer_id], strict=True)]
        if min(gained) < least:
            return f"{peer.peer_id} gained {gained} rounds"
    if swarm.task.manifest.method.mixing == "all":
        for rounds in zip(*(peer.rounds for peer in peers), strict=True):
            if max(rounds) - min(rounds) > 2:
                return f"rounds {rounds}"
    return ""


def assert_nothing_waited(swarm: SimSwarm) -> None:
    """The trainer never waits for the network: but for faults of its own it is always busy."""
    for peer in swarm.running():
        if peer.trained_from_s is not None:
            free_s = swarm.clock.now_s - peer.trained_from_s - peer.frozen_s
            assert peer.busy_s >= free_s - 1e-6, f"{peer.peer_id}: {peer.busy_s} of {free_s} s"


def assert_bounded(swarm: SimSwarm) -> None:
    """Nothing piles up."""
    num_fragments = len(swarm.task.layout.fragments)
    for peer in swarm.running():
        if peer.trained_from_s is None:
            continue
        driver, mixing = peer.driver, peer.mixing
        for fragment in range(num_fragments):
            kept = [bench for key, bench in mixing._benches.items() if key[0] == fragment][:-2]
            assert sum(bench.shared_bytes for bench in kept) <= mixing.state_bytes(fragment)
            assert not kept or driver._pins._pins[fragment]
            assert len(driver._pins._pins[fragment]) <= 2
        assert len(driver._tasks) <= 40 * num_fragments, driver._tasks
        assert len(driver._offers) <= 64
        assert len(driver._fetches) <= 8 * num_fragments, driver._fetches
        assert len(driver._newest_task) <= 4 * num_fragments
        assert len(peer.wire._streaming) <= 64
        for machine in driver._machines:
            for name in ("_suitors", "_given_up", "_failed_partners"):
                assert len(getattr(machine, name, ())) <= 16, (name, getattr(machine, name))
            if isinstance(machine, GroupExchange):
                assert len(machine._ready._words) <= 16
            assert len(machine._shunned) <= len(swarm.peers)


def assert_fired(swarm: SimSwarm, case: Case) -> Counter[str]:
    """Every fault that was planned came about, each of its kind; a split of one is none."""
    planned: Counter[str] = Counter()
    gone = sum(isinstance(fault, Crash | Leave | Freeze) for fault in case.faults)
    for fault in case.faults:
        match fault:
            case Crash():
                planned["vanish" if fault.is_silent else "crash"] += fault.count
            case Partition():
                needed = 3 if fault.shape == "bridge" else 2
                planned[fault.shape] += len(case.seats) - gone >= needed
            case Join() | Leave() | Freeze() | Slow() | ClockJump():
                planned[fault.kind] += fault.count
            case Storm():
                planned["storm"] += 1
    fired = swarm.network.fired
    missing = {kind: count for kind, count in planned.items() if fired[kind] < count}
    assert not missing, f"{missing} did not fire, but {fired}"
    return Counter({name: count for name, count in fired.items() if count})


def is_at_rest(peer: SimPeer) -> bool:
    """Whether outer copies and live parameters say the same: no move is on its way."""
    pairs = zip(peer.mixing.outer, peer.mixing.landed, strict=True)
    return all(outer is landed for outer, landed in pairs)


def main() -> None:
    """Replays seeds."""
    torch.set_num_threads(1)
    original = SimSwarm.close

    def close(swarm: SimSwarm) -> None:
        print(*swarm.trace.lines(), sep="\n")
        original(swarm)

    SimSwarm.close = close  # type: ignore[method-assign]
    for seed in map(int, sys.argv[1:]):
        case = case_of(seed)
        print(case.manifest.method, *case.seats, *case.faults, sep="\n")
        print(play(seed))


if __name__ == "__main__":
    main()
