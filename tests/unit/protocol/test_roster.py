import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import PeerId
from protocol.messages import Member, Ready, Roster
from protocol.roster import RosterView, decide_roster, is_quorum, roster_of
from protocol.shares import fair_shares
from protocol.terms import Terms

A, B, C, D = (PeerId(name) for name in "abcd")
# Quorum of 4 since 10 s, grace 3 s, so it is due at 13 s; complete since 11 s, if at all.
GRACE = RosterView(
    order=(A, B, C),
    our_id=A,
    num_live=4,
    complete_since_s=None,
    quorum_since_s=10.0,
    grace_s=3.0,
    takeover_s=2.0,
)
COMPLETE = replace(GRACE, order=(A, B, C, D), complete_since_s=11.0)


@pytest.mark.parametrize(
    ("view", "now_s", "close", "reason", "wake_at_s"),
    [
        (replace(GRACE, quorum_since_s=None), 99.0, False, "3 of 4 peers are ready", None),
        (GRACE, 10.0, False, "grace for 1 late peers", 13.0),
        (GRACE, 12.999, False, "grace for 1 late peers", 13.0),
        (GRACE, 13.0, True, "all are ready", None),
        (replace(GRACE, our_id=B), 12.0, False, "grace for 1 late peers", 15.0),
        (replace(GRACE, our_id=B), 13.0, False, "a should close", 15.0),
        (replace(GRACE, our_id=B), 14.999, False, "a should close", 15.0),
        (replace(GRACE, our_id=B), 15.0, True, "the leader does not close", None),
        (replace(GRACE, our_id=C), 16.999, False, "a should close", 17.0),
        (replace(GRACE, our_id=C), 17.0, True, "the leader does not close", None),
        (COMPLETE, 11.0, True, "all are ready", None),
        (replace(COMPLETE, our_id=B), 11.0, False, "a should close", 13.0),
        (replace(COMPLETE, our_id=B), 13.0, True, "the leader does not close", None),
        (replace(COMPLETE, our_id=D), 16.999, False, "a should close", 17.0),
        (replace(COMPLETE, our_id=D), 17.0, True, "the leader does not close", None),
        (replace(COMPLETE, complete_since_s=14.0), 13.0, True, "all are ready", None),
        (replace(COMPLETE, our_id=B, complete_since_s=1.0), 10.0, False, "a should close", 12.0),
        (COMPLETE, -math.inf, False, "grace for 0 late peers", 11.0),
    ],
    ids=[
        *("no quorum", "quorum just now", "in grace", "grace ends", "second in grace"),
        *("second at the leader's time", "second before takeover", "second takes over"),
        *("third before takeover", "third takes over", "complete", "second when complete"),
        *("second takes over when complete", "last before", "last", "complete after grace"),
        "second when complete before there was a quorum",
        "asked for the wake-up alone",
    ],
)
def test_cases(
    view: RosterView, now_s: float, close: bool, reason: str, wake_at_s: float | None
) -> None:
    decision = decide_roster(view, now_s=now_s)
    assert (decision.close, decision.wake_at_s) == (close, wake_at_s)
    if wake_at_s is not None or not close:
        assert decision.reason == reason


@given(
    place=st.integers(0, 3),
    quorum_s=st.floats(0, 1e6),
    complete_s=st.none() | st.floats(0, 1e6),
    grace_s=st.floats(1e-3, 1e3),
    takeover_s=st.floats(1e-3, 1e3),
)
def test_the_named_time_is_the_time(
    place: int, quorum_s: float, complete_s: float | None, grace_s: float, takeover_s: float
) -> None:
    view = RosterView(
        order=(A, B, C, D),
        our_id=(A, B, C, D)[place],
        num_live=5,
        complete_since_s=complete_s,
        quorum_since_s=quorum_s,
        grace_s=grace_s,
        takeover_s=takeover_s,
    )
    wake_at_s = decide_roster(view, now_s=-math.inf).wake_at_s
    assert wake_at_s is not None
    assert decide_roster(view, now_s=wake_at_s).close
    assert not decide_roster(view, now_s=math.nextafter(wake_at_s, -math.inf)).close


@pytest.mark.parametrize(
    ("num", "of", "frac", "expected"),
    [
        (1, 1, 0.5, True),
        (1, 2, 0.5, False),
        (2, 2, 0.5, True),
        (2, 3, 0.5, True),
        (2, 4, 0.5, False),
        (3, 4, 0.5, True),
        (3, 4, 0.75, False),
        (4, 4, 0.75, True),
        (9, 10, 1.0, False),
        (10, 10, 1.0, True),
        (0, 3, 0.5, False),
    ],
)
def test_quorum(num: int, of: int, frac: float, expected: bool) -> None:
    assert is_quorum(num, of, frac) is expected


@given(of=st.integers(1, 50), frac=st.floats(0.5, 1.0), data=st.data())
def test_two_quorums_of_the_same_peers_meet(of: int, frac: float, data: st.DataObject) -> None:
    num, other = (data.draw(st.integers(0, of)) for _ in range(2))
    if is_quorum(num, of, frac) and is_quorum(other, of, frac):
        assert num + other > of


def test_a_roster_has_all_who_are_ready_and_what_suits_them_all() -> None:
    def ready(tokens: int, up_bps: int, codec: int) -> Ready:
        return Ready(3, 7, tokens, bytes(32), up_bps, codec)

    words = {C: ready(30, 4, 0), A: ready(10, 2, 2), B: ready(20, 2, 1)}
    assert roster_of(words, b"e" * 16) == Roster(
        3,
        7,
        b"e" * 16,
        (Member(A, 10), Member(B, 20), Member(C, 30)),
        shares=fair_shares([2, 2, 4]),
        codec=2,
    )
    assert roster_of({A: ready(10, 0, 0)}, b"e" * 16).terms == Terms()
