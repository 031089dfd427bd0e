"""Simulated swarms that mix in groups of three."""

import pytest
import torch

from peer.sim.network import LinkSpec, Weather
from peer.sim.peer import Seat
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyLearner, ToyTask
from protocol.identity import PeerId, peer_id_of
from protocol.manifest import Manifest, manifest_from

NUM_PEERS, SIZE = 9, 3
SEEDS = range(2)
ROUGH = LinkSpec(up_bps=20e6, latency_s=0.05, latency_cv=1.0, loss_frac=0.01)
STILL_STEPS = 20


def manifest_of(interval_steps: int) -> Manifest:
    return manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": "groups",
                "group_size": SIZE,
                "outer": {
                    "rule": "noloco",
                    "constants": {"lr": 0.7, "momentum": 0.5, "gamma": 0.7},
                },
                "schedule": {"interval_steps": interval_steps},
            },
        }
    )


def rough_swarm(seed: int, *, num_peers: int = NUM_PEERS) -> SimSwarm:
    swarm = SimSwarm(ToyTask(manifest_of(10)), seed=seed)
    for _ in range(num_peers):
        swarm.join(Seat(link=ROUGH, step_s=1.0, step_cv=0.1))
    return swarm


def anchors_of(swarm: SimSwarm) -> torch.Tensor:
    return torch.stack([peer.mixing.outer[0].anchor for peer in swarm.running()]).double()


def spread_of(swarm: SimSwarm) -> float:
    anchors = anchors_of(swarm)
    return float((anchors - anchors.mean(0)).norm())


def group_sizes(swarm: SimSwarm) -> list[int]:
    return [
        1 + len(fields["partners"])
        for _, _, event, fields in swarm.trace.entries
        if event == "exchange_begins"
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_loss_goes_down_and_replicas_stay_together(seed: int) -> None:
    with rough_swarm(seed) as swarm:
        swarm.network.storm(Weather(lose_frac=0.02, duplicate_frac=0.1, reorder_s=0.3))
        swarm.run(200)
        peers = swarm.running()
        assert min(peer.mixing.outer[0].round for peer in peers) >= 8
        assert all(peer.learner.step >= 180 for peer in peers)  # no trainer waits
        targets = torch.stack([peer.learner.target for peer in peers])
        best = targets.mean(0).double()
        anchors = anchors_of(swarm)
        # Between two rounds each goes 40 % of the way to a target of its own.
        loss = float((anchors - best).square().sum(1).mean()) / float(best.square().sum())
        assert loss < 0.25  # from 1
        assert spread_of(swarm) < 0.6 * float((targets - targets.mean(0)).norm())
        sizes = group_sizes(swarm)
        assert set(sizes) == {2, 3}
        assert sizes.count(3) > sizes.count(2) / 2


@pytest.mark.parametrize("is_silent", [False, True], ids=["refuses", "silent"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_death_in_mid_exchange_holds_nobody_up(seed: int, is_silent: bool) -> None:
    with rough_swarm(seed) as swarm:
        swarm.run(60)
        num_begun = len(group_sizes(swarm))
        while len(group_sizes(swarm)) == num_begun:
            swarm.run(swarm.clock.now_s + 0.01)
        victim = swarm.peers[swarm.trace.entries[-1][1]]
        swarm.crash(victim, is_silent=is_silent)
        swarm.run(swarm.clock.now_s + 60)
        before = {peer.peer_id: peer.status.contributions for peer in swarm.running()}
        swarm.run(swarm.clock.now_s + 60)
        assert all(p.status.contributions >= before[p.peer_id] + 2 for p in swarm.running())
        assert victim not in swarm.running()


@pytest.mark.parametrize("seed", SEEDS)
def test_who_comes_late_trains_with_the_others(seed: int) -> None:
    with rough_swarm(seed, num_peers=5) as swarm:
        swarm.run(100)
        late = swarm.join(Seat(link=ROUGH, step_s=1.0))
        swarm.run(260)
        assert late.status.contributions >= 5
        assert late.mixing.outer[0].round > late.status.contributions  # it did not begin at 0


class StillLearner(ToyLearner):
    """Is not drawn anywhere, and weighs the same however late its snapshot is taken."""

    @property
    def step_tokens(self) -> int:  # type: ignore[override]
        return 100 if self.step % STILL_STEPS == 0 else 0


class StillTask(ToyTask):
    def learner(self, peer_id: PeerId) -> ToyLearner:
        return StillLearner(self, torch.zeros(64))


@pytest.mark.parametrize("seed", SEEDS)
def test_without_gradients_groups_draw_replicas_together_about_their_mean(seed: int) -> None:
    swarm = SimSwarm(StillTask(manifest_of(STILL_STEPS), rate=0.0, num_elements=64), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with swarm:
        for _ in range(NUM_PEERS):
            peer = swarm.join(Seat(step_s=60.0 / STILL_STEPS))
            state = {name: torch.zeros(64) for name in peer.mixing.outer[0].copy.state}
            peer.mixing.load_state(0, torch.randn(64, generator=generator), state, {}, 0)
        swarm.run(1)
        mean, spread = anchors_of(swarm).mean(0), spread_of(swarm)
        swarm.run(8 * 60 + 50)
        assert {peer.mixing.outer[0].round for peer in swarm.running()} <= {7, 8}
        # Who stayed alone in one round weighs twice in the next, so the mean is nearly kept.
        assert float((anchors_of(swarm).mean(0) - mean).norm()) < 0.05 * spread
        assert spread_of(swarm) < 0.35 * spread
