"""What every wire must do, over sockets and in memory."""

import asyncio
from typing import Any

import pytest

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
from tests.blobs import BytesSource, KeptSink, fetched

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


@pytest.mark.parametrize("grain_bytes", [None, 700, 4096])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 100_000])
async def test_a_blob_arrives_whole(wires: Any, size: int, grain_bytes: int | None) -> None:
    a, b = await wires.start(), await wires.start()
    data = bytes(i % 251 for i in range(size))
    b.inbox.blobs[REF] = BytesSource(data, round=9, grain_bytes=grain_bytes or max(1, size))
    sink = KeptSink(size, grain_bytes)
    await a.wire.fetch(b.peer_id, REF, sink)
    assert bytes(sink.data) == data
    assert sink.rounds == [9]
    assert memoryview(sink.last).readonly


async def test_only_what_is_missing_is_fetched(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    data = bytes(i % 251 for i in range(10_000))
    b.inbox.blobs[REF] = BytesSource(data, grain_bytes=1000)
    sink = KeptSink(len(data), 1000, has=(0, 3, 4, 9))
    await a.wire.fetch(b.peer_id, REF, sink)
    assert sorted(sink.order) == [1, 2, 5, 6, 7, 8]
    assert sink.data[5000:9000] == data[5000:9000]


async def test_who_misses_nothing_asks_for_nothing(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    sink = KeptSink(2000, 1000, has=(0, 1))
    await a.wire.fetch(b.peer_id, REF, sink)  # which b does not even have
    assert sink.rounds == []


async def test_a_blob_comes_while_it_is_made(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    data = bytes(i % 251 for i in range(5000))
    source = b.inbox.blobs[REF] = BytesSource(data, grain_bytes=1000, made_bytes=2000)
    sink = KeptSink(len(data), 1000)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    async with asyncio.timeout(5):
        while len(sink.order) < 2:
            sink.has_grown.clear()
            await sink.has_grown.wait()
    assert not fetching.done()
    source.made.set()
    await fetching
    assert sink.data == data


async def test_what_came_before_it_was_withdrawn_stays(wires: Any) -> None:
    a, b = await wires.start(progress_s=0.3), await wires.start(progress_s=0.3)
    data = bytes(i % 251 for i in range(5000))
    source = b.inbox.blobs[REF] = BytesSource(data, grain_bytes=1000, made_bytes=2000)
    source.error = NotAvailable("that exchange was given up")
    sink = KeptSink(len(data), 1000)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    async with asyncio.timeout(5):
        while len(sink.order) < 2:
            sink.has_grown.clear()
            await sink.has_grown.wait()
    del b.inbox.blobs[REF]
    source.made.set()
    with pytest.raises((NotAvailable, TransportError)):
        await fetching
    assert sink.order == [0, 1]
    b.inbox.blobs[REF] = BytesSource(data, grain_bytes=1000)
    await a.wire.fetch(b.peer_id, REF, sink)
    assert sink.data == data


async def test_what_the_sink_refuses_is_not_fetched(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    b.inbox.blobs[REF] = BytesSource(bytes(1000), round=1)
    sink = KeptSink(1000)
    sink.refuses = NotAvailable("an old round")
    with pytest.raises(NotAvailable, match="an old round"):
        await a.wire.fetch(b.peer_id, REF, sink)
    assert sink.order == []


async def test_what_is_not_there_is_refused_with_the_reason(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    with pytest.raises(NotAvailable, match="it was never made"):
        await fetched(a.wire, b.peer_id, REF, 10)


@pytest.mark.parametrize(
    ("size", "error"), [(1001, LimitExceeded), (1 << 20, LimitExceeded), (999, NotAvailable)]
)
async def test_a_blob_of_another_size_is_refused(
    wires: Any, size: int, error: type[Exception]
) -> None:
    a, b = await wires.start(), await wires.start()
    b.inbox.blobs[REF] = BytesSource(bytes(size))
    with pytest.raises(error, match=rf"{size} bytes.* 1000"):
        await fetched(a.wire, b.peer_id, REF, 1000)


async def test_a_note_over_the_limit_is_refused(wires: Any) -> None:
    a, b = await wires.start(), await wires.start(max_message_bytes=1024)
    members = tuple(Member(Identity(bytes([i]) * 32).peer_id, 1) for i in range(40))
    with pytest.raises(RemoteError, match="at most 1024 are allowed"):
        await a.wire.send(b.peer_id, Roster(0, 1, b"e" * 16, members, (1,) * len(members)))
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
        await fetched(a.wire, b.peer_id, REF, 1)
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
        await fetched(a.wire, b.peer_id, REF, 1)


# ---- signs of life


async def test_a_living_peer_answers_a_ping(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    for _ in range(3):
        await a.wire.ping(b.peer_id, wait_s=5.0)
    assert b.inbox.notes.empty()


async def test_whoever_is_not_there_answers_no_ping(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    with pytest.raises(TransportError, match="no address"):
        await a.wire.ping(Identity(b"z" * 32).peer_id, wait_s=5.0)
    await a.wire.ping(b.peer_id, wait_s=5.0)
    await b.wire.close()
    for _ in range(3):
        with pytest.raises(TransportError):
            await a.wire.ping(b.peer_id, wait_s=5.0)
    await a.wire.close()
    with pytest.raises(TransportError, match="closed"):
        await a.wire.ping(b.peer_id, wait_s=5.0)


async def test_a_peer_of_another_run_says_so_when_it_is_pinged(wires: Any) -> None:
    a, b = await wires.start(), await wires.start(run_id="cd" * 32)
    with pytest.raises(RunMismatch, match="refuses us"):
        await a.wire.ping(b.peer_id, wait_s=5.0)


async def test_whatever_comes_is_a_sign_of_life(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    loop = asyncio.get_running_loop()
    data = bytes(100_000)  # more than goes over the connection of notes
    b.inbox.blobs[REF] = BytesSource(data)
    steps = (
        lambda: a.wire.send(b.peer_id, NOTE),
        lambda: a.wire.ping(b.peer_id, wait_s=5.0),
        lambda: fetched(a.wire, b.peer_id, REF, len(data)),
    )
    assert a.wire.signs.heard_at_s(b.peer_id) == float("-inf")
    for step in steps:
        since_s = loop.time()
        await step()
        assert since_s <= a.wire.signs.heard_at_s(b.peer_id) <= loop.time()
    since_s = loop.time()
    await a.wire.send(b.peer_id, NOTE)
    assert b.wire.signs.heard_at_s(a.peer_id) >= since_s
    assert 0.0 <= a.wire.signs.trip_s(b.peer_id) < 5.0
