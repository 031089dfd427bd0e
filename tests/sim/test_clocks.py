"""A wall clock that is wrong, or is set while a peer runs, costs nothing."""

from itertools import permutations

import pytest

from peer.sim.network import LinkSpec
from peer.sim.peer import Seat
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyTask
from protocol.identity import peer_id_of
from protocol.manifest import manifest_from

WRONGS_S = pytest.mark.parametrize("wrong_s", [300.0, -300.0, 1e6, -1e6])


def swarm_of(num_peers: int) -> SimSwarm:
    manifest = manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {"schedule": {"interval_steps": 4}, "outer": {"rule": "nesterov"}},
        }
    )
    swarm = SimSwarm(ToyTask(manifest), seed=1)
    for _ in range(num_peers):
        swarm.join(Seat(link=LinkSpec(latency_s=0.05), step_s=0.5))
    return swarm


@WRONGS_S
def test_a_clock_that_is_set_while_it_runs_changes_nothing(wrong_s: float) -> None:
    counts = []
    for offset_s in (0.0, wrong_s):
        with swarm_of(3) as swarm:
            swarm.run(20)
            swarm.running()[0].host.clock_offset_s = offset_s
            swarm.run(100)
            counts.append([peer.status.contributions for peer in swarm.running()])
    assert counts[0] == counts[1]
    assert min(counts[0]) > 10


@WRONGS_S
def test_a_newcomer_whose_clock_is_wrong_takes_part_like_any_other(wrong_s: float) -> None:
    with swarm_of(3) as swarm:
        swarm.run(20)
        newcomer = swarm.join(Seat(link=LinkSpec(latency_s=0.05), step_s=0.5))
        newcomer.host.clock_offset_s = wrong_s
        swarm.run(80)
        assert newcomer.status.contributions >= 10
        assert len(set(newcomer.rounds)) == 1


def test_two_who_were_alone_with_different_clocks_see_each_other_after_a_while() -> None:
    with swarm_of(1) as swarm:
        late = swarm.join(Seat(link=LinkSpec(latency_s=0.05), step_s=0.5))
        late.host.clock_offset_s = -1000.0
        heal = swarm.network.cut(list(permutations([peer.peer_id for peer in swarm.running()], 2)))
        swarm.run(30)
        heal()
        before = late.status.contributions
        swarm.run(120)
        assert late.status.contributions > before + 5
