"""Peers that come late, were cut off, or have a damaged anchor: they end where the others are."""

import itertools
from typing import Any

import pytest

from peer.sim.faults import Partition, schedule
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyTask
from protocol.identity import peer_id_of
from protocol.manifest import manifest_from

STEP_S, INTERVAL_STEPS = 0.25, 40
HOME = Seat(link=LinkSpec(up_bps=20e6, down_bps=50e6, latency_s=0.01), step_s=STEP_S)


def swarm_of(
    num: int,
    *,
    mixing: str = "all",
    parameters: int = 1000,
    codec: dict[str, Any] | None = None,
    seed: int = 0,
    byte_scale: float = 1.0,
) -> SimSwarm:
    rule, usual = ("nesterov", {"name": "int8", "block": 8})
    if mixing != "all":
        rule, usual = ("noloco", {"name": "bf16"})
    manifest = manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": mixing,
                "outer": {"rule": rule, "constants": {}},
                "codec": codec or usual,
                "schedule": {"interval_steps": INTERVAL_STEPS, "overlap_steps": 0},
            },
        }
    )
    swarm = SimSwarm(ToyTask(manifest, num_elements=parameters), seed=seed, byte_scale=byte_scale)
    for _ in range(num):
        swarm.join(HOME)
    return swarm


def events_of(swarm: SimSwarm, peer: SimPeer, *names: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (event, fields)
        for _, peer_id, event, fields in swarm.trace.entries
        if peer_id == peer.peer_id and event in names
    ]


def assert_common(swarm: SimSwarm) -> None:
    """All are within a round of each other, and equal rounds have equal anchors."""
    outers = [peer.mixing.outer[0] for peer in swarm.running()]
    rounds = {outer.round for outer in outers}
    assert max(rounds) - min(rounds) <= 1
    assert len({(outer.round, outer.digest) for outer in outers}) == len(rounds)


def test_on_a_slow_link_what_was_committed_meanwhile_is_replayed_and_not_fetched_again() -> None:
    with swarm_of(3, parameters=200_000, codec={"name": "int4"}) as swarm:
        swarm.run(60)
        slow = Seat(link=LinkSpec(up_bps=0.2e6, down_bps=0.3e6, latency_s=0.05), step_s=STEP_S)
        late = swarm.join(slow)
        swarm.run(62)
        asked_at_round = max(max(peer.rounds) for peer in swarm.running() if peer is not late)
        swarm.run(240)
        fetched = events_of(swarm, late, "state_fetched", "caught_up")
        assert len(fetched) == 1, "one state is enough"
        took_s, state_round = fetched[0][1]["took_s"], fetched[0][1]["round"]
        assert took_s > 3 * STEP_S * INTERVAL_STEPS, "the link is not slow enough to show anything"
        assert state_round <= asked_at_round
        replayed = [fields["round"] for _, fields in events_of(swarm, late, "landed")]
        assert replayed[:3] == [state_round + 1, state_round + 2, state_round + 3]
        assert late.status.contributions >= 3
        assert_common(swarm)
        swarm.run(320)  # whatever was pinned or kept for it is let go of
        assert not any(any(peer.driver._pins._pins) for peer in swarm.running())


def test_several_donors_share_the_upload() -> None:
    with swarm_of(4, parameters=500_000, codec={"name": "int4"}) as swarm:
        swarm.run(25)
        before = {peer.peer_id: peer.wire.payload_sent_bytes for peer in swarm.running()}
        link = LinkSpec(up_bps=20e6, down_bps=100e6, latency_s=0.01)
        late = swarm.join(Seat(link=link, step_s=STEP_S))
        swarm.run(30)
        assert events_of(swarm, late, "state_fetched")
        sent = {peer: swarm.peers[peer].wire.payload_sent_bytes - at for peer, at in before.items()}
        state_bytes = 8 * 500_000
        assert min(sent.values()) > state_bytes / 8, "each gives a part"
        assert max(sent.values()) < state_bytes / 2, "none gives the most"
        took_s = events_of(swarm, late, "state_fetched")[0][1]["took_s"]
        assert took_s < 0.5 * 8 * state_bytes / 20e6, "faster than any one of them could give it"


def test_donors_that_die_in_the_middle_cost_a_little_time() -> None:
    with swarm_of(4, parameters=300_000, codec={"name": "int4"}) as swarm:
        swarm.run(25)
        victims = swarm.running()[:2]
        late = swarm.join(Seat(link=LinkSpec(down_bps=5e6, latency_s=0.01), step_s=STEP_S))
        swarm.run(26.5)
        assert events_of(swarm, late, "state_fetch_begins")
        assert not events_of(swarm, late, "state_fetched")
        swarm.crash(victims[0])
        swarm.crash(victims[1], is_silent=True)
        swarm.run(40)
        (_, fetched), *more = events_of(swarm, late, "state_fetched")
        assert not more
        assert fetched["already_bytes"] == 0
        dropped = {fields["src"] for _, fields in events_of(swarm, late, "donor_dropped")}
        assert dropped == {victim.peer_id for victim in victims}
        swarm.run(80)
        assert late.status.contributions
        assert_common(swarm)


@pytest.mark.parametrize("mixing", ["pairs", "groups"])
def test_who_slept_for_long_takes_a_new_state_before_it_mixes(mixing: str) -> None:
    with swarm_of(4, mixing=mixing) as swarm:
        swarm.run(60)
        sleeper = swarm.running()[0]
        swarm.freeze(sleeper, 600.0)
        swarm.run(659)
        others = [peer for peer in swarm.running() if peer is not sleeper]
        rounds = min(peer.rounds[0] for peer in others)
        assert sleeper.rounds[0] < rounds / 2
        swarm.run(720)
        first = events_of(swarm, sleeper, "slept", "caught_up", "exchange_begins", "landed")
        since = list(itertools.dropwhile(lambda event: event[0] != "slept", first))
        words = [event for event, _ in since]
        assert words[:2] == ["slept", "caught_up"], words[:6]
        assert "landed" in words
        assert since[1][1]["round"] >= rounds


def test_a_damaged_anchor_is_noticed_within_a_round_and_repaired() -> None:
    with swarm_of(4) as swarm:
        swarm.run(60)
        victim = swarm.running()[0]
        round = victim.rounds[0]
        victim.mixing.outer[0].anchor[7] += 1e-3  # a bit that fell over, in memory
        swarm.run(60 + 2.5 * STEP_S * INTERVAL_STEPS)
        told = events_of(swarm, victim, "anchor_differs")
        assert told, "noticed"
        assert told[0][1]["round"] <= round + 1
        swarm.run(120)
        assert events_of(swarm, victim, "caught_up", "merged")
        assert not any(
            events_of(swarm, peer, "caught_up", "merged")
            for peer in swarm.running()
            if peer is not victim
        ), "three who agree do not follow one who does not"
        assert_common(swarm)


@pytest.mark.parametrize(("num", "for_s"), [(4, 60.0), (5, 150.0), (7, 100.0), (8, 300.0)])
def test_two_parts_that_meet_again_merge_by_tokens(num: int, for_s: float) -> None:
    with swarm_of(num) as swarm:
        schedule([Partition(at_s=40.0, for_s=for_s, shape="halves")], swarm, [HOME])
        healed_s = 40.0 + for_s
        swarm.run(healed_s - 1)
        parts: dict[tuple[int, bytes], list[SimPeer]] = {}
        for peer in swarm.running():
            outer = peer.mixing.outer[0]
            parts.setdefault((outer.round, outer.digest), []).append(peer)
        assert len(parts) == 2, "each part has gone on by itself"
        (a, b) = (peers[0].mixing.outer[0] for peers in parts.values())
        rounds_apart = max(a.round, b.round)
        swarm.run(healed_s + 40.0)
        assert_common(swarm)
        merges = [f for p in swarm.running() for _, f in events_of(swarm, p, "merged")]
        assert merges
        sizes = sorted(len(peers) / num for peers in parts.values())
        for merge in merges:
            assert sorted(merge["weights"]) == pytest.approx(sizes, abs=0.1)
        assert min(peer.rounds[0] for peer in swarm.running()) <= rounds_apart + 6
        before = {peer.peer_id: peer.status.contributions for peer in swarm.running()}
        swarm.run(healed_s + 80.0)
        assert all(p.status.contributions > before[p.peer_id] for p in swarm.running())
        assert_common(swarm)


def test_who_lost_sight_of_everybody_lands_nothing_alone_and_is_merely_late() -> None:
    with swarm_of(4) as swarm:
        swarm.run(40)
        lone = swarm.running()[0]
        others = [peer.peer_id for peer in swarm.running()[1:]]
        paths = [pair for o in others for pair in ((lone.peer_id, o), (o, lone.peer_id))]
        swarm.clock.after(150.0, swarm.network.cut(paths))
        swarm.run(45)
        round = lone.rounds[0]
        swarm.run(188)
        assert lone.rounds[0] <= round + 1, "it steps alone, but takes no outer step"
        swarm.run(250)
        assert not any(events_of(swarm, peer, "merged") for peer in swarm.running())
        assert lone.status.contributed_tokens > 100 * STEP_S, "what it did alone was not lost"
        assert_common(swarm)


def test_when_half_of_the_processes_die_at_once_the_others_go_on_with_the_next_round() -> None:
    with swarm_of(8) as swarm:
        swarm.run(43)
        for victim in swarm.running()[:4]:
            swarm.crash(victim)  # their machines say so
        before = [peer.rounds[0] for peer in swarm.running()]
        swarm.run(43 + 2 * STEP_S * INTERVAL_STEPS)
        after = [peer.rounds[0] for peer in swarm.running()]
        assert all(now > then for now, then in zip(after, before, strict=True)), (before, after)
        assert_common(swarm)
