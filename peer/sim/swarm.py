"""Simulated peers: the exchange machines and the mixing of a real peer, and a toy trainer.

Each peer drifts towards its own target by noisy steps, departs every H steps, and lands what the
exchange brings, exactly as on the wire: `SimPeer` is a driver (see `protocol.machine`), and what it
drives is the product.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optim.codec.codec import codec_named
from optim.landing import rebase
from optim.layout import layout_of
from optim.outer.copy import Outer
from optim.outer.named import outer_rule_named
from peer.exchanges import new_exchange
from peer.mixing import Mixing
from peer.sim.clock import VirtualClock
from peer.sim.network import LinkSpec, VirtualNetwork
from protocol.errors import MalformedMessage
from protocol.exchange import Exchange, ExchangeConfig
from protocol.identity import PeerId
from protocol.machine import CatchUp, Discard, Effect, Fetch, Land, Offer, Reduce, Send, Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmSpec:
    """A swarm of toy peers."""

    num_peers: int = 4
    num_elements: int = 40
    mixing: str = "all"
    rule: str = "nesterov"
    constants: Mapping[str, float] = field(default_factory=dict)
    equal_weights: bool = False
    """Contributions count equally, not by tokens."""
    codec: str = "fp32"
    feedback: float | None = None
    interval_steps: int = 10
    step_s: float = 0.1
    step_spread_frac: float = 0.1
    """Peers' paces differ by up to so much."""
    quorum_frac: float = 0.5
    grace_s: float = 0.5
    exchange_s: float = 20.0
    progress_s: float = 1.0
    membership_delay_s: float = 5.0
    """How long the others believe that a dead peer lives."""
    link: LinkSpec = field(default_factory=LinkSpec)


class SimPeer:
    """One peer: drives its machine over the virtual network."""

    def __init__(self, peer_id: PeerId, swarm: "SimSwarm", rng: random.Random) -> None:
        self.peer_id = peer_id
        self.theta = swarm.initial.clone()
        self.target = torch.tensor([rng.gauss(0, 1) for _ in range(len(self.theta))])
        self.steps = 0
        self.work = torch.zeros_like(self.theta)
        """All that inner steps have added to the parameters, `[n]`."""
        self.landed: list[tuple[int, bytes, bytes]] = []
        """Round reached, exchange id, anchor digest; in order."""
        self.told: list[Tell] = []
        self.num_contributed = 0
        self.is_done = False
        self.mixing = swarm.new_mixing(peer_id)
        self.machine = swarm.new_machine(peer_id, self.mixing, rng)
        self._swarm = swarm
        self._step_s = swarm.spec.step_s * (1 + swarm.spec.step_spread_frac * rng.random())
        self._tokens = 0
        self._departed_tokens = 0
        self._snapshot = self.theta.clone()
        self._timer_at_s: float | None = None
        self._later(self._step_s, self._inner_step)

    # ---- the toy trainer

    def _inner_step(self) -> None:
        if self.is_done:
            return
        step = (self.target - self.theta) * 0.05
        self.theta += step
        self.work += step
        self.steps += 1
        self._tokens += 100
        is_due = self.steps % self._swarm.spec.interval_steps == 0
        if is_due and not self.machine.is_using_snapshot:
            self._snapshot = self.theta.clone()
            self._departed_tokens = self._tokens
            weight = 1 if self._swarm.spec.equal_weights else self._tokens
            self.feed(lambda now_s: self.machine.on_departed(weight, now_s=now_s))
        self._later(self._step_s, self._inner_step)

    def _land(self, anchor: Tensor, base: Tensor) -> None:
        rebase(self.theta, anchor, base)
        self.num_contributed += 1
        self._tokens -= self._departed_tokens

    # ---- the driver

    def feed(self, event: Callable[[float], None]) -> None:
        """Feeds one event, performs the effects, arms the timer."""
        event(self._swarm.clock.now_s)
        for effect in self.machine.drain():
            self._perform(effect)
        due_s = self.machine.next_deadline_s()
        if due_s is not None and due_s != self._timer_at_s:
            self._timer_at_s = due_s
            self._later(due_s - self._swarm.clock.now_s, lambda: self._on_timer(due_s))

    def _on_timer(self, due_s: float) -> None:
        if due_s == self._timer_at_s:
            self._timer_at_s = None
            self.feed(lambda now_s: self.machine.on_timer(now_s=now_s))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(dst, note):
                other = self._swarm.peers[dst]
                if not self._swarm.network.dials(self.peer_id, dst):
                    self._later(self._swarm.spec.progress_s, lambda: self._not_reached(dst))
                self._swarm.network.carry(
                    self.peer_id,
                    dst,
                    lambda: other.feed(
                        lambda now_s: other.machine.on_note(self.peer_id, note, now_s=now_s)
                    ),
                )
            case Offer():
                start = self.mixing.offer(effect, self._snapshot)
                if start is not None:
                    self._land(start, self._snapshot)
            case Fetch():
                self._fetch(effect)
            case Reduce():
                self.mixing.reduce(effect)
            case Land():
                self._take_outer_step(effect)
            case Discard():
                self._discard(effect)
            case CatchUp():
                self._catch_up(effect)
            case Tell():
                self.told.append(effect)

    def _take_outer_step(self, effect: Land) -> None:
        old = self.mixing.outer[effect.fragment].copy
        new = self.mixing.land(effect)
        if effect.rebase_on_anchor or self.mixing.goes_ahead:
            rebase(self.theta, new.copy.start, old.start)
        else:
            self._land(new.anchor, self._snapshot)
        self.landed.append((new.round, effect.exchange_id, new.digest))
        self._later(
            0,
            lambda: self.feed(
                lambda now_s: self.machine.on_landed(new.round, new.digest, now_s=now_s)
            ),
        )

    def _discard(self, effect: Discard) -> None:
        start = self.mixing.outer[effect.fragment].copy.start
        back = self.mixing.discard(effect.fragment, effect.exchange_id)
        if back is not None:
            rebase(self.theta, back, start)
            self.num_contributed -= 1
            self._tokens += self._departed_tokens

    def _not_reached(self, dst: PeerId) -> None:
        self.feed(lambda now_s: self.machine.on_unreachable(dst, now_s=now_s))

    def _fetch(self, effect: Fetch) -> None:
        network, src = self._swarm.network, self._swarm.peers[effect.src]

        def fail(is_alive: bool) -> None:
            self.feed(
                lambda now_s: self.machine.on_fetch_failed(
                    effect.src, effect.ref, is_alive=is_alive, now_s=now_s
                )
            )

        def arrive() -> None:
            if not network.dials(self.peer_id, src.peer_id):
                self._later(self._swarm.spec.progress_s, lambda: fail(False))
                return
            frame = src.mixing.blob(effect.ref)
            if frame is None:
                fail(True)
                return
            try:
                self.mixing.collect(effect, memoryview(frame))
            except MalformedMessage:
                fail(False)
                return
            self.feed(lambda now_s: self.machine.on_fetched(effect.src, effect.ref, now_s=now_s))

        self._later(network.transfer_s(self.mixing.fetch_bytes(effect)), arrive)

    def _catch_up(self, effect: CatchUp) -> None:
        network, src = self._swarm.network, self._swarm.peers[effect.src]

        def arrive() -> None:
            outer = self.mixing.outer[effect.fragment]
            if network.dials(self.peer_id, src.peer_id):
                round, data = src.mixing.state_blob(effect.fragment)
                if round > outer.round or src.machine.anchor_digest != outer.digest:
                    old = outer.copy.start
                    outer = self.mixing.load_state_blob(effect.fragment, data, round)
                    rebase(self.theta, outer.copy.start, old)
            self.feed(
                lambda now_s: self.machine.on_caught_up(outer.round, outer.digest, now_s=now_s)
            )

        num_bytes = self.mixing.state_bytes(effect.fragment)
        self._later(network.transfer_s(num_bytes), arrive)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        network = self._swarm.network
        self._swarm.clock.after(delay_s, lambda: network.when_running(self.peer_id, action))


class SimSwarm:
    """A swarm under a virtual clock; equal seeds give equal runs."""

    def __init__(self, spec: SwarmSpec, seed: int) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self.rng = random.Random(seed)
        self.network = VirtualNetwork(self.clock, self.rng, spec.link)
        self.initial = torch.zeros(spec.num_elements)
        self.peers: dict[PeerId, SimPeer] = {}
        self._live: set[PeerId] = set()
        self._holders: set[PeerId] = set()
        for _ in range(spec.num_peers):
            self.join()

    def join(self, donor: PeerId | None = None) -> SimPeer:
        """Adds a peer, with the state of `donor` if there is one."""
        peer_id = PeerId(f"peer{len(self.peers)}")
        peer = SimPeer(peer_id, self, self.rng)
        if donor is not None:
            round, data = self.peers[donor].mixing.state_blob(0)
            outer = peer.mixing.load_state_blob(0, data, round)
            peer.theta.copy_(outer.anchor)
            peer.machine = self.new_machine(peer_id, peer.mixing, self.rng)
        self.peers[peer_id] = peer
        self._live.add(peer_id)
        self._tell_members()
        return peer

    def kill(self, peer_id: PeerId) -> None:
        """Kills a peer; the others notice after `membership_delay_s`."""
        self.network.kill(peer_id)

        def notice() -> None:
            self._live.discard(peer_id)
            self._tell_members()

        self.clock.after(self.spec.membership_delay_s, notice)

    def finish(self, peer_id: PeerId) -> None:
        """Ends a peer's training; it stays, and keeps the newest anchor."""
        self.peers[peer_id].is_done = True
        self._holders.add(peer_id)
        self._tell_members()

    def running(self) -> list[SimPeer]:
        """Returns the peers that are neither dead nor frozen."""
        return [peer for peer in self.peers.values() if self.network.is_running(peer.peer_id)]

    def new_mixing(self, peer_id: PeerId) -> Mixing:
        """Returns the outer side of a new peer."""
        layout = layout_of({"theta": (self.spec.num_elements,)})
        rule, codec = (
            outer_rule_named(self.spec.rule, **self.spec.constants),
            codec_named(self.spec.codec, block=8),
        )
        return Mixing(layout, Outer(rule, self.spec.feedback), codec, self.initial, our_id=peer_id)

    def new_machine(self, peer_id: PeerId, mixing: Mixing, rng: random.Random) -> Exchange:
        """Returns the machine of a new peer."""
        outer, spec = mixing.outer[0], self.spec
        config = ExchangeConfig(
            our_id=peer_id,
            life=str(rng.random()),
            run_id="sim",
            fragment=0,
            quorum_frac=spec.quorum_frac,
            grace_s=spec.grace_s,
            exchange_s=spec.exchange_s,
        )
        return new_exchange(spec.mixing, config, round=outer.round, anchor_digest=outer.digest)

    def _tell_members(self) -> None:
        members = tuple(sorted(self._live - self._holders))
        holders = tuple(sorted(self._holders))
        for peer in list(self.peers.values()):
            self.network.when_running(
                peer.peer_id,
                lambda peer=peer: peer.feed(  # type: ignore[misc]
                    lambda now_s: peer.machine.on_members(members, holders, now_s=now_s)
                ),
            )
