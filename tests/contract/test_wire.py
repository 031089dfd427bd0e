"""What every wire must do, over sockets and in memory."""

from typing import Any

import pytest

from peer.ports import Blob
from protocol.errors import (
    LimitExceeded,
    NotAvailable,
    RemoteError,
    RunMismatch,
    TransportError,
)
from protocol.identity import Identity
from protocol.machine import BlobRef
from protocol.messages import Committed, Member, Ready, Roster

NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
REF = BlobRef("part", 0, b"e" * 16, 1)


async def test_a_note_arrives_with_its_proven_sender(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    await a.wire.send(b.peer_id, NOTE)
    assert await b.inbox.notes.get() == (a.peer_id, NOTE)


async def test_notes_keep_their_order(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    notes = [Committed(0, round_, b"d" * 32) for round_ in range(5)]
    for note in notes:
        await a.wire.send(b.peer_id, note)
    assert [(await b.inbox.notes.get())[1] for _ in notes] == notes


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 100_000])
async def test_a_blob_arrives_whole(wires: Any, size: int) -> None:
    a, b = await wires.start(), await wires.start()
    data = bytes(i % 251 for i in range(size))
    b.inbox.blobs[REF] = Blob(memoryview(data), round=9)
    blob = await a.wire.fetch(b.peer_id, REF, max_bytes=size)
    assert bytes(blob.data) == data
    assert blob.round == 9
    assert blob.data.readonly


async def test_what_is_not_there_is_refused_with_the_reason(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    with pytest.raises(NotAvailable, match="it was never made"):
        await a.wire.fetch(b.peer_id, REF, max_bytes=10)


async def test_a_blob_larger_than_allowed_is_refused(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    b.inbox.blobs[REF] = Blob(memoryview(bytes(1001)))
    with pytest.raises(LimitExceeded, match="1001 bytes, at most 1000"):
        await a.wire.fetch(b.peer_id, REF, max_bytes=1000)


async def test_a_note_over_the_limit_is_refused(wires: Any) -> None:
    a, b = await wires.start(), await wires.start(max_message_bytes=1024)
    members = tuple(Member(Identity(bytes([i]) * 32).peer_id, 1) for i in range(40))
    with pytest.raises(RemoteError, match="at most 1024 are allowed"):
        await a.wire.send(b.peer_id, Roster(0, 1, b"e" * 16, members))
    assert b.inbox.notes.empty()


async def test_a_note_for_a_fragment_that_does_not_exist_is_refused(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    with pytest.raises(RemoteError, match="fragment 1"):
        await a.wire.send(b.peer_id, Ready(1, 1, 1, b"d" * 32))


async def test_a_peer_of_another_run_is_refused(wires: Any) -> None:
    a, b = await wires.start(), await wires.start(run_id="cd" * 32)
    with pytest.raises(RunMismatch, match="in run cdcdcdcdcdcd"):
        await a.wire.send(b.peer_id, NOTE)
    with pytest.raises(RunMismatch, match="refuses us"):
        await a.wire.fetch(b.peer_id, REF, max_bytes=1)
    assert b.inbox.notes.empty()


async def test_an_unknown_peer_is_not_reachable(wires: Any) -> None:
    a = await wires.start()
    with pytest.raises(TransportError, match="no address"):
        await a.wire.send(Identity(b"z" * 32).peer_id, NOTE)


async def test_a_peer_that_left_is_not_reachable(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    await a.wire.send(b.peer_id, NOTE)
    await b.wire.close()
    with pytest.raises(TransportError):
        await a.wire.send(b.peer_id, NOTE)


async def test_a_closed_wire_sends_nothing(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    await a.wire.close()
    with pytest.raises(TransportError, match="closed"):
        await a.wire.send(b.peer_id, NOTE)
    with pytest.raises(TransportError, match="closed"):
        await a.wire.fetch(b.peer_id, REF, max_bytes=1)
