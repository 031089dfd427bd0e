"""A machine whose peer leaves: it begins nothing, and keeps its word where others count it in."""

from dataclasses import replace

import pytest

from protocol.exchange import Exchange, Phase
from protocol.machine import Offer, Send
from protocol.messages import Answer, Propose, Ready, Roster
from tests.unit.protocol import test_circle_exchange as circles
from tests.unit.protocol import test_group_exchange as groups
from tests.unit.protocol import test_pair_exchange as pairs
from tests.unit.protocol.test_group_exchange import FIRST, FOURTH, SECOND, THIRD


def ready_notes(machine: Exchange) -> list[Ready]:
    return [e.note for e in machine.drain() if isinstance(e, Send) and isinstance(e.note, Ready)]


# ---- all


def goodbye() -> Ready:
    return replace(groups.ready(tokens=0), is_leaving=True)


def test_a_ready_is_taken_back_and_not_repeated() -> None:
    machine = groups.machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    assert {note.tokens for note in ready_notes(machine)} == {10}
    machine.on_leaving(now_s=0.1)
    taken_back = ready_notes(machine)
    assert len(taken_back) == 2
    assert {note.tokens for note in taken_back} == {0}
    assert machine.next_deadline_s() is None
    machine.on_note(SECOND, groups.ready(), now_s=0.2)
    machine.on_note(THIRD, groups.ready(), now_s=0.3)
    machine.on_timer(now_s=60.0)
    assert machine.drain() == []  # FIRST would have closed the roster
    assert not machine.is_counted_in


def test_whoever_takes_it_back_is_neither_in_a_roster_nor_waited_for() -> None:
    machine = groups.machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(THIRD, groups.ready(), now_s=0.1)
    machine.on_note(THIRD, goodbye(), now_s=0.2)
    machine.drain()
    machine.on_note(SECOND, groups.ready(), now_s=0.3)
    assert machine.phase is Phase.EXCHANGING, "all who stay are here"
    rosters = [e.note for e in machine.drain() if isinstance(e, Send)]
    assert [note.peer_ids for note in rosters if isinstance(note, Roster)] == [
        tuple(sorted((FIRST, SECOND)))
    ]


def test_whoever_was_never_ready_and_says_nothing_of_tokens_is_not_taken_for_gone() -> None:
    """It asks where we are, and trains; only the ready can take their word back."""
    machine = groups.machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(THIRD, groups.ready(tokens=0), now_s=0.2)
    machine.on_note(SECOND, groups.ready(), now_s=0.3)
    assert machine.phase is Phase.READY, "it may yet come"
    machine.on_note(THIRD, groups.ready(), now_s=0.4)
    assert machine.phase is Phase.EXCHANGING
    rosters = {e.note for e in machine.drain() if isinstance(e, Send)}
    assert [note.peer_ids for note in rosters if isinstance(note, Roster)] == [
        tuple(sorted((FIRST, SECOND, THIRD)))
    ]


def test_a_goodbye_that_comes_twice_costs_no_more_than_one() -> None:
    machine = groups.machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(THIRD, groups.ready(), now_s=0.1)
    for now_s in (0.2, 0.3):
        machine.on_note(THIRD, goodbye(), now_s=now_s)
    machine.on_note(SECOND, groups.ready(), now_s=0.4)
    assert THIRD in machine.waiting_for()
    assert machine.phase is Phase.READY, "two of four are no quorum"
    machine.on_note(FOURTH, groups.ready(), now_s=0.5)
    rosters = {e.note for e in machine.drain() if isinstance(e, Send)}
    assert [set(note.peer_ids) for note in rosters if isinstance(note, Roster)] == [
        {FIRST, SECOND, FOURTH}
    ]


def test_a_roster_that_crosses_the_goodbye_finds_us() -> None:
    machine = groups.machine_of(SECOND, FIRST, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_leaving(now_s=0.1)
    machine.on_note(FIRST, groups.roster(FIRST, SECOND, THIRD), now_s=0.2)
    assert machine.phase is Phase.EXCHANGING
    assert machine.is_counted_in
    assert any(isinstance(effect, Offer) for effect in machine.drain())


def test_an_exchange_that_fails_while_we_leave_is_our_last() -> None:
    machine = groups.exchanging()
    machine.on_leaving(now_s=1.5)
    groups.fail(machine)
    assert machine.phase is Phase.READY
    assert {note.tokens for note in ready_notes(machine)} == {0}
    assert not machine.is_counted_in
    assert machine.next_deadline_s() is None


# ---- pairs


def test_whoever_leaves_asks_nobody_and_says_no() -> None:
    machine = pairs.machine_of(pairs.LOW, pairs.HIGH)
    machine.on_departed(10, now_s=0.0)
    (dst, propose) = pairs.asked(machine)
    machine.on_leaving(now_s=0.1)
    other = next(peer for peer in (pairs.LOW, pairs.HIGH) if peer != dst)
    machine.on_note(other, Propose(0, 4, 30, pairs.THEIR_ID), now_s=0.2)
    (effect,) = machine.drain()
    assert effect == Send(other, Answer(0, pairs.THEIR_ID, False, 10))
    machine.on_note(dst, Answer(0, propose.exchange_id, False, 0), now_s=0.3)
    machine.on_timer(now_s=60.0)
    assert machine.drain() == []
    assert machine.next_deadline_s() is None


def test_a_yes_to_the_last_question_still_counts() -> None:
    machine = pairs.machine_of(pairs.HIGH)
    machine.on_departed(10, now_s=0.0)
    (_, propose) = pairs.asked(machine)
    machine.on_leaving(now_s=0.1)
    machine.on_note(pairs.HIGH, Answer(0, propose.exchange_id, True, 30), now_s=0.2)
    assert machine.phase is Phase.EXCHANGING
    assert machine.is_counted_in


# ---- groups


def test_a_host_that_leaves_begins_with_the_guests_that_are_here() -> None:
    machine = circles.machine_of(circles.A, circles.X, circles.Y, size=4)
    circle = circles.ready(machine)
    machine.on_note(circles.X, circles.yes(circle), now_s=0.1)
    assert machine.is_counted_in
    assert not machine.is_using_snapshot
    machine.drain()
    machine.on_leaving(now_s=0.2)
    assert machine.phase is Phase.EXCHANGING
    rosters = [e.note for e in machine.drain() if isinstance(e, Send)]
    assert [set(note.peer_ids) for note in rosters if isinstance(note, Roster)] == [
        {circles.US, circles.X}
    ]


def test_a_host_without_guests_invites_nobody_but_begins_with_whoever_says_yes() -> None:
    machine = circles.machine_of(circles.A, circles.X, circles.Y)
    circle = circles.ready(machine)
    machine.on_leaving(now_s=0.1)
    assert not machine.is_counted_in
    assert machine.next_deadline_s() is None
    machine.on_note(circles.Z, Propose(0, 9, 30, circles.SMALLEST), now_s=0.2)
    assert circles.drain(machine) == [Send(circles.Z, circles.no(circles.SMALLEST))]
    machine.on_note(circles.X, circles.yes(circle), now_s=0.3)
    assert machine.phase is Phase.EXCHANGING


@pytest.mark.parametrize("comes", [True, False])
def test_a_guest_stays_until_the_roster_comes_or_it_has_waited_long_enough(comes: bool) -> None:
    machine = circles.guest(circles.A, circles.X)
    machine.on_leaving(now_s=0.6)
    assert machine.is_counted_in
    if comes:
        members = circles.US, circles.X
        note = circles.roster_of(*members, exchange_id=circles.SMALLEST)
        machine.on_note(circles.X, note, now_s=0.7)
        assert machine.phase is Phase.EXCHANGING
        return
    while (due_s := machine.next_deadline_s()) is not None:
        machine.on_timer(now_s=due_s)
    assert not machine.is_counted_in
