"""A peer that leaves in order: whatever it was in the middle of, nobody else fails for it."""

import pytest

from peer.life import FINISH_S, GOODBYE_S
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyTask
from protocol.exchange import Phase
from protocol.identity import peer_id_of
from protocol.manifest import Manifest, manifest_from

MIXINGS = pytest.mark.parametrize("mixing", ["all", "pairs", "groups"])
SEEDS = range(6)
BYTE_SCALE = 3000.0
"""An exchange takes some seconds."""


def manifest_of(mixing: str) -> Manifest:
    return manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": mixing,
                "outer": {"rule": "nesterov" if mixing == "all" else "noloco"},
                "schedule": {"interval_steps": 20},
            },
        }
    )


def swarm_of(mixing: str, seed: int) -> SimSwarm:
    swarm = SimSwarm(ToyTask(manifest_of(mixing)), seed=seed, byte_scale=BYTE_SCALE)
    for _ in range(4):
        link = LinkSpec(up_bps=20e6, latency_s=0.03)
        swarm.join(Seat(link=link, step_s=0.5, step_cv=0.1))
    swarm.run(30 + 0.1 * seed)
    return swarm


def run_into(swarm: SimSwarm, victim: SimPeer, phase: Phase, up_to_s: float) -> None:
    """Runs until some time after the victim has come to this phase."""
    while victim.driver.phases() != [phase]:
        assert swarm.clock.now_s < 120
        swarm.run(swarm.clock.now_s + 0.01)
    swarm.run(swarm.clock.now_s + swarm.rng.random() * up_to_s)


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_leaves_in_mid_exchange_finishes_it(mixing: str, seed: int) -> None:
    with swarm_of(mixing, seed) as swarm:
        victim = swarm.running()[seed % 4]
        others = [peer for peer in swarm.running() if peer is not victim]
        run_into(swarm, victim, Phase.EXCHANGING, up_to_s=0.3)
        assert victim.driver.phases() == [Phase.EXCHANGING]
        failed, landed = failures(others), victim.status.contributions
        left_at_s = swarm.clock.now_s
        swarm.leave(victim)
        swarm.run(left_at_s + 20)
        assert victim.status.contributions == landed + 1
        assert failures(others) == failed
        assert victim.ended_at_s is not None
        assert victim.ended_at_s < left_at_s + FINISH_S + GOODBYE_S


@pytest.mark.parametrize("mixing", ["all", "pairs"])
@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_leaves_while_it_is_ready_is_in_nobodys_way(mixing: str, seed: int) -> None:
    """Others have its word that it would be there; it takes it back, or keeps it."""
    with swarm_of(mixing, seed) as swarm:
        victim = swarm.running()[seed % 4]
        others = [peer for peer in swarm.running() if peer is not victim]
        run_into(swarm, victim, Phase.READY, up_to_s=0.3)
        failed, landed = failures(others), sum(peer.status.contributions for peer in others)
        left_at_s = swarm.clock.now_s
        swarm.leave(victim)
        swarm.run(left_at_s + 20)
        assert failures(others) == failed
        assert sum(peer.status.contributions for peer in others) >= landed + len(others)
        assert victim.ended_at_s is not None
        assert victim.ended_at_s < left_at_s + FINISH_S + GOODBYE_S


@MIXINGS
def test_the_last_peer_waits_for_nobody(mixing: str) -> None:
    with swarm_of(mixing, 0) as swarm:
        *others, last = swarm.running()
        for peer in others:
            swarm.leave(peer)
        swarm.run(80)
        left_at_s = swarm.clock.now_s
        swarm.leave(last)
        swarm.run(left_at_s + 5)
        assert last.ended_at_s is not None
        assert last.ended_at_s < left_at_s + GOODBYE_S


def failures(peers: list[SimPeer]) -> int:
    return sum(peer.status.exchanges_failed for peer in peers)
