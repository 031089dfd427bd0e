"""Every arrow of `protocol.circle_exchange`, one event at a time. We are `m`, of groups of three.

Whole swarms of them are in `test_circles_in_time`.
"""

import pytest

from protocol.circle import PATIENCE
from protocol.circle_exchange import CircleExchange
from protocol.errors import LocalProtocolError
from protocol.exchange import ExchangeConfig, Failure, Phase
from protocol.gathering import MAX_READY, MAX_VAIN_TRIES
from protocol.identity import PeerId
from protocol.lottery import partner_order
from protocol.machine import BlobRef, Discard, Effect, Fetch, Land, Offer, Reduce, Send, Tell
from protocol.messages import Answer, Committed, Member, Propose, Roster
from protocol.shares import fair_shares
from protocol.shunning import SHUN_S
from protocol.terms import Terms

A, US, X, Y, Z = (PeerId(name) for name in "amxyz")
STRANGER = PeerId("stranger")
DIGEST = bytes(32)
SMALLEST, LARGEST = bytes(16), b"\xff" * 16
THEIRS = b"t" * 16
GRACE_S, EXCHANGE_S = 3.0, 20.0


def machine_of(*others: PeerId, size: int = 3) -> CircleExchange:
    config = ExchangeConfig(
        our_id=US,
        life="1",
        run_id="run",
        fragment=0,
        quorum_frac=0.5,
        grace_s=GRACE_S,
        exchange_s=EXCHANGE_S,
        num_codecs=3,
        group_size=size,
    )
    machine = CircleExchange(config, round=4, anchor_digest=DIGEST)
    machine.on_members(others, now_s=0.0)
    assert machine.drain() == []
    return machine


def drain(machine: CircleExchange) -> list[Effect]:
    return [effect for effect in machine.drain() if not isinstance(effect, Tell)]


def order(*others: PeerId) -> list[PeerId]:
    return list(partner_order(US, others, run_id="run", fragment=0, round=4))


def invitations(machine: CircleExchange) -> tuple[list[PeerId], bytes]:
    """Whom it invites, and nothing else, to which circle."""
    sent = drain(machine)
    proposals = [e.note for e in sent if isinstance(e, Send) and isinstance(e.note, Propose)]
    assert len(proposals) == len(sent)
    (exchange_id,) = {note.exchange_id for note in proposals}
    return [effect.dst for effect in sent if isinstance(effect, Send)], exchange_id


def ready(machine: CircleExchange, *, now_s: float = 0.0) -> bytes:
    machine.on_departed(10, now_s=now_s)
    return invitations(machine)[1]


def yes(exchange_id: bytes, tokens: int = 30, codec: int = 0) -> Answer:
    return Answer(0, exchange_id, True, tokens, codec)


def no(exchange_id: bytes, tokens: int = 10) -> Answer:
    return Answer(0, exchange_id, False, tokens)


def small(number: int) -> bytes:
    """An id for which everybody gives its own circle up."""
    return bytes(15) + bytes([number])


def roster_of(*peers: PeerId, exchange_id: bytes = THEIRS) -> Roster:
    members = tuple(Member(peer, 10 + place) for place, peer in enumerate(peers))
    return Roster(0, 9, exchange_id, members, (1,) * len(members))


def part(place: int, exchange_id: bytes = THEIRS) -> BlobRef:
    return BlobRef("part", 0, exchange_id, place)


def average(place: int, exchange_id: bytes = THEIRS) -> BlobRef:
    return BlobRef("average", 0, exchange_id, place)


def guest(*others: PeerId, host: PeerId = X, size: int = 3) -> CircleExchange:
    """Is a guest of `host` since 0.5 s; drained."""
    machine = machine_of(*others, size=size)
    machine.on_departed(10, now_s=0.0)
    machine.on_note(host, Propose(0, 9, 30, SMALLEST), now_s=0.5)
    assert Send(host, yes(SMALLEST, 10)) in drain(machine)
    return machine


def exchanging() -> CircleExchange:
    """Is in an exchange with `a` and `x` since 1 s; drained."""
    machine = guest(A, X, Z)
    machine.on_note(X, roster_of(A, US, X, exchange_id=SMALLEST), now_s=1.0)
    drain(machine)
    assert machine.phase is Phase.EXCHANGING
    return machine


def reduced() -> CircleExchange:
    machine = exchanging()
    for peer in (A, X):
        machine.on_fetched(peer, part(1, SMALLEST), now_s=2.0)
    drain(machine)
    return machine


# ---- as a host


def test_who_departs_invites_as_many_as_have_room_in_the_lotterys_order() -> None:
    machine = machine_of(A, X, Z)
    assert (machine.phase, machine.next_deadline_s(), machine.waiting_for()) == (
        *(Phase.IDLE, None, ()),
    )
    machine.on_departed(10, now_s=0.0)
    first, second, third = order(A, X, Z)
    invited, exchange_id = invitations(machine)
    assert invited == [first, second]
    assert machine.phase is Phase.READY
    assert machine.waiting_for() == (first, second)
    due_s = machine.next_deadline_s()
    assert due_s is not None
    assert 0.5 <= due_s < 1.5
    for peer in invited:
        machine.on_note(peer, no(exchange_id), now_s=0.1)
    assert drain(machine) == []  # no haste: most are not READY
    machine.on_timer(now_s=due_s)
    assert invitations(machine) == ([third], exchange_id)


def test_a_full_circle_closes_at_once() -> None:
    machine = machine_of(A, X, Z)
    exchange_id = ready(machine)
    first, second, third = order(A, X, Z)
    machine.on_note(first, yes(exchange_id, 20), now_s=0.1)
    assert drain(machine) == []  # the second has not answered yet
    machine.on_note(second, yes(exchange_id, 30, codec=2), now_s=0.2)
    tokens = {US: 10, first: 20, second: 30}
    peers = sorted(tokens)
    members = tuple(Member(peer, tokens[peer]) for peer in peers)
    roster = Roster(0, 4, exchange_id, members, (1, 1, 1), 2)
    ours, others = peers.index(US), tuple(peer for peer in peers if peer != US)
    assert drain(machine) == [
        *(Send(peer, roster) for peer in (first, second)),
        Offer(0, 4, exchange_id, Terms((1, 1, 1), 2), others),
        *(Fetch(p, part(ours, exchange_id), Terms((1, 1, 1), 2), tokens[p]) for p in others),
    ]
    assert machine.phase is Phase.EXCHANGING
    machine.on_note(third, yes(exchange_id), now_s=0.3)
    assert drain(machine) == [Send(third, no(exchange_id))]


def test_the_host_divides_the_work_by_what_everybody_can_send() -> None:
    machine = machine_of(A, X, Z, size=4)
    machine.up_bps = 4_000_000
    exchange_id = ready(machine)
    rates = {A: 1_000_000, US: 4_000_000, X: 2_000_000, Z: 0}
    for peer in (A, X, Z):
        machine.on_note(peer, Answer(0, exchange_id, True, 30, 0, rates[peer]), now_s=0.1)
    roster = next(effect.note for effect in drain(machine) if isinstance(effect, Send))
    assert isinstance(roster, Roster)
    assert roster.shares == fair_shares([rates[peer] for peer in roster.peer_ids])
    assert roster.shares[roster.peer_ids.index(US)] > roster.shares[roster.peer_ids.index(A)]


def test_a_guest_says_what_it_can_send_and_which_codec_suits_it() -> None:
    machine = machine_of(X)
    machine.up_bps, machine.wanted_codec = 5_000_000, 2
    machine.on_departed(10, now_s=0.0)
    machine.on_note(X, Propose(0, 9, 30, SMALLEST, 1), now_s=0.5)
    assert drain(machine)[-1] == Send(X, Answer(0, SMALLEST, True, 10, 2, 5_000_000))


def test_a_circle_stays_open_for_a_while_after_each_guest() -> None:
    machine = machine_of(A, X, Z, Y, PeerId("w"), size=4)
    exchange_id = ready(machine)
    machine.on_note(A, yes(exchange_id), now_s=1.0)
    machine.on_note(X, yes(exchange_id), now_s=3.0)
    machine.on_note(A, yes(exchange_id), now_s=3.5)  # says it again
    machine.on_timer(now_s=3.0 + GRACE_S - 0.01)
    assert machine.phase is Phase.READY
    machine.on_timer(now_s=3.0 + GRACE_S)
    assert machine.phase is Phase.EXCHANGING
    assert machine.waiting_for() == (A, X)


def test_a_circle_that_all_who_live_are_in_closes_at_once() -> None:
    machine = machine_of(A, X, size=8)
    exchange_id = ready(machine)
    machine.on_unreachable(A, now_s=0.1)
    machine.on_note(X, yes(exchange_id), now_s=0.2)
    assert machine.phase is Phase.EXCHANGING


def test_without_a_guest_no_circle_closes() -> None:
    machine = machine_of(X)
    exchange_id = ready(machine)
    machine.on_note(X, yes(exchange_id, 0), now_s=0.1)  # brings nothing
    machine.on_unreachable(X, now_s=0.2)
    for _ in range(30):
        due_s = machine.next_deadline_s()
        assert due_s is not None
        machine.on_timer(now_s=due_s)
    assert machine.phase is Phase.READY
    alone = machine_of()
    alone.on_departed(10, now_s=0.0)
    assert drain(alone) == []


def test_a_guest_that_leaves_is_not_waited_for() -> None:
    machine = machine_of(A, X, Z, Y, size=4)
    exchange_id = ready(machine)
    machine.on_note(A, yes(exchange_id), now_s=0.1)
    machine.on_note(A, no(exchange_id), now_s=0.2)
    machine.on_timer(now_s=10.0)
    assert machine.phase is Phase.READY
    machine.on_note(X, yes(exchange_id), now_s=10.1)
    machine.on_unreachable(X, now_s=10.2)
    machine.on_timer(now_s=20.0)
    assert machine.phase is Phase.READY


def test_whoever_asked_us_in_vain_is_invited_first() -> None:
    machine = machine_of(A, X, Z)
    *_, last = order(A, X, Z)
    machine.on_note(last, Propose(0, 4, 30, THEIRS), now_s=0.0)
    assert drain(machine) == [Send(last, no(THEIRS, 0))]  # nothing to give yet
    machine.on_departed(10, now_s=1.0)
    assert invitations(machine)[0][0] == last


def test_a_departure_while_ready_refreshes_what_we_bring() -> None:
    machine = machine_of(A, X)
    exchange_id = ready(machine)
    machine.on_departed(25, now_s=0.5)
    for peer in (A, X):
        machine.on_note(peer, yes(exchange_id), now_s=0.6)
    roster = next(e.note for e in drain(machine) if isinstance(e, Send))
    assert isinstance(roster, Roster)
    assert Member(US, 25) in roster.members


# ---- one host invites another


def test_a_host_without_guests_gives_way_to_the_smaller_id_and_invites_the_larger() -> None:
    machine = machine_of(A, X, Z)
    exchange_id = ready(machine)
    stranger = order(A, X, Z)[2]
    machine.on_note(stranger, Propose(0, 9, 30, LARGEST), now_s=0.1)
    assert drain(machine) == [Send(stranger, no(LARGEST))]  # both places are taken: later
    machine.on_note(order(A, X, Z)[0], no(exchange_id), now_s=0.2)
    assert invitations(machine) == ([stranger], exchange_id)
    machine.on_note(stranger, Propose(0, 9, 30, SMALLEST), now_s=0.3)
    assert drain(machine) == [Send(stranger, yes(SMALLEST, 10))]
    assert machine.waiting_for() == (stranger,)


def test_with_room_the_asker_is_invited_in_return_but_not_for_ever() -> None:
    machine = machine_of(A, X, size=4)
    machine.on_note(A, Committed(0, 1, DIGEST), now_s=0.0)
    exchange_id = ready(machine)
    for peer in (A, X):
        machine.on_note(peer, no(exchange_id), now_s=0.1)
    machine = machine_of(A, X, Z, size=8)
    exchange_id = ready(machine)
    machine.on_members((A, X, Z, Y), now_s=0.1)
    machine.on_note(Y, Propose(0, 9, 30, LARGEST), now_s=0.2)
    declines, invites = drain(machine)
    assert declines == Send(Y, no(LARGEST))
    assert invites == Send(Y, Propose(0, 4, 10, exchange_id))
    machine.on_note(Y, no(exchange_id), now_s=0.3)
    drain(machine)
    machine.on_note(A, yes(exchange_id), now_s=0.35)
    drain(machine)
    machine.on_note(Y, Propose(0, 9, 30, LARGEST), now_s=0.4)
    assert Send(Y, no(LARGEST)) in drain(machine)
    machine.on_note(Y, no(exchange_id), now_s=0.5)
    drain(machine)
    machine.on_note(Y, Propose(0, 9, 30, LARGEST), now_s=0.6)
    assert drain(machine) == [Send(Y, no(LARGEST))]


@pytest.mark.parametrize("is_first_to_decline", [True, False])
def test_a_host_gives_way_to_one_that_has_declined_it(is_first_to_decline: bool) -> None:
    machine = machine_of(A, X, Z)
    exchange_id = ready(machine)
    host = order(A, X, Z)[0]
    if is_first_to_decline:
        machine.on_note(host, no(exchange_id), now_s=0.1)
        drain(machine)
    machine.on_note(host, Propose(0, 9, 30, LARGEST), now_s=0.2)
    (answer,) = drain(machine)
    assert answer == Send(host, (yes if is_first_to_decline else no)(LARGEST, 10))


def test_the_dead_do_not_keep_the_living_apart() -> None:
    machine = machine_of(A, X, Z)
    ready(machine)
    machine.on_note(order(A, X, Z)[2], Propose(0, 9, 30, LARGEST), now_s=1.0)  # none has answered
    assert machine.waiting_for() == (order(A, X, Z)[2],)


def test_a_host_with_guests_stays() -> None:
    machine = machine_of(A, X, Z)
    exchange_id = ready(machine)
    first, second, _ = order(A, X, Z)
    machine.on_note(first, yes(exchange_id), now_s=0.1)
    machine.on_note(second, Propose(0, 9, 30, SMALLEST), now_s=0.2)
    assert drain(machine) == [Send(second, no(SMALLEST))]
    machine.on_note(second, yes(exchange_id), now_s=0.3)
    assert machine.phase is Phase.EXCHANGING


@pytest.mark.parametrize("tokens", [0, 30])
def test_who_brings_nothing_or_is_unknown_gets_no_guest(tokens: int) -> None:
    machine = machine_of(X)
    ready(machine)
    src = STRANGER if tokens else X
    machine.on_note(src, Propose(0, 9, tokens, SMALLEST), now_s=0.5)
    assert drain(machine) == [Send(src, no(SMALLEST))]


# ---- as a guest


def test_a_guest_repeats_its_yes_until_the_roster_comes() -> None:
    machine = guest(A, X, Z)
    assert machine.waiting_for() == (X,)
    for now_s in (1.5, 2.5, 3.5):
        assert machine.next_deadline_s() == now_s
        machine.on_timer(now_s=now_s)
        assert drain(machine) == [Send(X, yes(SMALLEST, 10))]
    roster = roster_of(A, US, X, exchange_id=SMALLEST)
    machine.on_note(X, roster, now_s=3.6)
    terms = Terms((1, 1, 1))
    assert drain(machine) == [
        Offer(0, 4, SMALLEST, terms, (A, X)),
        Fetch(A, part(1, SMALLEST), terms, 10),
        Fetch(X, part(1, SMALLEST), terms, 12),
    ]
    assert machine.next_deadline_s() == 3.6 + EXCHANGE_S
    machine.on_note(X, roster, now_s=3.7)
    assert drain(machine) == []


def test_a_guest_takes_the_roster_from_any_member() -> None:
    machine = guest(A, X, Z)
    machine.on_note(A, roster_of(A, US, X, exchange_id=SMALLEST), now_s=1.0)
    assert machine.phase is Phase.EXCHANGING


@pytest.mark.parametrize("ends", ["declined", "unreachable", "silent"])
def test_a_guest_whose_host_is_gone_is_ready_again(ends: str) -> None:
    machine = guest(A, X, Z)
    now_s = 1.0
    if ends == "declined":
        machine.on_note(X, no(SMALLEST), now_s=now_s)
    elif ends == "unreachable":
        machine.on_unreachable(X, now_s=now_s)
    else:
        now_s = 0.5 + 2 * GRACE_S + PATIENCE
        machine.on_timer(now_s=now_s - 0.01)
        drain(machine)
        machine.on_timer(now_s=now_s)
    effects = drain(machine)
    assert (Send(X, no(SMALLEST)) in effects) == (ends == "silent")
    assert any(isinstance(e, Send) and isinstance(e.note, Propose) for e in effects)
    assert machine.phase is Phase.READY
    machine.on_note(X, roster_of(A, US, X, exchange_id=SMALLEST), now_s=now_s)
    assert drain(machine) == [Send(X, no(SMALLEST))]  # they need not wait for us
    assert machine.phase is Phase.READY


def test_a_guest_belongs_to_one_circle_but_its_host_may_begin_anew() -> None:
    machine = guest(A, X, Z)
    machine.on_note(A, Propose(0, 9, 30, THEIRS), now_s=0.6)
    assert drain(machine) == [Send(A, no(THEIRS))]
    machine.on_note(X, Propose(0, 9, 30, SMALLEST), now_s=0.7)
    assert drain(machine) == [Send(X, yes(SMALLEST, 10))]  # our answer may have been lost
    machine.on_note(X, Propose(0, 9, 30, LARGEST), now_s=0.8)
    assert drain(machine) == [Send(X, yes(LARGEST, 10))]


@pytest.mark.parametrize(
    ("roster", "src"),
    [
        (roster_of(US, X, STRANGER, exchange_id=SMALLEST), X),
        (roster_of(A, US, X, Z, exchange_id=SMALLEST), X),
        (roster_of(A, X, exchange_id=SMALLEST), X),
        (roster_of(A, US, exchange_id=SMALLEST), A),
        (roster_of(A, US, X, exchange_id=SMALLEST), Z),
        (Roster(0, 9, SMALLEST, roster_of(A, US, X, Y, Z).members, (99, 0, 0, 0, 0)), X),
    ],
    ids=["a stranger", "too many", "without us", "without the host", "from no member", "unfair"],
)
def test_a_roster_that_makes_no_sense(roster: Roster, src: PeerId) -> None:
    machine = guest(A, X, Y, Z, size=3 if len(roster.members) == 4 else 8)
    machine.on_note(src, roster, now_s=1.0)
    effects = drain(machine)
    assert not any(isinstance(effect, Offer) for effect in effects)
    assert {Send(src, no(SMALLEST)), Send(X, no(SMALLEST))} <= {
        e for e in effects if isinstance(e, Send)
    }
    machine.on_note(X, Propose(0, 9, 30, small(1)), now_s=1.1)
    assert Send(X, no(small(1))) in drain(machine)  # nobody is its guest for a while
    machine.on_note(X, Propose(0, 9, 30, small(2)), now_s=1.0 + SHUN_S[0])
    assert Send(X, yes(small(2), 10)) in drain(machine)


def test_a_codec_that_the_run_has_not_is_not_heard() -> None:
    machine = machine_of(X)
    machine.on_departed(10, now_s=0.0)
    drain(machine)
    machine.on_note(X, Propose(0, 9, 30, SMALLEST, 3), now_s=0.5)
    assert drain(machine) == []


# ---- the exchange


def test_scatter_reduce_gather_land() -> None:
    machine = exchanging()
    assert machine.is_using_snapshot
    machine.on_fetched(A, part(1, SMALLEST), now_s=2.0)
    assert drain(machine) == []
    machine.on_fetched(X, part(1, SMALLEST), now_s=2.0)
    terms = Terms((1, 1, 1))
    assert drain(machine) == [
        Reduce(average(1, SMALLEST), 11),  # as the others know it, whatever departed since
        Fetch(A, average(0, SMALLEST), terms),
        Fetch(X, average(2, SMALLEST), terms),
    ]
    for src, place in ((A, 0), (X, 2)):
        machine.on_fetched(src, average(place, SMALLEST), now_s=3.0)
    assert drain(machine) == [Land(0, 4, SMALLEST, terms, members=(Member(A, 10), Member(X, 12)))]
    assert (machine.phase, machine.next_deadline_s()) == (Phase.LANDING, None)
    machine.on_landed(5, b"n" * 32, now_s=3.1)
    assert (machine.phase, machine.round, machine.anchor_digest) == (Phase.IDLE, 5, b"n" * 32)
    assert drain(machine) == []


def test_a_member_that_missed_the_roster_gets_it_again() -> None:
    machine = machine_of(A, X)
    exchange_id = ready(machine)
    for peer in (A, X):
        machine.on_note(peer, yes(exchange_id), now_s=0.1)
    roster = next(e.note for e in drain(machine) if isinstance(e, Send))
    machine.on_note(X, yes(exchange_id), now_s=1.1)
    assert drain(machine) == [Send(X, roster)]
    machine.on_fetch_failed(A, part(1, exchange_id), failure=Failure.ABSENT, now_s=2.0)
    assert drain(machine) == [Send(A, roster)]
    machine.on_note(A, Propose(0, 9, 30, exchange_id), now_s=2.1)  # no invitation of ours
    assert drain(machine) == []


def test_two_contributions_are_enough_for_an_average() -> None:
    machine = exchanging()
    machine.on_fetched(A, part(1, SMALLEST), now_s=2.0)
    machine.on_fetch_failed(X, part(1, SMALLEST), failure=Failure.BROKEN, now_s=3.0)
    machine.on_timer(now_s=3.25)
    drain(machine)
    machine.on_fetch_failed(X, part(1, SMALLEST), failure=Failure.BROKEN, now_s=4.0)
    terms = Terms((1, 1, 1))
    assert drain(machine) == [
        Reduce(average(1, SMALLEST), 11),
        Fetch(A, average(0, SMALLEST), terms),
        Fetch(A, average(2, SMALLEST), terms),  # perhaps it gave it away before it died
    ]
    machine.on_fetched(A, average(0, SMALLEST), now_s=5.0)
    machine.on_fetched(A, average(2, SMALLEST), now_s=5.0)
    (land,) = drain(machine)
    assert land == Land(
        0, 4, SMALLEST, terms, members=(Member(A, 10),)
    )  # what X brought is in none


def test_one_contribution_is_not() -> None:
    machine = exchanging()
    for peer in (A, X):
        for now_s in (3.0, 4.0):
            machine.on_timer(now_s=now_s)
            machine.on_fetch_failed(peer, part(1, SMALLEST), failure=Failure.BROKEN, now_s=now_s)
    effects = drain(machine)
    assert Discard(0, SMALLEST) in effects
    assert not any(isinstance(effect, Reduce) for effect in effects)
    assert machine.phase is Phase.READY


def test_an_average_that_nobody_has_ends_the_attempt_and_the_survivors_meet() -> None:
    machine = reduced()
    machine.on_fetched(A, average(0, SMALLEST), now_s=2.5)
    for now_s in (3.0, 4.0):
        machine.on_timer(now_s=now_s)
        machine.on_fetch_failed(X, average(2, SMALLEST), failure=Failure.BROKEN, now_s=now_s)
    for now_s in (5.0, 6.0):
        machine.on_timer(now_s=now_s)
        drain(machine)
        machine.on_fetch_failed(A, average(2, SMALLEST), failure=Failure.ABSENT, now_s=now_s)
    effects = drain(machine)
    assert effects[0] == Discard(0, SMALLEST)
    assert effects[1:3] == [Send(A, no(SMALLEST)), Send(X, no(SMALLEST))]
    invited = [e.dst for e in effects[3:] if isinstance(e, Send) and isinstance(e.note, Propose)]
    assert invited == [A, Z]  # and X is shunned


def test_a_member_that_has_left_ends_the_attempt_at_once_and_twice_is_once_too_often() -> None:
    machine = exchanging()
    machine.on_note(A, no(SMALLEST), now_s=2.0)
    assert Discard(0, SMALLEST) in drain(machine)
    machine.on_note(A, Propose(0, 9, 30, small(1)), now_s=4.0)
    assert machine.waiting_for() == (A,)  # it may have had bad luck
    machine.on_note(A, roster_of(A, US, exchange_id=small(1)), now_s=4.1)
    machine.on_note(A, no(small(1)), now_s=4.2)
    drain(machine)
    machine.on_note(A, Propose(0, 9, 30, small(2)), now_s=6.0)
    assert drain(machine) == [Send(A, no(small(2)))]


def test_who_leaves_after_it_gave_us_all_does_not_matter() -> None:
    machine = reduced()
    machine.on_fetched(A, average(0, SMALLEST), now_s=2.5)
    machine.on_note(A, no(SMALLEST), now_s=3.0)
    assert drain(machine) == []
    assert machine.phase is Phase.EXCHANGING


def test_who_says_for_ever_that_it_has_nothing_is_shunned_when_the_attempt_fails() -> None:
    machine = exchanging()
    machine.on_fetched(A, part(1, SMALLEST), now_s=2.0)
    now_s, fails = 2.0, dict.fromkeys((A, X), 0)
    while machine.phase is Phase.EXCHANGING:
        now_s += 0.3
        machine.on_timer(now_s=now_s)
        for effect in drain(machine):
            if isinstance(effect, Fetch) and effect.ref == average(0, SMALLEST):
                machine.on_fetched(A, effect.ref, now_s=now_s)
        for src in machine.waiting_for() if machine.phase is Phase.EXCHANGING else ():
            fails[src] += 1
            ref = part(1, SMALLEST) if fails[X] <= MAX_VAIN_TRIES else average(2, SMALLEST)
            machine.on_fetch_failed(src, ref, failure=Failure.ABSENT, now_s=now_s)
        assert now_s < 20
    drain(machine)
    machine.on_note(X, Propose(0, 9, 30, small(1)), now_s=now_s + 1)
    machine.on_note(A, Propose(0, 9, 30, small(2)), now_s=now_s + 1)
    effects = drain(machine)
    assert Send(X, no(small(1))) in effects
    assert Send(A, yes(small(2), 10)) in effects


def slow_member() -> tuple[CircleExchange, BlobRef]:
    """Averages nothing itself; has the average of `a`, and waits for that of `x`."""
    machine = guest(A, X, Z)
    roster = Roster(0, 9, SMALLEST, roster_of(A, US, X).members, (2048, 0, 2048))
    machine.on_note(X, roster, now_s=1.0)
    terms, (of_a, of_x) = Terms((2048, 0, 2048)), (average(0, SMALLEST), average(2, SMALLEST))
    assert drain(machine)[1:] == [Fetch(A, of_a, terms), Fetch(X, of_x, terms)]
    machine.on_fetched(A, of_a, now_s=2.0)
    return machine, of_x


def test_a_member_that_averages_nothing_waits_for_the_others_averages() -> None:
    machine, of_x = slow_member()
    for tries in range(2 * MAX_VAIN_TRIES):  # of course it has not got it yet
        machine.on_fetch_failed(X, of_x, failure=Failure.ABSENT, now_s=3.0 + tries / 4)
        machine.on_timer(now_s=3.25 + tries / 4)
    assert machine.phase is Phase.EXCHANGING
    machine.on_fetched(X, of_x, now_s=10.0)
    assert machine.phase is Phase.LANDING


def test_a_member_that_averages_nothing_hears_that_the_attempt_has_failed() -> None:
    machine, of_x = slow_member()
    for tries in range(2 * MAX_VAIN_TRIES):
        machine.on_fetch_failed(X, of_x, failure=Failure.ABSENT, now_s=3.0 + tries / 4)
        machine.on_timer(now_s=3.25 + tries / 4)
    for number in range(MAX_READY):  # its no was lost, but it asks us again and again
        machine.on_note(X, Propose(0, 9, 30, small(number + 1)), now_s=12.0 + number)
    for now_s in (15.0, 16.0):
        machine.on_timer(now_s=now_s)
        machine.on_fetch_failed(A, of_x, failure=Failure.ABSENT, now_s=now_s)
    assert machine.phase is Phase.READY
    drain(machine)
    machine.on_note(X, Propose(0, 9, 30, small(9)), now_s=17.0)
    assert Send(X, yes(small(9), 10)) in drain(machine)  # it is not to blame


def test_bad_luck_is_forgotten_with_the_round_and_with_the_next_success() -> None:
    machine = machine_of(A)
    for round, number in ((4, 1), (5, 3)):
        machine.on_departed(10, now_s=100.0 * round)
        for at_s, ends in ((1.0, "left"), (2.0, "landed")):
            exchange_id = small(number + (ends == "landed"))
            now_s = 100.0 * round + at_s
            machine.on_note(A, Propose(0, 9, 30, exchange_id), now_s=now_s)
            machine.on_note(A, roster_of(A, US, exchange_id=exchange_id), now_s=now_s)
            assert machine.phase is Phase.EXCHANGING
            if ends == "left":
                machine.on_note(A, no(exchange_id), now_s=now_s)
                continue
            machine.on_fetched(A, part(1, exchange_id), now_s=now_s)
            machine.on_fetched(A, average(0, exchange_id), now_s=now_s)
            machine.on_landed(round + 1, DIGEST, now_s=now_s)
    assert machine.round == 6


def test_who_does_what_it_should_is_shunned_for_no_longer_than_at_first() -> None:
    machine = machine_of(A)
    for number, start_s in ((1, 10.0), (3, 17.5)):
        machine.on_departed(10, now_s=start_s)
        machine.on_note(A, Propose(0, 9, 30, small(number)), now_s=start_s)
        machine.on_note(A, roster_of(A, US, exchange_id=small(number)), now_s=start_s)
        for now_s in (start_s + 1, start_s + 2):
            machine.on_timer(now_s=now_s)
            machine.on_fetch_failed(A, part(1, small(number)), failure=Failure.BROKEN, now_s=now_s)
        later_s = start_s + 2 + SHUN_S[0]
        machine.on_note(A, Propose(0, 9, 30, small(number + 1)), now_s=later_s)
        machine.on_note(A, roster_of(A, US, exchange_id=small(number + 1)), now_s=later_s)
        assert machine.phase is Phase.EXCHANGING
        machine.on_fetched(A, part(1, small(number + 1)), now_s=later_s)
        machine.on_fetched(A, average(0, small(number + 1)), now_s=later_s)
        machine.on_landed(machine.round + 1, DIGEST, now_s=later_s)


def test_all_patience_ends() -> None:
    machine = exchanging()
    machine.on_timer(now_s=1.0 + EXCHANGE_S - 0.01)
    assert machine.phase is Phase.EXCHANGING
    machine.on_timer(now_s=1.0 + EXCHANGE_S)
    assert machine.phase is Phase.READY
    machine.on_fetched(A, part(1, SMALLEST), now_s=22.0)
    machine.on_fetch_failed(X, part(1, SMALLEST), failure=Failure.BROKEN, now_s=22.0)
    assert not any(isinstance(e, Reduce | Fetch) for e in drain(machine))


@pytest.mark.parametrize("ends", ["landed", "given up"])
def test_what_comes_late_of_an_exchange_that_is_over(ends: str) -> None:
    machine = reduced()
    if ends == "landed":
        for src, place in ((A, 0), (X, 2)):
            machine.on_fetched(src, average(place, SMALLEST), now_s=3.0)
        machine.on_landed(5, DIGEST, now_s=3.1)
    else:
        machine.on_timer(now_s=1.0 + EXCHANGE_S)
    drain(machine)
    machine.on_note(X, Propose(0, 9, 30, SMALLEST), now_s=30.0)
    assert drain(machine) == []  # an id is used once
    # If we have landed they may still be fetching from us: a no would make them give up.
    for note in (roster_of(A, US, X, exchange_id=SMALLEST), yes(SMALLEST)):
        machine.on_note(X, note, now_s=30.1)
        answer = [] if ends == "landed" else [Send(X, no(SMALLEST))]
        assert drain(machine) == answer


def test_what_a_driver_must_not_do() -> None:
    machine = exchanging()
    with pytest.raises(LocalProtocolError):
        machine.on_departed(10, now_s=2.0)


def test_notes_of_other_mixings_are_not_for_us() -> None:
    machine = machine_of(X)
    machine.on_note(X, Committed(0, 99, DIGEST), now_s=1.0)
    assert machine.drain() == []
    assert machine.phase is Phase.IDLE
