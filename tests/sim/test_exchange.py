"""The exchange machines under a seeded network: safety always, liveness under the stated faults.

Each failing case names its seed: `pytest "tests/sim/test_exchange.py::NAME[SEED]"` replays it.
"""

from collections import Counter

import pytest
import torch

from peer.sim.network import LinkSpec
from peer.sim.swarm import SimPeer, SimSwarm, SwarmSpec
from protocol.machine import Offer

BAD_LINK = LinkSpec(latency_s=0.05, jitter_s=0.3, loss_frac=0.1, duplicate_frac=0.1)
SEEDS = range(60)


def assert_safe(swarm: SimSwarm, *, forks_allowed: bool = False) -> None:
    """No exchange is applied twice by one peer; in groups, equal rounds have equal anchors.

    A peer that dies or is cut off just when it has landed may have been the only one to land: forks
    are allowed there, but not between peers that have been in touch since.
    """
    landed: dict[int, set[bytes]] = {}
    for peer in swarm.peers.values():
        ids = Counter(exchange_id for _, exchange_id, _ in peer.landed)
        assert not ids or max(ids.values()) == 1
        reached = [round for round, _, _ in peer.landed]
        assert reached == sorted(set(reached))
        for round, _, digest in peer.landed:
            landed.setdefault(round, set()).add(digest)
    if swarm.spec.mixing == "all":
        if not forks_allowed:
            assert all(len(digests) == 1 for digests in landed.values())
        now = {(peer.machine.round, peer.machine.anchor_digest) for peer in swarm.running()}
        assert len(now) == len({round for round, _ in now})


def rounds(swarm: SimSwarm) -> list[int]:
    return [peer.mixing.outer[0].round for peer in swarm.running()]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mixing", ["all", "pairs"])
def test_bad_links_cost_no_round(mixing: str, seed: int) -> None:
    swarm = SimSwarm(SwarmSpec(mixing=mixing, num_peers=4, link=BAD_LINK), seed)
    swarm.clock.run(35)
    assert_safe(swarm)
    assert all(swarm.network.fired[fault] for fault in ("loss", "duplicate"))
    assert min(rounds(swarm)) >= 10  # 10 steps of 0.1 s each: 35 departures at most
    assert all(peer.steps >= 315 for peer in swarm.running())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mixing", ["all", "pairs"])
def test_a_killed_peer_and_a_late_one(mixing: str, seed: int) -> None:
    swarm = SimSwarm(SwarmSpec(mixing=mixing, num_peers=4, link=BAD_LINK), seed)
    victim = list(swarm.peers)[seed % 4]
    swarm.clock.run(10 + swarm.rng.random() * 3)
    swarm.kill(victim)
    swarm.clock.run(20)
    before = min(rounds(swarm))
    late = swarm.join(donor=swarm.running()[0].peer_id)
    swarm.clock.run(60)
    assert_safe(swarm, forks_allowed=True)
    assert swarm.network.fired["kill"] == 1
    # Three or four peers on links as slow as their rounds: pairs often find nobody free.
    assert min(rounds(swarm)) >= before + (10 if mixing == "all" else 4)
    assert late.num_contributed >= 4
    assert all(peer.steps >= 540 for peer in swarm.running() if peer is not late)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mixing", ["all", "pairs"])
def test_a_frozen_peer_comes_back_and_catches_up(mixing: str, seed: int) -> None:
    swarm = SimSwarm(SwarmSpec(mixing=mixing, num_peers=4, link=BAD_LINK), seed)
    victim = list(swarm.peers)[seed % 4]
    swarm.clock.run(10 + swarm.rng.random() * 3)
    swarm.network.freeze(victim, 15)
    swarm.clock.run(25)
    assert swarm.network.fired["freeze"] == 1
    assert not swarm.network.is_running(victim) or swarm.clock.now_s >= 25
    swarm.clock.run(40)
    assert_safe(swarm, forks_allowed=True)
    assert max(rounds(swarm)) - min(rounds(swarm)) <= (2 if mixing == "all" else 30)
    others = [peer for peer in swarm.peers.values() if peer.peer_id != victim]
    assert all(peer.steps >= 360 for peer in others)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_peer_is_late_not_lost(seed: int) -> None:
    spec = SwarmSpec(num_peers=4, step_spread_frac=2.0, link=BAD_LINK)
    swarm = SimSwarm(spec, seed)
    swarm.clock.run(80)
    assert_safe(swarm)
    assert max(rounds(swarm)) - min(rounds(swarm)) <= 2
    slowest = min(swarm.peers.values(), key=lambda peer: peer.steps)
    assert slowest.steps < max(peer.steps for peer in swarm.peers.values())
    assert slowest.num_contributed >= slowest.steps // swarm.spec.interval_steps // 3


@pytest.mark.parametrize("seed", SEEDS)
def test_without_faults_all_peers_are_in_every_round(seed: int) -> None:
    swarm = SimSwarm(SwarmSpec(num_peers=5, grace_s=5.0), seed)
    swarm.clock.run(20)
    assert_safe(swarm)
    assert len({peer.mixing.outer[0].digest for peer in swarm.running()}) <= 2
    assert not [
        tell for peer in swarm.running() for tell in peer.told if tell.event == "exchange_failed"
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_conserve_the_mean(seed: int) -> None:
    """Invariant N3 through the real exchange: gossip averaging of equal weights moves no mean."""
    spec = SwarmSpec(
        mixing="pairs",
        rule="noloco",
        constants={"lr": 1.0, "momentum": 0.0, "gamma": 1.0},
        equal_weights=True,
        step_spread_frac=0.5,
    )
    swarm = SimSwarm(spec, seed)
    generator = torch.Generator().manual_seed(seed)
    for peer in swarm.peers.values():  # no inner step moves anything: only the exchanges do
        peer.theta = torch.randn(spec.num_elements, generator=generator)
        peer.target = peer.theta
        old = peer.mixing.outer[0]
        peer.mixing.load_state(0, peer.theta.clone(), old.copy.state, {}, 0)
    before = torch.stack([peer.theta for peer in swarm.peers.values()])
    swarm.clock.run(30)
    assert not [tell for peer in swarm.running() for tell in peer.told if "failed" in tell.event]
    after = torch.stack([peer.mixing.outer[0].anchor for peer in swarm.peers.values()])
    assert_safe(swarm)
    assert min(rounds(swarm)) >= 5
    assert torch.allclose(after.mean(0), before.mean(0), atol=1e-5)
    assert after.std(0).norm() < 0.1 * before.std(0).norm()


class Ledger:
    """What one peer brought to exchanges that were not lost."""

    def __init__(self, peer: SimPeer) -> None:
        self.peer_id = peer.peer_id
        self._peer, self._mixing = peer, peer.mixing
        self._brought: dict[bytes, torch.Tensor] = {}
        self._offer, self._discard = peer.mixing.offer, peer.mixing.discard
        peer.mixing.offer = self.offer  # type: ignore[method-assign]
        peer.mixing.discard = self.discard  # type: ignore[method-assign]

    def offer(self, effect: Offer, theta: torch.Tensor) -> torch.Tensor | None:
        self._brought[effect.exchange_id] = theta - self._mixing.outer[0].copy.start
        return self._offer(effect, theta)

    def discard(self, fragment: int, exchange_id: bytes) -> torch.Tensor | None:
        self._brought.pop(exchange_id, None)
        return self._discard(fragment, exchange_id)

    def assert_balanced(self) -> None:
        """Each inner step is in an exchange, or still on top of the start: once, not twice."""
        mixing, peer = self._mixing, self._peer
        done = {exchange_id for _, exchange_id, _ in peer.landed}
        if mixing.goes_ahead:  # live parameters go on without what is on its way
            done |= self._brought.keys()
        brought = sum((x for id, x in self._brought.items() if id in done), torch.zeros(1))
        on_top = peer.theta - mixing.outer[0].copy.start
        torch.testing.assert_close(brought + on_top, peer.work, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rule", ["nesterov", "eager", "co2"])
def test_no_step_is_lost_or_counted_twice(rule: str, seed: int) -> None:
    """One peer freezes, one dies, one comes late, and the links are bad."""
    swarm = SimSwarm(SwarmSpec(num_peers=5, rule=rule, link=BAD_LINK, exchange_s=6.0), seed)
    ledgers = [Ledger(peer) for peer in swarm.peers.values()]
    frozen, killed, *_ = swarm.rng.sample(list(swarm.peers), 5)
    swarm.clock.run(10 + swarm.rng.random() * 3)
    swarm.network.freeze(frozen, 15)
    swarm.clock.run(14 + swarm.rng.random() * 3)
    swarm.kill(killed)
    swarm.clock.run(30)
    before = min(rounds(swarm))
    late = swarm.join(donor=swarm.running()[0].peer_id)
    ledgers.append(Ledger(late))
    swarm.clock.run(70)
    assert_safe(swarm, forks_allowed=True)
    assert swarm.network.fired["kill"] == swarm.network.fired["freeze"] == 1
    assert max(rounds(swarm)) - min(rounds(swarm)) <= 2
    assert min(rounds(swarm)) >= before + 10
    assert late.num_contributed >= 4
    for ledger in ledgers:
        if swarm.network.is_running(ledger.peer_id):
            ledger.assert_balanced()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rule", ["eager", "co2"])
@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_going_ahead_costs_no_round_on_bad_links(codec: str, rule: str, seed: int) -> None:
    feedback = None if codec == "fp32" else 0.95
    spec = SwarmSpec(num_peers=4, rule=rule, codec=codec, feedback=feedback, link=BAD_LINK)
    swarm = SimSwarm(spec, seed)
    swarm.clock.run(35)
    assert_safe(swarm)
    assert min(rounds(swarm)) >= 10
    assert max(rounds(swarm)) - min(rounds(swarm)) <= 2
    assert all(peer.steps >= 315 for peer in swarm.running())


@pytest.mark.parametrize("mixing", ["all", "pairs"])
def test_equal_seeds_give_equal_runs(mixing: str) -> None:
    def trace(seed: int) -> list[object]:
        swarm = SimSwarm(SwarmSpec(mixing=mixing, link=BAD_LINK), seed)
        swarm.clock.run(30)
        return [(peer.peer_id, peer.landed, peer.told) for peer in swarm.peers.values()]

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_split_swarm_does_not_fork(seed: int) -> None:
    swarm = SimSwarm(SwarmSpec(num_peers=5, link=BAD_LINK), seed)
    swarm.clock.run(10)
    ids = list(swarm.peers)
    for one in ids[:2]:
        for other in ids[2:]:
            swarm.network.cut(one, other)
    swarm.clock.run(25)
    assert swarm.network.fired["cut"] == 6
    swarm.network.heal()
    swarm.clock.run(40)
    assert_safe(swarm, forks_allowed=True)
    assert max(rounds(swarm)) - min(rounds(swarm)) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_the_dead_do_not_keep_pairs_apart(seed: int) -> None:
    """Two of five live, and nobody tells them that the others are dead."""
    swarm = SimSwarm(SwarmSpec(mixing="pairs", num_peers=5, membership_delay_s=1000.0), seed)
    swarm.clock.run(5)
    for victim in swarm.rng.sample(list(swarm.peers), 3):
        swarm.kill(victim)
    swarm.clock.run(10)
    before = min(rounds(swarm))
    swarm.clock.run(40)
    assert_safe(swarm)
    assert swarm.network.fired["kill"] == 3
    assert min(rounds(swarm)) >= before + 5


@pytest.mark.parametrize("seed", range(20))
def test_whoever_was_ahead_when_it_died_does_not_hold_up_a_late_peer(seed: int) -> None:
    swarm = SimSwarm(SwarmSpec(num_peers=4, link=BAD_LINK), seed)
    ids = list(swarm.peers)
    swarm.network.freeze(ids[0], 10)
    swarm.clock.run(9.9)
    swarm.kill(ids[1])
    swarm.clock.run(40)
    assert_safe(swarm, forks_allowed=True)
    assert swarm.network.fired["freeze"] == swarm.network.fired["kill"] == 1
    assert max(rounds(swarm)) - min(rounds(swarm)) <= 2
    assert swarm.peers[ids[0]].num_contributed >= 5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mixing", ["all", "pairs"])
def test_a_peer_that_nobody_can_dial_does_not_stop_the_others(mixing: str, seed: int) -> None:
    """It takes what the others have, lands alone, and says that it is ahead; nobody can follow."""
    swarm = SimSwarm(SwarmSpec(mixing=mixing, num_peers=4, exchange_s=10.0), seed)
    hidden, *others = swarm.peers.values()
    swarm.clock.run(5)
    swarm.network.hide(hidden.peer_id)
    swarm.clock.run(25)
    before = min(peer.num_contributed for peer in others)
    swarm.clock.run(65)
    assert swarm.network.fired["hide"] == 1
    assert min(peer.num_contributed for peer in others) >= before + 5
    digests = {peer.machine.anchor_digest for peer in others}
    assert mixing == "pairs" or len(digests) <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_has_finished_holds_nobody_up_and_keeps_up(seed: int) -> None:
    swarm = SimSwarm(SwarmSpec(num_peers=3, grace_s=30.0), seed)
    swarm.clock.run(10)
    finished, *others = swarm.peers.values()
    swarm.finish(finished.peer_id)
    swarm.clock.run(40)
    assert min(rounds(swarm)) >= 20  # with a grace of 30 s for the finished one it would be ten
    assert max(rounds(swarm)) - min(rounds(swarm)) <= 1
    assert finished.steps < min(peer.steps for peer in others)
