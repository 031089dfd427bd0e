"""What a partner that freezes in the middle of an exchange costs the others, and a slow one not.

Times are virtual, so they can be asserted.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyTask
from protocol.identity import PeerId, peer_id_of
from protocol.manifest import manifest_from

SEEDS = range(6)
RULES = {"all": "nesterov", "pairs": "noloco", "groups": "noloco"}
MIXINGS = pytest.mark.parametrize("mixing", RULES)
STEP_S = 0.3
GIVEN_UP_S = 1.8
"""Of which some tenths are for what was on its way."""
REPLACED_S = 2.0
SLOW_BPS = 100e3
FROZEN_S = 6.0
WELCOME_S = {"all": 16.0, "pairs": 8.0, "groups": 8.0}
"""With `all` it has to catch up first, which takes some seconds over these links."""
EXCHANGE_EVENTS = ("exchange_begins", "exchange_failed", "landed")


def swarm_of(mixing: str, seed: int, *, up_bps: tuple[float, ...], size: int) -> SimSwarm:
    """Returns a swarm in which everybody is in an exchange, or ready for one, nearly always."""
    manifest = manifest_from(
        {
            "founder": peer_id_of(bytes(32)),
            "method": {
                "mixing": mixing,
                "group_size": 2,
                "outer": {"rule": RULES[mixing]},
                "schedule": {"interval_steps": 1},
            },
        }
    )
    swarm = SimSwarm(ToyTask(manifest, num_elements=size), seed=seed)
    for bps in up_bps:
        link = LinkSpec(up_bps=bps, down_bps=100e6, latency_s=0.02)
        swarm.join(Seat(link=link, step_s=STEP_S, step_cv=0.1))
    return swarm


def exchanges(swarm: SimSwarm, peer: SimPeer) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Yields when which exchange of this peer began, failed or landed."""
    for t_s, peer_id, event, fields in swarm.trace.entries:
        if peer_id == peer.peer_id and event in EXCHANGE_EVENTS:
            yield t_s, event, fields


def is_in_exchange_with(swarm: SimSwarm, peer: SimPeer, other: PeerId) -> bool:
    events = list(exchanges(swarm, peer))
    return (
        bool(events) and events[-1][1] == "exchange_begins" and other in events[-1][2]["partners"]
    )


def partners_in_the_middle(swarm: SimSwarm, victim: SimPeer) -> list[SimPeer]:
    """Runs until the victim is in the middle of an exchange, and returns those who are in it."""
    for _ in range(4000):
        swarm.run(swarm.clock.now_s + 0.02)
        events = list(exchanges(swarm, victim))
        if (
            events
            and events[-1][1] == "exchange_begins"
            and swarm.clock.now_s - events[-1][0] > 0.3
        ):
            partners = [p for p in swarm.running() if is_in_exchange_with(swarm, p, victim.peer_id)]
            if partners:
                return partners
    raise AssertionError("never in an exchange")


def first(swarm: SimSwarm, peer: SimPeer, after_s: float, *names: str) -> float:
    """Returns when the first such event of this peer was after a time, or never."""
    return next(
        (
            t_s
            for t_s, peer_id, event, _ in swarm.trace.entries
            if peer_id == peer.peer_id and t_s > after_s and event in names
        ),
        float("inf"),
    )


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", ["freeze", "vanish"])
def test_a_partner_that_stops_in_the_middle_is_given_up_and_replaced_soon(
    mixing: str, seed: int, fault: str
) -> None:
    """Of three there is always a third, who is ready or in it."""
    with swarm_of(mixing, seed, up_bps=(4e6, 4e6, 4e6), size=100_000) as swarm:
        swarm.run(15 + seed / 7)
        victim = swarm.running()[seed % 3]
        partners = partners_in_the_middle(swarm, victim)
        stopped_s = swarm.clock.now_s
        if fault == "freeze":
            swarm.freeze(victim, 30)
        else:
            swarm.crash(victim, is_silent=True)
        swarm.run(stopped_s + REPLACED_S)
        for peer in partners:
            over_s = first(swarm, peer, stopped_s, "transfer_failed", "exchange_failed", "landed")
            assert over_s - stopped_s < GIVEN_UP_S
            # It lands without the victim, or is in another exchange.
            goes_on_s = first(swarm, peer, stopped_s, "exchange_begins", "landed")
            assert goes_on_s - stopped_s < REPLACED_S
        swarm.run(stopped_s + 20)
        assert all(peer.rounds[0] >= 8 for peer in partners)


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
def test_a_frozen_partner_is_welcome_as_soon_as_it_speaks(mixing: str, seed: int) -> None:
    with swarm_of(mixing, seed, up_bps=(4e6, 4e6, 4e6), size=100_000) as swarm:
        swarm.run(15 + seed / 7)
        victim = swarm.running()[seed % 3]
        partners_in_the_middle(swarm, victim)
        swarm.freeze(victim, FROZEN_S)
        back_s = swarm.clock.now_s + FROZEN_S
        swarm.run(back_s + WELCOME_S[mixing])
        assert first(swarm, victim, back_s, "landed") < back_s + WELCOME_S[mixing]


@MIXINGS
@pytest.mark.parametrize("seed", SEEDS)
def test_a_thin_link_is_not_given_up(mixing: str, seed: int) -> None:
    """An exchange takes a quarter of a minute over it, and chunks come slowly."""
    up_bps = (SLOW_BPS, 20e6, 20e6)
    with swarm_of(mixing, seed, up_bps=up_bps, size=40_000) as swarm:
        swarm.run(150)
        slow = swarm.running()[0]
        reasons = [
            fields["reason"]
            for _, _, event, fields in swarm.trace.entries
            if event in ("transfer_failed", "exchange_failed", "note_lost")
        ]
        assert not [reason for reason in reasons if "ping" in reason or "progress" in reason]
        assert slow.status.contributions >= 3
