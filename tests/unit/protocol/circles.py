"""A swarm of `protocol.circle_exchange` in virtual time, with a network that can do anything.

Bulk data is modelled by its name: of an average it is known whose contributions are in it.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from protocol.circle_exchange import CircleExchange
from protocol.exchange import ExchangeConfig, Failure, Phase
from protocol.identity import PeerId
from protocol.machine import BlobRef, Discard, Effect, Fetch, Land, Offer, Reduce, Send, Tell
from protocol.messages import DIGEST_BYTES

DIGEST = bytes(DIGEST_BYTES)
HOLD_S, PROGRESS_S, LAND_S, EXCHANGE_S = 1.5, 3.0, 0.05, 60.0


class Peer:
    """A driver, a trainer that departs so often, and a mixing without numbers."""

    def __init__(self, world: "World", peer_id: PeerId, interval_s: float) -> None:
        config = ExchangeConfig(
            our_id=peer_id,
            life="1",
            run_id="run",
            fragment=0,
            quorum_frac=0.5,
            grace_s=3.0,
            exchange_s=EXCHANGE_S,
            group_size=world.size,
        )
        self.peer_id, self.world, self.interval_s = peer_id, world, interval_s
        self.machine = CircleExchange(config, round=0, anchor_digest=DIGEST)
        self.machine.up_bps = world.rng.choice([0, 10**6, 10**7, 10**8])
        self.is_alive = True
        self.has_snapshot = False
        self.ready_at_s = 0.0
        self.active: bytes | None = None
        self.offered: dict[bytes, tuple[PeerId, ...]] = {}
        self.parts: dict[bytes, set[PeerId]] = {}
        self.averages: dict[bytes, dict[int, frozenset[PeerId]]] = {}
        self.landed: list[tuple[bytes, tuple[frozenset[PeerId], ...]]] = []

    def feed(self, event: Callable[[CircleExchange], None]) -> None:
        """One event, all effects, one timer."""
        if not self.is_alive:
            return
        event(self.machine)
        for effect in self.machine.drain():
            self.take(effect)
        if self.has_snapshot and self.machine.phase is Phase.IDLE:
            self.ready_at_s = self.world.now_s
            self.feed(lambda machine: machine.on_departed(10, now_s=self.world.now_s))
            return
        due_s = self.machine.next_deadline_s()
        if due_s is not None:
            self.world.at(due_s, partial(self.on_timer, due_s))

    def on_timer(self, armed_for_s: float) -> None:
        if self.is_alive and self.machine.next_deadline_s() == armed_for_s:
            self.feed(lambda machine: machine.on_timer(now_s=self.world.now_s))
            assert self.machine.next_deadline_s() != armed_for_s, "a timer that does nothing"

    def depart(self) -> None:
        self.has_snapshot = True
        self.feed(lambda machine: None)
        if self.world.now_s < self.world.until_s:
            self.world.after(self.interval_s * self.world.rng.uniform(0.9, 1.1), self.depart)

    def take(self, effect: Effect) -> None:
        world = self.world
        match effect:
            case Send():
                world.send(self, effect)
            case Offer():
                assert self.active is None, "in two exchanges at once"
                assert effect.exchange_id not in self.offered, "entered twice"
                self.active = effect.exchange_id
                self.offered[effect.exchange_id] = effect.members
            case Fetch():
                assert effect.ref.exchange_id == self.active
                world.after(world.latency_s(), partial(world.serve, self, effect, HOLD_S))
            case Reduce(ref):
                assert ref.exchange_id == self.active
                brought = self.parts.pop(ref.exchange_id, set()) | {self.peer_id}
                assert len(brought) >= 2
                self.keep(ref, frozenset(brought))
            case Land():
                self.land(effect)
            case Discard(_, exchange_id):
                assert exchange_id == self.active
                self.active = None
                self.averages.pop(exchange_id, None)
                self.parts.pop(exchange_id, None)
            case Tell(event, fields):
                world.events[event] += 1
                if event == "exchange_begins":
                    world.begun.append(1 + len(fields["partners"]))  # type: ignore[arg-type]

    def keep(self, ref: BlobRef, content: frozenset[PeerId]) -> None:
        self.averages.setdefault(ref.exchange_id, {})[ref.part] = content

    def land(self, effect: Land) -> None:
        exchange_id = effect.exchange_id
        averages = self.averages[exchange_id]
        assert exchange_id == self.active, "landed after it was given up"
        assert exchange_id not in dict(self.landed), "landed twice"
        assert sorted(averages) == list(effect.terms.parts), "landed a part of it"
        assert not effect.rebase_on_anchor
        self.landed.append((exchange_id, tuple(averages[part] for part in sorted(averages))))
        self.active, self.has_snapshot = None, False
        self.world.waited_s.append(self.world.now_s - self.ready_at_s)
        round = self.machine.round + 1
        end = partial(CircleExchange.on_landed, round=round, anchor_digest=DIGEST)
        world = self.world
        world.after(LAND_S, lambda: self.feed(lambda m: end(m, now_s=world.now_s)))


class World:
    """All peers, and everything that is on its way."""

    def __init__(
        self,
        num_peers: int,
        size: int,
        seed: int,
        *,
        interval_s: float = 20.0,
        is_in_step: bool = False,
        loss_frac: float = 0.0,
        double_frac: float = 0.0,
        jitter_s: float = 0.1,
    ) -> None:
        self.rng = random.Random(seed)
        self.size = size
        self.loss_frac, self.double_frac, self.jitter_s = loss_frac, double_frac, jitter_s
        self.now_s, self.until_s = 0.0, 1e9
        self.events: Counter[str] = Counter()
        self.begun: list[int] = []
        """Members of each exchange, as each of them began it."""
        self.waited_s: list[float] = []
        self.num_notes = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        names = [PeerId(f"peer{number}") for number in range(num_peers)]
        self.peers = {name: Peer(self, name, interval_s) for name in names}
        for peer in self.peers.values():
            self.tell_members(peer)
            self.after(0.0 if is_in_step else self.rng.uniform(0, interval_s), peer.depart)

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (max(time_s, self.now_s), self._count, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, action)

    def latency_s(self) -> float:
        return 0.02 + self.rng.expovariate(1 / self.jitter_s)

    def run(self, until_s: float) -> None:
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._queue)
            action()
        self.now_s = until_s

    def tell_members(self, peer: Peer) -> None:
        others = tuple(name for name, other in self.peers.items() if other.is_alive)
        peer.feed(lambda machine: machine.on_members(others, now_s=self.now_s))

    def kill(self, peer: Peer) -> None:
        """The others learn it from the directory, much later."""
        peer.is_alive = False
        for other in self.peers.values():
            self.after(30.0, partial(self.tell_members, other))

    def send(self, src: Peer, effect: Send) -> None:
        dst, rng = self.peers[effect.dst], self.rng
        self.num_notes += 1

        def arrive() -> None:
            if dst.is_alive:
                dst.feed(lambda m: m.on_note(src.peer_id, effect.note, now_s=self.now_s))
            else:
                src.feed(lambda m: m.on_unreachable(effect.dst, now_s=self.now_s))

        for _ in range(1 + (rng.random() < self.double_frac)):
            if rng.random() >= self.loss_frac:
                self.after(self.latency_s(), arrive)

    def serve(self, asker: Peer, effect: Fetch, patience_s: float) -> None:
        ref, src = effect.ref, self.peers[effect.src]
        if not src.is_alive or self.rng.random() < self.loss_frac / 4:
            self.after(PROGRESS_S, partial(self.fail, asker, effect, failure=Failure.BROKEN))
            return
        content: frozenset[PeerId] | None = src.averages.get(ref.exchange_id, {}).get(ref.part)
        if ref.kind == "part":
            is_ours = asker.peer_id in src.offered.get(ref.exchange_id, ())
            content = frozenset({src.peer_id}) if is_ours else None
        if content is not None:
            self.after(self.latency_s(), partial(self.bring, asker, effect, content))
        elif patience_s > 0:
            self.after(0.25, partial(self.serve, asker, effect, patience_s - 0.25))
        else:
            self.fail(asker, effect, failure=Failure.ABSENT)

    def bring(self, asker: Peer, effect: Fetch, content: frozenset[PeerId]) -> None:
        ref = effect.ref
        if asker.active != ref.exchange_id:
            return
        if ref.kind == "part":
            asker.parts.setdefault(ref.exchange_id, set()).update(content)
        else:
            asker.keep(ref, content)
        asker.feed(lambda m: m.on_fetched(effect.src, ref, now_s=self.now_s))

    def fail(self, asker: Peer, effect: Fetch, *, failure: Failure) -> None:
        now_s = self.now_s
        asker.feed(
            lambda m: m.on_fetch_failed(effect.src, effect.ref, failure=failure, now_s=now_s)
        )

    # ---- what must be true

    def check(self) -> None:
        """Equal exchanges have equal averages, and every one is of members, two at least."""
        results: dict[bytes, set[tuple[frozenset[PeerId], ...]]] = {}
        for peer in self.peers.values():
            for exchange_id, averages in peer.landed:
                results.setdefault(exchange_id, set()).add(averages)
                members = {peer.peer_id, *peer.offered[exchange_id]}
                assert all(average <= members for average in averages)
                assert len(members) <= self.size
        assert all(len(averages) == 1 for averages in results.values())

    @property
    def alive(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.is_alive]
