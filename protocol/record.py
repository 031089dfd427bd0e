"""Signed, expiring records: what a peer tells everybody through the directory.

A record belongs to its owner: the signature covers run, topic, owner, expiry and payload, so nobody
can publish for another, move a record to another run, or extend its life.
"""

import struct
from dataclasses import dataclass

from protocol.errors import LimitExceeded, MalformedMessage
from protocol.identity import Identity, PeerId, parse_peer_id, verify
from protocol.manifest import RunId

MAX_RECORD_BYTES = 4096
MAX_LIFETIME_S = 300.0
CLOCK_SKEW_S = 30.0
"""Home machines' clocks are that wrong; it only stretches how long a record is believed."""
_MIN_STEP_S = 0.001

_DOMAIN = b"thinwire record 1\0"


@dataclass(frozen=True, slots=True)
class Record:
    """One peer's entry under one topic."""

    owner: PeerId
    topic: str
    payload: bytes
    expires_unix_s: float


def sign_record(record: Record, *, run_id: RunId, identity: Identity) -> bytes:
    """Returns the bytes to publish: signature, expiry, payload.

    Raises:
        LimitExceeded: the record is too large to be accepted by others.
    """
    if len(record.payload) + 72 > MAX_RECORD_BYTES:
        raise LimitExceeded(f"a record has at most {MAX_RECORD_BYTES} bytes")
    return (
        identity.sign(_signed_bytes(record, run_id))
        + struct.pack(">d", record.expires_unix_s)
        + record.payload
    )


def parse_record(
    data: bytes, *, run_id: RunId, owner: str, topic: str, now_unix_s: float
) -> Record:
    """Returns a record that a stranger handed over, if its owner published it and it still lives.

    Raises:
        LimitExceeded: too large, expired, or living too long.
        MalformedMessage, BadSignature: not that owner's record.
    """
    if not 72 <= len(data) <= MAX_RECORD_BYTES:
        raise LimitExceeded(f"a record of {len(data)} bytes")
    (expires_unix_s,) = struct.unpack(">d", data[64:72])
    record = Record(parse_peer_id(owner), topic, data[72:], expires_unix_s)
    left_s = expires_unix_s - now_unix_s
    if not left_s < MAX_LIFETIME_S + CLOCK_SKEW_S:  # also catches NaN
        raise LimitExceeded(f"a record that would live for {left_s:.0f} s")
    if left_s <= 0:
        raise LimitExceeded("an expired record")
    verify(record.owner, data[:64], _signed_bytes(record, run_id))
    return record


def next_expiry(lifetime_s: float, *, now_unix_s: float, previous_unix_s: float | None) -> float:
    """Returns when a record of so long a life expires that replaces one of ours.

    Of two records the one that expires later is the newer, so a record that follows one of a longer
    life lives just a little longer than that. One that would live too long was stored by nobody:
    our clock was wrong then, and it need not be followed.

    Args:
        lifetime_s: Wanted.
        now_unix_s: By our clock.
        previous_unix_s: When our last record under this topic expires; None if there is none.
    """
    expires_unix_s = now_unix_s + lifetime_s
    longest_s = MAX_LIFETIME_S + CLOCK_SKEW_S
    if previous_unix_s is None or previous_unix_s - now_unix_s >= longest_s:
        return expires_unix_s
    return max(expires_unix_s, previous_unix_s + _MIN_STEP_S)


def _signed_bytes(record: Record, run_id: RunId) -> bytes:
    fields = (run_id.encode(), record.topic.encode(), record.owner.encode())
    if any(len(field) > 255 for field in fields):
        raise MalformedMessage("a name in a record is too long")
    header = b"".join(bytes([len(field)]) + field for field in fields)
    return _DOMAIN + header + struct.pack(">d", record.expires_unix_s) + record.payload
