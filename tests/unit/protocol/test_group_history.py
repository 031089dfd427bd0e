"""What a group machine knows of the past: replays, branches, and who was out of sight."""

import pytest

from protocol.exchange import Phase
from protocol.group_exchange import ALONE_S, AMBIGUOUS_RESENDS, JUDGED_S, MAX_JOURNAL, GroupExchange
from protocol.identity import PeerId
from protocol.machine import CatchUp, Fetch, Land, Send, Tell
from protocol.messages import (
    MAX_TOKENS,
    Committed,
    Member,
    Ready,
    Roster,
    note_to_bytes,
    parse_note,
)
from tests.unit.protocol.test_group_exchange import (
    ELSE,
    FIRST,
    FOURTH,
    ID,
    ID2,
    NEW,
    OLD,
    ROUND,
    SECOND,
    THIRD,
    THREE,
    average,
    catch_up,
    committed,
    drain,
    knowing,
    machine_of,
    part,
    ready,
    sent,
)

LATER = b"l" * 32
WITH_FIRST = tuple(Member(peer, 10) for peer in sorted((FIRST, SECOND)))
IDS = [bytes([number]) * 16 for number in range(80)]


def replay(machine: GroupExchange, note: Committed, digest: bytes, *, src: PeerId = FIRST) -> Land:
    """What `note` announces is replayed, and leads to this digest; returns the landing."""
    machine.on_note(src, note, now_s=1.0)
    fetches = [effect for effect in drain(machine) if isinstance(effect, Fetch)]
    assert [fetch.ref.exchange_id for fetch in fetches] == [note.exchange_id] * len(note.shares)
    for fetch in fetches:
        machine.on_fetched(src, fetch.ref, now_s=1.5)
    (land,) = drain(machine)
    assert isinstance(land, Land)
    machine.lineage = machine.lineage.landed(note.round, digest, note.tokens)
    machine.on_landed(note.round, digest, now_s=2.0)
    return land


def land_rounds(machine: GroupExchange, num: int) -> list[bytes]:
    """Lands alone; returns the digests, from that of the anchor before."""
    digests = [machine.anchor_digest]
    for number in range(num):
        machine.on_departed(10, now_s=float(number))
        digests.append(bytes([number]) * 32)
        machine.lineage = machine.lineage.landed(machine.round + 1, digests[-1], 10)
        machine.on_landed(machine.round + 1, digests[-1], now_s=float(number))
    machine.drain()
    return digests


# ---- replays


def test_two_rounds_in_a_row_are_replayed_and_both_can_be_had_from_us() -> None:
    machine = machine_of(FOURTH, FIRST)
    machine.lineage = knowing()
    one = committed()
    two = committed(ROUND + 2, digest=LATER, id=ID2, base=NEW)
    for note, digest in ((one, NEW), (two, LATER)):
        land = replay(machine, note, digest)
        assert (land.rebase_on_anchor, land.tokens) == (True, 30)
        assert sent(machine, Committed) == [(FIRST, note)]
    assert (machine.phase, machine.round, machine.anchor_digest) == (Phase.IDLE, ROUND + 2, LATER)
    for round, digest, answer in ((ROUND, OLD, one), (ROUND + 1, NEW, two)):
        machine.on_note(THIRD, ready(round=round, digest=digest), now_s=3.0)
        assert drain(machine) == [Send(THIRD, answer)]


def test_who_is_many_rounds_behind_hears_of_the_one_that_it_can_replay() -> None:
    machine = machine_of(FIRST)
    digests = land_rounds(machine, MAX_JOURNAL + 3)
    for behind in (1, 2, MAX_JOURNAL):
        round = machine.round - behind
        machine.on_note(SECOND, ready(round=round, digest=digests[-1 - behind]), now_s=99.0)
        ((_, note),) = sent(machine, Committed)
        assert isinstance(note, Committed)
        assert (note.round, note.base_digest) == (round + 1, digests[-1 - behind])
        assert note.anchor_digest == digests[-behind]
        assert (len(note.exchange_id), note.tokens) == (16, 10)
    # What is older than that must come as a state.
    old = ready(round=machine.round - MAX_JOURNAL - 1, digest=digests[-2 - MAX_JOURNAL])
    machine.on_note(SECOND, old, now_s=99.0)
    ((_, note),) = sent(machine, Committed)
    assert note == machine._committed()
    assert machine.phase is Phase.IDLE


def test_what_came_some_other_way_has_no_past_that_could_be_replayed() -> None:
    machine = machine_of(FIRST, THIRD)
    machine.on_members((), left=(THIRD,), now_s=0.0)
    digests = land_rounds(machine, 3)
    machine.on_note(THIRD, committed(machine.round + 5, digest=ELSE), now_s=9.0)
    machine.on_timer(now_s=10.0)
    assert machine.phase is Phase.CATCHING_UP
    machine.lineage = machine.lineage.landed(machine.round + 5, ELSE, 50)
    machine.on_caught_up(machine.round + 5, ELSE, now_s=10.0)
    machine.drain()
    machine.on_note(SECOND, ready(round=ROUND + 1, digest=digests[1]), now_s=11.0)
    assert sent(machine, Committed) == [(SECOND, Committed(0, machine.round, ELSE))]


def test_an_average_that_set_out_from_another_base_is_not_replayed_but_compared() -> None:
    machine = machine_of(FOURTH, FIRST)
    note = committed(base=ELSE)
    machine.on_note(FIRST, note, now_s=1.0)
    tells = machine.drain()
    assert [tell.event for tell in tells if isinstance(tell, Tell)] == ["anchor_differs"]
    assert len(tells) == 1
    assert machine.phase is Phase.IDLE
    machine.on_note(FIRST, note, now_s=1.0 + AMBIGUOUS_RESENDS)
    assert drain(machine) == [catch_up(FIRST)]


def test_a_peer_of_another_past_hears_what_we_have_and_is_compared() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.lineage = knowing()
    replay(machine, committed(), NEW)
    drain(machine)
    behind = ready(digest=ELSE)
    machine.on_note(THIRD, behind, now_s=3.0)
    assert drain(machine) == [Send(THIRD, committed())]
    assert machine.phase is Phase.IDLE
    machine.on_note(THIRD, behind, now_s=3.0 + AMBIGUOUS_RESENDS)
    assert drain(machine) == [Send(THIRD, committed()), catch_up(THIRD, our_camp=2)]


def test_nobody_is_compared_with_the_anchor_that_all_began_with() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    for now_s in (3.0, 6.0, 9.0):
        machine.on_note(THIRD, ready(round=0, digest=ELSE), now_s=now_s)
    assert machine.phase is Phase.IDLE


# ---- comparing


@pytest.mark.parametrize("round", [ROUND + 2, ROUND + 9])
def test_who_is_far_ahead_is_compared_soon_with_all_who_are_known_to_be_there(
    round: int,
) -> None:
    machine = machine_of(SECOND, FIRST, THIRD, FOURTH)
    machine.on_note(FIRST, committed(round, digest=NEW), now_s=1.0)
    machine.on_note(THIRD, ready(round=round, digest=NEW), now_s=1.5)
    drain(machine)
    machine.on_timer(now_s=2.0)  # no resends more, as where two camps are in one place
    assert drain(machine) == [catch_up(FIRST, THIRD, our_camp=2, their_camp=2)]


def test_a_peer_behind_whose_state_cannot_be_had_does_not_hold_us_up() -> None:
    """A liar could repeat its READY for ever, and each comparison costs seconds."""
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.lineage = knowing()
    behind, compared = ready(round=ROUND - 1, digest=ELSE), 0
    for tick in range(10):
        now_s = 4.0 + 0.5 * tick
        machine.on_note(THIRD, behind, now_s=now_s)
        effects = drain(machine)
        assert any(isinstance(effect, Send) for effect in effects)  # it hears where we are
        if any(isinstance(effect, CatchUp) for effect in effects):
            compared += 1
            machine.on_caught_up(ROUND, OLD, now_s=now_s + 0.1)
        assert machine.phase is Phase.IDLE
    assert compared == 1
    machine.on_departed(10, now_s=9.0)
    machine.on_note(FIRST, Roster(0, ROUND, ID, WITH_FIRST, (1, 1)), now_s=9.1)
    assert machine.phase is Phase.EXCHANGING


def test_nor_does_one_that_tries_it_for_an_hour() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    machine.lineage = knowing()
    compared_at_s = []
    for tick in range(3600):
        machine.on_note(THIRD, ready(round=ROUND - 1, digest=ELSE), now_s=float(tick))
        if machine.phase is Phase.CATCHING_UP:
            compared_at_s.append(tick)
            machine.on_caught_up(ROUND, OLD, now_s=tick + 0.5)
        drain(machine)
    assert 1 < len(compared_at_s) < 50, compared_at_s


def test_after_a_comparison_that_failed_the_next_may_come_at_once() -> None:
    machine = machine_of(SECOND, FIRST, THIRD)
    for now_s in (0.0, 2.0):
        machine.on_note(FIRST, ready(digest=NEW), now_s=now_s)
    assert machine.phase is Phase.CATCHING_UP
    machine.on_caught_up(ROUND, OLD, now_s=2.5)
    assert machine.phase is Phase.IDLE
    machine.on_note(FIRST, ready(digest=NEW), now_s=2.6)
    assert machine.phase is Phase.IDLE  # who failed us is left alone for a while
    machine.on_note(THIRD, ready(digest=NEW), now_s=2.7)
    assert catch_up(THIRD, our_camp=2) in drain(machine)


def test_a_kept_anchor_is_not_compared_with_the_same_one_again_for_a_while() -> None:
    machine = machine_of(SECOND, FIRST)
    for now_s in (0.0, 2.0):
        machine.on_note(FIRST, ready(digest=NEW), now_s=now_s)
    machine.on_kept(now_s=3.0)
    machine.drain()
    machine.on_note(FIRST, ready(digest=NEW), now_s=2.0 + JUDGED_S - 0.1)
    assert drain(machine) == []
    machine.on_note(FIRST, ready(digest=ELSE), now_s=2.0 + JUDGED_S - 0.1)
    assert drain(machine) == [catch_up(FIRST)]  # another one is news


# ---- out of sight


def alone(*left: PeerId) -> GroupExchange:
    """It has had two others, of whom those said goodbye; since 10 s it sees nobody."""
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_members((), left=left, now_s=10.0)
    machine.drain()
    return machine


def test_who_has_lost_sight_of_all_others_lands_nothing_alone_for_long() -> None:
    machine = alone()
    for tick in range(int(ALONE_S)):
        machine.on_timer(now_s=10.0 + tick)
        machine.on_departed(10 + tick, now_s=10.5 + tick)
    assert machine.phase is Phase.READY
    assert machine.round == ROUND
    machine.on_timer(now_s=10.0 + ALONE_S)
    machine.on_timer(now_s=10.0 + ALONE_S)
    assert machine.phase is Phase.LANDING


def test_its_timer_does_not_spin_meanwhile() -> None:
    machine, now_s, num = alone(), 10.0, 0
    while machine.phase is Phase.READY:
        due_s = machine.next_deadline_s()
        assert due_s is not None
        now_s = max(now_s, due_s)
        machine.on_timer(now_s=now_s)
        num += 1
        assert num < 2 * ALONE_S
    assert now_s >= 10.0 + ALONE_S


def test_one_goodbye_is_not_enough_if_there_were_two() -> None:
    machine = alone(SECOND)
    machine.on_timer(now_s=11.0)
    assert machine.phase is Phase.READY


def test_whoever_is_left_because_all_said_goodbye_goes_on_at_once() -> None:
    machine = machine_of(FIRST, SECOND, THIRD)
    machine.on_departed(10, now_s=0.0)
    machine.on_members((), left=(SECOND, THIRD), now_s=10.0)
    assert machine.phase is Phase.LANDING


def test_who_has_become_a_holder_is_not_lost() -> None:
    machine = machine_of(FIRST, SECOND)
    machine.on_departed(10, now_s=0.0)
    machine.on_members((), holders=(SECOND,), now_s=10.0)
    assert machine.phase is Phase.LANDING


def test_the_same_news_once_more_does_not_make_it_wait_anew_or_land() -> None:
    machine = alone()
    for now_s in (20.0, 30.0):
        machine.on_members((), now_s=now_s)
    assert machine.phase is Phase.READY
    for now_s in (10.0 + ALONE_S, 11.0 + ALONE_S):
        machine.on_timer(now_s=now_s)
    assert machine.phase is Phase.LANDING


def test_who_sees_others_again_goes_on_with_them() -> None:
    machine = alone()
    machine.on_members((SECOND,), now_s=60.0)
    machine.on_note(SECOND, ready(), now_s=60.5)
    assert machine.phase is Phase.EXCHANGING


# ---- a late contribution


def test_a_contribution_that_grew_for_rounds_weighs_as_one() -> None:
    machine = machine_of(FOURTH, FIRST)
    replay(machine, committed(), NEW)
    replay(machine, committed(ROUND + 2, digest=LATER, id=ID2, base=NEW), LATER)
    machine.drain()
    machine.on_departed(300, now_s=5.0)
    ((_, note),) = sent(machine, Ready)
    assert isinstance(note, Ready)
    assert note.tokens == 100  # it is three times as long
    # In the roster, too; and with the next round of its own it weighs what it is again.
    machine.on_note(FIRST, Ready(0, ROUND + 2, 70, LATER), now_s=6.0)
    for now_s in (6.0, 8.0, 10.0):
        machine.on_note(FIRST, Ready(0, ROUND + 2, 70, LATER), now_s=now_s)
        machine.on_timer(now_s=now_s)
    rosters = [e.note for e in drain(machine) if isinstance(e, Send)]
    (roster,) = {note for note in rosters if isinstance(note, Roster)}
    assert {member.peer_id: member.tokens for member in roster.members} == {FOURTH: 100, FIRST: 70}
    ours = roster.peer_ids.index(FOURTH)
    for place, peer in enumerate(roster.peer_ids):
        if peer != FOURTH:
            machine.on_fetched(peer, part(ours, roster.exchange_id), now_s=11.0)
            machine.on_fetched(peer, average(place, roster.exchange_id), now_s=11.0)
    lands = [effect for effect in drain(machine) if isinstance(effect, Land)]
    assert [land.tokens for land in lands] == [170]
    machine.on_landed(ROUND + 3, ELSE, now_s=12.0)
    machine.drain()
    machine.on_departed(300, now_s=13.0)
    ((_, note),) = sent(machine, Ready)
    assert isinstance(note, Ready)
    assert note.tokens == 300


def skip_by_a_state(machine: GroupExchange, round: int) -> None:
    """Others are at that round, to which no replay leads."""
    machine.on_note(FIRST, committed(round, digest=LATER, id=b""), now_s=1.0)
    machine.on_timer(now_s=2.0)
    assert any(isinstance(effect, CatchUp) for effect in machine.drain())
    machine.on_caught_up(round, LATER, now_s=3.0)
    machine.drain()


def tokens_said(machine: GroupExchange, tokens: int) -> int:
    """What it says that it brings, when so many are in its hands."""
    machine.on_departed(tokens, now_s=4.0)
    (said,) = {note for _, note in sent(machine, Ready)}
    assert isinstance(said, Ready)
    return said.tokens


def test_rounds_that_were_skipped_by_a_state_count_as_missed() -> None:
    machine = machine_of(FOURTH, FIRST)
    machine.on_departed(100, now_s=0.0)
    skip_by_a_state(machine, ROUND + 9)
    assert tokens_said(machine, 1001) == 101  # of ten rounds; never nothing, for that is a goodbye


def test_who_has_come_back_with_nothing_in_its_hands_missed_no_rounds() -> None:
    """As after a resume: its first contribution is that of one round, and weighs as such."""
    machine = machine_of(FOURTH, FIRST)
    skip_by_a_state(machine, ROUND + 500)
    assert tokens_said(machine, 1001) == 1001


@pytest.mark.parametrize(("tokens", "said"), [(1000, 101), (90, 90), (101, 101), (5000, 500)])
def test_who_missed_rounds_weighs_no_less_than_usual_if_it_has_as_much(
    tokens: int, said: int
) -> None:
    machine = machine_of(FOURTH)
    machine.on_departed(101, now_s=0.0)
    machine.on_landed(ROUND + 1, NEW, now_s=0.1)
    machine.drain()
    machine.on_members((FIRST,), now_s=0.2)
    machine.on_departed(80, now_s=0.3)
    machine.drain()
    skip_by_a_state(machine, ROUND + 10)  # nine more
    assert tokens_said(machine, tokens) == said


def test_a_journal_names_what_the_average_stands_for() -> None:
    machine = machine_of(SECOND, FIRST)
    replay(machine, committed(), NEW)
    ((_, note),) = sent(machine, Committed)
    assert note == Committed(0, ROUND + 1, NEW, ID, THREE.shares, 0, OLD, 30)


def test_more_tokens_than_one_may_claim_can_still_be_said() -> None:
    """Each member may claim nearly as many, and the sum is what it is."""
    machine = machine_of(FIRST, SECOND)
    machine.on_departed(10, now_s=0.0)
    drain(machine)
    machine.on_note(SECOND, ready(MAX_TOKENS - 1), now_s=0.5)
    (roster,) = {e.note for e in machine.drain() if isinstance(e, Send)}
    assert isinstance(roster, Roster)
    ours = roster.peer_ids.index(FIRST)
    machine.on_fetched(SECOND, part(ours, roster.exchange_id), now_s=1.0)
    machine.on_fetched(SECOND, average(1 - ours, roster.exchange_id), now_s=1.0)
    machine.on_landed(ROUND + 1, NEW, now_s=2.0)
    ((_, note),) = sent(machine, Committed)
    assert note == parse_note(note_to_bytes(note), max_bytes=1 << 20, num_fragments=1, max_peers=64)
