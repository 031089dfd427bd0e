"""Who averages how much, and in which codec: `protocol.group_exchange` with unequal members."""

from dataclasses import replace

import pytest

from protocol.exchange import Failure, Phase
from protocol.gathering import MAX_READY
from protocol.group_exchange import GroupExchange
from protocol.identity import PeerId
from protocol.machine import Discard, Fetch, Land, Offer, Reduce, Send, Tell
from protocol.messages import Committed, Member, Note, Ready, Roster
from protocol.terms import Terms
from tests.unit.protocol.test_group_exchange import (
    FIRST,
    FOURTH,
    ID,
    ID2,
    NEW,
    OLD,
    PEERS,
    ROUND,
    SECOND,
    THIRD,
    average,
    drain,
    machine_of,
    part,
    ready,
    roster,
    sent,
)

PLACE = {peer: place for place, peer in enumerate(sorted((FIRST, SECOND, THIRD)))}


def test_our_ready_says_what_we_can_and_the_roster_what_suits_all() -> None:
    machine = machine_of(FIRST, SECOND, THIRD, num_codecs=3)
    machine.up_bps, machine.wanted_codec = 4, 1
    machine.on_departed(10, now_s=0.0)
    assert {note for _, note in sent(machine, Ready)} == {Ready(0, ROUND, 10, OLD, 4, 1)}
    machine.on_note(SECOND, Ready(0, ROUND, 10, OLD, 2, 2), now_s=0.5)
    machine.on_note(THIRD, Ready(0, ROUND, 10, OLD, 2, 0), now_s=0.5)
    effects = drain(machine)
    terms = Terms(tuple(2048 if peer == FIRST else 1024 for peer in sorted(PLACE)), 2)
    (note,) = {effect.note for effect in effects if isinstance(effect, Send)}
    assert isinstance(note, Roster)
    assert note.terms == terms
    assert {effect.terms for effect in effects if isinstance(effect, Offer | Fetch)} == {terms}
    id, place = note.exchange_id, PLACE[FIRST]
    for peer in (SECOND, THIRD):
        machine.on_fetched(peer, part(place, id), now_s=1.0)
    assert drain(machine)[0] == Reduce(average(place, id), 10)
    for peer in (SECOND, THIRD):
        machine.on_fetched(peer, average(PLACE[peer], id), now_s=1.2)
    brought = tuple(Member(peer, 10) for peer in sorted((SECOND, THIRD)))
    assert drain(machine) == [Land(0, ROUND, id, terms, tokens=30, members=brought)]
    machine.on_landed(ROUND + 1, NEW, now_s=1.5)
    expected = Committed(0, ROUND + 1, NEW, id, terms.shares, terms.codec, OLD, tokens=30)
    assert sent(machine, Committed) == [(peer, expected) for peer in sorted((SECOND, THIRD))]


def test_a_replay_is_on_the_terms_of_the_exchange() -> None:
    machine = machine_of(SECOND, FIRST, num_codecs=3)
    machine.on_note(FIRST, Committed(0, ROUND + 1, NEW, ID, (1, 0, 3), 2, OLD), now_s=1.0)
    terms = Terms((1, 0, 3), 2)
    assert drain(machine) == [Fetch(FIRST, average(part), terms) for part in (0, 2)]


@pytest.mark.parametrize(
    "note",
    [
        Ready(0, ROUND, 10, OLD, 0, 2),
        replace(roster(FIRST, SECOND, THIRD), codec=2),
        Committed(0, ROUND + 1, NEW, ID, (1, 1, 1), 2, OLD),
    ],
    ids=["ready", "roster", "committed"],
)
def test_a_codec_that_the_run_does_not_have_is_refused_and_told_once(note: Note) -> None:
    machine = machine_of(SECOND, FIRST, THIRD, num_codecs=2)
    machine.on_departed(10, now_s=0.0)
    machine.drain()
    for _ in range(2):
        machine.on_note(FIRST, note, now_s=1.0)
    (told,) = machine.drain()
    assert isinstance(told, Tell)
    assert told.event == "note_refused"
    assert machine.phase is Phase.READY
    assert set(machine.waiting_for()) == {FIRST, THIRD}
    machine.on_note(FIRST, replace(note, codec=1), now_s=1.0)
    assert machine.phase is Phase.EXCHANGING or machine.waiting_for() == (THIRD,)


def test_a_roster_that_gives_one_member_nearly_all_is_not_entered() -> None:
    others = [PeerId(name) for name in "stuvwxyz"]
    machine = machine_of(SECOND, *others)
    machine.on_departed(10, now_s=0.0)
    drain(machine)
    unfair = replace(roster(SECOND, *others), shares=(9, *(1,) * 8))
    machine.on_note(others[0], unfair, now_s=1.0)
    assert machine.phase is Phase.READY
    machine.on_note(others[0], replace(unfair, shares=(6, *(1,) * 8)), now_s=1.0)
    assert machine.phase is Phase.EXCHANGING


# ---- with an empty part


def bystanding(*reducers: PeerId) -> GroupExchange:
    """SECOND of three, who averages nothing, in an exchange since 1 s; drained."""
    machine = machine_of(SECOND, FIRST, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    drain(machine)
    shares = tuple(int(peer in reducers) for peer in sorted(PLACE))
    machine.on_note(FIRST, replace(roster(*PLACE), shares=shares), now_s=1.0)
    offer, *fetches = drain(machine)
    assert isinstance(offer, Offer)
    assert fetches == [
        Fetch(peer, average(PLACE[peer]), Terms(shares)) for peer in sorted(reducers)
    ]
    return machine


def test_we_land_what_the_others_averaged_and_we_contributed_to() -> None:
    machine = bystanding(FIRST, THIRD)
    for peer in (FIRST, THIRD):
        machine.on_fetched(peer, average(PLACE[peer]), now_s=2.0)
    (land,) = drain(machine)
    assert isinstance(land, Land)
    assert not land.rebase_on_anchor


def test_we_follow_a_reducer_to_a_larger_roster_and_nobody_else() -> None:
    newcomer = PeerId("e")
    machine = machine_of(SECOND, FIRST, THIRD, FOURTH, newcomer)
    machine.on_departed(10, now_s=0.0)
    shares = tuple(int(peer in (FIRST, THIRD)) for peer in sorted(PEERS))
    machine.on_note(FIRST, replace(roster(*PEERS), shares=shares), now_s=1.0)
    assert machine.phase is Phase.EXCHANGING
    drain(machine)
    larger = roster(*PEERS, newcomer, id=ID2)
    machine.on_note(FOURTH, larger, now_s=1.5)
    assert drain(machine) == []  # the reducers may complete ours without any of us two
    machine.on_note(FIRST, larger, now_s=1.6)
    effects = drain(machine)
    assert effects[0] == Discard(0, ID)
    assert [effect.exchange_id for effect in effects if isinstance(effect, Offer)] == [ID2]


def test_we_hear_that_a_reducer_has_given_up() -> None:
    machine = bystanding(FIRST, THIRD)
    for number in range(MAX_READY):
        assert machine.next_deadline_s() == 21.0
        machine.on_note(FIRST, ready(), now_s=2.0 + number)
    assert drain(machine)[-1] == Fetch(
        THIRD, average(PLACE[FIRST]), Terms(tuple(int(peer != SECOND) for peer in sorted(PLACE)))
    )
    for now_s in (5.0, 5.5):
        machine.on_fetch_failed(THIRD, average(PLACE[FIRST]), failure=Failure.ABSENT, now_s=now_s)
        machine.on_timer(now_s=now_s + 0.25)
    assert machine.phase is Phase.READY
    assert Discard(0, ID) in drain(machine)
