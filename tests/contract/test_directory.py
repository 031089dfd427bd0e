"""What every directory must do, over the DHT and in memory."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from peer.net.directory_memory import MemoryBoard, MemoryDirectory
from peer.net.record_rules import RecordRules
from peer.ports import Directory
from protocol.errors import LimitExceeded, LocalProtocolError, TransportError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.record import MAX_RECORD_BYTES, Record, sign_record
from protocol.rooms import may_enter, rooms_of
from protocol.ticket import Address

RUN_ID = RunId("ab" * 32)
A, B, C, MALLORY = (Identity(bytes([seed]) * 32) for seed in range(1, 5))
ROOM = next(
    room
    for room in rooms_of(A.peer_id, RUN_ID)
    if may_enter(room, C.peer_id, RUN_ID) and not may_enter(room, MALLORY.peer_id, RUN_ID)
)
"""On the way of A and C."""


class MemoryWorld:
    def __init__(self) -> None:
        self.board: MemoryBoard | None = None
        self.late_s = 0.0

    def now(self) -> float:
        return time.time() + self.late_s

    async def start(self, identity: Identity, *, max_records: int = 8) -> Directory:
        if self.board is None:
            self.board = MemoryBoard(RecordRules(RUN_ID, max_records=max_records), self.now)
        return MemoryDirectory(identity, self.board)

    async def inject(self, topic: str, owner: str, data: bytes, *, expires_unix_s: float) -> bool:
        assert self.board is not None
        return self.board.store(topic, owner, data)

    async def pass_time(self, seconds: float) -> None:
        self.late_s += seconds

    async def close(self) -> None:
        pass


class HivemindWorld:
    def __init__(self) -> None:
        self.directories: list = []
        self.attacker = None

    async def start(self, identity: Identity, *, max_records: int = 8) -> Directory:
        from peer.net.directory_hivemind import HivemindDirectory

        bootstrap = [_address(self.directories[0])] if self.directories else []
        directory = await HivemindDirectory.start(
            identity, RUN_ID, bootstrap=bootstrap, max_records=max_records
        )
        self.directories.append(directory)
        return directory

    async def inject(self, topic: str, owner: str, data: bytes, *, expires_unix_s: float) -> bool:
        """Stores at the first directory's node, from a node that checks nothing."""
        from hivemind.dht.routing import DHTID
        from hivemind.p2p import PeerID
        from hivemind.utils import MSGPackSerializer

        from peer.net.directory_guard import record_key

        if self.attacker is None:
            self.attacker = await self.start(MALLORY)
        node = self.attacker._upkeep.node.dht
        node.protocol.record_validator = None
        replies = await node.protocol.call_store(
            PeerID.from_base58(_address(self.directories[0]).peer_id),
            [DHTID.generate(record_key(RUN_ID, topic))],
            [MSGPackSerializer.dumps(data)],
            [expires_unix_s],
            subkeys=[owner],
        )
        assert replies is not None, "the attack did not arrive"
        return replies[0]

    async def pass_time(self, seconds: float) -> None:
        pass  # the condition is waited for

    async def close(self) -> None:
        for directory in self.directories:
            await directory.close()


def _address(directory: Directory) -> Address:
    _, _, host, _, port, _, peer_id = directory.multiaddrs()[0].split("/")
    return Address(host, int(port), peer_id)


@pytest.fixture(params=["memory", pytest.param("hivemind", marks=pytest.mark.net)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[MemoryWorld | HivemindWorld]:
    made = MemoryWorld() if request.param == "memory" else HivemindWorld()
    yield made
    await made.close()


async def _payloads(directory: Directory, topic: str = "peers") -> dict[str, bytes]:
    return {record.owner: record.payload for record in await directory.read(topic)}


async def test_records_are_read_by_all_and_by_their_owner(world: Any) -> None:
    a, b = await world.start(A), await world.start(B)
    await a.publish("peers", b"from a", lifetime_s=60)
    await b.publish("peers", b"from b", lifetime_s=60)
    expected = {A.peer_id: b"from a", B.peer_id: b"from b"}
    assert await _payloads(a) == expected
    assert await _payloads(b) == expected
    assert await _payloads(a, "rounds") == {}


async def test_records_come_by_owner(world: Any) -> None:
    a, b = await world.start(A), await world.start(B)
    for directory in (a, b):
        await directory.publish("peers", b"x", lifetime_s=60)
    owners = [record.owner for record in await a.read("peers")]
    assert owners == sorted([A.peer_id, B.peer_id])


@pytest.mark.parametrize("second_lifetime_s", [60, 20], ids=["as long", "shorter"])
async def test_a_newer_record_replaces_the_older(world: Any, second_lifetime_s: float) -> None:
    a, b = await world.start(A), await world.start(B)
    await a.publish("peers", b"old", lifetime_s=60)
    assert await _payloads(b) == {A.peer_id: b"old"}
    await a.publish("peers", b"new", lifetime_s=second_lifetime_s)
    assert await _payloads(a) == {A.peer_id: b"new"}
    assert await _payloads(b) == {A.peer_id: b"new"}


async def test_records_expire(world: Any) -> None:
    a, b = await world.start(A), await world.start(B)
    await a.publish("peers", b"short", lifetime_s=1.0)
    await b.publish("peers", b"long", lifetime_s=60)
    await world.pass_time(1.5)
    async with asyncio.timeout(10):
        while A.peer_id in await _payloads(a):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await _payloads(b) == {B.peer_id: b"long"}


def _signed(record: Record, *, run_id: RunId = RUN_ID, identity: Identity = MALLORY) -> bytes:
    return sign_record(record, run_id=run_id, identity=identity)


def _forgeries() -> dict[str, tuple[str, str, bytes]]:
    soon, far = time.time() + 60, time.time() + 3600
    mine = Record(MALLORY.peer_id, "peers", b"x", soon)
    large = Record(MALLORY.peer_id, "peers", b"x" * (MAX_RECORD_BYTES - 72), soon)
    return {
        "of another owner": ("peers", A.peer_id, _signed(Record(A.peer_id, "peers", b"x", soon))),
        "under a false name": ("peers", "mallory", _signed(mine)),
        "of another run": ("peers", MALLORY.peer_id, _signed(mine, run_id=RunId("cd" * 32))),
        "of another topic": ("rounds", MALLORY.peer_id, _signed(mine)),
        "altered": ("peers", MALLORY.peer_id, _signed(mine) + b"!"),
        "too large": ("peers", MALLORY.peer_id, _signed(large) + b"!"),
        "living too long": (
            "peers",
            MALLORY.peer_id,
            _signed(Record(MALLORY.peer_id, "peers", b"x", far)),
        ),
        "empty": ("peers", MALLORY.peer_id, b""),
        "in a room of others": (
            ROOM,
            MALLORY.peer_id,
            _signed(Record(MALLORY.peer_id, ROOM, b"x", soon)),
        ),
        "of a room's name that none has": (
            f"{ROOM}/0",
            MALLORY.peer_id,
            _signed(Record(MALLORY.peer_id, f"{ROOM}/0", b"x", soon)),
        ),
    }


async def test_forged_records_are_refused(world: Any) -> None:
    a = await world.start(A)
    await a.publish("peers", b"true", lifetime_s=30)
    for name, (topic, owner, data) in _forgeries().items():
        expires_unix_s = time.time() + (3600 if name == "living too long" else 60)
        taken = await world.inject(topic, owner, data, expires_unix_s=expires_unix_s)
        assert not taken, name
    assert await _payloads(a) == {A.peer_id: b"true"}
    assert await _payloads(a, "rounds") == {}
    assert await _payloads(a, ROOM) == {}


async def test_a_room_has_the_records_of_those_on_whose_way_it_is(world: Any) -> None:
    a, c = await world.start(A), await world.start(C)
    await a.publish("peers", b"a, to all", lifetime_s=60)
    for directory in (a, c):
        await directory.publish(ROOM, b"to a room", lifetime_s=60)
    for directory in (a, c):
        assert await _payloads(directory, ROOM) == dict.fromkeys(
            (A.peer_id, C.peer_id), b"to a room"
        )
        assert await _payloads(directory) == {A.peer_id: b"a, to all"}
    mallory = await world.start(MALLORY)
    with pytest.raises(LocalProtocolError, match="for others"):
        await mallory.publish(ROOM, b"x", lifetime_s=60)


async def test_a_true_record_is_taken_from_anybody(world: Any) -> None:
    a = await world.start(A)
    record = Record(B.peer_id, "peers", b"from b", time.time() + 60)
    data = _signed(record, identity=B)
    assert await world.inject("peers", B.peer_id, data, expires_unix_s=record.expires_unix_s)
    assert await _payloads(a) == {B.peer_id: b"from b"}


async def test_what_others_would_refuse_is_not_published(world: Any) -> None:
    a = await world.start(A)
    with pytest.raises(LimitExceeded, match="4096 bytes"):
        await a.publish("peers", b"x" * MAX_RECORD_BYTES, lifetime_s=60)
    with pytest.raises(LimitExceeded, match="300 s"):
        await a.publish("peers", b"x", lifetime_s=301)
    with pytest.raises(LocalProtocolError, match="no topic"):
        await a.publish("gossip", b"x", lifetime_s=60)
    with pytest.raises(LocalProtocolError, match="no topic"):
        await a.read("gossip")


async def test_a_topic_has_a_limited_number_of_records(world: Any) -> None:
    directories = [await world.start(identity, max_records=2) for identity in (A, B, C)]
    for directory in directories:
        with contextlib.suppress(TransportError):
            await directory.publish("peers", b"x", lifetime_s=60)
    for directory in directories:
        assert len(await directory.read("peers")) <= 2


async def test_a_closed_directory_says_so(world: Any) -> None:
    a = await world.start(A)
    await a.close()
    with pytest.raises(TransportError, match="closed"):
        await a.publish("peers", b"x", lifetime_s=60)
    with pytest.raises(TransportError, match="closed"):
        await a.read("peers")
