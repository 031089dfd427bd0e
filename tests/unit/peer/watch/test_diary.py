"""History and events, from one view of a swarm to the next."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.watch import sums as sums_module
from peer.watch.assemble import view_of
from peer.watch.diary import LAGS_S, MAX_EVENTS, MAX_POINTS, POINT_EVERY_S, Diary
from peer.watch.sums import Sums
from protocol.card import Card
from protocol.identity import Identity, PeerId
from protocol.report import Report
from tests.unit.peer.watch.swarms import (
    NOW_UNIX_S,
    A,
    B,
    C,
    card_of,
    exchanged,
    heard,
    manifest_of,
    report_of,
)


class Watcher:
    """Looks at what the test says, two seconds after the last time."""

    def __init__(self) -> None:
        self.diary = Diary()
        self.now_s = NOW_UNIX_S

    def look(self, cards: dict[PeerId, Card], *reports: Report, after_s: float = 2.0) -> None:
        self.now_s += after_s
        said = heard(*(replace(r, at_unix_s=self.now_s) for r in reports), at_unix_s=self.now_s)
        self.diary.compare(view_of(manifest_of(), cards, said, now_unix_s=self.now_s))

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(event.kind, event.peer_id) for event in self.diary.events]


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


# ---- who comes and goes


def test_who_is_there_at_the_first_look_did_not_come(watcher: Watcher) -> None:
    watcher.look({A: card_of()})
    watcher.look({A: card_of(), B: card_of("coming")})
    watcher.look({A: card_of(), B: card_of()})
    assert watcher.events == [("came", B)]


def test_who_leaves_says_goodbye_or_is_out_of_sight(watcher: Watcher) -> None:
    watcher.look({A: card_of(), B: card_of(), C: card_of("bootstrap")})
    watcher.look({A: card_of("left"), C: card_of("bootstrap")})
    watcher.look({})
    assert sorted(watcher.events) == sorted([("left", A), ("left", B)])
    words = {event.peer_id: event.words for event in watcher.diary.events}
    assert words == {A: "left", B: "is out of sight"}


def test_who_comes_back_came_again(watcher: Watcher) -> None:
    for cards in ({A: card_of()}, {A: card_of("left")}, {A: card_of()}):
        watcher.look(cards)
    assert watcher.events == [("left", A), ("came", A)]


# ---- who lags


def test_who_stays_behind_lags_and_comes_back(watcher: Watcher) -> None:
    behind = {A: card_of(round=9), B: card_of(round=7)}
    for _ in range(4):
        watcher.look(behind, after_s=LAGS_S / 2)
    assert watcher.events == [("lags", B)]
    watcher.look({A: card_of(round=9), B: card_of(round=8)})
    assert watcher.events == [("lags", B), ("back", B)]


def test_who_is_behind_for_a_moment_does_not_lag(watcher: Watcher) -> None:
    for round in range(3, 9):
        watcher.look({A: card_of(round=round), B: card_of(round=round - 2)}, after_s=LAGS_S / 2)
        watcher.look({A: card_of(round=round), B: card_of(round=round)}, after_s=LAGS_S / 4)
    assert watcher.events == []


def test_a_peer_that_lags_and_leaves_does_not_come_back_by_that(watcher: Watcher) -> None:
    behind = {A: card_of(round=9), B: card_of(round=3)}
    watcher.look(behind)
    watcher.look(behind, after_s=LAGS_S)
    watcher.look({A: card_of(round=9)})
    watcher.look({A: card_of(round=9), B: card_of(round=9)})
    assert watcher.events == [("lags", B), ("left", B), ("came", B)]


# ---- exchanges and notices


def test_a_failed_exchange_is_one_event_however_many_tell_of_it(watcher: Watcher) -> None:
    cards = {A: card_of(), B: card_of()}
    watcher.look(cards)
    at_s = watcher.now_s
    for _ in range(3):
        watcher.look(
            cards,
            report_of(A, exchanges=(exchanged([B], "failed", began_unix_s=at_s, reason="slow"),)),
            report_of(B, exchanges=(exchanged([A], "failed", began_unix_s=at_s + 0.5),)),
        )
    assert watcher.events == [("failed", A)]
    (event,) = watcher.diary.events
    assert event.words == "an exchange of round 3 failed: slow"
    assert event.unix_s == at_s + 1.0


def test_what_failed_before_we_looked_is_no_news(watcher: Watcher) -> None:
    cards = {A: card_of(), B: card_of()}
    at_s = watcher.now_s
    failed = report_of(A, exchanges=(exchanged([B], "failed", began_unix_s=at_s),))
    watcher.look(cards, failed)
    watcher.look(cards, failed)
    assert watcher.events == []


def test_a_new_notice_is_worth_a_line_once(watcher: Watcher) -> None:
    cards = {A: card_of()}
    watcher.look(cards, report_of(A, notices=("old",)))
    for _ in range(2):
        watcher.look(cards, report_of(A, notices=("old", "the disk is full")))
    assert [(event.kind, event.words) for event in watcher.diary.events] == [
        ("note", "the disk is full")
    ]


def test_only_the_last_events_are_kept(watcher: Watcher) -> None:
    for n in range(MAX_EVENTS):
        watcher.look({A: card_of()} if n % 2 else {A: card_of(), B: card_of()})
    watcher.look({A: card_of(), C: card_of()})
    assert len(watcher.events) == MAX_EVENTS
    assert ("came", C) in watcher.events[-2:]


# ---- history


@given(num=st.integers(1, 5 * MAX_POINTS))
def test_history_stays_short_in_order_and_keeps_its_beginning_and_its_end(num: int) -> None:
    diary, view = Diary(), view_of(manifest_of(), {A: card_of()}, {}, now_unix_s=NOW_UNIX_S)
    for n in range(num):
        diary.compare(replace(view, at_unix_s=NOW_UNIX_S + n * POINT_EVERY_S))
    points, times = diary.points, [point.unix_s for point in diary.points]
    assert 1 <= len(points) <= MAX_POINTS
    assert times[0] == NOW_UNIX_S
    assert times == sorted(set(times))
    newest = num - 1 - (times[-1] - NOW_UNIX_S) / POINT_EVERY_S
    assert newest <= max(1, 2 * num // MAX_POINTS)
    if num > MAX_POINTS:
        assert len(points) >= MAX_POINTS // 2
        gaps = {later - earlier for earlier, later in pairwise(times)}
        assert len(gaps) <= 2


def test_who_goes_takes_nothing_along(watcher: Watcher) -> None:
    both = {A: card_of(tokens=40), B: card_of(tokens=30)}
    watcher.look(both, report_of(A, sent_bytes=7), report_of(B, sent_bytes=5))
    watcher.look({A: card_of(tokens=50)}, report_of(A, sent_bytes=8))
    back = {A: card_of(tokens=50), B: card_of(tokens=20)}  # at its last checkpoint
    watcher.look(back, report_of(A, sent_bytes=8), report_of(B, sent_bytes=1))
    watcher.look(back, report_of(A, sent_bytes=8))  # the other gives no report for once
    watcher.look(back | {B: card_of(tokens=35)}, report_of(B, sent_bytes=2))
    done = [(point.tokens, point.sent_bytes) for point in watcher.diary.points]
    assert done == [(70, 12), (80, 13), (80, 14), (80, 14), (85, 15)]


def test_of_those_gone_longest_only_the_sums_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums_module, "MAX_REMEMBERED", 3)
    sums = Sums()
    for n in range(1, 9):
        peer = Identity(bytes([n]) * 32).peer_id
        view = view_of(manifest_of(), {peer: card_of(tokens=n)}, {}, now_unix_s=NOW_UNIX_S)
        assert sums.count(view)[0] == sums.count(view)[0] == n * (n + 1) // 2


def test_looking_more_often_makes_no_longer_history(watcher: Watcher) -> None:
    for _ in range(20):
        watcher.look({A: card_of()}, after_s=POINT_EVERY_S / 10)
    assert len(watcher.diary.points) in (2, 3)


def test_a_swarm_in_which_nobody_trains_has_no_history(watcher: Watcher) -> None:
    watcher.look({A: card_of("bootstrap")})
    assert watcher.diary.points == ()
    watcher.look({A: card_of("bootstrap"), B: card_of(tokens=7)})
    assert [point.tokens for point in watcher.diary.points] == [7]


def test_history_goes_on_when_our_clock_is_put_back(watcher: Watcher) -> None:
    for _ in range(5):
        watcher.look({A: card_of()})
    watcher.look({A: card_of()}, after_s=-3600.0)
    watcher.look({A: card_of()})
    times = [point.unix_s for point in watcher.diary.points]
    assert times == [watcher.now_s - 2.0, watcher.now_s]
