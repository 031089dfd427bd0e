"""Simulated swarms of real peers: what each fault costs, and what it must not cost.

Random mixtures of all of them are in `test_chaos`.
"""

from typing import Any

import pytest
import torch

from peer.sim.network import LinkSpec, Weather
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyLearner, ToyTask
from protocol.identity import PeerId, peer_id_of
from protocol.manifest import Manifest, manifest_from

SEEDS = range(8)
STEP_S, INTERVAL_STEPS = 0.5, 4
ROUGH = LinkSpec(up_bps=20e6, latency_s=0.05, latency_cv=1.0, loss_frac=0.01)
STORM = Weather(lose_frac=0.02, duplicate_frac=0.1, reorder_s=0.3)
STILL_STEPS = 20
MIXINGS = pytest.mark.parametrize("mixing", ["all", "pairs"])


def manifest_of(mixing: str, interval_steps: int, **round: Any) -> Manifest:
    rule = "nesterov" if mixing == "all" else "noloco"
    return manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": mixing,
                "outer": {"rule": rule},
                "schedule": {"interval_steps": interval_steps},
            },
            "round": round,
        }
    )


def swarm_of(
    mixing: str, num_peers: int, seed: int, interval_steps: int = INTERVAL_STEPS, **round: Any
) -> SimSwarm:
    manifest = manifest_of(mixing, interval_steps, **round)
    swarm = SimSwarm(ToyTask(manifest), seed=seed)
    for _ in range(num_peers):
        swarm.join(Seat(link=ROUGH, step_s=STEP_S, step_cv=0.1))
    return swarm


def rounds(peers: list[SimPeer]) -> list[int]:
    return [peer.rounds[0] for peer in peers]


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
def test_bad_links_cost_no_round(mixing: str, seed: int) -> None:
    with swarm_of(mixing, 4, seed) as swarm:
        swarm.network.storm(STORM)
        swarm.run(80)
        fired = swarm.network.fired
        assert all(fired[fault] for fault in ("lose", "duplicate", "reorder", "loss"))
        assert min(rounds(swarm.running())) >= 8  # of 40 departures at most
        assert all(peer.learner.step >= 145 for peer in swarm.running())


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_peer_and_a_late_one(mixing: str, seed: int) -> None:
    with swarm_of(mixing, 4, seed) as swarm:
        victim = swarm.running()[seed % 4]
        swarm.run(20 + swarm.rng.random() * 3)
        swarm.crash(victim, is_silent=bool(seed % 2))
        swarm.run(40)
        before = min(rounds(swarm.running()))
        late = swarm.join(Seat(link=ROUGH, step_s=STEP_S))
        swarm.run(90)
        assert victim not in swarm.running()
        assert min(rounds([peer for peer in swarm.running() if peer is not late])) >= before + 8
        assert late.status.contributions >= 5
        assert all(peer.learner.step >= 160 for peer in swarm.running() if peer is not late)


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
def test_a_frozen_peer_comes_back_and_catches_up(mixing: str, seed: int) -> None:
    with swarm_of(mixing, 4, seed) as swarm:
        victim = swarm.running()[seed % 4]
        swarm.run(15 + swarm.rng.random() * 3)
        swarm.freeze(victim, 20)
        steps = victim.learner.step
        swarm.run(34)
        assert victim.learner.step == steps
        assert not victim.is_running
        swarm.run(80)
        if mixing == "all":
            assert max(rounds(swarm.running())) - min(rounds(swarm.running())) <= 2
        assert victim.learner.step > steps + 80
        assert all(p.learner.step >= 140 for p in swarm.running() if p is not victim)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_peer_is_late_not_lost(seed: int) -> None:
    with swarm_of("all", 3, seed, 12) as swarm:
        slow = swarm.join(Seat(link=ROUGH, step_s=4 * STEP_S))
        swarm.run(160)
        assert max(rounds(swarm.running())) - min(rounds(swarm.running())) <= 2
        departures = slow.learner.step // 12
        assert 3 <= slow.status.contributions <= departures + 1
        assert slow.status.contributed_tokens >= slow.learner.tokens // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_split_swarm_does_not_fork(seed: int) -> None:
    with swarm_of("all", 5, seed) as swarm:
        swarm.run(20)
        ids = list(swarm.peers)
        left, right = ids[:2], ids[2:]
        heal = swarm.network.cut(
            [(a, b) for a in left for b in right] + [(b, a) for a in left for b in right]
        )
        swarm.run(55)
        heal()
        swarm.run(110)
        outers = [peer.mixing.outer[0] for peer in swarm.running()]
        assert swarm.network.fired["held"]
        assert max(outer.round for outer in outers) - min(outer.round for outer in outers) <= 1
        assert len({outer.digest for outer in outers}) == len({outer.round for outer in outers})


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_nobody_can_dial_does_not_stop_the_others(mixing: str, seed: int) -> None:
    """It takes what the others have, lands alone, and says that it is ahead; nobody can follow."""
    with swarm_of(mixing, 4, seed) as swarm:
        hidden, *others = swarm.running()
        hidden.host.is_hidden = True
        swarm.run(40)
        before = min(peer.status.contributions for peer in others)
        swarm.run(120)
        assert min(peer.status.contributions for peer in others) >= before + 5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_leaves_says_so_and_holds_nobody_up(seed: int) -> None:
    with swarm_of("all", 4, seed, grace_s=30.0) as swarm:
        swarm.run(20)
        gone = swarm.running()[seed % 4]
        before = min(rounds(swarm.running()))
        swarm.leave(gone)
        swarm.run(60)
        assert gone.ended_at_s is not None
        assert gone.ended_at_s < 25
        assert any(e == "left" for _, p, e, _ in swarm.trace.entries if p == gone.peer_id)
        assert min(rounds(swarm.running())) >= before + 4  # with a grace of 30 s: one or two


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_whose_clock_was_wrong_is_back_when_it_is_right(seed: int) -> None:
    with swarm_of("all", 3, seed) as swarm:
        victim = swarm.running()[0]
        swarm.run(10)
        victim.host.clock_offset_s = 300.0 if seed % 2 else -300.0
        swarm.run(60)
        victim.host.clock_offset_s = 0.0
        swarm.run(110)
        before = victim.status.contributions
        swarm.run(150)
        assert victim.status.contributions >= before + 5
        assert max(rounds(swarm.running())) - min(rounds(swarm.running())) <= 2


# ---- NoLoCo's identities (arXiv 2506.10911, appendix A; Delta = 0: nobody trains)


class StillLearner(ToyLearner):
    """Is not drawn anywhere, and weighs the same however late its snapshot is taken."""

    @property
    def step_tokens(self) -> int:  # type: ignore[override]
        return 100 if self.step % STILL_STEPS == 0 else 0


class StillTask(ToyTask):
    def learner(self, peer_id: PeerId) -> ToyLearner:
        return StillLearner(self, torch.zeros(64))


def still_pairs(num_peers: int, seed: int, *, momentum: float, gamma: float) -> SimSwarm:
    """Returns a swarm of equal weights, as the identities assume, with a round a minute."""
    manifest = manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": "pairs",
                "outer": {
                    "rule": "noloco",
                    "constants": {"lr": 0.7, "momentum": momentum, "gamma": gamma},
                },
                "schedule": {"interval_steps": STILL_STEPS},
            },
        }
    )
    swarm = SimSwarm(StillTask(manifest, rate=0.0, num_elements=64), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_peers):
        peer = swarm.join(Seat(step_s=60.0 / STILL_STEPS))
        outer = peer.mixing.outer[0].copy
        anchor = torch.randn(64, generator=generator)
        state = {name: torch.zeros(64) for name in outer.state}
        peer.mixing.load_state(0, anchor, state, {}, 0)
    return swarm


def anchors_of(swarm: SimSwarm) -> torch.Tensor:
    return torch.stack([peer.mixing.outer[0].anchor for peer in swarm.running()]).double()


@pytest.mark.parametrize("seed", range(3))
def test_pairs_keep_the_mean_of_all_replicas(seed: int) -> None:
    """N2: every pairing conserves the mean, whatever gamma, though a step takes three seconds."""
    with still_pairs(10, seed, momentum=0.5, gamma=0.7) as swarm:
        swarm.run(1)
        before = anchors_of(swarm)
        swarm.run(12 * 60 + 50)
        after = anchors_of(swarm)
        assert set(rounds(swarm.running())) == {12}  # each in exactly one pair a round
        assert torch.allclose(after.mean(0), before.mean(0), atol=1e-5)
        assert not torch.allclose(after[0], before[0], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("momentum", "gamma", "factor"), [(0.0, 1.0, 0.695), (0.5, 0.3, 0.787), (0.5, 0.7, 0.834)]
)
def test_the_spread_shrinks_by_the_known_factor(
    momentum: float, gamma: float, factor: float
) -> None:
    """Growth of the spread per outer step: 64 replicas in random pairs, as computed without us."""
    with still_pairs(64, 1, momentum=momentum, gamma=gamma) as swarm:
        spreads, taken = [], []
        for step in range(21):
            swarm.run(60 * step + 50)
            anchors = anchors_of(swarm)
            spreads.append(float((anchors - anchors.mean(0)).norm()))
            taken.append(sum(rounds(swarm.running())) / 64)
        # Who finds all others paired stays alone in a round: outer steps count, not minutes.
        measured = (spreads[20] / spreads[4]) ** (1 / (taken[20] - taken[4]))
        assert measured == pytest.approx(factor, abs=0.03)
