"""A peer of pairs or groups that knows of nobody else: it lands by itself if its run wants that."""

import pytest

from protocol.circle_exchange import CircleExchange
from protocol.exchange import Exchange, ExchangeConfig, Phase
from protocol.identity import PeerId
from protocol.machine import BlobRef, Effect, Land, Offer, Reduce, Send, Tell
from protocol.messages import Propose
from protocol.pair_exchange import PairExchange
from protocol.terms import Terms

US, OTHER = PeerId("m"), PeerId("x")
MACHINES = pytest.mark.parametrize("kind", [PairExchange, CircleExchange])


def machine_of(kind: type[Exchange], *, steps_alone: bool = True) -> Exchange:
    config = ExchangeConfig(
        our_id=US,
        life="1",
        run_id="run",
        fragment=0,
        quorum_frac=0.5,
        grace_s=3.0,
        exchange_s=20.0,
        num_codecs=2,
        steps_alone=steps_alone,
    )
    return kind(config, round=4, anchor_digest=bytes(32))


def drain(machine: Exchange) -> list[Effect]:
    return [effect for effect in machine.drain() if not isinstance(effect, Tell)]


def assert_lands_alone(machine: Exchange, tokens: int, round: int) -> None:
    offer, reduce, land = drain(machine)
    assert isinstance(offer, Offer)
    ref = BlobRef("average", 0, offer.exchange_id)
    assert offer == Offer(0, round, offer.exchange_id, Terms(codec=1), ())
    assert reduce == Reduce(ref, tokens, is_shared=False)
    assert land == Land(0, round, offer.exchange_id, Terms(codec=1))
    assert machine.phase is Phase.LANDING


@MACHINES
def test_with_nobody_else_each_departure_lands(kind: type[Exchange]) -> None:
    machine = machine_of(kind)
    machine.wanted_codec = 1
    machine.on_members((), now_s=0.0)
    for round in (4, 5):
        machine.on_departed(10, now_s=float(round))
        assert_lands_alone(machine, 10, round)
        machine.on_landed(round + 1, bytes(32), now_s=round + 0.5)
        assert (machine.phase, machine.round) == (Phase.IDLE, round + 1)


@MACHINES
def test_nothing_lands_before_it_is_known_who_else_lives(kind: type[Exchange]) -> None:
    machine = machine_of(kind)
    machine.wanted_codec = 1
    machine.on_departed(10, now_s=0.0)
    assert drain(machine) == []
    machine.on_members((), now_s=1.0)
    if machine.phase is not Phase.LANDING:  # it pauses between two looks
        machine.on_timer(now_s=2.0)
    assert_lands_alone(machine, 10, 4)


@MACHINES
def test_who_knows_of_somebody_waits_until_that_one_is_gone(kind: type[Exchange]) -> None:
    machine = machine_of(kind)
    machine.wanted_codec = 1
    machine.on_members((OTHER,), now_s=0.0)
    machine.on_departed(10, now_s=0.0)
    (send,) = drain(machine)
    assert isinstance(send, Send)
    assert isinstance(send.note, Propose)
    machine.on_members((), now_s=5.0)
    for _ in range(5):
        if machine.phase is Phase.LANDING:
            break
        due_s = machine.next_deadline_s()
        assert due_s is not None
        machine.on_timer(now_s=due_s)
    assert_lands_alone(machine, 10, 4)


@MACHINES
def test_somebody_who_comes_is_asked_for_the_next_round(kind: type[Exchange]) -> None:
    machine = machine_of(kind)
    machine.on_members((), now_s=0.0)
    machine.on_departed(10, now_s=0.0)
    drain(machine)
    machine.on_members((OTHER,), now_s=0.5)
    assert drain(machine) == []
    machine.on_landed(5, bytes(32), now_s=1.0)
    machine.on_departed(20, now_s=2.0)
    (send,) = drain(machine)
    assert isinstance(send, Send)
    assert send.dst == OTHER


@MACHINES
def test_in_other_runs_it_waits_for_company(kind: type[Exchange]) -> None:
    machine = machine_of(kind, steps_alone=False)
    machine.on_members((), now_s=0.0)
    machine.on_departed(10, now_s=0.0)
    for _ in range(5):
        due_s = machine.next_deadline_s()
        assert due_s is not None
        machine.on_timer(now_s=due_s)
    assert drain(machine) == []
    assert machine.phase is Phase.READY


@MACHINES
def test_who_leaves_begins_nothing(kind: type[Exchange]) -> None:
    machine = machine_of(kind)
    machine.on_members((OTHER,), now_s=0.0)
    machine.on_departed(10, now_s=0.0)
    machine.on_leaving(now_s=0.5)
    drain(machine)
    machine.on_members((), now_s=1.0)
    machine.on_timer(now_s=10.0)
    assert drain(machine) == []
    assert machine.phase is Phase.READY
