"""A peer that slept for an hour: it comes back by itself, and the others did not care."""

import pytest

from peer.nap import NAP_S
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyTask
from protocol.identity import peer_id_of
from protocol.manifest import manifest_from

HOUR_S = 3600.0
STEP_S, INTERVAL_STEPS = 4.0, 20
INTERVAL_S = STEP_S * INTERVAL_STEPS
MIXINGS = ["all"]


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("seed", range(2))
def test_a_sleeper_is_back_after_an_hour_and_nobody_waited(mixing: str, seed: int) -> None:
    manifest = manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": mixing,
                "outer": {"rule": "nesterov" if mixing == "all" else "noloco"},
                "schedule": {"interval_steps": INTERVAL_STEPS},
            },
        }
    )
    with SimSwarm(ToyTask(manifest), seed=seed) as swarm:
        for _ in range(4):
            swarm.join(Seat(link=LinkSpec(latency_s=0.05), step_s=STEP_S, step_cv=0.1))
        swarm.run(400 + 10 * seed)
        sleeper = swarm.running()[seed % 4]
        others = [peer for peer in swarm.running() if peer is not sleeper]
        before = [peer.rounds[0] for peer in others]
        stale = sleeper.mixing.outer[0]
        slept_at_s = swarm.clock.now_s
        swarm.freeze(sleeper, HOUR_S)
        swarm.run(slept_at_s + HOUR_S - 1)
        assert not sleeper.is_running
        assert sleeper.mixing.outer[0] is stale
        for peer, round in zip(others, before, strict=True):
            assert peer.rounds[0] - round >= 0.9 * HOUR_S / INTERVAL_S

        steps = [peer.learner.step for peer in others]
        failed = sum(peer.status.exchanges_failed for peer in others)
        swarm.run(slept_at_s + HOUR_S + 6 * INTERVAL_S)
        slept = [fields for _, p, e, fields in swarm.trace.entries if e == "slept"]
        assert [fields["slept_s"] for fields in slept] == [pytest.approx(HOUR_S, abs=NAP_S)]
        rounds = [peer.rounds[0] for peer in swarm.running()]
        assert len(rounds) == 4
        if mixing == "all":
            assert max(rounds) - min(rounds) <= 1
        assert stale.round + 0.9 * HOUR_S / INTERVAL_S < sleeper.rounds[0]
        contributions = sleeper.status.contributions
        swarm.run(slept_at_s + HOUR_S + 12 * INTERVAL_S)
        assert sleeper.status.contributions >= contributions + 4
        for peer, step in zip(others, steps, strict=True):
            assert peer.learner.step - step >= 0.95 * 12 * INTERVAL_STEPS
        assert sum(peer.status.exchanges_failed for peer in others) <= failed + 1
