"""The DHT node's guard, without a DHT."""

import time

import msgpack
import pytest

from peer.net import directory_guard
from peer.net.directory_guard import (
    DHTID,
    MAX_TOPICS,
    MAX_TOPICS_PER_OWNER,
    BoundedStorage,
    DHTRecord,
    RecordValidator,
    node_key,
)
from peer.net.record_rules import RecordRules
from peer.net.swarm_clock import SwarmClock
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.rooms import rooms_of

RUN_ID = RunId("ab" * 32)
A, B = (Identity(bytes([seed]) * 32) for seed in (1, 2))


@pytest.fixture
def validator() -> RecordValidator:
    return RecordValidator(RecordRules(RUN_ID), SwarmClock())


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


OURS = [node_key(RUN_ID, topic) for topic in ("peers", "rounds", *rooms_of(A.peer_id, RUN_ID)[:3])]
HOME = DHTID.generate(A.peer_id)


def is_kept(storage: BoundedStorage, key: DHTID, owner: str) -> bool:
    entry = storage.get(key)
    return entry is not None and owner in entry.value


def nearest_last(count: int) -> list[DHTID]:
    """Keys of rooms that others may have, the farthest from our node first."""
    return sorted(map(DHTID.generate, range(count)), key=HOME.xor_distance, reverse=True)


def test_a_node_keeps_few_topics_the_nearest_and_always_its_own() -> None:
    storage = BoundedStorage(RecordRules(RUN_ID), A.peer_id)
    soon = time.time() + 60
    keys = nearest_last(2 * MAX_TOPICS)
    assert storage.store_subkey(OURS[0], "owner", b"x", soon)
    for n, key in enumerate(keys):
        assert storage.store_subkey(key, f"owner {n}", b"x", soon)
    assert not storage.store_subkey(keys[0], "late", b"x", soon)
    for key in OURS[1:]:
        assert storage.store_subkey(key, "owner", b"x", soon)
    kept = [is_kept(storage, key, f"owner {n}") for n, key in enumerate(keys)]
    assert kept == [False] * (MAX_TOPICS + 1) + [True] * (MAX_TOPICS - 1)
    assert all(is_kept(storage, key, "owner") for key in OURS)


def test_a_room_of_many_stays_when_a_few_identities_fill_the_node() -> None:
    storage = BoundedStorage(RecordRules(RUN_ID), A.peer_id)
    soon = time.time() + 60
    room, *others = nearest_last(2 * MAX_TOPICS)
    for owner in ("honest", "honest too"):
        assert storage.store_subkey(room, owner, b"x", soon)
    for n, key in enumerate(others):
        storage.store_subkey(key, f"attacker {n // 40}", b"x", soon + n)
    assert is_kept(storage, room, "honest")
    assert is_kept(storage, room, "honest too")
    assert len(storage) <= MAX_TOPICS


def test_an_owner_is_in_few_topics_of_a_node_the_newest_and_in_its_own_besides() -> None:
    storage = BoundedStorage(RecordRules(RUN_ID), A.peer_id)
    soon = time.time() + 60
    keys = nearest_last(MAX_TOPICS_PER_OWNER + 5)
    for key in OURS:
        assert storage.store_subkey(key, "busy", b"x", soon)
    for n, key in enumerate(keys):
        assert storage.store_subkey(key, "busy", b"x", soon + n)
        assert storage.store_subkey(key, f"owner {n}", b"x", soon + n)
    kept = [is_kept(storage, key, "busy") for key in keys]
    assert kept == [False] * 5 + [True] * MAX_TOPICS_PER_OWNER
    assert all(is_kept(storage, key, "busy") for key in OURS)
    assert all(is_kept(storage, key, f"owner {n}") for n, key in enumerate(keys))
