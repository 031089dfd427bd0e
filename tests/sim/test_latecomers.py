"""Several come late to a larger swarm: one state each, and replays for what is left."""

import pytest

from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from tests.sim.test_catching_up import (
    INTERVAL_STEPS,
    STEP_S,
    assert_common,
    events_of,
    swarm_of,
)

ROUND_S = STEP_S * INTERVAL_STEPS
NUM_MEMBERS = 12
NUM_PARAMETERS = 40_000
"""So that a state takes such a link as that of `FAR` longer than a round takes the others."""
FAR = Seat(link=LinkSpec(up_bps=0.2e6, down_bps=0.3e6, latency_s=0.45), step_s=STEP_S)
"""What the others commit while the first answers are on their way is heard before them."""


def fetched_by(swarm: SimSwarm, peer: SimPeer) -> list[tuple[int, float]]:
    """Returns of each state that it fetched the round, and how long it took, in seconds."""
    fetched = events_of(swarm, peer, "state_fetched")
    return [(fields["round"], fields["took_s"]) for _, fields in fetched]


@pytest.mark.parametrize(
    ("first_at", "second_at", "seed"),
    [(5.6, 6.1, 15), (5.7, 5.7, 16)],
    ids=["one after the other", "at once"],
)
def test_two_latecomers_fetch_one_state_each_and_replay_the_rest(
    first_at: float, second_at: float, seed: int
) -> None:
    codec = {"name": "int4"}
    with swarm_of(NUM_MEMBERS, parameters=NUM_PARAMETERS, codec=codec, seed=seed) as swarm:
        members, latecomers = swarm.running(), []
        for at in (first_at, second_at):
            swarm.run(at * ROUND_S)
            latecomers.append(swarm.join(FAR))
        swarm.run(12 * ROUND_S)
        for late in latecomers:
            ((state_round, took_s),) = fetched_by(swarm, late)
            assert took_s > ROUND_S, "the link is not slow enough to show anything"
            landed = [fields["round"] for _, fields in events_of(swarm, late, "landed")]
            assert landed == list(range(state_round + 1, landed[-1] + 1)), "one by one"
            assert len(landed) >= 3
            assert not events_of(swarm, late, "merged", "catching_up_failed")
            assert late.status.contributions, "it takes part by now"
        for member in members:
            assert not events_of(swarm, member, "caught_up", "merged", "anchor_differs")
            assert member.status.contributions >= 9, "nobody was held up by them"
        assert_common(swarm)
