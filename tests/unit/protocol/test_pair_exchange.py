"""Every arrow of `protocol.pair_exchange`, one event at a time. We are `m`; 20 s an exchange."""

import pytest

from protocol.errors import LocalProtocolError
from protocol.exchange import ExchangeConfig, Failure, Phase
from protocol.identity import PeerId
from protocol.lottery import partner_order
from protocol.machine import BlobRef, Discard, Effect, Fetch, Land, Offer, Reduce, Send, Tell
from protocol.messages import Answer, Committed, Member, Propose
from protocol.pair_exchange import MAX_FETCH_TRIES, PairExchange
from protocol.terms import Terms

LOW, US, HIGH, FAR = (PeerId(name) for name in ("a", "m", "x", "z"))
DIGEST = bytes(32)
THEIR_ID = b"t" * 16


def machine_of(
    *others: PeerId, our_id: PeerId = US, round: int = 4, num_codecs: int = 1
) -> PairExchange:
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
    machine = PairExchange(config, round=round, anchor_digest=DIGEST)
    machine.on_members(others, now_s=0.0)
    assert machine.drain() == []
    return machine


def drain(machine: PairExchange) -> list[Effect]:
    return [effect for effect in machine.drain() if not isinstance(effect, Tell)]


def order(*others: PeerId) -> tuple[PeerId, ...]:
    return partner_order(US, others, run_id="run", fragment=0, round=4)


def asked(machine: PairExchange) -> tuple[PeerId, Propose]:
    (effect,) = drain(machine)
    assert isinstance(effect, Send)
    assert isinstance(effect.note, Propose)
    return effect.dst, effect.note


def part_of(exchange_id: bytes) -> BlobRef:
    return BlobRef("part", fragment=0, exchange_id=exchange_id)


def exchanging(machine: PairExchange, partner: PeerId = HIGH) -> bytes:
    """Brings it into an exchange that it asked for, at 1 s; drained."""
    machine.on_departed(10, now_s=0.0)
    dst, propose = asked(machine)
    assert dst == partner
    machine.on_note(partner, Answer(0, propose.exchange_id, True, 30), now_s=1.0)
    drain(machine)
    return propose.exchange_id


def test_idle_departed_ready() -> None:
    machine = machine_of(HIGH)
    assert (machine.phase, machine.next_deadline_s(), machine.waiting_for()) == (
        *(Phase.IDLE, None, ()),
    )
    machine.on_departed(10, now_s=0.0)
    dst, propose = asked(machine)
    assert (dst, propose.round, propose.tokens) == (HIGH, 4, 10)
    assert machine.phase is Phase.READY
    assert machine.waiting_for() == (HIGH,)
    assert machine.next_deadline_s() == 1.0


def test_ready_yes_exchanging() -> None:
    machine = machine_of(HIGH)
    machine.on_departed(10, now_s=0.0)
    _, propose = asked(machine)
    machine.on_note(HIGH, Answer(0, propose.exchange_id, True, 30), now_s=0.5)
    id = propose.exchange_id
    assert drain(machine) == [
        Offer(fragment=0, round=4, exchange_id=id, terms=Terms(), members=(HIGH,)),
        Fetch(HIGH, part_of(id), Terms(), 30),
    ]
    assert machine.phase is Phase.EXCHANGING
    assert machine.is_using_snapshot
    assert machine.next_deadline_s() == 20.5


def test_ready_we_accept_exchanging() -> None:
    machine = machine_of()
    machine.on_departed(10, now_s=0.0)
    assert drain(machine) == []
    machine.on_note(LOW, Propose(0, 9, 30, THEIR_ID), now_s=0.5)
    assert drain(machine) == [
        Send(LOW, Answer(0, THEIR_ID, True, 10)),
        Offer(fragment=0, round=4, exchange_id=THEIR_ID, terms=Terms(), members=(LOW,)),
        Fetch(LOW, part_of(THEIR_ID), Terms(), 30),
    ]
    assert machine.phase is Phase.EXCHANGING


def test_exchanging_fetched_landing_landed_idle() -> None:
    machine = machine_of(HIGH)
    id = exchanging(machine)
    machine.on_fetched(HIGH, part_of(id), now_s=2.0)
    assert drain(machine) == [
        Reduce(BlobRef("average", fragment=0, exchange_id=id), 10, is_shared=False),
        Land(0, 4, id, Terms(), members=(Member(HIGH, 30),)),
    ]
    assert (machine.phase, machine.next_deadline_s()) == (Phase.LANDING, None)
    assert machine.is_using_snapshot
    machine.on_landed(5, b"n" * 32, now_s=2.1)
    assert (machine.phase, machine.round, machine.anchor_digest) == (Phase.IDLE, 5, b"n" * 32)
    assert drain(machine) == []
    assert machine.next_deadline_s() is None


def test_ready_no_pause_next() -> None:
    machine = machine_of(LOW, HIGH, FAR)
    machine.on_departed(10, now_s=0.0)
    now_s, asked_in_turn = 0.0, []
    for _ in range(4):
        partner, propose = asked(machine)
        asked_in_turn.append(partner)
        machine.on_note(partner, Answer(0, propose.exchange_id, False, 0), now_s=now_s)
        assert drain(machine) == []  # a pause, in which we accept whoever asks
        assert machine.waiting_for() == ()
        due_s = machine.next_deadline_s()
        assert due_s is not None
        assert now_s < due_s < now_s + 1.5
        machine.on_timer(now_s=due_s)
        now_s = due_s
    first, second, third = order(LOW, HIGH, FAR)
    assert asked_in_turn == [first, second, third, first]


def test_whoever_asked_us_in_vain_is_asked_first_and_at_once() -> None:
    machine = machine_of(LOW, HIGH, FAR)
    *_, last = order(LOW, HIGH, FAR)
    machine.on_note(last, Propose(0, 4, 30, THEIR_ID), now_s=0.0)
    assert drain(machine) == [Send(last, Answer(0, THEIR_ID, False, 0))]  # nothing to give yet
    machine.on_departed(10, now_s=1.0)
    assert asked(machine)[0] == last
    # But not for ever: it has found somebody else by now.
    later = machine_of(LOW, HIGH, FAR)
    later.on_note(last, Propose(0, 4, 30, THEIR_ID), now_s=0.0)
    drain(later)
    later.on_departed(10, now_s=20.0)
    assert asked(later)[0] == order(LOW, HIGH, FAR)[0]


def test_ready_no_answer_in_time_next() -> None:
    machine = machine_of(LOW, HIGH)
    machine.on_departed(10, now_s=0.0)
    first, propose = asked(machine)
    machine.on_timer(now_s=0.999)
    assert drain(machine) == []
    machine.on_timer(now_s=1.0)
    second, _ = asked(machine)
    assert (first, second) == order(LOW, HIGH)
    # The first one's answer comes too late: it counts no more, and they need not wait for us.
    machine.on_note(first, Answer(0, propose.exchange_id, True, 30), now_s=1.1)
    assert drain(machine) == [Send(first, Answer(0, propose.exchange_id, False, 10))]
    assert machine.phase is Phase.READY


@pytest.mark.parametrize(
    ("src", "change"),
    [(LOW, {}), (HIGH, {"exchange_id": THEIR_ID}), (HIGH, {"tokens": 0})],
    ids=["from another", "to another question", "without tokens"],
)
def test_an_answer_that_is_none(src: PeerId, change: dict[str, object]) -> None:
    machine = machine_of(HIGH)
    machine.on_departed(10, now_s=0.0)
    _, propose = asked(machine)
    fields = {"exchange_id": propose.exchange_id, "accepted": True, "tokens": 30} | change
    machine.on_note(src, Answer(0, **fields), now_s=0.5)  # type: ignore[arg-type]
    assert machine.phase is Phase.READY


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.name.lower())
def test_the_partner_leaves_ready_again_and_the_next_is_asked(failure: Failure) -> None:
    machine = machine_of(LOW, HIGH)
    first, second = order(LOW, HIGH)
    id = exchanging(machine, first)
    now_s = 2.0
    for _ in range(MAX_FETCH_TRIES - 1 if failure is Failure.ABSENT else 0):
        machine.on_fetch_failed(first, part_of(id), failure=Failure.ABSENT, now_s=now_s)
        (question,) = drain(machine)
        assert isinstance(question, Send)
        assert isinstance(question.note, Propose)
        assert (question.dst, question.note.exchange_id) == (first, id)
        assert machine.next_deadline_s() == now_s + 0.25
        machine.on_timer(now_s=now_s + 0.25)
        assert drain(machine) == [Fetch(first, part_of(id), Terms(), 30)]
        now_s += 1.0
    machine.on_fetch_failed(first, part_of(id), failure=failure, now_s=now_s)
    effects = drain(machine)
    assert effects[0] == Discard(0, id)
    assert isinstance(effects[1], Send)
    assert effects[1].dst == second  # whoever failed us comes last
    assert machine.phase is Phase.READY


def test_a_partner_that_is_not_in_the_exchange_is_left_at_once() -> None:
    machine = machine_of(HIGH)
    id = exchanging(machine)
    machine.on_fetch_failed(HIGH, part_of(id), failure=Failure.ABSENT, now_s=2.0)
    drain(machine)
    machine.on_note(HIGH, Answer(0, id, True, 30), now_s=2.1)  # it is: it only needs more time
    assert drain(machine) == []
    machine.on_note(HIGH, Answer(0, id, False, 30), now_s=2.2)
    assert drain(machine)[0] == Discard(0, id)
    assert machine.phase is Phase.READY


def test_a_late_answer_of_an_exchange_that_was_is_no_news() -> None:
    machine = machine_of(HIGH)
    id = exchanging(machine)
    machine.on_fetched(HIGH, part_of(id), now_s=2.0)
    machine.on_landed(8, b"n" * 32, now_s=2.1)
    drain(machine)
    machine.on_note(HIGH, Answer(0, id, True, 30), now_s=2.2)
    machine.on_note(HIGH, Answer(0, id, False, 30), now_s=2.3)
    assert drain(machine) == []


def test_an_exchange_has_a_deadline() -> None:
    machine = machine_of(HIGH)
    id = exchanging(machine)
    machine.on_timer(now_s=20.999)
    assert drain(machine) == []
    machine.on_timer(now_s=21.0)
    assert drain(machine)[0] == Discard(0, id)
    assert machine.phase is Phase.READY
    # What comes of it now is not ours any more.
    machine.on_fetched(HIGH, part_of(id), now_s=21.1)
    machine.on_fetch_failed(HIGH, part_of(id), failure=Failure.BROKEN, now_s=21.1)
    assert drain(machine) == []


def test_crossing_proposals_become_one_exchange() -> None:
    """The smaller id's question counts; the other one's is dropped without an answer."""
    low, high = machine_of(US, our_id=LOW), machine_of(LOW)
    low.on_departed(10, now_s=0.0)
    high.on_departed(20, now_s=0.0)
    (_, from_low), (_, from_high) = asked(low), asked(high)
    low.on_note(US, from_high, now_s=0.1)
    assert drain(low) == []
    high.on_note(LOW, from_low, now_s=0.1)
    answer = Answer(0, from_low.exchange_id, True, 20)
    assert drain(high)[0] == Send(LOW, answer)
    low.on_note(US, answer, now_s=0.2)
    assert drain(low)[1] == Fetch(US, part_of(from_low.exchange_id), Terms(), 20)
    assert low.phase is high.phase is Phase.EXCHANGING


@pytest.mark.parametrize(("now_s", "accepted"), [(0.499, False), (0.5, True)])
def test_while_asking_another_we_are_busy_but_not_for_long(now_s: float, accepted: bool) -> None:
    machine = machine_of(HIGH)
    machine.on_departed(10, now_s=0.0)
    _, propose = asked(machine)
    machine.on_note(LOW, Propose(0, 4, 30, THEIR_ID), now_s=now_s)
    assert drain(machine)[0] == Send(LOW, Answer(0, THEIR_ID, accepted, 10))
    if accepted:  # the one who was asked first comes too late
        machine.on_note(HIGH, Answer(0, propose.exchange_id, True, 30), now_s=0.6)
        assert drain(machine) == [Send(HIGH, Answer(0, propose.exchange_id, False, 10))]
        assert machine.waiting_for() == (LOW,)


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.EXCHANGING, Phase.LANDING])
def test_who_is_busy_refuses(phase: Phase) -> None:
    machine = machine_of(HIGH)
    if phase is not Phase.IDLE:
        id = exchanging(machine)
    if phase is Phase.LANDING:
        machine.on_fetched(HIGH, part_of(id), now_s=2.0)
        drain(machine)
    machine.on_note(LOW, Propose(0, 4, 30, THEIR_ID), now_s=2.5)
    (effect,) = drain(machine)
    assert isinstance(effect, Send)
    assert isinstance(effect.note, Answer)
    assert not effect.note.accepted
    assert machine.phase is phase


def test_a_proposal_without_tokens_is_refused() -> None:
    machine = machine_of()
    machine.on_departed(10, now_s=0.0)
    machine.on_note(LOW, Propose(0, 4, 0, THEIR_ID), now_s=0.5)
    assert drain(machine) == [Send(LOW, Answer(0, THEIR_ID, False, 10))]


def test_a_lost_answer_is_given_again_and_begins_nothing_new() -> None:
    machine = machine_of()
    machine.on_departed(10, now_s=0.0)
    propose = Propose(0, 4, 30, THEIR_ID)
    machine.on_note(LOW, propose, now_s=0.5)
    drain(machine)
    for phase in (Phase.EXCHANGING, Phase.LANDING):
        machine.on_note(LOW, propose, now_s=1.0)
        assert drain(machine) == [Send(LOW, Answer(0, THEIR_ID, True, 10))]
        assert machine.phase is phase
        if phase is Phase.EXCHANGING:
            machine.on_fetched(LOW, part_of(THEIR_ID), now_s=2.0)
            drain(machine)


def test_a_third_peer_does_not_get_into_our_exchange() -> None:
    machine = machine_of()
    machine.on_departed(10, now_s=0.0)
    machine.on_note(LOW, Propose(0, 4, 30, THEIR_ID), now_s=0.5)
    drain(machine)
    machine.on_note(HIGH, Propose(0, 4, 30, THEIR_ID), now_s=0.6)
    assert drain(machine) == [Send(HIGH, Answer(0, THEIR_ID, False, 10))]


@pytest.mark.parametrize("ends", ["landed", "given up"])
def test_a_late_double_of_a_proposal_opens_nothing(ends: str) -> None:
    machine = machine_of()
    machine.on_departed(10, now_s=0.0)
    propose = Propose(0, 4, 30, THEIR_ID)
    machine.on_note(LOW, propose, now_s=0.5)
    if ends == "landed":
        machine.on_fetched(LOW, part_of(THEIR_ID), now_s=1.0)
        machine.on_landed(5, DIGEST, now_s=1.0)
        machine.on_departed(10, now_s=2.0)
    else:
        machine.on_fetch_failed(LOW, part_of(THEIR_ID), failure=Failure.BROKEN, now_s=1.0)
    drain(machine)
    machine.on_note(LOW, propose, now_s=3.0)
    # If we have landed, they may still be fetching from us: a no would make them give up.
    no = [Send(LOW, Answer(0, THEIR_ID, False, 10))]
    assert drain(machine) == ([] if ends == "landed" else no)
    assert machine.phase is Phase.READY


def test_a_double_answer_and_a_double_fetch_change_nothing() -> None:
    machine = machine_of(HIGH)
    id = exchanging(machine)
    machine.on_note(HIGH, Answer(0, id, True, 30), now_s=1.5)
    assert drain(machine) == []
    machine.on_fetched(HIGH, part_of(id), now_s=2.0)
    drain(machine)
    machine.on_fetched(HIGH, part_of(id), now_s=2.1)
    machine.on_fetch_failed(HIGH, part_of(id), failure=Failure.BROKEN, now_s=2.2)
    assert drain(machine) == []
    assert machine.phase is Phase.LANDING


def test_a_departure_while_ready_refreshes_what_we_bring() -> None:
    machine = machine_of()
    machine.on_departed(10, now_s=0.0)
    machine.on_departed(25, now_s=0.5)
    assert drain(machine) == []
    machine.on_note(LOW, Propose(0, 4, 30, THEIR_ID), now_s=0.6)
    assert drain(machine)[0] == Send(LOW, Answer(0, THEIR_ID, True, 25))


def test_the_weight_of_an_exchange_is_what_the_partner_was_told() -> None:
    machine = machine_of(HIGH)
    machine.on_departed(10, now_s=0.0)
    _, propose = asked(machine)
    machine.on_departed(25, now_s=0.5)
    machine.on_note(HIGH, Answer(0, propose.exchange_id, True, 30), now_s=0.6)
    machine.on_fetched(HIGH, part_of(propose.exchange_id), now_s=1.0)
    reduce = next(effect for effect in machine.drain() if isinstance(effect, Reduce))
    assert reduce.own_tokens == propose.tokens == 10


def test_a_departure_while_the_snapshot_is_in_use_is_our_bug() -> None:
    machine = machine_of(HIGH)
    exchanging(machine)
    with pytest.raises(LocalProtocolError):
        machine.on_departed(10, now_s=2.0)


def test_notes_of_other_mixings_are_not_for_us() -> None:
    machine = machine_of(HIGH)
    machine.on_note(HIGH, Committed(0, 99, DIGEST), now_s=1.0)
    assert machine.drain() == []
    assert machine.phase is Phase.IDLE


def test_alone_it_waits_without_haste_and_pairs_with_the_first_to_come() -> None:
    machine = machine_of()
    machine.on_departed(10, now_s=0.0)
    for _ in range(50):
        now_s = machine.next_deadline_s()
        assert now_s is not None
        machine.on_timer(now_s=now_s)
        assert drain(machine) == []
        due_s = machine.next_deadline_s()
        assert due_s is not None
        assert now_s + 0.5 <= due_s < now_s + 1.5
    machine.on_members((HIGH,), now_s=due_s)
    assert asked(machine)[0] == HIGH


def test_a_partner_that_could_not_be_fetched_from_is_refused_for_a_while() -> None:
    machine = machine_of(HIGH)
    machine.on_departed(10, now_s=0.0)
    partner, first = asked(machine)
    machine.on_note(partner, Answer(0, first.exchange_id, True, 5), now_s=0.1)
    ref = BlobRef("part", 0, first.exchange_id)
    machine.on_fetch_failed(partner, ref, failure=Failure.BROKEN, now_s=3.0)
    drain(machine)
    machine.on_note(partner, Propose(0, 7, 5, b"n" * 16), now_s=4.0)
    (refusal,) = drain(machine)
    assert refusal == Send(partner, Answer(0, b"n" * 16, False, 10))
    machine.on_note(partner, Propose(0, 7, 5, b"m" * 16), now_s=8.1)
    assert machine.phase is Phase.EXCHANGING


def test_two_who_keep_asking_the_dead_still_meet() -> None:
    """Their cycles have equal lengths: in step, each would ask while the other one is asking."""
    dead = tuple(PeerId(f"d{number}") for number in range(2))
    for offset in range(24):
        machines = {US: machine_of(HIGH, *dead), HIGH: machine_of(US, *dead, our_id=HIGH)}
        departs = {US: 0.0, HIGH: offset / 8}
        pending: list[tuple[float, PeerId, PeerId, Propose | Answer]] = []
        now_s = 0.0
        while now_s < 60 and not any(m.phase is Phase.EXCHANGING for m in machines.values()):
            times = [(departs.get(p, m.next_deadline_s()), p) for p, m in machines.items()]
            timer_s, peer = min((time_s, peer) for time_s, peer in times if time_s is not None)
            if pending and min(pending)[0] <= timer_s:
                pending.sort(key=lambda sent: sent[0])
                now_s, peer, src, note = pending.pop(0)
                machines[peer].on_note(src, note, now_s=now_s)
            else:
                now_s = timer_s
                if departs.pop(peer, None) is None:
                    machines[peer].on_timer(now_s=now_s)
                else:
                    machines[peer].on_departed(10, now_s=now_s)
            for effect in machines[peer].drain():
                if isinstance(effect, Send) and effect.dst in machines:
                    assert isinstance(effect.note, Propose | Answer)
                    pending.append((now_s + 0.01, effect.dst, peer, effect.note))
        assert now_s < 8, f"departures {offset / 8} s apart"


def test_who_cannot_be_reached_is_asked_last_until_it_speaks() -> None:
    machine = machine_of(LOW, HIGH, FAR)
    first = order(LOW, HIGH, FAR)[0]
    machine.on_unreachable(first, now_s=0.0)
    machine.on_departed(10, now_s=0.0)
    assert asked(machine)[0] != first
    machine = machine_of(LOW, HIGH, FAR)
    machine.on_unreachable(first, now_s=0.0)
    machine.on_note(first, Committed(0, 1, DIGEST), now_s=0.0)
    machine.on_departed(10, now_s=0.0)
    assert asked(machine)[0] == first


@pytest.mark.parametrize("num_peers", [2, 3, 4, 5])
@pytest.mark.parametrize("round", range(30))
def test_peers_in_step_find_each_other_whoever_asks_whom(num_peers: int, round: int) -> None:
    """All become READY at once, and every note takes 50 ms: circles of suitors come undone."""
    names = [PeerId(f"peer{number}") for number in range(num_peers)]
    machines = {
        name: machine_of(*(other for other in names if other != name), our_id=name, round=round)
        for name in names
    }
    notes: list[tuple[float, int, PeerId, PeerId, Propose | Answer]] = []
    count, now_s, exchanging = 0, 0.0, 0
    for machine in machines.values():
        machine.on_departed(10, now_s=0.0)
    while now_s < 10.0:
        for name, machine in machines.items():
            for effect in drain(machine):
                if isinstance(effect, Send):
                    assert isinstance(effect.note, Propose | Answer)
                    count += 1
                    notes.append((now_s + 0.05, count, name, effect.dst, effect.note))
        exchanging = sum(machine.phase is Phase.EXCHANGING for machine in machines.values())
        if exchanging >= num_peers // 2 * 2:
            break
        due_s = [m.next_deadline_s() for m in machines.values() if m.phase is Phase.READY]
        now_s = min([note[0] for note in notes] + [at_s for at_s in due_s if at_s is not None])
        for note in sorted(note for note in notes if note[0] <= now_s):
            notes.remove(note)
            machines[note[3]].on_note(note[2], note[4], now_s=now_s)
        for machine in machines.values():
            if machine.phase is Phase.READY:
                machine.on_timer(now_s=now_s)
    assert exchanging >= num_peers // 2 * 2
    assert count < 60
