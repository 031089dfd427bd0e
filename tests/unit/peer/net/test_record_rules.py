import math

import pytest

from peer.net.record_rules import RecordRules
from protocol.errors import BadSignature, LimitExceeded, LocalProtocolError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.record import CLOCK_SKEW_S, MAX_LIFETIME_S, Record, sign_record
from protocol.rooms import rooms_of

A = Identity(b"a" * 32)
NOW = 1_700_000_000.0


@pytest.fixture
def rules() -> RecordRules:
    return RecordRules(RunId("ab" * 32), max_records=2)


def _signed(rules: RecordRules, lifetime_s: float = 60) -> tuple[float, bytes]:
    record, data = rules.sign(
        A, "peers", b"x", lifetime_s=lifetime_s, now_unix_s=NOW, previous=None
    )
    return record.expires_unix_s, data


def test_a_record_may_be_stored_while_it_lives(rules: RecordRules) -> None:
    expires, data = _signed(rules)
    assert rules.is_storable("peers", A.peer_id, data, expires_unix_s=expires, now_unix_s=NOW)
    assert rules.parse("peers", A.peer_id, data, now_unix_s=NOW).payload == b"x"


def test_a_dead_record_spoils_no_answer_but_is_not_read(rules: RecordRules) -> None:
    expires, data = _signed(rules)
    for late_s in (0, 5, 3600):
        now = expires + late_s
        assert rules.is_storable("peers", A.peer_id, data, expires_unix_s=expires, now_unix_s=now)
        with pytest.raises(LimitExceeded, match="expired"):
            rules.parse("peers", A.peer_id, data, now_unix_s=now)


@pytest.mark.parametrize("told", [60 + 1e-3, 3600, -1e12, math.inf, -math.inf, math.nan])
def test_an_expiry_that_the_owner_did_not_sign_is_refused(rules: RecordRules, told: float) -> None:
    _, data = _signed(rules)
    args = ("peers", A.peer_id, data)
    assert not rules.is_storable(*args, expires_unix_s=NOW + told, now_unix_s=NOW)


def test_a_record_from_a_clock_far_ahead_is_refused(rules: RecordRules) -> None:
    expires, data = _signed(rules, MAX_LIFETIME_S)
    early = NOW - CLOCK_SKEW_S - 1
    args = ("peers", A.peer_id, data)
    for _ in range(2):
        assert not rules.is_storable(*args, expires_unix_s=expires, now_unix_s=early)
    assert rules.is_storable(*args, expires_unix_s=expires, now_unix_s=NOW - CLOCK_SKEW_S + 1)
    assert not rules.is_storable(*args, expires_unix_s=expires, now_unix_s=early)


def test_what_was_verified_once_is_remembered_for_the_same_bytes_only(rules: RecordRules) -> None:
    _, data = _signed(rules)
    rules.parse("peers", A.peer_id, data, now_unix_s=NOW)
    with pytest.raises(BadSignature):
        rules.parse("rounds", A.peer_id, data, now_unix_s=NOW)
    with pytest.raises(BadSignature):
        rules.parse("peers", A.peer_id, data[:-1] + b"y", now_unix_s=NOW)
    for lifetime_s in range(1, 50):
        _, data = _signed(rules, lifetime_s)
        rules.parse("peers", A.peer_id, data, now_unix_s=NOW)
    assert len(rules._verified) == 2 * 2 * len(rules.topics)


def test_unknown_topics_are_refused(rules: RecordRules) -> None:
    expires, data = _signed(rules)
    assert not rules.is_storable("spam", A.peer_id, data, expires_unix_s=expires, now_unix_s=NOW)
    with pytest.raises(LocalProtocolError):
        rules.check_topic("spam")


def test_a_newer_record_expires_later_whatever_was_asked(rules: RecordRules) -> None:
    old, _ = rules.sign(A, "peers", b"x", lifetime_s=60, now_unix_s=NOW, previous=None)
    new, _ = rules.sign(A, "peers", b"y", lifetime_s=1, now_unix_s=NOW, previous=old)
    assert old.expires_unix_s < new.expires_unix_s < old.expires_unix_s + 1


def test_a_room_is_a_topic_of_those_on_whose_way_it_is(rules: RecordRules) -> None:
    theirs = Identity(b"b" * 32)
    forbidden = sorted(
        {*rooms_of(A.peer_id, rules.run_id)} - {*rooms_of(theirs.peer_id, rules.run_id)}
    )
    assert len(forbidden) >= 20
    for room in forbidden:
        record, data = rules.sign(A, room, b"x", lifetime_s=60, now_unix_s=NOW, previous=None)
        assert rules.parse(room, A.peer_id, data, now_unix_s=NOW) == record
        with pytest.raises(LocalProtocolError, match="for others"):
            rules.sign(theirs, room, b"x", lifetime_s=60, now_unix_s=NOW, previous=None)
        forged = Record(theirs.peer_id, room, b"x", NOW + 60)
        data = sign_record(forged, run_id=rules.run_id, identity=theirs)
        told = {"expires_unix_s": forged.expires_unix_s, "now_unix_s": NOW}
        assert not rules.is_storable(room, theirs.peer_id, data, **told)
        with pytest.raises(LimitExceeded, match="room of others"):
            rules.parse(room, theirs.peer_id, data, now_unix_s=NOW)


def test_a_record_of_one_room_is_none_of_another(rules: RecordRules) -> None:
    upper, lower = rooms_of(A.peer_id, rules.run_id)[:2]
    _, data = rules.sign(A, upper, b"x", lifetime_s=60, now_unix_s=NOW, previous=None)
    for topic in (lower, "peers"):
        with pytest.raises(BadSignature):
            rules.parse(topic, A.peer_id, data, now_unix_s=NOW)
