"""Two hundred rounds of `all`: anchors stay bit-identical, whoever dies or comes."""

from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyTask
from protocol.identity import peer_id_of
from protocol.manifest import manifest_from

NUM_ROUNDS = 200
STEP_S, INTERVAL_STEPS, FRAGMENTS = 0.5, 8, 2
MANIFEST = manifest_from(
    {
        "founder": peer_id_of(bytes(32)),
        "method": {
            "mixing": "all",
            "codec": {"name": "int4"},
            "schedule": {
                "interval_steps": INTERVAL_STEPS,
                "fragments": FRAGMENTS,
                "overlap_steps": 2,
                "merge_alpha": 0.5,
            },
            "outer": {"rule": "nesterov", "constants": {"lr": 0.4}},
        },
    }
)


def digests(peers: list[SimPeer]) -> dict[tuple[int, int], set[bytes]]:
    """Returns, by fragment and round, the digests of the anchors."""
    found: dict[tuple[int, int], set[bytes]] = {}
    for peer in peers:
        for fragment, outer in enumerate(peer.mixing.outer):
            found.setdefault((fragment, outer.round), set()).add(outer.digest)
    return found


def test_anchors_are_equal_after_200_rounds_with_a_death_and_a_newcomer() -> None:
    with SimSwarm(ToyTask(MANIFEST), seed=0) as swarm:
        for up_bps in (2e6, 5e6, 20e6, 40e6, 40e6):  # so that parts are of unequal size
            swarm.join(Seat(link=LinkSpec(up_bps=up_bps), step_s=STEP_S, step_cv=0.05))
        victim, now_s, last_round = swarm.running()[0], 0.0, 0
        late: SimPeer | None = None
        compared = 0
        while last_round < NUM_ROUNDS:
            now_s += INTERVAL_STEPS * STEP_S / FRAGMENTS + 0.1
            swarm.run(now_s)
            last_round = min(min(peer.rounds) for peer in swarm.running())
            for key, found in digests(swarm.running()).items():
                assert len(found) == 1, f"anchors differ, fragment and round {key}"
                compared += 1
            if last_round >= NUM_ROUNDS // 3 and victim in swarm.running():
                swarm.crash(victim, is_silent=True)
            if last_round >= NUM_ROUNDS // 2 and late is None:
                late = swarm.join(Seat(link=LinkSpec(up_bps=10e6), step_s=STEP_S))
            assert now_s < 4 * NUM_ROUNDS * INTERVAL_STEPS * STEP_S, "too few rounds"
        assert victim not in swarm.running()
        assert late is not None
        assert late.status.contributions > NUM_ROUNDS // 4
        assert compared > NUM_ROUNDS * FRAGMENTS
