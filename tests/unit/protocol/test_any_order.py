"""Machines of one swarm under a scheduler that reorders, drops, doubles, delays and kills.

Bulk data is modelled by its name: an average is who made it, the digest of an anchor is the hash of
the averages that led to it. A failing case is replayed by its name, for instance
`pytest "tests/unit/protocol/test_any_order.py::test_safe_under_attack[all-17]"`.
"""

import hashlib
import random
from collections import Counter

import pytest

from protocol.branches import Branch, judge, lineage_after
from protocol.circle_exchange import CircleExchange
from protocol.exchange import Exchange, ExchangeConfig, Failure, Phase
from protocol.group_exchange import GroupExchange
from protocol.identity import PeerId
from protocol.lineage import EMPTY
from protocol.machine import BlobRef, CatchUp, Discard, Effect, Fetch, Land, Offer, Reduce, Send
from protocol.pair_exchange import PairExchange
from protocol.roster import is_quorum
from protocol.terms import Terms

MACHINES: dict[str, type[Exchange]] = {
    "all": GroupExchange,
    "pairs": PairExchange,
    "groups": CircleExchange,
}
QUORUM_FRAC = 0.5
START = bytes(32)
UP_BPS = (0, 10**6, 10**7, 10**9)
"""So far apart that some members of a roster have nothing to average."""
NUM_CODECS = 3


class Peer:
    """A driver, and a mixing without numbers."""

    def __init__(self, mixing: str, peer_id: PeerId) -> None:
        config = ExchangeConfig(
            our_id=peer_id,
            life="1",
            run_id="run",
            fragment=0,
            quorum_frac=QUORUM_FRAC,
            grace_s=3.0,
            exchange_s=20.0,
            num_codecs=NUM_CODECS,
        )
        self.peer_id = peer_id
        self.machine = MACHINES[mixing](config, round=0, anchor_digest=START)
        self.round, self.digest, self.lineage = 0, START, EMPTY
        self.active: bytes | None = None
        """The exchange that our snapshot is in, or that we replay."""
        self.offered: dict[bytes, Terms] = {}
        self.parts: Counter[bytes] = Counter()
        self.averages: dict[bytes, dict[int, bytes]] = {}
        self.num_reduced: Counter[bytes] = Counter()
        self.landed: list[tuple[bytes, bytes, bytes]] = []
        """Exchange, digest before, digest after."""
        self.num_live = 1
        self.num_live_at: dict[bytes, int] = {}
        """When it entered each exchange."""


class World:
    """All peers, and everything that is on its way."""

    def __init__(self, mixing: str, num_peers: int, rng: random.Random) -> None:
        self.rng = rng
        self.mixing = mixing
        self.now_s = 0.0
        self.loss_frac = 0.0
        self.duplicate_frac = 0.0
        self.cut_off: PeerId | None = None
        """Whatever goes to or comes from this peer is lost."""
        self.camps: dict[PeerId, int] = {}
        """Whatever goes from one to another is lost, and they do not know of each other."""
        self.pending: list[tuple[PeerId, Effect]] = []
        self.alive = [PeerId(f"peer{number}") for number in range(num_peers)]
        self.peers = {peer_id: Peer(mixing, peer_id) for peer_id in self.alive}
        self.contributed: set[tuple[PeerId, bytes]] = set()
        self.faults: Counter[str] = Counter()
        for peer_id in self.alive:
            self.tell_members(peer_id)

    # ---- what the scheduler may choose

    def tell_members(self, peer_id: PeerId) -> None:
        peer = self.peers[peer_id]
        camp = self.camps.get(peer_id)
        known = tuple(o for o in self.alive if o != peer_id and self.camps.get(o) == camp)
        peer.num_live = 1 + len(known)
        peer.machine.on_members(known, now_s=self.now_s)
        self.take_effects(peer)

    def depart(self, peer_id: PeerId) -> None:
        peer = self.peers[peer_id]
        peer.machine.up_bps = self.rng.choice(UP_BPS)
        peer.machine.wanted_codec = self.rng.randrange(NUM_CODECS)
        if not peer.machine.is_using_snapshot:
            peer.machine.on_departed(self.rng.randint(1, 99), now_s=self.now_s)
            self.take_effects(peer)

    def kill(self, peer_id: PeerId) -> None:
        self.alive.remove(peer_id)
        self.faults["kill"] += 1

    def fire(self, peer_id: PeerId) -> None:
        """Fires a timer, late or in time. A deadline never stays where it is for nothing."""
        peer = self.peers[peer_id]
        due_s = peer.machine.next_deadline_s()
        if due_s is None:
            return
        self.now_s = max(self.now_s, due_s)
        for _ in range(3):
            if due_s is None or due_s > self.now_s:
                return
            before = due_s, peer.machine.phase
            peer.machine.on_timer(now_s=self.now_s)
            num_effects = self.take_effects(peer)
            due_s = peer.machine.next_deadline_s()
            assert num_effects or (due_s, peer.machine.phase) != before, "a busy loop"
        assert due_s is None or due_s > self.now_s, "a deadline in the past"

    def next_timer(self) -> PeerId | None:
        times = [(self.peers[peer_id].machine.next_deadline_s(), peer_id) for peer_id in self.alive]
        due = [(due_s, peer_id) for due_s, peer_id in times if due_s is not None]
        return min(due)[1] if due else None

    def deliver(self, at: int) -> None:
        """Something arrives, or gets lost, or comes and will come again."""
        src, effect = self.pending.pop(at)
        other = other_of(effect)
        is_apart = other is not None and self.camps.get(src) != self.camps.get(other)
        is_cut = is_apart or self.cut_off in (src, other)
        is_lost = self.rng.random() < self.loss_frac or is_cut
        self.faults["loss"] += is_lost
        if isinstance(effect, Send):
            if not is_lost and self.rng.random() < self.duplicate_frac:
                self.pending.append((src, effect))
                self.faults["duplicate"] += 1
            if not is_lost and effect.dst in self.alive:
                dst = self.peers[effect.dst]
                dst.machine.on_note(src, effect.note, now_s=self.now_s)
                self.take_effects(dst)
        elif src in self.alive:
            self.end(self.peers[src], effect, is_lost=is_lost)

    def end(self, peer: Peer, effect: Effect, *, is_lost: bool) -> None:
        """What a peer had begun ends."""
        now_s = self.now_s
        match effect:
            case Fetch(src, ref):
                is_alive = not is_lost and src in self.alive
                if is_alive and self.fetch(peer, effect):
                    peer.machine.on_fetched(src, ref, now_s=now_s)
                else:
                    silence = Failure.SILENT if self.rng.random() < 0.5 else Failure.BROKEN
                    failure = Failure.ABSENT if is_alive else silence
                    peer.machine.on_fetch_failed(src, ref, failure=failure, now_s=now_s)
            case Land():
                peer.machine.lineage = peer.lineage
                peer.machine.on_landed(peer.round, peer.digest, now_s=now_s)
            case CatchUp():
                self.catch_up(peer, effect, is_lost=is_lost)
        self.take_effects(peer)

    def catch_up(self, peer: Peer, effect: CatchUp, *, is_lost: bool) -> None:
        """Takes the first donor's anchor over, or averages both, as the judge says."""
        donors = [self.peers[src] for src in effect.donors if src in self.alive]
        if donors and not is_lost:
            ours = branch_of(peer, effect.our_camp)
            theirs = branch_of(donors[0], effect.their_camp)
            verdict = judge(ours, theirs)
            if verdict.keeps and verdict.round == peer.round:
                peer.machine.on_kept(now_s=self.now_s)
                return
            self.faults["merge"] += all(verdict.weights)
            peer.round, peer.lineage = verdict.round, lineage_after(ours, theirs, verdict)
            if not verdict.weights[0]:
                peer.digest = donors[0].digest
            elif not verdict.keeps:
                weighed = zip(verdict.weights, (peer.digest, donors[0].digest), strict=True)
                peer.digest = hashlib.sha256(repr(sorted(weighed)).encode()).digest()
            if not peer.lineage.knows(peer.round, peer.digest):
                peer.lineage = peer.lineage.landed(peer.round, peer.digest, 0)
        peer.machine.lineage = peer.lineage
        peer.machine.on_caught_up(peer.round, peer.digest, now_s=self.now_s)

    def fetch(self, peer: Peer, effect: Fetch) -> bool:
        ref, src = effect.ref, self.peers[effect.src]
        if ref.kind == "part":
            if ref.exchange_id not in src.offered:
                return False
            assert src.offered[ref.exchange_id] == effect.terms, "a part that nobody can decode"
            peer.parts[ref.exchange_id] += 1
            self.contributed.add((src.peer_id, ref.exchange_id))
            return True
        content = src.averages.get(ref.exchange_id, {}).get(ref.part)
        if content is None:
            return False
        self.keep(peer, ref, content)
        return True

    # ---- effects, and what must be true of them

    def take_effects(self, peer: Peer) -> int:
        effects = peer.machine.drain()
        for effect in effects:
            match effect:
                case Send() | CatchUp():
                    self.pending.append((peer.peer_id, effect))
                case Fetch(_, ref):
                    assert peer.active in (None, ref.exchange_id)
                    peer.active = ref.exchange_id
                    self.pending.append((peer.peer_id, effect))
                case Offer():
                    assert peer.active is None, "in two exchanges at once"
                    assert effect.exchange_id not in peer.offered, "entered twice"
                    peer.active = effect.exchange_id
                    peer.offered[effect.exchange_id] = effect.terms
                    peer.num_live_at[effect.exchange_id] = peer.num_live
                case Reduce():
                    self.reduce(peer, effect)
                case Land():
                    self.land(peer, effect)
                case Discard(_, exchange_id):
                    assert peer.active == exchange_id
                    peer.active = None
                    peer.averages.pop(exchange_id, None)
                    peer.parts.pop(exchange_id, None)
        return len(effects)

    def reduce(self, peer: Peer, effect: Reduce) -> None:
        exchange_id = effect.ref.exchange_id
        assert peer.active == exchange_id
        peer.num_reduced[exchange_id] += 1
        assert peer.num_reduced[exchange_id] == 1, "two averages of one part"
        assert peer.offered[exchange_id].shares[effect.ref.part], "an average of nothing"
        if self.mixing == "all":
            num = peer.parts[exchange_id] + 1
            num_live = peer.num_live_at[exchange_id]
            assert is_quorum(num, num_live, QUORUM_FRAC), "an average without a quorum"
        content = repr((peer.peer_id, exchange_id, effect.ref.part)).encode()
        self.keep(peer, effect.ref, content)

    def keep(self, peer: Peer, ref: BlobRef, content: bytes) -> None:
        peer.averages.setdefault(ref.exchange_id, {})[ref.part] = content

    def land(self, peer: Peer, effect: Land) -> None:
        assert peer.active == effect.exchange_id, "landed after it was given up"
        averages = peer.averages[effect.exchange_id]
        assert tuple(sorted(averages)) == effect.terms.parts, "landed a part of it"
        self.faults["empty part"] += len(averages) < effect.terms.num_parts
        assert effect.exchange_id not in {exchange_id for exchange_id, _, _ in peer.landed}
        assert effect.round == peer.round
        before = peer.digest
        content = b"".join(averages[part] for part in sorted(averages))
        peer.digest, peer.round = hashlib.sha256(before + content).digest(), peer.round + 1
        peer.lineage = peer.lineage.landed(peer.round, peer.digest, effect.tokens)
        peer.active = None
        peer.landed.append((effect.exchange_id, before, peer.digest))
        self.pending.append((peer.peer_id, effect))

    def assert_equal_exchanges_have_equal_results(self) -> None:
        results: dict[tuple[bytes, bytes], set[bytes]] = {}
        for peer in self.peers.values():
            for exchange_id, before, after in peer.landed:
                results.setdefault((exchange_id, before), set()).add(after)
        assert all(len(digests) == 1 for digests in results.values())

    # ---- schedules

    def attack(self, num_steps: int) -> None:
        """Anything in any order, timers too early and too late, cuts, and up to two deaths."""
        self.loss_frac, self.duplicate_frac = 0.05, 0.1
        for _ in range(num_steps):
            choice = self.rng.random()
            self.now_s += self.rng.random() * 0.1
            if choice < 0.10:
                self.depart(self.rng.choice(self.alive))
            elif choice < 0.105 or not self.pending:
                self.fire(self.rng.choice(self.alive))
            elif choice < 0.12:
                self.fire(self.next_timer() or self.alive[0])
            elif choice < 0.122 and len(self.alive) > max(1, len(self.peers) - 2):
                self.kill(self.rng.choice(self.alive))
            elif choice < 0.130:
                self.cut_off = self.rng.choice([None, *self.alive])
                self.faults["cut"] += self.cut_off is not None
            elif choice < 0.14:
                self.tell_members(self.rng.choice(self.alive))
            else:
                self.deliver(self.rng.randrange(len(self.pending)))

    def peace(self, duration_s: float) -> None:
        """A network faster than all timers, in any order; trainers depart when they can."""
        self.loss_frac = self.duplicate_frac = 0.0
        self.cut_off = None
        for peer_id in self.alive:
            self.tell_members(peer_id)
        until_s = self.now_s + duration_s
        while self.now_s < until_s:
            for _ in range(10_000):
                if not self.pending:
                    break
                self.deliver(self.rng.randrange(len(self.pending)))
            assert not self.pending, "they never stop talking"
            self.now_s += 0.05
            idle = [p for p in self.alive if self.peers[p].machine.phase is Phase.IDLE]
            timer = self.next_timer()
            if idle and (timer is None or self.rng.random() < 0.7):
                self.depart(self.rng.choice(idle))
            elif timer:
                self.fire(timer)


def other_of(effect: Effect) -> PeerId | None:
    match effect:
        case Send(dst, _):
            return dst
        case Fetch(src, _):
            return src
        case CatchUp(donors):
            return donors[0]
        case _:
            return None


def branch_of(peer: Peer, camp: int) -> Branch:
    return Branch(round=peer.round, digest=peer.digest, lineage=peer.lineage, camp=camp)


def world_of(mixing: str, seed: int) -> World:
    return World(mixing, 2 + seed % 5, random.Random(seed))


def state(world: World) -> list[tuple[int, bytes]]:
    return [(world.peers[peer_id].round, world.peers[peer_id].digest) for peer_id in world.alive]


@pytest.mark.parametrize("seed", range(20))
def test_in_peace_nobody_forks_and_no_attempt_fails(seed: int) -> None:
    world = world_of("all", seed)
    world.peace(30.0)
    results: dict[int, set[bytes]] = {}
    for peer in world.peers.values():
        for round, (_, _, digest) in enumerate(peer.landed):
            results.setdefault(round, set()).add(digest)
    assert all(len(digests) == 1 for digests in results.values())
    assert min(round for round, _ in state(world)) >= 5


@pytest.mark.parametrize("seed", range(150))
@pytest.mark.parametrize("mixing", MACHINES)
def test_safe_under_attack(mixing: str, seed: int) -> None:
    world = world_of(mixing, seed)
    world.attack(1000)
    assert world.faults["loss"]
    if mixing == "all":
        world.assert_equal_exchanges_have_equal_results()


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("mixing", MACHINES)
def test_after_an_attack_all_go_on_together(mixing: str, seed: int) -> None:
    world = world_of(mixing, seed)
    world.attack(400)
    world.peace(45.0)  # long enough for what was begun in the attack to time out
    before = state(world)
    world.peace(30.0)
    after = state(world)
    if mixing == "all":
        world.assert_equal_exchanges_have_equal_results()
        if len(world.alive) == 1:  # the others may go on somewhere
            assert after == before
            return
        assert min(round for round, _ in after) >= max(round for round, _ in before) + 2
        assert len({digest for round, digest in after if round == max(after)[0]}) == 1
    elif len(world.alive) > 1:
        assert sum(round for round, _ in after) >= sum(round for round, _ in before) + 4


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sizes", [(2, 2), (2, 3), (3, 3), (2, 2, 2)], ids=str)
def test_parts_that_lost_sight_of_each_other_become_one_and_lose_nothing(
    sizes: tuple[int, ...], seed: int
) -> None:
    world = World("all", sum(sizes), random.Random(seed))
    world.peace(10.0)
    places = [camp for camp, size in enumerate(sizes) for _ in range(size)]
    world.camps = dict(zip(world.alive, places, strict=True))
    world.peace(20.0)
    leaders = [world.peers[world.alive[places.index(camp)]] for camp in range(len(sizes))]
    assert len({peer.digest for peer in leaders}) == len(sizes)  # each part went on
    before = [peer.lineage for peer in leaders]
    world.camps = {}
    world.peace(40.0)
    assert world.faults["merge"]
    rounds, digests = zip(*state(world), strict=True)
    assert max(rounds) - min(rounds) <= 1
    assert len({digest for round, digest in state(world) if round == max(rounds)}) == 1
    assert len(set(digests)) <= 2
    for peer in world.peers.values():
        assert all(old.tokens_beyond(peer.lineage) == 0 for old in before)
    world.assert_equal_exchanges_have_equal_results()


@pytest.mark.parametrize("seed", range(20))
def test_one_that_lost_sight_of_all_others_is_merely_late(seed: int) -> None:
    world = World("all", 4, random.Random(seed))
    world.peace(10.0)
    lone, *_ = world.alive
    world.camps = {lone: 1}
    world.peace(10.0)
    landed, (round, _) = len(world.peers[lone].landed), state(world)[0]
    world.peace(20.0)
    assert len(world.peers[lone].landed) == landed
    world.camps = {}
    world.peace(30.0)
    assert not world.faults["merge"]
    assert max(state(world))[0] > round + 5
    assert len({digest for at, digest in state(world) if at == max(state(world))[0]}) == 1


def test_the_attacks_reach_what_they_are_meant_to_reach() -> None:
    faults: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for seed in range(30):
        world = world_of("all", seed)
        for peer in world.peers.values():
            tell = peer.machine._tell

            def counted(event: str, _tell: object = tell, **fields: object) -> None:
                events[event] += 1

            peer.machine._tell = counted  # type: ignore[method-assign]
        world.attack(1200)
        faults += world.faults
    assert all(faults[fault] > 20 for fault in ("loss", "duplicate", "cut", "empty part"))
    assert faults["kill"] > 5
    for event in ("exchange_begins", "exchange_failed", "replay_begins"):
        assert events[event] > 5, event
