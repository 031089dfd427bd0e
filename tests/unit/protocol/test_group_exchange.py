"""Every arrow of `protocol.group_exchange`, one event at a time, at round 7 of a run."""

import pytest

from protocol.errors import LocalProtocolError
from protocol.exchange import ExchangeConfig, Failure, Phase
from protocol.gathering import MAX_VAIN_TRIES
from protocol.group_exchange import JUDGED_S, GroupExchange
from protocol.identity import PeerId
from protocol.lineage import EMPTY, Lineage
from protocol.lottery import leader_order
from protocol.machine import (
    BlobRef,
    CatchUp,
    Discard,
    Effect,
    Fetch,
    Land,
    Offer,
    Reduce,
    Send,
    Tell,
)
from protocol.messages import Answer, Committed, Member, Note, Propose, Ready, Roster
from protocol.terms import Terms

ROUND = 7
OLD, NEW, ELSE = b"o" * 32, b"n" * 32, b"x" * 32
ID, ID2 = b"e" * 16, b"f" * 16
THREE = Terms((1, 1, 1))
# In the order in which they may lead this round.
FIRST, SECOND, THIRD, FOURTH = PEERS = leader_order(
    [PeerId(name) for name in "abcd"], run_id="run", fragment=0, round=ROUND
)


def machine_of(our_id: PeerId, *others: PeerId, num_codecs: int = 1) -> GroupExchange:
    config = ExchangeConfig(
        our_id=our_id,
        life="1",
        run_id="run",
        fragment=0,
        quorum_frac=0.5,
        grace_s=3.0,
        exchange_s=20.0,
        num_codecs=num_codecs,
    )
    machine = GroupExchange(config, round=ROUND, anchor_digest=OLD)
    machine.on_members(others, now_s=0.0)
    assert machine.drain() == []
    return machine


def drain(machine: GroupExchange) -> list[Effect]:
    return [effect for effect in machine.drain() if not isinstance(effect, Tell)]


def sent(machine: GroupExchange, kind: type[Note]) -> list[tuple[PeerId, Note]]:
    return [
        (effect.dst, effect.note)
        for effect in drain(machine)
        if isinstance(effect, Send) and isinstance(effect.note, kind)
    ]


def ready(tokens: int = 10, *, round: int = ROUND, digest: bytes = OLD) -> Ready:
    return Ready(0, round, tokens, digest)


def roster(*peers: PeerId, id: bytes = ID, round: int = ROUND) -> Roster:
    members = tuple(Member(peer, 10) for peer in sorted(peers))
    return Roster(0, round, id, members, (1,) * len(members))


def part(index: int, id: bytes = ID) -> BlobRef:
    return BlobRef("part", fragment=0, exchange_id=id, part=index)


def average(index: int, id: bytes = ID) -> BlobRef:
    return BlobRef("average", fragment=0, exchange_id=id, part=index)


def exchanging(id: bytes = ID) -> GroupExchange:
    """SECOND of three, in an exchange since 1 s; drained."""
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(FIRST, roster(FIRST, SECOND, THIRD, id=id), now_s=1.0)
    drain(machine)
    assert machine.phase is Phase.EXCHANGING
    return machine


def reducing(id: bytes = ID) -> GroupExchange:
    """As `exchanging`, with all parts here."""
    machine = exchanging(id)
    ours = sorted((FIRST, SECOND, THIRD)).index(SECOND)
    for peer in (FIRST, THIRD):
        machine.on_fetched(peer, part(ours, id), now_s=2.0)
    drain(machine)
    return machine


def fail(machine: GroupExchange) -> None:
    """The deadline of its exchange comes."""
    now_s = machine.next_deadline_s()
    while machine.phase is Phase.EXCHANGING:
        assert now_s is not None
        machine.on_timer(now_s=now_s)
        now_s = machine.next_deadline_s()


def committed(
    round: int = ROUND + 1, *, digest: bytes = NEW, id: bytes = ID, base: bytes = OLD
) -> Committed:
    if not id:
        return Committed(0, round, digest)
    return Committed(0, round, digest, id, (1, 1, 1), base_digest=base, tokens=30)


def catch_up(*donors: PeerId, our_camp: int = 1, their_camp: int = 1) -> CatchUp:
    return CatchUp(donors, 0, our_camp, their_camp)


def knowing(round: int = ROUND, digest: bytes = OLD) -> Lineage:
    """The lineage of somebody who was at this anchor."""
    return EMPTY.landed(round, digest, 30)


# ---- becoming ready, closing the roster


def test_idle_departed_ready() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    assert (machine.phase, machine.next_deadline_s()) == (Phase.IDLE, None)
    machine.on_departed(10, now_s=5.0)
    assert drain(machine) == [Send(peer, ready()) for peer in sorted((SECOND, THIRD))]
    assert (machine.phase, machine.next_deadline_s()) == (Phase.READY, 6.0)
    assert not machine.is_using_snapshot
    assert set(machine.waiting_for()) == {SECOND, THIRD}


def test_ready_is_repeated_and_refreshed() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    drain(machine)
    machine.on_timer(now_s=1.0)
    assert len(sent(machine, Ready)) == 2
    machine.on_departed(25, now_s=1.5)
    assert {note for _, note in sent(machine, Ready)} == {ready(25)}


def test_complete_closes_at_once() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(SECOND, ready(20), now_s=0.5)
    drain(machine)
    machine.on_note(THIRD, ready(30), now_s=0.75)
    effects = drain(machine)
    tokens = {FIRST: 10, SECOND: 20, THIRD: 30}
    assert isinstance(effects[0], Send)
    note = effects[0].note
    assert isinstance(note, Roster)
    assert note.members == tuple(Member(peer, tokens[peer]) for peer in sorted(tokens))
    assert effects[:2] == [Send(peer, note) for peer in sorted((SECOND, THIRD))]
    ours = note.peer_ids.index(FIRST)
    others = tuple(peer for peer in note.peer_ids if peer != FIRST)
    ref = BlobRef("part", fragment=0, exchange_id=note.exchange_id, part=ours)
    assert effects[2:] == [
        Offer(fragment=0, round=ROUND, exchange_id=note.exchange_id, terms=THREE, members=others),
        *(Fetch(peer, ref, THREE, tokens[peer]) for peer in others),
    ]
    assert machine.phase is Phase.EXCHANGING


def test_complete_before_we_depart_closes_at_our_departure() -> None:
    machine = machine_of(FIRST, SECOND)
    machine.on_note(SECOND, ready(), now_s=0.5)
    assert drain(machine) == []
    machine.on_departed(10, now_s=1.0)
    assert len(sent(machine, Roster)) == 1


def test_quorum_closes_after_grace_without_the_late_one() -> None:
    machine = machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(SECOND, ready(), now_s=1.0)
    machine.on_note(THIRD, ready(), now_s=2.0)
    for now_s in (3.0, 4.0, 4.9):
        for peer in (SECOND, THIRD):
            machine.on_note(peer, ready(), now_s=now_s)
        assert sent(machine, Roster) == []
    assert machine.next_deadline_s() is not None
    machine.on_timer(now_s=5.0)
    rosters = sent(machine, Roster)
    assert [dst for dst, _ in rosters] == sorted((SECOND, THIRD))


def test_no_quorum_waits_for_ever() -> None:
    machine = machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    for now_s in range(1, 60):
        machine.on_note(SECOND, ready(), now_s=float(now_s))
        machine.on_timer(now_s=float(now_s))
    assert machine.phase is Phase.READY


def test_the_second_takes_over_from_a_leader_that_does_not_close() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.on_departed(10, now_s=0.0)
    for peer in (FIRST, THIRD):
        machine.on_note(peer, ready(), now_s=0.5)
    assert sent(machine, Roster) == []
    machine.on_timer(now_s=2.499)
    assert sent(machine, Roster) == []
    machine.on_timer(now_s=2.5)
    assert len(sent(machine, Roster)) == 2


def test_a_silent_ready_is_forgotten() -> None:
    machine = machine_of(SECOND, FIRST, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(FIRST, ready(), now_s=0.0)
    machine.on_timer(now_s=3.5)
    assert FIRST not in machine.waiting_for()
    machine.on_timer(now_s=4.6)
    assert FIRST in machine.waiting_for()
    machine.on_note(THIRD, ready(), now_s=4.7)
    machine.on_timer(now_s=60.0)
    assert machine.phase is Phase.READY  # 2 of 4: the one that fell silent does not count


def test_a_swarm_of_one_steps_alone() -> None:
    machine = machine_of(FIRST)
    for round in range(ROUND, ROUND + 3):
        machine.on_departed(10, now_s=float(round))
        offer, reduce, land = drain(machine)
        assert isinstance(offer, Offer)
        assert isinstance(reduce, Reduce)
        assert land == Land(0, round, offer.exchange_id, Terms(), tokens=10)
        machine.on_landed(round + 1, NEW, now_s=float(round))
        assert drain(machine) == []
        assert (machine.phase, machine.next_deadline_s()) == (Phase.IDLE, None)


def test_the_last_one_left_goes_on_alone() -> None:
    machine = machine_of(FIRST, SECOND)
    machine.on_departed(10, now_s=0.0)
    assert machine.phase is Phase.READY
    machine.on_members((), left=(SECOND,), now_s=5.0)
    assert machine.phase is Phase.LANDING


def test_who_only_asks_where_we_are_has_not_left() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(THIRD, ready(0), now_s=0.25)
    machine.on_note(SECOND, ready(), now_s=0.5)
    assert machine.phase is Phase.READY  # THIRD trains, and is ready soon
    machine.on_note(THIRD, ready(20), now_s=0.75)
    ((_, closed), _) = sent(machine, Roster)
    assert isinstance(closed, Roster)
    assert set(closed.peer_ids) == {FIRST, SECOND, THIRD}


def test_who_has_landed_what_it_had_says_so_when_it_asks() -> None:
    machine = reducing()
    for index, peer in enumerate(sorted((FIRST, SECOND, THIRD))):
        machine.on_fetched(peer, average(index), now_s=3.0)
    machine.on_landed(ROUND + 1, NEW, now_s=3.5)
    drain(machine)
    machine.on_note(THIRD, ready(round=ROUND + 2, digest=ELSE), now_s=4.0)
    assert drain(machine) == [Send(THIRD, ready(0, round=ROUND + 1, digest=NEW))]
    machine.on_departed(30, now_s=5.0)
    assert {note for _, note in sent(machine, Ready)} == {ready(30, round=ROUND + 1, digest=NEW)}


def test_a_peer_without_tokens_is_no_candidate() -> None:
    machine = machine_of(FIRST, SECOND)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(SECOND, ready(0), now_s=0.5)
    machine.on_timer(now_s=60.0)
    assert machine.phase is Phase.READY


@pytest.mark.parametrize(
    ("src", "note"),
    [
        (FIRST, roster(FIRST, SECOND, round=ROUND + 1)),
        (FIRST, roster(FIRST, SECOND, round=ROUND - 1)),
        (FIRST, roster(FIRST, THIRD)),
        (FIRST, roster(SECOND, THIRD)),
        (FIRST, Propose(0, ROUND, 10, ID)),
        (FIRST, Answer(0, ID, True, 10)),
    ],
    ids=["next round", "last round", "without us", "not the sender's", "propose", "answer"],
)
def test_a_roster_that_is_not_for_us(src: PeerId, note: Note) -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.on_departed(10, now_s=0.0)
    drain(machine)
    machine.on_note(src, note, now_s=1.0)
    assert drain(machine) == []
    assert machine.phase is Phase.READY


def test_idle_is_in_no_roster() -> None:
    machine = machine_of(SECOND, FIRST)
    machine.on_note(FIRST, roster(FIRST, SECOND), now_s=1.0)
    assert drain(machine) == []
    assert machine.phase is Phase.IDLE


def test_of_two_rosters_the_smaller_one_is_refused_with_the_larger() -> None:
    machine = exchanging()
    machine.on_note(THIRD, roster(SECOND, THIRD, id=ID2), now_s=1.5)
    assert drain(machine) == [Send(THIRD, roster(FIRST, SECOND, THIRD))]
    machine.on_note(THIRD, ready(), now_s=1.6)
    assert sent(machine, Roster) == [(THIRD, roster(FIRST, SECOND, THIRD))]


@pytest.mark.parametrize("members", [PEERS, (FIRST, SECOND, THIRD)], ids=["larger", "of its size"])
def test_of_two_rosters_the_larger_one_is_entered(members: tuple[PeerId, ...]) -> None:
    machine = exchanging()
    machine.on_members((FIRST, THIRD, FOURTH), now_s=1.4)
    drain(machine)
    machine.on_note(THIRD, roster(*members, id=ID2), now_s=1.5)
    effects = drain(machine)
    assert effects[0] == Discard(0, ID)
    assert Send(FIRST, roster(*members, id=ID2)) in effects  # who may not know of it yet
    assert [effect.exchange_id for effect in effects if isinstance(effect, Offer)] == [ID2]
    machine.on_note(FIRST, roster(FIRST, SECOND, THIRD), now_s=1.6)  # the first again, or late
    assert drain(machine) == []


def test_rosters_of_strangers_are_not_entered_and_nobody_makes_us_move_for_ever() -> None:
    machine = exchanging()
    machine.on_note(THIRD, roster(*PEERS, PeerId("phantom"), id=ID2), now_s=1.5)
    assert drain(machine) == []
    offers = 0
    for number in range(100):
        id = bytes([255 - 50 + number // 2, number]) * 8
        machine.on_note(THIRD, roster(FIRST, SECOND, THIRD, id=id), now_s=1.6)
        offers += sum(isinstance(effect, Offer) for effect in drain(machine))
    assert offers <= 3


def test_a_latecomers_larger_roster_does_not_break_up_ours() -> None:
    machine = exchanging()
    machine.on_note(FOURTH, roster(*PEERS, id=ID2), now_s=1.5)
    assert drain(machine) == []


def test_a_latecomer_closes_no_roster_of_those_who_have_fallen_silent() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    for peer in (SECOND, THIRD):
        machine.on_note(peer, ready(), now_s=1.0)
    drain(machine)
    machine.on_departed(10, now_s=3.0)
    assert sent(machine, Roster) == []
    for peer in (SECOND, THIRD):
        machine.on_note(peer, ready(), now_s=3.5)
    assert len(sent(machine, Roster)) == 2


def test_once_we_have_reduced_another_roster_comes_too_late() -> None:
    machine = reducing()
    machine.on_note(THIRD, roster(*PEERS, id=ID2), now_s=2.5)
    assert drain(machine) == []
    assert machine.phase is Phase.EXCHANGING


def test_the_roster_is_sent_again_to_a_member_whose_ready_repeats_and_to_no_other() -> None:
    machine = exchanging()
    machine.on_note(FOURTH, ready(), now_s=1.5)
    assert drain(machine) == []
    machine.on_note(THIRD, ready(), now_s=1.5)
    assert drain(machine) == [Send(THIRD, roster(FIRST, SECOND, THIRD))]


def test_a_member_that_has_nothing_for_us_is_told_that_it_is_in_the_roster() -> None:
    machine = exchanging()
    ours = sorted((FIRST, SECOND, THIRD)).index(SECOND)
    machine.on_fetch_failed(THIRD, part(ours), failure=Failure.ABSENT, now_s=2.0)
    assert drain(machine) == [Send(THIRD, roster(FIRST, SECOND, THIRD))]
    machine.on_fetch_failed(FIRST, part(ours), failure=Failure.BROKEN, now_s=2.0)
    assert drain(machine) == []


# ---- the exchange


def test_exchanging_landing_idle() -> None:
    machine = reducing()
    ours = sorted((FIRST, SECOND, THIRD)).index(SECOND)
    for index, peer in enumerate(sorted((FIRST, SECOND, THIRD))):
        if index != ours:
            assert machine.phase is Phase.EXCHANGING
            machine.on_fetched(peer, average(index), now_s=3.0)
    members = tuple(Member(peer, 10) for peer in sorted((FIRST, THIRD)))
    assert drain(machine) == [Land(0, ROUND, ID, THREE, tokens=30, members=members)]
    assert (machine.phase, machine.next_deadline_s()) == (Phase.LANDING, None)
    machine.on_landed(ROUND + 1, NEW, now_s=3.5)
    assert drain(machine) == [Send(peer, committed()) for peer in sorted((FIRST, THIRD))]
    assert (machine.phase, machine.round) == (Phase.IDLE, ROUND + 1)


def test_a_departure_while_the_snapshot_is_in_use_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        exchanging().on_departed(10, now_s=2.0)


def test_a_failed_attempt_is_given_up_and_never_entered_again() -> None:
    machine = exchanging()
    fail(machine)
    assert drain(machine)[0] == Discard(0, ID)
    assert machine.phase is Phase.READY
    # Both are dead to us until they speak again.
    assert set(machine.waiting_for()) == {FIRST, THIRD}
    machine.on_note(FIRST, roster(FIRST, SECOND, THIRD), now_s=22.0)
    assert machine.phase is Phase.READY
    machine.on_note(FIRST, roster(FIRST, SECOND, THIRD, id=ID2), now_s=23.0)
    assert machine.phase is Phase.EXCHANGING
    # What still comes of the first one is not for the second.
    ours = sorted((FIRST, SECOND, THIRD)).index(SECOND)
    drain(machine)
    for peer in (FIRST, THIRD):
        machine.on_fetched(peer, part(ours), now_s=23.5)
        machine.on_fetch_failed(peer, part(ours), failure=Failure.BROKEN, now_s=23.5)
    assert drain(machine) == []


def test_after_a_failed_attempt_nobody_is_ready_who_does_not_say_so_anew() -> None:
    """Else all whose attempt fails together would close a roster of their own at once."""
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=1.0)
    for peer in (SECOND, THIRD):
        machine.on_note(peer, ready(), now_s=1.0)
    assert machine.phase is Phase.EXCHANGING
    (first, *_) = (effect for effect in drain(machine) if isinstance(effect, Offer))
    ours = sorted((FIRST, SECOND, THIRD)).index(FIRST)
    for _ in range(MAX_VAIN_TRIES):
        for peer in (SECOND, THIRD):
            machine.on_fetch_failed(
                peer, part(ours, first.exchange_id), failure=Failure.ABSENT, now_s=2.0
            )
        machine.on_timer(now_s=3.0)
    assert machine.phase is Phase.READY
    assert set(machine.waiting_for()) == {SECOND, THIRD}
    drain(machine)
    machine.on_timer(now_s=3.1)
    assert sent(machine, Roster) == []


def test_a_dead_reducer_whose_average_another_has() -> None:
    machine = reducing()
    members = sorted((FIRST, SECOND, THIRD))
    dead, alive = members.index(FIRST), members.index(THIRD)
    machine.on_fetched(THIRD, average(alive), now_s=2.5)
    for now_s in (3.0, 4.0):
        machine.on_fetch_failed(FIRST, average(dead), failure=Failure.BROKEN, now_s=now_s)
        drain(machine)
        machine.on_timer(now_s=now_s + 0.25)
    assert drain(machine) == [Fetch(THIRD, average(dead), THREE)]
    machine.on_fetched(THIRD, average(dead), now_s=5.0)
    (land,) = drain(machine)
    assert isinstance(land, Land)
    assert {member.peer_id for member in land.members} == {FIRST, THIRD}  # both brought their part


def test_an_attempt_that_the_dead_reducer_spoils_is_followed_by_one_without_it() -> None:
    machine = reducing()
    members = sorted((FIRST, SECOND, THIRD))
    dead = members.index(FIRST)
    broken, absent = (FIRST, Failure.BROKEN), (THIRD, Failure.ABSENT)
    for src, failure in (broken, broken, absent, absent):
        machine.on_fetch_failed(src, average(dead), failure=failure, now_s=3.0)
        machine.on_timer(now_s=3.25)
    assert machine.phase is Phase.READY
    drain(machine)
    assert FIRST in machine.waiting_for()
    machine.on_note(THIRD, ready(), now_s=4.0)
    machine.on_timer(now_s=7.0)  # grace, and we are the first that is ready
    (roster_sent,) = sent(machine, Roster)
    assert roster_sent[0] == THIRD


def test_a_member_that_hears_that_its_exchange_was_committed_asks_there() -> None:
    machine = reducing()
    members = sorted((FIRST, SECOND, THIRD))
    machine.on_fetched(THIRD, average(members.index(THIRD)), now_s=2.5)
    machine.on_note(FOURTH, committed(), now_s=2.6)
    for now_s in (3.0, 4.0, 5.0, 6.0):
        for src in (FIRST, THIRD):
            machine.on_fetch_failed(
                src, average(members.index(FIRST)), failure=Failure.BROKEN, now_s=now_s
            )
        machine.on_timer(now_s=now_s + 0.25)
    assert drain(machine)[-1] == Fetch(FOURTH, average(members.index(FIRST)), THREE)


# ---- others are ahead


@pytest.mark.parametrize("is_ready", [False, True], ids=["idle", "ready"])
def test_a_listener_replays(is_ready: bool) -> None:
    machine = machine_of(FOURTH, FIRST)
    if is_ready:
        machine.on_departed(10, now_s=0.0)
        drain(machine)
    machine.on_note(FIRST, committed(), now_s=1.0)
    assert drain(machine) == [Fetch(FIRST, average(index), THREE) for index in range(3)]
    assert machine.is_using_snapshot
    for index in range(3):
        machine.on_fetched(FIRST, average(index), now_s=2.0)
    assert drain(machine) == [Land(0, ROUND, ID, THREE, rebase_on_anchor=True, tokens=30)]
    machine.on_landed(ROUND + 1, NEW, now_s=3.0)
    assert sent(machine, Committed) == [(FIRST, committed())]  # it can be asked in turn
    assert machine.phase is Phase.IDLE


def test_a_replay_with_another_result_than_announced_fetches_the_state() -> None:
    machine = machine_of(FOURTH, FIRST)
    machine.on_note(FIRST, committed(), now_s=1.0)
    for index in range(3):
        machine.on_fetched(FIRST, average(index), now_s=2.0)
    drain(machine)
    machine.on_landed(ROUND + 1, ELSE, now_s=3.0)
    assert drain(machine) == []  # nobody hears of it before it is known whose anchor counts
    machine.on_note(FIRST, ready(round=ROUND + 1, digest=NEW), now_s=3.5)
    assert drain(machine) == []
    machine.on_note(FIRST, ready(round=ROUND + 1, digest=NEW), now_s=5.0)
    assert drain(machine) == [catch_up(FIRST)]
    machine.on_caught_up(ROUND + 1, NEW, now_s=6.0)
    assert (machine.phase, machine.anchor_digest) == (Phase.IDLE, NEW)


def test_a_replay_that_fails_fetches_the_state() -> None:
    machine = machine_of(FOURTH, FIRST)
    machine.on_note(FIRST, committed(), now_s=1.0)
    fail(machine)
    effects = drain(machine)
    assert effects[-2:] == [Discard(0, ID), catch_up(FIRST)]
    assert (machine.phase, machine.next_deadline_s()) == (Phase.CATCHING_UP, None)


def test_a_member_leaves_its_attempt_for_what_others_committed() -> None:
    machine = exchanging(ID2)
    machine.on_note(THIRD, committed(), now_s=2.0)
    assert drain(machine) == [
        Discard(0, ID2),
        *(Fetch(THIRD, average(index), THREE) for index in range(3)),
    ]


@pytest.mark.parametrize(
    "note",
    [committed(ROUND + 2), committed(ROUND + 1, id=b""), committed(ROUND + 9, id=b"")],
    ids=["two rounds", "no averages", "many rounds"],
)
def test_more_than_a_replay_can_do_is_a_catch_up(note: Committed) -> None:
    machine = machine_of(FOURTH, FIRST)
    machine.on_note(FIRST, note, now_s=1.0)
    machine.on_timer(now_s=2.0)
    assert drain(machine)[-1] == catch_up(FIRST)
    machine.on_caught_up(note.round, note.anchor_digest, now_s=3.0)
    assert (machine.phase, machine.round) == (Phase.IDLE, note.round)
    assert machine.next_deadline_s() is None


@pytest.mark.parametrize("round", [ROUND + 2, ROUND + 9])
@pytest.mark.parametrize("is_ready", [False, True], ids=["idle", "ready"])
def test_who_hears_of_a_far_round_asks_all_for_replays_and_waits_before_it_compares(
    is_ready: bool, round: int
) -> None:
    machine = machine_of(SECOND, FIRST, THIRD, FOURTH)
    if is_ready:
        machine.on_departed(10, now_s=0.5)
        drain(machine)
    phase = machine.phase
    machine.on_note(FIRST, committed(round), now_s=1.0)
    question = ready(10 if is_ready else 0)
    assert drain(machine) == [Send(peer, question) for peer in sorted((FIRST, THIRD, FOURTH))]
    # Neither the same news again nor that of others makes it ask or wait anew.
    machine.on_note(THIRD, committed(round), now_s=1.25)
    machine.on_note(FIRST, committed(round), now_s=1.4)
    assert drain(machine) == []
    machine.on_timer(now_s=1.45)
    assert drain(machine) == []
    assert machine.phase is phase
    due_s = machine.next_deadline_s()
    assert due_s is not None
    assert due_s <= 2.0
    machine.on_timer(now_s=2.0)
    assert [effect for effect in drain(machine) if not isinstance(effect, Send)] == [
        catch_up(FIRST, our_camp=3)
    ]
    assert (machine.phase, machine.next_deadline_s()) == (Phase.CATCHING_UP, None)


def test_the_news_itself_compares_if_the_timer_is_late() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.on_note(FIRST, committed(ROUND + 2), now_s=1.0)
    drain(machine)
    machine.on_note(THIRD, committed(ROUND + 2), now_s=2.5)
    assert drain(machine) == [catch_up(THIRD, our_camp=2)]


def test_a_replay_that_comes_in_time_makes_a_state_needless() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.on_note(FIRST, committed(ROUND + 2, id=ID2, base=NEW), now_s=1.0)
    drain(machine)
    machine.on_note(THIRD, committed(), now_s=1.5)
    assert drain(machine) == [Fetch(THIRD, average(index), THREE) for index in range(3)]
    machine.on_timer(now_s=2.0)
    for index in range(3):
        machine.on_fetched(THIRD, average(index), now_s=2.5)
    machine.on_landed(ROUND + 1, NEW, now_s=3.0)
    assert not [effect for effect in drain(machine) if isinstance(effect, CatchUp)]
    assert (machine.phase, machine.next_deadline_s()) == (Phase.IDLE, None)
    machine.on_timer(now_s=60.0)
    assert drain(machine) == []
    # Of what comes next it hears as before.
    machine.on_note(FIRST, committed(ROUND + 2, id=ID2, base=NEW), now_s=61.0)
    assert drain(machine) == [Fetch(FIRST, average(index, ID2), THREE) for index in range(3)]


def test_each_round_that_it_comes_nearer_it_waits_for_replays_anew() -> None:
    machine = machine_of(SECOND, FIRST)
    machine.on_note(FIRST, committed(ROUND + 9, digest=ELSE, id=ID2, base=NEW), now_s=1.0)
    machine.on_note(FIRST, committed(), now_s=1.5)
    for index in range(3):
        machine.on_fetched(FIRST, average(index), now_s=5.0)
    machine.on_landed(ROUND + 1, NEW, now_s=6.0)
    drain(machine)
    machine.on_note(FIRST, committed(ROUND + 9, digest=ELSE, id=ID2, base=ELSE), now_s=7.0)
    assert drain(machine) == [Send(FIRST, ready(0, round=ROUND + 1, digest=NEW))]
    machine.on_timer(now_s=7.9)
    assert drain(machine) == []
    machine.on_timer(now_s=8.0)
    assert drain(machine) == [catch_up(FIRST)]


def test_an_exchange_that_begins_meanwhile_is_not_broken_off_for_a_state() -> None:
    machine = machine_of(SECOND, FIRST, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.5)
    machine.on_note(FOURTH, committed(ROUND + 9, digest=ELSE), now_s=1.0)
    machine.on_note(FIRST, roster(FIRST, SECOND, THIRD), now_s=1.5)
    drain(machine)
    machine.on_timer(now_s=2.5)
    assert machine.phase is Phase.EXCHANGING
    fail(machine)
    machine.on_timer(now_s=60.0)
    assert drain(machine)[-1].__class__ is CatchUp  # nor is it forgotten


@pytest.mark.parametrize(
    "note", [committed(ROUND - 1), committed(ROUND, digest=OLD)], ids=["old", "ours"]
)
def test_old_commits_are_no_news(note: Committed) -> None:
    machine = machine_of(FOURTH, FIRST)
    machine.on_note(FIRST, note, now_s=1.0)
    assert machine.drain() == []
    assert machine.phase is Phase.IDLE


@pytest.mark.parametrize("id", [ID, b""], ids=["landed", "come some other way"])
def test_another_anchor_of_our_round_is_compared_even_if_nobody_there_is_ready(id: bytes) -> None:
    machine = machine_of(FOURTH, FIRST, SECOND)
    machine.on_note(FIRST, committed(ROUND, id=id), now_s=1.0)
    (tell,) = machine.drain()
    assert isinstance(tell, Tell)
    assert (tell.event, tell.fields["partners"]) == ("anchor_differs", [FIRST])
    assert machine.phase is Phase.IDLE
    machine.on_note(SECOND, committed(ROUND, id=id), now_s=3.0)
    assert drain(machine) == [catch_up(SECOND, our_camp=2)]


def test_who_is_ready_for_an_old_round_hears_where_we_are() -> None:
    machine = machine_of(SECOND, FIRST)
    machine.on_note(FIRST, committed(), now_s=1.0)
    for index in range(3):
        machine.on_fetched(FIRST, average(index), now_s=2.0)
    machine.lineage = knowing(ROUND - 1, ELSE).landed(ROUND, OLD, 30)
    machine.on_landed(ROUND + 1, NEW, now_s=3.0)
    drain(machine)
    for round, digest in ((ROUND, OLD), (ROUND - 1, ELSE)):  # one and two rounds to catch up
        machine.on_note(THIRD, ready(round=round, digest=digest), now_s=4.0)
        assert drain(machine) == [Send(THIRD, committed())]
    assert machine.phase is Phase.IDLE


@pytest.mark.parametrize("rounds", [1, 2, 9])
@pytest.mark.parametrize("is_ready", [False, True], ids=["idle", "ready"])
def test_one_who_is_ahead_is_told_where_we_are(is_ready: bool, rounds: int) -> None:
    """It answers with what comes next, as far as it still has it."""
    machine = machine_of(SECOND, FIRST)
    if is_ready:
        machine.on_departed(10, now_s=0.0)
        drain(machine)
    phase = machine.phase
    machine.on_note(FIRST, ready(round=ROUND + rounds, digest=NEW), now_s=1.0)
    (effect,) = drain(machine)
    assert isinstance(effect, Send)
    assert isinstance(effect.note, Ready)
    assert (effect.dst, effect.note.round) == (FIRST, ROUND)
    assert machine.phase is phase


def test_what_was_heard_during_an_exchange_is_asked_for_after_it() -> None:
    machine = reducing()
    machine.on_note(FOURTH, ready(round=ROUND + 2, digest=ELSE), now_s=2.5)
    assert drain(machine) == []
    for index, peer in enumerate(sorted((FIRST, SECOND, THIRD))):
        machine.on_fetched(peer, average(index), now_s=3.0)
    drain(machine)
    machine.on_landed(ROUND + 1, NEW, now_s=4.0)
    assert Send(FOURTH, ready(0, round=ROUND + 1, digest=NEW)) in drain(machine)


def test_a_dead_peer_that_was_ahead_is_asked_once() -> None:
    """It was ahead when it died: were it asked again after each failure, we would never return."""
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.on_note(FIRST, ready(round=ROUND + 2, digest=NEW), now_s=1.0)
    drain(machine)
    machine.on_note(FIRST, committed(ROUND + 2), now_s=1.0)
    machine.on_timer(now_s=2.0)
    assert drain(machine)[-1] == catch_up(FIRST, our_camp=2)
    machine.on_caught_up(ROUND, OLD, now_s=3.0)
    assert drain(machine) == []
    assert machine.phase is Phase.IDLE
    assert machine.next_deadline_s() is None
    machine.on_timer(now_s=4.0)
    machine.on_departed(10, now_s=4.0)
    assert machine.phase is Phase.READY


def test_if_the_first_that_is_ahead_is_dead_the_next_is_asked() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.on_note(FIRST, committed(ROUND + 2), now_s=1.0)
    machine.on_timer(now_s=2.0)
    assert drain(machine)[-1] == catch_up(FIRST, our_camp=2)
    machine.on_note(THIRD, ready(round=ROUND + 2, digest=NEW), now_s=2.25)
    assert drain(machine) == []
    machine.on_caught_up(ROUND, OLD, now_s=2.5)
    ((dst, note),) = sent(machine, Ready)
    assert isinstance(note, Ready)
    assert (dst, note.round) == (THIRD, ROUND)
    machine.on_note(THIRD, committed(ROUND + 2), now_s=3.0)
    assert drain(machine) == [catch_up(THIRD, our_camp=2)]


@pytest.mark.parametrize("way", ["failed, then caught up in vain", "left for a replay in vain"])
def test_an_attempt_stays_given_up_until_the_round_ends(way: str) -> None:
    """A reducer that entered it twice could hand out two different averages of one part."""
    machine = exchanging()
    if way.startswith("failed"):
        fail(machine)
        machine.on_note(THIRD, committed(ROUND + 2), now_s=25.0)
    else:
        machine.on_note(THIRD, committed(id=ID2), now_s=2.0)
        fail(machine)
    machine.on_caught_up(ROUND, OLD, now_s=40.0)
    machine.on_departed(10, now_s=41.0)
    machine.on_note(FIRST, roster(FIRST, SECOND, THIRD), now_s=42.0)
    assert machine.phase is Phase.READY


# ---- equal rounds, unequal anchors


def test_the_camps_are_counted_when_all_had_time_to_say_where_they_are() -> None:
    machine = machine_of(THIRD, FIRST, SECOND, FOURTH)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(FIRST, ready(digest=NEW), now_s=0.5)
    machine.on_note(SECOND, ready(digest=NEW), now_s=1.0)
    machine.on_note(FOURTH, ready(), now_s=1.5)
    machine.on_note(FIRST, ready(digest=NEW), now_s=2.4)
    assert machine.phase is Phase.READY
    drain(machine)
    machine.on_note(SECOND, ready(digest=NEW), now_s=2.5)
    assert drain(machine) == [catch_up(SECOND, FIRST, our_camp=2, their_camp=2)]
    assert machine.phase is Phase.CATCHING_UP


@pytest.mark.parametrize("theirs", [b"a" * 32, b"z" * 32])
def test_an_anchor_is_compared_once_in_a_while_and_ours_may_stay(theirs: bytes) -> None:
    machine = machine_of(FIRST, SECOND)
    machine.on_departed(10, now_s=0.0)
    compared_at_s = []
    for tick in range(1, 40):
        now_s = tick * 0.25
        machine.on_note(SECOND, ready(digest=theirs), now_s=now_s)
        if machine.phase is Phase.CATCHING_UP:
            compared_at_s.append(now_s)
            machine.on_kept(now_s=now_s)
            machine.on_departed(10, now_s=now_s)
    assert compared_at_s == [2.25, 2.25 + JUDGED_S]
    assert (machine.phase, machine.anchor_digest) == (Phase.READY, OLD)


def test_who_keeps_its_anchor_says_so_to_those_who_are_at_the_other_one() -> None:
    """They are to follow. The others are where we are, and need not hear it."""
    machine = machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_note(THIRD, ready(), now_s=0.0)
    for now_s in (0.0, 2.0):
        for peer in (SECOND, FOURTH):
            machine.on_note(peer, ready(digest=NEW), now_s=now_s)
    assert machine.phase is Phase.CATCHING_UP
    drain(machine)
    machine.on_kept(now_s=3.0)
    plain = committed(ROUND, digest=OLD, id=b"")
    told = sent(machine, Committed)
    assert sorted(told, key=str) == [(peer, plain) for peer in sorted((SECOND, FOURTH))]
    assert machine.phase is Phase.IDLE


def test_another_anchor_of_our_round_has_no_exchange_that_could_be_replayed() -> None:
    machine = reducing()
    for index, peer in enumerate(sorted((FIRST, SECOND, THIRD))):
        machine.on_fetched(peer, average(index), now_s=3.0)
    machine.lineage = knowing()
    machine.on_landed(ROUND + 1, NEW, now_s=4.0)
    for now_s in (5.0, 7.0):
        for peer in (FIRST, THIRD):
            machine.on_note(peer, ready(round=ROUND + 1, digest=ELSE), now_s=now_s)
    assert catch_up(FIRST, THIRD, their_camp=2) in drain(machine)
    assert machine.phase is Phase.CATCHING_UP
    machine.on_caught_up(ROUND + 1, ELSE, now_s=8.0)
    drain(machine)
    machine.on_note(FOURTH, ready(), now_s=9.0)
    assert drain(machine) == [Send(FOURTH, committed(digest=ELSE, id=b""))]


# ---- peers that cannot be reached


def test_nothing_waits_for_who_cannot_be_reached() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(SECOND, ready(), now_s=0.5)
    drain(machine)
    machine.on_unreachable(THIRD, now_s=0.75)  # without this it would wait for grace_s
    ((_, closed),) = sent(machine, Roster)
    assert isinstance(closed, Roster)
    assert set(closed.peer_ids) == {FIRST, SECOND}


def test_who_cannot_be_reached_still_counts_for_the_quorum() -> None:
    machine = machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(SECOND, ready(), now_s=0.5)
    for peer in (THIRD, FOURTH):
        machine.on_unreachable(peer, now_s=0.75)
    machine.on_timer(now_s=100.0)
    assert machine.phase is Phase.READY  # two of four are no majority


def test_who_is_known_to_be_gone_does_not_count_for_the_quorum() -> None:
    machine = machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(SECOND, ready(), now_s=0.5)
    machine.on_unreachable(THIRD, is_gone=True, now_s=0.75)
    assert machine.phase is Phase.READY  # it still waits for FOURTH, who may live
    machine.on_unreachable(FOURTH, is_gone=True, now_s=1.0)
    ((_, closed),) = sent(machine, Roster)
    assert isinstance(closed, Roster)
    assert set(closed.peer_ids) == {FIRST, SECOND}


def test_who_was_only_unreachable_and_then_is_gone_does_not_count_either() -> None:
    machine = machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    for is_gone in (False, True):
        machine.on_note(SECOND, ready(), now_s=1.0)
        for peer in (THIRD, FOURTH):
            machine.on_unreachable(peer, is_gone=is_gone, now_s=1.0)
        machine.on_timer(now_s=1.0)
        assert (machine.phase is Phase.EXCHANGING) is is_gone


def test_who_was_gone_and_speaks_counts_again() -> None:
    machine = machine_of(FIRST, SECOND, THIRD, FOURTH)
    machine.on_departed(10, now_s=0.0)
    for peer in (THIRD, FOURTH):
        machine.on_unreachable(peer, is_gone=True, now_s=0.25)
        machine.on_note(peer, committed(ROUND, digest=OLD), now_s=0.5)  # anything at all
    for tick in range(1, 60):
        machine.on_note(SECOND, ready(), now_s=float(tick))
        machine.on_timer(now_s=float(tick))
    assert machine.phase is Phase.READY  # two of four are no majority


def test_an_average_needs_no_quorum_of_those_who_were_gone_when_its_roster_closed() -> None:
    """FIRST dies in the exchange: of three who live two are left, of five two would not do."""
    machine = machine_of(SECOND, FIRST, THIRD, FOURTH, PeerId("e"))
    machine.on_departed(10, now_s=0.0)
    for peer in (FOURTH, PeerId("e")):
        machine.on_unreachable(peer, is_gone=True, now_s=0.5)
    machine.on_note(FIRST, roster(FIRST, SECOND, THIRD), now_s=1.0)
    drain(machine)
    ours = sorted((FIRST, SECOND, THIRD)).index(SECOND)
    machine.on_fetched(THIRD, part(ours), now_s=2.0)
    for now_s in (2.0, 2.5, 3.0):
        machine.on_fetch_failed(FIRST, part(ours), failure=Failure.BROKEN, now_s=now_s)
        machine.on_timer(now_s=now_s + 0.25)
    assert [effect for effect in drain(machine) if isinstance(effect, Reduce)]
    assert machine.phase is Phase.EXCHANGING


def test_who_speaks_again_is_waited_for_again() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_unreachable(THIRD, now_s=0.0)
    machine.on_note(THIRD, committed(ROUND), now_s=0.1)  # anything at all
    machine.on_departed(10, now_s=0.5)
    machine.on_note(SECOND, ready(), now_s=0.75)
    assert machine.phase is Phase.READY
    machine.on_note(THIRD, ready(), now_s=1.0)
    assert machine.phase is Phase.EXCHANGING


def test_the_average_of_a_dead_reducer_is_not_asked_for_for_long() -> None:
    machine = exchanging()
    ours, dead = (sorted((FIRST, SECOND, THIRD)).index(peer) for peer in (SECOND, THIRD))
    for now_s in (1.0, 1.5):
        machine.on_timer(now_s=now_s)
        machine.on_fetch_failed(THIRD, part(ours), failure=Failure.BROKEN, now_s=now_s)
    machine.on_fetched(FIRST, part(ours), now_s=2.0)
    machine.on_fetched(FIRST, average(sorted((FIRST, SECOND, THIRD)).index(FIRST)), now_s=2.0)
    for now_s in (3.0, 3.25):
        machine.on_timer(now_s=now_s)
        assert machine.phase is Phase.EXCHANGING
        machine.on_fetch_failed(FIRST, average(dead), failure=Failure.ABSENT, now_s=now_s)
    assert machine.phase is Phase.READY


def test_nobody_replays_the_exchange_that_it_has_just_landed() -> None:
    """A member could name it as the way to the next round; every member knows its id."""
    machine = reducing()
    for index, peer in enumerate(sorted((FIRST, SECOND, THIRD))):
        if peer != SECOND:
            machine.on_fetched(peer, average(index), now_s=3.0)
    machine.on_landed(ROUND + 1, NEW, now_s=3.5)
    drain(machine)
    machine.on_note(THIRD, committed(ROUND + 2, id=ID, base=NEW), now_s=4.0)
    assert machine.drain() == []
    assert (machine.phase, machine.round) == (Phase.IDLE, ROUND + 1)
