import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadSignature, LimitExceeded, MalformedMessage, RemoteError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.record import (
    CLOCK_SKEW_S,
    MAX_LIFETIME_S,
    MAX_RECORD_BYTES,
    Record,
    next_expiry,
    parse_record,
    sign_record,
)

OWNER, OTHER = Identity(b"o" * 32), Identity(b"x" * 32)
RUN, OTHER_RUN = RunId("aa" * 32), RunId("bb" * 32)
NOW_S = 1_000_000.0
RECORD = Record(OWNER.peer_id, "peers", b"payload", NOW_S + 60)
DATA = sign_record(RECORD, run_id=RUN, identity=OWNER)


def parse(
    data: bytes,
    *,
    run_id: RunId = RUN,
    owner: str = OWNER.peer_id,
    topic: str = "peers",
    now_unix_s: float = NOW_S,
) -> Record:
    return parse_record(data, run_id=run_id, owner=owner, topic=topic, now_unix_s=now_unix_s)


def living(left_s: float) -> bytes:
    record = replace(RECORD, expires_unix_s=NOW_S + left_s)
    return sign_record(record, run_id=RUN, identity=OWNER)


@given(payload=st.binary(max_size=MAX_RECORD_BYTES - 72), left_s=st.floats(0.1, MAX_LIFETIME_S))
def test_round_trip(payload: bytes, left_s: float) -> None:
    record = Record(OWNER.peer_id, "peers", payload, NOW_S + left_s)
    assert parse(sign_record(record, run_id=RUN, identity=OWNER)) == record


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": OTHER_RUN},
        {"owner": OTHER.peer_id},
        {"topic": "peer"},
        {"topic": "rounds"},
    ],
    ids=["another run", "another owner", "a shorter topic", "another topic"],
)
def test_a_record_cannot_be_moved(change: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        parse(DATA, **change)  # type: ignore[arg-type]


def test_names_cannot_be_shifted_into_each_other() -> None:
    record = Record(OWNER.peer_id, "ab", b"", NOW_S + 60)
    data = sign_record(record, run_id=RunId("run"), identity=OWNER)
    with pytest.raises(BadSignature):
        parse(data, run_id=RunId("runa"), topic="b")


def test_each_flipped_bit_is_refused() -> None:
    for at in range(8 * len(DATA)):
        data = bytearray(DATA)
        data[at // 8] ^= 1 << at % 8
        with pytest.raises((BadSignature, LimitExceeded)):  # it may seem to live too long, too
            parse(bytes(data))


def test_nobody_publishes_for_another() -> None:
    with pytest.raises(BadSignature):
        parse(sign_record(RECORD, run_id=RUN, identity=OTHER))


@pytest.mark.parametrize(
    ("left_s", "words"),
    [
        (-1.0, "expired"),
        (0.0, "expired"),
        (-math.inf, "expired"),
        (MAX_LIFETIME_S + CLOCK_SKEW_S, "would live"),
        (1e18, "would live"),
        (math.inf, "would live"),
        (math.nan, "would live"),
    ],
    ids=str,
)
def test_the_time_left_is_limited(left_s: float, words: str) -> None:
    with pytest.raises(LimitExceeded, match=words):
        parse(living(left_s))


@pytest.mark.parametrize("left_s", [0.001, 60.0, MAX_LIFETIME_S, MAX_LIFETIME_S + 29.0])
def test_a_wrong_clock_is_forgiven_up_to_the_skew(left_s: float) -> None:
    assert parse(living(left_s)).payload == b"payload"


@pytest.mark.parametrize("size", [0, 1, 71, MAX_RECORD_BYTES + 1, 1_000_000])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(LimitExceeded):
        parse(bytes(size))


def test_a_record_that_others_would_refuse_is_not_signed() -> None:
    most = replace(RECORD, payload=bytes(MAX_RECORD_BYTES - 72))
    assert len(sign_record(most, run_id=RUN, identity=OWNER)) == MAX_RECORD_BYTES
    with pytest.raises(LimitExceeded):
        sign_record(replace(RECORD, payload=bytes(4025)), run_id=RUN, identity=OWNER)


@pytest.mark.parametrize("owner", ["", "me", OWNER.peer_id + " ", OWNER.peer_id[:-1]])
def test_the_owner_must_be_a_peer_id(owner: str) -> None:
    with pytest.raises(MalformedMessage):
        parse(DATA, owner=owner)


def test_names_that_are_too_long_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        parse(DATA, topic="t" * 256)


@given(tail=st.binary(max_size=80), left_s=st.floats(-400, 400))
def test_any_bytes_are_refused(tail: bytes, left_s: float) -> None:
    with pytest.raises(RemoteError):
        parse(bytes(64) + struct.pack(">d", NOW_S + left_s) + tail)


def test_a_record_expires_after_the_one_that_it_replaces() -> None:
    later = next_expiry(1.0, now_unix_s=1000.0, previous_unix_s=1060.0)
    assert 1060.0 < later < 1061.0
    assert next_expiry(60.0, now_unix_s=1000.0, previous_unix_s=1030.0) == 1060.0
    assert next_expiry(60.0, now_unix_s=1000.0, previous_unix_s=None) == 1060.0


def test_a_record_of_a_time_when_our_clock_was_ahead_is_not_followed() -> None:
    """Nobody stored that one; to follow it would make us invisible until its time has come."""
    wrong_s = 1000.0 + MAX_LIFETIME_S + CLOCK_SKEW_S
    assert next_expiry(60.0, now_unix_s=1000.0, previous_unix_s=wrong_s) == 1060.0
