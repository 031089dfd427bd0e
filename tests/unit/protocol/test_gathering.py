"""The fetches of one group exchange, one event at a time. We are `b` of the roster a, b, c."""

from dataclasses import replace

import pytest

from protocol.exchange import ExchangeConfig, Failure
from protocol.gathering import MAX_READY, MAX_SILENT_TRIES, MAX_VAIN_TRIES, Gathering
from protocol.identity import PeerId
from protocol.machine import BlobRef, Effect, Fetch, Reduce
from protocol.messages import Member, Roster
from protocol.terms import Terms

A, B, C = PEERS = [PeerId(name) for name in "abc"]
ID = b"e" * 16
ROSTER = Roster(0, 7, ID, (Member(A, 10), Member(B, 20), Member(C, 30)), (1, 1, 1))
THREE = Terms((1, 1, 1))
CONFIG = ExchangeConfig(
    our_id=B,
    life="1",
    run_id="run",
    fragment=0,
    quorum_frac=0.5,
    grace_s=3.0,
    exchange_s=20.0,
)


def part_ref(part: int) -> BlobRef:
    return BlobRef("part", fragment=0, exchange_id=ID, part=part)


def average(part: int) -> BlobRef:
    return BlobRef("average", fragment=0, exchange_id=ID, part=part)


def member(*, num_live: int = 3) -> Gathering:
    gathering = Gathering.of_member(ROSTER, CONFIG, num_live=num_live, now_s=100.0)
    assert gathering.drain() == [Fetch(A, part_ref(1), THREE, 10), Fetch(C, part_ref(1), THREE, 30)]
    return gathering


def reduced() -> Gathering:
    """All parts are here and reduced, the other two averages asked for."""
    gathering = member()
    for peer in (A, C):
        gathering.on_fetched(peer, part_ref(1), now_s=101.0)
    gathering.drain()
    return gathering


LEAVES = pytest.mark.parametrize(
    ("failure", "tries"),
    [(Failure.ABSENT, MAX_VAIN_TRIES), (Failure.BROKEN, MAX_SILENT_TRIES), (Failure.SILENT, 1)],
    ids=lambda value: value.name.lower() if isinstance(value, Failure) else None,
)


def listener(num_parts: int = 2) -> Gathering:
    terms = Terms((1,) * num_parts)
    gathering = Gathering.of_listener(ID, terms, A, CONFIG, now_s=100.0)
    assert gathering.drain() == [Fetch(A, average(part), terms) for part in range(num_parts)]
    return gathering


def fail_at_last(
    gathering: Gathering, src: PeerId, ref: BlobRef, *, failure: Failure, tries: int, now_s: float
) -> list[Effect]:
    """Fails a fetch until its source is given up; returns what the last failure led to."""
    for _ in range(tries - 1):
        gathering.on_fetch_failed(src, ref, failure=failure, now_s=now_s)
        assert gathering.drain() == []
        gathering.on_timer(now_s=now_s + 0.25)
        assert [effect.src for effect in gathering.drain() if isinstance(effect, Fetch)] == [src]
    gathering.on_fetch_failed(src, ref, failure=failure, now_s=now_s)
    return gathering.drain()


def test_scatter_reduce_gather() -> None:
    gathering = member()
    assert gathering.partners == gathering.waiting_for() == (A, C)
    gathering.on_fetched(A, part_ref(1), now_s=101.0)
    assert gathering.drain() == []
    assert gathering.waiting_for() == (C,)
    gathering.on_fetched(C, part_ref(1), now_s=101.0)
    assert gathering.drain() == [
        Reduce(average(1), 20),
        Fetch(A, average(0), THREE),
        Fetch(C, average(2), THREE),
    ]
    gathering.on_fetched(C, average(2), now_s=102.0)
    assert not gathering.is_complete
    gathering.on_fetched(A, average(0), now_s=102.0)
    assert gathering.is_complete
    assert gathering.failure is None


def test_doubled_and_foreign_news_count_once() -> None:
    gathering = member(num_live=5)
    for _ in range(3):
        gathering.on_fetched(A, part_ref(1), now_s=101.0)
    gathering.on_fetched(PeerId("x"), part_ref(1), now_s=101.0)
    gathering.on_fetch_failed(A, part_ref(1), failure=Failure.BROKEN, now_s=101.0)
    gathering.on_fetch_failed(PeerId("x"), part_ref(1), failure=Failure.BROKEN, now_s=101.0)
    assert gathering.drain() == []
    assert gathering.next_deadline_s() == 120.0


def test_a_roster_of_one_is_done_at_once() -> None:
    alone = Roster(0, 7, ID, (Member(B, 20),), (1,))
    gathering = Gathering.of_member(alone, CONFIG, num_live=1, now_s=100.0)
    assert gathering.drain() == [Reduce(average(0), 20)]
    assert gathering.is_complete


@LEAVES
def test_a_member_that_brings_no_part_is_left_out(failure: Failure, tries: int) -> None:
    gathering = member()
    gathering.on_fetched(A, part_ref(1), now_s=101.0)
    effects = fail_at_last(gathering, C, part_ref(1), failure=failure, tries=tries, now_s=102.0)
    # Its average is asked of itself if it lives, else of the others at once.
    assert effects == [
        Reduce(average(1), 20),
        Fetch(A, average(0), THREE),
        Fetch(C if failure is Failure.ABSENT else A, average(2), THREE),
    ]
    assert gathering.unresponsive == (set() if failure is Failure.ABSENT else {C})


def test_without_a_quorum_of_parts_nothing_is_reduced() -> None:
    gathering = member(num_live=5)
    gathering.on_fetched(A, part_ref(1), now_s=101.0)
    effects = fail_at_last(gathering, C, part_ref(1), failure=Failure.BROKEN, tries=2, now_s=102.0)
    assert effects == []
    assert gathering.failure == "only 2 of 5 peers brought their part"
    assert not gathering.is_complete


@LEAVES
def test_the_average_of_a_reducer_that_left_comes_from_another(
    failure: Failure, tries: int
) -> None:
    gathering = reduced()
    gathering.on_fetched(C, average(2), now_s=101.5)
    fail_at_last(gathering, A, average(0), failure=failure, tries=tries, now_s=102.0)
    assert gathering.failure is None
    assert gathering.waiting_for() == (C,)
    gathering.on_timer(now_s=102.25)
    assert gathering.drain() == [Fetch(C, average(0), THREE)]
    gathering.on_fetched(C, average(0), now_s=103.0)
    assert gathering.is_complete


def test_nobody_has_the_average_of_a_dead_reducer() -> None:
    gathering = reduced()
    fail_at_last(gathering, A, average(0), failure=Failure.BROKEN, tries=2, now_s=102.0)
    gathering.on_timer(now_s=102.25)
    assert gathering.drain() == [Fetch(C, average(0), THREE)]
    # Who is no reducer of it has it already or never gets it: two tries are enough.
    fail_at_last(gathering, C, average(0), failure=Failure.ABSENT, tries=2, now_s=103.0)
    assert gathering.failure
    assert gathering.unresponsive == {A}
    assert not gathering.is_complete


def test_who_has_landed_has_every_average() -> None:
    gathering = reduced()
    fail_at_last(gathering, A, average(0), failure=Failure.BROKEN, tries=2, now_s=102.0)
    gathering.on_timer(now_s=102.25)
    gathering.drain()
    gathering.on_fetch_failed(C, average(0), failure=Failure.ABSENT, now_s=102.5)
    gathering.on_holder(C, now_s=102.75)  # one more no would have been the last
    assert gathering.drain() == [Fetch(C, average(0), THREE)]
    gathering.on_fetch_failed(C, average(0), failure=Failure.ABSENT, now_s=103.0)
    assert gathering.failure is None


def test_a_listener_fetches_all_averages_from_the_holder() -> None:
    gathering = listener()
    assert not gathering.is_member
    gathering.on_fetched(A, average(1), now_s=101.0)
    gathering.on_fetched(A, average(0), now_s=101.0)
    assert gathering.is_complete


@LEAVES
def test_a_listener_whose_holder_leaves_has_failed(failure: Failure, tries: int) -> None:
    gathering = listener()
    gathering.on_fetched(A, average(0), now_s=101.0)
    fail_at_last(gathering, A, average(1), failure=failure, tries=tries, now_s=102.0)
    assert gathering.failure


@pytest.mark.parametrize("make", [member, reduced, listener])
def test_all_patience_ends(make: object) -> None:
    gathering = make()  # type: ignore[operator]
    waiting = set(gathering.waiting_for())
    assert gathering.next_deadline_s() == 120.0
    gathering.on_timer(now_s=119.999)
    assert gathering.failure is None
    gathering.on_timer(now_s=120.0)
    assert gathering.failure == "not done after 20 s"
    assert gathering.unresponsive == waiting


def test_a_failed_fetch_is_repeated_after_a_pause_and_not_before() -> None:
    gathering = member()
    gathering.on_fetch_failed(A, part_ref(1), failure=Failure.ABSENT, now_s=101.0)
    assert gathering.next_deadline_s() == 101.25
    gathering.on_timer(now_s=101.2)
    assert gathering.drain() == []
    gathering.on_timer(now_s=101.25)
    assert gathering.drain() == [Fetch(A, part_ref(1), THREE, 10)]
    assert gathering.next_deadline_s() == 120.0  # it is under way


# ---- a member with an empty part


SPLIT = Terms((2, 0, 1), codec=1)


def bystander() -> Gathering:
    """We are too slow to average anything; the averages of a and c are asked for at once."""
    roster = replace(ROSTER, shares=SPLIT.shares, codec=SPLIT.codec)
    gathering = Gathering.of_member(roster, CONFIG, num_live=3, now_s=100.0)
    assert gathering.drain() == [Fetch(A, average(0), SPLIT), Fetch(C, average(2), SPLIT)]
    assert gathering.is_member
    assert not gathering.is_reducing
    return gathering


def test_an_empty_part_is_neither_collected_nor_averaged_nor_wanted() -> None:
    gathering = bystander()
    for peer, part in ((A, 0), (C, 2)):
        assert not gathering.is_complete
        gathering.on_fetched(peer, average(part), now_s=101.0)
    assert gathering.is_complete
    # The others do without our average.
    roster = replace(ROSTER, shares=(1, 2, 0))
    reducer = Gathering.of_member(roster, CONFIG, num_live=3, now_s=100.0)
    reducer.drain()
    for peer in (A, C):
        reducer.on_fetched(peer, part_ref(1), now_s=101.0)
    assert reducer.drain() == [Reduce(average(1), 20), Fetch(A, average(0), Terms((1, 2, 0)))]


def test_a_replay_has_no_empty_parts_either() -> None:
    gathering = Gathering.of_listener(ID, SPLIT, A, CONFIG, now_s=100.0)
    assert gathering.drain() == [Fetch(A, average(0), SPLIT), Fetch(A, average(2), SPLIT)]


def test_averages_that_take_long_are_waited_for_by_whoever_makes_none() -> None:
    gathering = bystander()
    for attempt in range(3 * MAX_VAIN_TRIES):
        now_s = 101.0 + 0.25 * attempt
        gathering.on_fetch_failed(A, average(0), failure=Failure.ABSENT, now_s=now_s)
        gathering.on_timer(now_s=now_s + 0.25)
        assert gathering.drain() == [Fetch(A, average(0), SPLIT)]
    assert gathering.failure is None


def test_a_reducer_that_is_ready_anew_has_given_up() -> None:
    gathering = bystander()
    for _ in range(MAX_READY - 1):
        gathering.on_ready(A, now_s=101.0)
        gathering.on_ready(PeerId("x"), now_s=101.0)
        assert gathering.drain() == []  # it may not have had the roster then
    gathering.on_ready(A, now_s=102.0)
    assert gathering.drain() == [Fetch(C, average(0), SPLIT)]
    fail_at_last(gathering, C, average(0), failure=Failure.ABSENT, tries=2, now_s=103.0)
    assert gathering.failure
    assert gathering.failure.startswith(A)


def test_all_reducers_that_are_ready_anew_end_the_exchange() -> None:
    roster = replace(ROSTER, members=ROSTER.members[:2], shares=(1, 0))
    gathering = Gathering.of_member(roster, CONFIG, num_live=2, now_s=100.0)
    for _ in range(MAX_READY):
        assert not gathering.failure
        gathering.on_ready(A, now_s=101.0)
    assert gathering.failure


def test_what_a_reducer_cannot_give_comes_from_whoever_has_landed() -> None:
    gathering = bystander()
    gathering.on_fetched(C, average(2), now_s=101.0)
    gathering.on_holder(C, now_s=102.0)
    effects = fail_at_last(gathering, A, average(0), failure=Failure.ABSENT, tries=2, now_s=103.0)
    gathering.on_timer(now_s=103.25)
    assert (effects, gathering.drain()) == ([], [Fetch(C, average(0), SPLIT)])


def test_nobody_completes_it_without_us_or_without_another_reducer() -> None:
    gathering = bystander()
    assert gathering.is_stuck_without(A)
    gathering.on_holder(C, now_s=101.0)
    assert not gathering.is_stuck_without(A)  # somebody has landed already
    roster = replace(ROSTER, shares=(0, 0, 1))
    gathering = Gathering.of_member(roster, CONFIG, num_live=3, now_s=100.0)
    assert not gathering.is_stuck_without(A)
    assert member().is_stuck_without(A)
    assert not reduced().is_stuck_without(A)


# ---- a reducer that does not even answer a ping


FIVE = Roster(0, 7, ID, tuple(Member(PeerId(name), 10) for name in "abcde"), (1,) * 5)
D, E = PeerId("d"), PeerId("e")


def five_reduced() -> Gathering:
    """We are b, of five; all parts are here."""
    gathering = Gathering.of_member(FIVE, CONFIG, num_live=5, now_s=100.0)
    for peer in (A, C, D, E):
        gathering.on_fetched(peer, part_ref(1), now_s=101.0)
    gathering.drain()
    return gathering


def asked(gathering: Gathering, now_s: float) -> list[PeerId]:
    gathering.on_timer(now_s=now_s)
    return [effect.src for effect in gathering.drain() if isinstance(effect, Fetch)]


def test_the_average_of_a_silent_reducer_is_asked_of_all_others_at_once_and_once() -> None:
    gathering = five_reduced()
    now_s = 102.0
    gathering.on_fetch_failed(A, average(0), failure=Failure.SILENT, now_s=now_s)
    for peer in (C, D, E):
        assert gathering.failure is None
        assert asked(gathering, now_s) == [peer]
        now_s += 0.01
        gathering.on_fetch_failed(peer, average(0), failure=Failure.ABSENT, now_s=now_s)
    assert gathering.failure
    assert gathering.unresponsive == gathering.silent == {A}


def test_where_a_transfer_broke_the_others_are_asked_in_turn() -> None:
    """The reducer lives perhaps, and one of them may still get its average."""
    gathering = five_reduced()
    for now_s in (102.0, 102.25):
        gathering.on_fetch_failed(A, average(0), failure=Failure.BROKEN, now_s=now_s)
        gathering.on_timer(now_s=now_s + 0.25)
    gathering.drain()
    now_s, order = 102.5, [C]
    while True:
        gathering.on_fetch_failed(order[-1], average(0), failure=Failure.ABSENT, now_s=now_s)
        if gathering.failure:
            break
        now_s += 0.25
        order += asked(gathering, now_s)
    assert order == [C, D, E, C, D, E]
    assert gathering.silent == set()


def test_who_is_silent_itself_is_not_asked_for_what_another_does_not_give() -> None:
    gathering = five_reduced()
    gathering.on_fetch_failed(A, average(0), failure=Failure.SILENT, now_s=102.0)
    gathering.on_fetch_failed(D, average(3), failure=Failure.SILENT, now_s=102.0)
    assert asked(gathering, 102.0) == [C, C]  # for both averages
    for part in (0, 3):
        gathering.on_fetch_failed(C, average(part), failure=Failure.ABSENT, now_s=102.0)
    assert asked(gathering, 102.0) == [E, E]


def test_nobody_need_wait_for_what_a_dead_reducer_has_not_given_us() -> None:
    gathering = member()
    assert all(gathering.expects(average(part)) for part in range(3))
    assert gathering.expects(average(99))  # whatever a stranger may ask for
    gathering.on_fetch_failed(C, part_ref(1), failure=Failure.SILENT, now_s=102.0)
    assert [gathering.expects(average(part)) for part in range(3)] == [True, True, False]


def test_a_silent_member_that_has_landed_after_all_is_a_holder_like_others() -> None:
    gathering = five_reduced()
    gathering.on_fetch_failed(A, average(0), failure=Failure.SILENT, now_s=102.0)
    gathering.on_holder(A, now_s=102.1)
    assert gathering.unresponsive == gathering.silent == set()
    assert A in next(iter(gathering._wants.values())).sources
