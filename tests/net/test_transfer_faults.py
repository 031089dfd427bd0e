"""Senders and receivers that lie, stall or die."""

import asyncio
import logging
import resource
import time
import weakref
from typing import Any

import grpc.aio
import pytest

from peer.net import frames, tls
from protocol.errors import LimitExceeded, MalformedMessage, NotAvailable, TransportError
from protocol.identity import Identity
from protocol.machine import BlobRef
from protocol.pb import thinwire_pb2 as pb
from tests.blobs import BytesSource, fetched

pytestmark = pytest.mark.net

REF = BlobRef("state")
CHUNK = 1024
DATA = bytes(range(256)) * 10  # 2.5 chunks
MB = 1 << 20


def _header(size: int) -> bytes:
    data: bytes = pb.FetchHeader(size_bytes=size).SerializeToString()
    return data


def _chunks(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def _trailer(size: int) -> bytes:
    data: bytes = pb.FetchTrailer(size_bytes=size).SerializeToString()
    return data


def _says(messages: list[bytes]) -> Any:
    async def fetch(request: bytes, context: Any) -> None:
        for message in messages:
            await context.write(message)

    return fetch


LIES = {
    "nothing": ([], TransportError, "broke off before the header"),
    "no header": (_chunks(DATA), MalformedMessage, "not a header"),
    "header only": ([_header(len(DATA))], TransportError, "broke off before byte 0"),
    "another size": ([_header(len(DATA) - 1)], MalformedMessage, "2559 bytes, expected 2560"),
    "a large chunk": ([_header(len(DATA)), DATA], MalformedMessage, "at most 1024 can follow"),
    "a chunk too many": (
        [_header(len(DATA)), *_chunks(DATA), DATA[:CHUNK]],
        MalformedMessage,
        "not a trailer",
    ),
    "an early trailer": (
        [_header(len(DATA)), _chunks(DATA)[0], _trailer(CHUNK)],
        TransportError,
        "broke off before byte",
    ),
    "a trailer that lies": (
        [_header(len(DATA)), *_chunks(DATA), _trailer(len(DATA) + 1)],
        MalformedMessage,
        "2561 bytes, expected 2560",
    ),
    "an empty message": ([b""], MalformedMessage, "0 bytes, expected 2560"),
}


@pytest.mark.parametrize(("messages", "error", "words"), LIES.values(), ids=LIES.keys())
async def test_lies_are_refused(
    net: Any, messages: list[bytes], error: type[Exception], words: str
) -> None:
    liar, _ = await net.start_scripted(9, _says(messages))
    a = await net.start(1, chunk_bytes=CHUNK)
    with pytest.raises(error, match=words):
        await fetched(a.wire, liar, REF, len(DATA))


async def test_the_truth_is_accepted(net: Any) -> None:
    teller, _ = await net.start_scripted(
        9, _says([_header(len(DATA)), *_chunks(DATA), _trailer(len(DATA))])
    )
    a = await net.start(1, chunk_bytes=CHUNK)
    assert await fetched(a.wire, teller, REF, len(DATA)) == DATA


async def test_who_dies_after_the_last_byte_has_done_its_part(net: Any) -> None:
    teller, _ = await net.start_scripted(9, _says([_header(len(DATA)), *_chunks(DATA)]))
    a = await net.start(1, chunk_bytes=CHUNK)
    assert await fetched(a.wire, teller, REF, len(DATA)) == DATA


async def test_a_blob_too_large_is_refused_before_allocation(net: Any) -> None:
    liar, _ = await net.start_scripted(9, _says([_header(1 << 45)]))
    a = await net.start(1)
    with pytest.raises(LimitExceeded, match="expected 1000"):
        await fetched(a.wire, liar, REF, 1000)


async def test_a_message_beyond_grpcs_limit_is_refused(net: Any) -> None:
    liar, _ = await net.start_scripted(9, _says([bytes(5 * MB)]))
    a = await net.start(1)
    with pytest.raises(LimitExceeded, match="too much at once"):
        await fetched(a.wire, liar, REF, 1000)


async def test_a_sender_that_dies_is_noticed_at_once(net: Any) -> None:
    begun = asyncio.Event()

    async def fetch(request: bytes, context: Any) -> None:
        await context.write(_header(len(DATA)))
        await context.write(_chunks(DATA)[0])
        begun.set()
        await asyncio.sleep(30)

    dying, server = await net.start_scripted(9, fetch)
    a = await net.start(1, chunk_bytes=CHUNK, progress_s=20.0)
    fetching = asyncio.create_task(fetched(a.wire, dying, REF, len(DATA)))
    await begun.wait()
    await server.stop(None)
    with pytest.raises(TransportError):
        await asyncio.wait_for(fetching, 5)


@pytest.mark.parametrize("num_messages", [0, 1, 2], ids=["header", "first chunk", "second chunk"])
async def test_a_frozen_sender_is_given_up(net: Any, num_messages: int) -> None:
    async def fetch(request: bytes, context: Any) -> None:
        for message in [_header(len(DATA)), *_chunks(DATA)][:num_messages]:
            await context.write(message)
        await asyncio.sleep(30)

    frozen, _ = await net.start_scripted(9, fetch)
    a = await net.start(1, chunk_bytes=CHUNK, progress_s=0.3)
    began_s = time.monotonic()
    with pytest.raises(TransportError, match="no progress"):
        await fetched(a.wire, frozen, REF, len(DATA))
    assert 0.25 < time.monotonic() - began_s < 2.0


async def test_a_trickle_is_given_up_although_something_comes_all_the_time(net: Any) -> None:
    sent: list[bytes] = []

    async def fetch(request: bytes, context: Any) -> None:
        await context.write(_header(len(DATA)))
        while True:
            await context.write(b"x")
            sent.append(b"x")
            await asyncio.sleep(0.01)

    trickling, _ = await net.start_scripted(9, fetch)
    a = await net.start(1, chunk_bytes=CHUNK, progress_s=0.3)
    with pytest.raises(TransportError, match="no progress"):
        await fetched(a.wire, trickling, REF, len(DATA))
    assert len(sent) > 3  # the fault fired


async def test_a_slow_sender_is_not_given_up(net: Any) -> None:
    async def fetch(request: bytes, context: Any) -> None:
        for message in [_header(len(DATA)), *_chunks(DATA), _trailer(len(DATA))]:
            await asyncio.sleep(0.35)
            await context.write(message)

    slow, _ = await net.start_scripted(9, fetch)
    a = await net.start(1, chunk_bytes=CHUNK, progress_s=1.5)  # five messages take longer
    assert await fetched(a.wire, slow, REF, len(DATA)) == DATA


async def _stalled_call(net: Any, server: Any, channel: Any) -> Any:
    """A member that asks for a blob and reads nothing but the header."""
    from peer.net.admission import Membership, hello

    us = Identity(b"s" * 32)
    message = hello(
        Membership(run_id="ab" * 32), our_id=us.peer_id, their_id=server.peer_id, software=""
    )
    await channel.unary_unary(frames.HELLO)(message.SerializeToString())
    call = channel.unary_stream(frames.FETCH)(frames.request_of(REF))
    await call.read()
    return call


def _stalled_channel(net: Any, server: Any) -> grpc.aio.Channel:
    credentials = tls.channel_credentials(Identity(b"s" * 32), server.peer_id)
    options = [("grpc.ssl_target_name_override", tls.target_name(server.peer_id))]
    (address,) = net.addresses(server.peer_id)
    return grpc.aio.secure_channel(address, credentials, options)


async def test_a_stalled_reader_neither_fills_memory_nor_holds_the_server(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    b = await net.start(2, progress_s=0.5)
    b.inbox.blobs[REF] = BytesSource(bytes(96 * MB))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with _stalled_channel(net, b) as channel:
        call = await _stalled_call(net, b, channel)
        a = await net.start(1)
        b.inbox.blobs[BlobRef("part")] = BytesSource(DATA)
        assert await fetched(a.wire, b.peer_id, BlobRef("part"), len(DATA)) == DATA
        async with asyncio.timeout(5):
            while f"stopped sending to {Identity(b's' * 32).peer_id}" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert b.wire.counters.sent["state"] < 24 * MB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 48 * 1024
        source = weakref.ref(b.inbox.blobs.pop(REF))
        assert source() is None, "a stalled reader keeps what it was served alive"
        call.cancel()
    async with asyncio.timeout(1.5):
        while b.wire._server._serving._num_streams:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert "Traceback" not in caplog.text


async def test_a_receiver_that_leaves_frees_its_place(net: Any) -> None:
    b = await net.start(2)
    b.inbox.blobs[REF] = BytesSource(bytes(96 * MB))
    async with _stalled_channel(net, b) as channel:
        call = await _stalled_call(net, b, channel)
        assert b.wire._server._serving._num_streams
        call.cancel()
    async with asyncio.timeout(1.5):
        while b.wire._server._serving._num_streams:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_peer_has_so_many_streams_and_no_more(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    b = await net.start(2, max_streams_per_peer=1)
    b.inbox.blobs[REF] = BytesSource(bytes(96 * MB))
    async with _stalled_channel(net, b) as channel:
        call = await _stalled_call(net, b, channel)
        refused = frames.parse_header(
            await channel.unary_stream(frames.FETCH)(frames.request_of(REF)).read()
        )
        assert "more than 1 fetches" in refused.refusal
        call.cancel()
    assert Identity(b"s" * 32).peer_id in caplog.text


async def test_our_own_fetches_queue_for_their_places(net: Any) -> None:
    settings = {"max_streams_per_peer": 2, "may_compress": False}
    a, b = await net.start(1, **settings), await net.start(2, **settings)
    b.inbox.blobs[REF] = BytesSource(bytes(4 * MB))
    async with asyncio.TaskGroup() as group:
        fetches = [group.create_task(fetched(a.wire, b.peer_id, REF, 4 * MB)) for _ in range(6)]
    assert all(len(fetch.result()) == 4 * MB for fetch in fetches)
    assert b.wire.counters.sent["state"] == 24 * MB


async def test_a_fetch_may_be_for_a_range(net: Any) -> None:
    b = await net.start(2, chunk_bytes=CHUNK)
    b.inbox.blobs[REF] = BytesSource(DATA)
    async with _stalled_channel(net, b) as channel:
        await _stalled_call(net, b, channel)
        fetch = channel.unary_stream(frames.FETCH)
        rest = [m async for m in fetch(frames.request_of(REF, offset=1500))]
        some = [m async for m in fetch(frames.request_of(REF, offset=100, length=1500))]
        for offset, length in ((2561, 0), (2560, 1), (0, 2561), (1 << 62, 1 << 62)):
            beyond = fetch(frames.request_of(REF, offset=offset, length=length))
            assert "2560 bytes" in frames.parse_header(await beyond.read()).refusal
    assert rest == [_header(len(DATA)), *_chunks(DATA[1500:]), _trailer(1060)]
    assert some == [_header(len(DATA)), *_chunks(DATA[100:1600]), _trailer(1500)]


async def test_a_blob_in_the_making_is_waited_for(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await net.start(1, progress_s=1.5), await net.start(2, progress_s=1.5)

    async def late(src: str, ref: BlobRef) -> BytesSource:
        await asyncio.sleep(0.3 if ref.part else 30)
        return BytesSource(DATA)

    monkeypatch.setattr(b.inbox, "blob", late)
    assert await fetched(a.wire, b.peer_id, BlobRef("part", part=1), len(DATA)) == DATA
    with pytest.raises(NotAvailable, match="not ready yet"):
        await fetched(a.wire, b.peer_id, BlobRef("part", part=0), len(DATA))


async def test_a_fetch_can_be_cancelled(net: Any) -> None:
    async def fetch(request: bytes, context: Any) -> None:
        await asyncio.sleep(30)

    frozen, _ = await net.start_scripted(9, fetch)
    a = await net.start(1, progress_s=20.0)
    fetching = asyncio.create_task(fetched(a.wire, frozen, REF, 10))
    await asyncio.sleep(0.2)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
