"""Whole swarms of `protocol.circle_exchange`: that peers find each other, and what faults cost.

A failing case is replayed by its seed.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.exchange import Phase
from protocol.identity import PeerId
from protocol.messages import Propose
from tests.unit.protocol.circles import EXCHANGE_S, World

NUM_PEERS, SIZES, SEEDS = st.integers(2, 12), st.integers(2, 6), st.integers(0, 2**32)


@settings(max_examples=20)
@given(NUM_PEERS, SIZES, SEEDS, st.booleans(), st.sampled_from([5.0, 20.0]))
def test_in_peace_no_attempt_fails_and_everybody_goes_on(
    num_peers: int, size: int, seed: int, is_in_step: bool, interval_s: float
) -> None:
    world = World(num_peers, size, seed, interval_s=interval_s, is_in_step=is_in_step)
    world.run(120.0)
    world.check()
    assert world.events.keys() == {"exchange_begins"}
    assert min(len(peer.landed) for peer in world.alive) >= 2


@settings(max_examples=30)
@given(NUM_PEERS, SIZES, SEEDS, st.data())
def test_losses_doubles_delays_and_deaths_cost_time_and_nothing_else(
    num_peers: int, size: int, seed: int, data: st.DataObject
) -> None:
    world = World(
        num_peers,
        size,
        seed,
        interval_s=data.draw(st.sampled_from([5.0, 20.0])),
        is_in_step=data.draw(st.booleans()),
        loss_frac=data.draw(st.sampled_from([0.0, 0.05, 0.2])),
        double_frac=0.1,
        jitter_s=data.draw(st.sampled_from([0.02, 0.1, 0.4])),
    )
    rng = random.Random(seed)
    for victim in rng.sample(world.alive, rng.randint(0, num_peers - 2)):
        world.at(rng.uniform(0.0, 100.0), lambda victim=victim: world.kill(victim))
    world.run(150.0)
    world.check()
    before = {peer.peer_id: len(peer.landed) for peer in world.alive}
    world.loss_frac = world.double_frac = 0.0
    world.run(150.0 + EXCHANGE_S + 120.0)  # whatever was begun in the storm has ended
    world.check()
    assert all(len(peer.landed) >= before[peer.peer_id] + 2 for peer in world.alive)


@settings(max_examples=20)
@given(st.integers(2, 8), SIZES, SEEDS)
def test_nobody_waits_for_ever(num_peers: int, size: int, seed: int) -> None:
    """All but one die, and no trainer departs any more: it comes to rest, and free for others."""
    world = World(num_peers, size, seed, interval_s=5.0, loss_frac=0.1)
    world.run(40.0)
    last, *others = world.alive
    for other in others:
        world.kill(other)
    world.until_s = world.now_s
    world.run(world.now_s + EXCHANGE_S + 30.0)
    machine = last.machine
    assert machine.phase in (Phase.READY, Phase.IDLE)
    if machine.phase is Phase.READY:
        newcomer = PeerId("newcomer")
        machine.on_members((newcomer,), now_s=world.now_s)
        machine.on_note(newcomer, Propose(0, 0, 10, bytes(16)), now_s=world.now_s)
        assert machine.waiting_for() == (newcomer,)


@pytest.mark.parametrize("is_in_step", [True, False], ids=["in step", "at any time"])
def test_groups_fill_and_hardly_anybody_waits(is_in_step: bool) -> None:
    world = World(16, 4, 1, interval_s=30.0, is_in_step=is_in_step)
    world.run(900.0)
    sizes = Counter(world.begun)
    assert set(sizes) <= {2, 3, 4}
    assert sum(world.begun) / len(world.begun) > 2.8
    assert sum(world.waited_s) / len(world.waited_s) < 6.5
    assert world.num_notes / len(world.waited_s) < 25


def test_all_in_step_meet_at_once_and_mostly_all_who_fit_into_a_group() -> None:
    num_whole = 0
    for seed in range(40):
        world = World(4, 4, seed, interval_s=1e6, is_in_step=True)
        world.run(10.0)
        assert all(len(peer.landed) == 1 for peer in world.alive)
        num_whole += world.begun == [4] * 4  # the others are two pairs
    assert num_whole >= 20


@pytest.mark.parametrize("seed", range(10))
def test_a_death_in_the_exchange_costs_the_others_one_attempt_at_most(seed: int) -> None:
    world = World(4, 4, seed, interval_s=30.0, is_in_step=True)
    while world.events["exchange_begins"] < 4:
        world.run(world.now_s + 0.01)
    world.kill(world.alive[seed % 4])
    world.run(world.now_s + 60.0)
    world.check()
    assert world.events["exchange_failed"] <= 3
    assert all(peer.landed for peer in world.alive)
