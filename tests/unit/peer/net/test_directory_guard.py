"""The DHT node's guard, without a DHT."""

import time

import msgpack
import pytest

from peer.net import directory_guard
from peer.net.directory_guard import (
    DHTID,
    MAX_TOPICS,
    BoundedStorage,
    DHTRecord,
    RecordValidator,
    node_key,
)
from peer.net.record_rules import RecordRules
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.rooms import rooms_of

RUN_ID = RunId("ab" * 32)
A, B = (Identity(bytes([seed]) * 32) for seed in (1, 2))


@pytest.fixture
def validator() -> RecordValidator:
    return RecordValidator(RecordRules(RUN_ID))


def record_of(identity: Identity, topic: str, *, key: DHTID | None = None) -> DHTRecord:
    record, data = RecordRules(RUN_ID).sign(
        identity, topic, b"x", lifetime_s=60, now_unix_s=time.time(), previous=None
    )
    return DHTRecord(
        (key or node_key(RUN_ID, topic)).to_bytes(),
        msgpack.packb(record.owner),
        msgpack.packb(data),
        record.expires_unix_s,
    )


def test_every_room_on_an_owners_way_is_found_behind_its_key(validator: RecordValidator) -> None:
    for topic in ("peers", *rooms_of(A.peer_id, RUN_ID)):
        assert validator.validate(record_of(A, topic))


def test_a_record_lies_where_its_topic_says(validator: RecordValidator) -> None:
    ours = rooms_of(A.peer_id, RUN_ID)[5]
    theirs = next(room for room in rooms_of(B.peer_id, RUN_ID)[5:] if room != ours)
    for _ in range(2):  # also when the keys are known
        for topic in (theirs, "peers", "rounds"):
            assert not validator.validate(record_of(A, ours, key=node_key(RUN_ID, topic)))
        assert not validator.validate(record_of(A, ours, key=DHTID(7)))
        assert validator.validate(record_of(A, ours))
        assert validator.validate(record_of(B, theirs))


def test_few_rooms_keys_are_remembered(
    validator: RecordValidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_guard, "MAX_REMEMBERED_KEYS", 4)
    for _ in range(2):
        for topic in rooms_of(A.peer_id, RUN_ID):
            assert validator.validate(record_of(A, topic))
            assert len(validator._rooms) <= 4


def test_a_node_keeps_few_topics_and_always_those_of_the_run() -> None:
    lasting = [node_key(RUN_ID, topic) for topic in ("peers", "rounds")]
    storage = BoundedStorage(256, lasting)
    soon = time.time() + 60
    assert storage.store_subkey(lasting[0], "owner", b"x", soon)
    taken = [storage.store_subkey(DHTID(n), "owner", b"x", soon) for n in range(2 * MAX_TOPICS)]
    assert sum(taken) == MAX_TOPICS - 1
    assert storage.store_subkey(lasting[1], "owner", b"x", soon)
    assert storage.store_subkey(DHTID(0), "another", b"x", soon)
    assert not storage.store_subkey(DHTID(2 * MAX_TOPICS), "owner", b"x", soon)
