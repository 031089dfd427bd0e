"""Replicas whose codec needs them near each other: they find back from however far apart."""

import math

import pytest
import torch

from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyLearner, ToyTask
from protocol.identity import peer_id_of
from protocol.manifest import Manifest, manifest_from

NUM_PEERS, FRAGMENTS, INTERVAL_STEPS = 8, 3, 20
BEFORE_S, APART_S = 200.0, 300.0
GOAL_ROUNDS = 2 * math.log2(NUM_PEERS)
LINK = LinkSpec(up_bps=20e6, latency_s=0.02, latency_cv=0.3)
NOLOCO = {"rule": "noloco", "constants": {"lr": 0.7, "momentum": 0.5, "gamma": 0.7}}


def manifest_of(codec: str, mixing: str = "pairs") -> Manifest:
    """Return a run like preset gossip-stream's."""
    schedule = {"interval_steps": INTERVAL_STEPS, "fragments": FRAGMENTS, "overlap_steps": 2}
    return manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": mixing,
                "outer": NOLOCO,
                "codec": {"name": codec},
                "schedule": schedule,
            },
        }
    )


def spread_of(swarm: SimSwarm) -> float:
    """Return the largest distance between two replicas."""
    thetas = torch.stack([learner_of(peer).theta for peer in swarm.running()])
    return float(torch.pdist(thetas).max())


def learner_of(peer: SimPeer) -> ToyLearner:
    assert isinstance(peer.learner, ToyLearner)
    return peer.learner


def rounds_of(swarm: SimSwarm) -> float:
    """Return the landings of a peer so far, a fragment, as the mean of all."""
    landed = [peer.status.exchanges_done / FRAGMENTS for peer in swarm.running()]
    return sum(landed) / len(landed)


def level_of(swarm: SimSwarm, until_s: float) -> float:
    """Run until then; return the median of the spreads of the last seconds of it."""
    spreads = []
    while swarm.clock.now_s < until_s:
        swarm.run(swarm.clock.now_s + 1.0)
        spreads.append(spread_of(swarm))
    return float(torch.tensor(spreads[-60:]).median())


def heal(swarm: SimSwarm, level: float) -> float:
    """Return after how many rounds all are near each other again, for the next five rounds."""
    began, well_since = rounds_of(swarm), None
    while rounds_of(swarm) < began + 4 * GOAL_ROUNDS:
        swarm.run(swarm.clock.now_s + 1.0)
        if spread_of(swarm) > 1.5 * level:
            well_since = None
        elif well_since is None:
            well_since = rounds_of(swarm)
        elif rounds_of(swarm) > well_since + 5:
            return well_since - began
    return math.inf


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("apart", [3.0, 30.0])
@pytest.mark.parametrize("codec", ["mod4", "mod8"])
def test_halves_that_went_far_apart_are_one_again_in_a_few_rounds(
    codec: str, apart: float, seed: int
) -> None:
    task = ToyTask(manifest_of(codec), num_elements=64 * 2 * FRAGMENTS, rate=0.02, spread=1.0)
    with SimSwarm(task, seed=seed) as swarm:
        peers = [swarm.join(Seat(link=LINK, step_s=0.75, step_cv=0.1)) for _ in range(NUM_PEERS)]
        level = level_of(swarm, BEFORE_S)
        left, right = peers[: NUM_PEERS // 2], peers[NUM_PEERS // 2 :]
        heal_network = swarm.network.cut(
            [
                (a.peer_id, b.peer_id)
                for one, other in ((left, right), (right, left))
                for a in one
                for b in other
            ]
        )
        for side, peers_of_it in ((1, left), (-1, right)):
            for peer in peers_of_it:
                learner_of(peer).target += side * apart
        swarm.run(BEFORE_S + APART_S)
        for side, peers_of_it in ((1, left), (-1, right)):
            for peer in peers_of_it:
                learner_of(peer).target -= side * apart
        assert spread_of(swarm) > (1.5 + apart / 3) * level
        heal_network()
        assert heal(swarm, level) <= GOAL_ROUNDS
