"""One stripe, without a network: what it looks like, what is refused, and how long is waited."""

import asyncio
import contextlib
import struct
import tracemalloc
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.net import frames
from peer.net.pace import Cap, Pace
from peer.net.transfer import Manner, Stripe, receive_stripe, send_refusal, send_stripe
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.errors import (
    LimitExceeded,
    MalformedMessage,
    NotAvailable,
    RemoteError,
    TransportError,
)
from protocol.machine import BlobRef
from protocol.manifest import MAX_DOMAIN_CHARS, MAX_FRAGMENTS
from protocol.pb import thinwire_pb2 as pb
from tests.blobs import BytesSource, KeptSink

Result = TypeVar("Result")
SIZE = 1000


def manner(chunk_bytes: int = 100, progress_s: float = 1.0, pace: Pace | None = None) -> Manner:
    return Manner(chunk_bytes=chunk_bytes, progress_s=progress_s, pace=pace)


async def sent(
    source: BytesSource,
    start: int = 0,
    stop: int | None = None,
    *,
    chunk_bytes: int = 100,
    now_bytes: Callable[[], int] | None = None,
    zstd: bool = False,
    pace: Pace | None = None,
) -> list[bytes]:
    messages: list[bytes] = []

    async def write(message: bytes, num_bytes: int) -> None:
        is_chunk = bool(messages) and num_bytes > 0
        assert num_bytes == (len(message) if is_chunk else 0)
        messages.append(message)

    await send_stripe(
        write,
        source,
        start,
        source.size_bytes if stop is None else stop,
        manner(chunk_bytes, pace=pace),
        now_bytes=now_bytes or (lambda: chunk_bytes),
        is_compressed=zstd,
    )
    return messages


async def received(
    messages: Iterable[bytes],
    sink: KeptSink,
    stripe: Stripe | None = None,
    *,
    chunk_bytes: int = 100,
) -> KeptSink:
    stream = iter(messages)

    async def read() -> bytes | None:
        return next(stream, None)

    stripe = stripe or Stripe(0, sink.size_bytes)
    await receive_stripe(read, sink, stripe, manner(chunk_bytes), header_s=1)
    return sink


def header(size: int, *, zstd: bool = False, round: int = 0) -> bytes:
    data: bytes = pb.FetchHeader(size_bytes=size, round=round, zstd=zstd).SerializeToString()
    return data


def trailer(size: int) -> bytes:
    data: bytes = pb.FetchTrailer(size_bytes=size).SerializeToString()
    return data


# ---- what is sent is received

sizes = st.integers(1, 300)


@settings(deadline=None)
@given(
    data=st.binary(max_size=SIZE),
    source_grain=sizes,
    sink_grain=sizes,
    chunks=st.lists(sizes, min_size=1, max_size=8),
    zstd=st.booleans(),
)
def test_what_is_sent_is_received_however_it_is_cut(
    data: bytes, source_grain: int, sink_grain: int, chunks: list[int], zstd: bool
) -> None:
    # The ends agree on grains, as a rule. A chunk ends where a grain of the sender ends, and must
    # not go beyond one of the receiver.
    source_grain = source_grain if sink_grain % source_grain == 0 else sink_grain
    turns = iter(range(10**6))

    async def scenario() -> None:
        source = BytesSource(data, 5, grain_bytes=source_grain)
        messages = await sent(
            source,
            chunk_bytes=300,
            now_bytes=lambda: chunks[next(turns) % len(chunks)],
            zstd=zstd,
        )
        sink = await received(messages, KeptSink(len(data), sink_grain), chunk_bytes=300)
        assert sink.data == data
        assert sink.rounds == [5]
        assert not data or not sink.missing()

    asyncio.run(scenario())


@settings(deadline=None)
@given(start_grain=st.integers(0, 9), stop_grain=st.integers(1, 10), zstd=st.booleans())
def test_a_stripe_is_its_range_and_no_more(start_grain: int, stop_grain: int, zstd: bool) -> None:
    start, stop = 100 * start_grain, min(100 * stop_grain, 955)
    data = bytes(i % 251 for i in range(955))

    async def scenario() -> None:
        source = BytesSource(data, grain_bytes=100)
        messages = await sent(source, start, stop, chunk_bytes=70, zstd=zstd)
        stripe = Stripe(start, stop)
        sink = await received(messages, KeptSink(955, 100), stripe, chunk_bytes=70)
        assert stripe.at == stop
        assert sink.order == list(range(start_grain, stop_grain))
        assert sink.data == bytes(start) + data[start:stop] + bytes(955 - stop)

    if start < stop:
        asyncio.run(scenario())


async def test_every_chunk_but_the_last_of_a_grain_is_full() -> None:
    messages = await sent(BytesSource(bytes(500), grain_bytes=250))
    assert [len(message) for message in messages[1:-1]] == [100, 100, 50, 100, 100, 50]
    assert messages[-1] == trailer(500)


async def test_a_chunk_is_as_large_as_it_should_be_now_and_never_larger_than_allowed() -> None:
    now = iter([10, 1000, 30, 1000])
    messages = await sent(BytesSource(bytes(220)), now_bytes=lambda: next(now))
    assert [len(message) for message in messages[1:-1]] == [10, 100, 30, 80]


async def test_a_grain_that_comes_in_one_chunk_is_not_copied() -> None:
    chunk = bytes(100)
    sink = await received([header(100), chunk, trailer(100)], KeptSink(100))
    assert sink.last is chunk


async def test_what_repeats_itself_is_shorter_under_zstd() -> None:
    messages = await sent(BytesSource(bytes(1000)), zstd=True)
    assert frames.parse_header(messages[0]).zstd
    assert sum(map(len, messages[1:-1])) < 500


# ---- lies

CHUNKS = [bytes(100)] * 10
LIES: dict[str, tuple[list[bytes], type[Exception], str]] = {
    "nothing": ([], TransportError, "broke off before the header"),
    "no header": ([b"\xff" * 100], MalformedMessage, "not a header"),
    "a larger blob": ([header(SIZE + 1)], LimitExceeded, "1001 bytes, expected 1000"),
    "far larger": ([header(1 << 47)], LimitExceeded, "expected 1000"),
    "beyond all reason": ([header(1 << 62)], MalformedMessage, "beyond all reason"),
    "a smaller blob": ([header(SIZE - 1)], MalformedMessage, "999 bytes, expected 1000"),
    "header only": ([header(SIZE)], TransportError, "broke off before byte 0"),
    "half": ([header(SIZE), *CHUNKS[:5]], TransportError, "broke off before byte 500"),
    "no trailer": ([header(SIZE), *CHUNKS], TransportError, "broke off before the trailer"),
    "less in the trailer": (
        [header(SIZE), *CHUNKS, trailer(SIZE - 1)],
        MalformedMessage,
        "999 bytes, expected 1000",
    ),
    "more in the trailer": (
        [header(SIZE), *CHUNKS, trailer(SIZE + 1)],
        MalformedMessage,
        "1001 bytes, expected 1000",
    ),
    "a chunk too many": (
        [header(SIZE), *CHUNKS, b"\xff" * 100, trailer(SIZE)],
        MalformedMessage,
        "not a trailer",
    ),
    "an empty chunk": ([header(SIZE), b""], MalformedMessage, "a chunk of 0 bytes"),
    "a large chunk": ([header(SIZE), bytes(101)], MalformedMessage, "at most 100 can follow"),
    "beyond the grain": (
        [header(SIZE), *CHUNKS[:4], bytes(99), bytes(2)],
        MalformedMessage,
        "a chunk of 2 bytes, at most 1 can follow",
    ),
}


@pytest.mark.parametrize(("messages", "error", "words"), LIES.values(), ids=LIES.keys())
async def test_lies_are_refused(messages: list[bytes], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await received(messages, KeptSink(SIZE, 500))


async def test_what_came_before_the_lie_stays() -> None:
    sink, stripe = KeptSink(SIZE, 200), Stripe(200, SIZE)
    with pytest.raises(MalformedMessage):
        await received([header(SIZE), *CHUNKS[:5], b""], sink, stripe)
    assert (sink.order, stripe.at) == ([1, 2], 600)


@settings(deadline=None)
@given(messages=st.lists(st.binary(max_size=110), max_size=5), zstd=st.booleans())
def test_whatever_comes_only_our_errors_are_raised(messages: list[bytes], zstd: bool) -> None:
    async def scenario() -> None:
        with pytest.raises((RemoteError, TransportError)):
            await received([header(SIZE, zstd=zstd), *messages], KeptSink(SIZE, 500))

    asyncio.run(scenario())


async def test_a_blob_too_large_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            await received([header(1 << 47)], KeptSink(SIZE))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# ---- lies in zstd


def bomb(num_bytes: int, *, with_size: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(19, write_content_size=with_size)
    return compressor.compress(bytes(num_bytes))


def claiming(num_bytes: int) -> bytes:
    """A frame that says it holds so many bytes, and holds few."""
    # Magic number, a descriptor (8 bytes of content size, window descriptor follows), window.
    raw_block = struct.pack("<I", 1 | 1 << 3)[:3] + b"x"
    return b"\x28\xb5\x2f\xfd" + b"\xc0\x00" + struct.pack("<Q", num_bytes) + raw_block


HOSTILE = {
    "a bomb": bomb(64 << 20, with_size=True),
    "a bomb without its size": bomb(64 << 20, with_size=False),
    "a small frame without its size": bomb(50, with_size=False),
    "a huge claim": claiming(1 << 60),
    "all bits set": claiming((1 << 64) - 1),
    "one byte too many": bomb(101, with_size=True),
    "an empty frame": zstandard.ZstdCompressor().compress(b""),
    "a claim of more than it holds": claiming(100),
    "no frame": b"no frame at all",
    "half a frame": zstandard.ZstdCompressor().compress(bytes(range(100)))[:-5],
    "nothing": b"",
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_zstd_frame_is_refused_and_allocates_nothing(message: bytes) -> None:
    tracemalloc.start()
    try:
        sink = KeptSink(SIZE, 500)
        with pytest.raises(MalformedMessage):
            await received([header(SIZE, zstd=True), message], sink)
        assert not sink.order
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


async def test_a_chunk_under_zstd_that_crosses_a_grain_is_refused() -> None:
    chunk = zstandard.ZstdCompressor().compress(bytes(60))
    with pytest.raises(MalformedMessage, match="60 bytes, at most 40 can follow"):
        await received([header(SIZE, zstd=True), chunk, chunk], KeptSink(SIZE, 100))


# ---- progress, in virtual time


def virtually(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs it in virtual time."""
    with contextlib.closing(VirtualLoop(VirtualClock())) as loop:
        result: Result = loop.run_until_complete(coroutine)
        return result


async def given_up(
    size: int,
    chunk: int,
    every_s: float,
    *,
    grain_bytes: int | None = None,
    chunk_bytes: int = 1 << 16,
) -> float | None:
    """Returns when a sender of so many bytes so often is given up; None if it is not."""
    loop = asyncio.get_running_loop()
    left = [header(size), *[bytes(chunk)] * (size // chunk), trailer(size)]

    async def read() -> bytes | None:
        await asyncio.sleep(every_s)
        return left.pop(0)

    sink = KeptSink(size, grain_bytes)
    try:
        await receive_stripe(
            read, sink, Stripe(0, size), manner(chunk_bytes, progress_s=3.0), header_s=100
        )
    except TransportError as error:
        if "no progress" not in str(error):
            raise
        return loop.time()
    return None


@pytest.mark.parametrize(
    ("chunk", "every_s", "is_alive"),
    [
        (4096, 2.9, True),  # slow, but it moves
        (4096, 3.1, False),
        (1024, 0.7, True),  # 4096 bytes in 2.8 s
        (1024, 0.8, False),  # 3072 bytes in 3 s
        (1, 0.001, False),  # a message each millisecond, and still a trickle
    ],
)
def test_who_sends_less_than_4096_bytes_in_progress_s_is_given_up(
    chunk: int, every_s: float, is_alive: bool
) -> None:
    ended_s = virtually(given_up(1 << 16, chunk, every_s))
    if is_alive:
        assert ended_s is None
    else:
        assert ended_s == pytest.approx(3.0 + every_s)  # and the time of the header


@pytest.mark.parametrize("grain_bytes", [100, 5000])
def test_where_chunks_or_grains_are_smaller_they_are_progress(grain_bytes: int) -> None:
    giving_up = given_up(10_000, 100, 2.0, grain_bytes=grain_bytes, chunk_bytes=100)
    assert virtually(giving_up) is None


async def test_a_stalled_receiver_is_given_up() -> None:
    async def write(message: bytes, num_bytes: int) -> None:
        await asyncio.sleep(10)

    with pytest.raises(TransportError, match=r"took nothing for 0\.05 s"):
        await send_stripe(
            write,
            BytesSource(b"x"),
            0,
            1,
            manner(progress_s=0.05),
            now_bytes=lambda: 100,
            is_compressed=False,
        )


async def test_a_source_that_takes_its_time_is_not_the_receivers_fault() -> None:
    source = BytesSource(bytes(300), grain_bytes=100, made_bytes=100)
    sending = asyncio.create_task(sent(source))
    await asyncio.sleep(0)
    assert not sending.done()
    source.made.set()
    assert len(await sending) == 5


async def test_a_source_that_is_withdrawn_in_mid_stream_ends_it_without_a_trailer() -> None:
    source = BytesSource(bytes(300), grain_bytes=100, made_bytes=100)
    source.error = NotAvailable("that exchange was given up")
    source.made.set()
    messages: list[bytes] = []

    async def write(message: bytes, num_bytes: int) -> None:
        messages.append(message)

    with pytest.raises(NotAvailable, match="given up"):
        await send_stripe(
            write, source, 0, 300, manner(), now_bytes=lambda: 100, is_compressed=False
        )
    assert len(messages) == 2  # the header and what there was
    sink = KeptSink(300, 100)
    with pytest.raises(TransportError, match="broke off before byte 100"):
        await received(messages, sink)
    assert sink.order == [0]


def test_a_cap_paces_both_ends() -> None:
    async def scenario() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        cap = Cap(8e3)  # 1000 bytes in a second
        messages = await sent(BytesSource(bytes(SIZE)), pace=Pace(cap))
        sent_s = loop.time()
        stream = iter(messages)

        async def read() -> bytes | None:
            return next(stream, None)

        paced = manner(progress_s=100, pace=Pace(cap))
        await receive_stripe(read, KeptSink(SIZE), Stripe(0, SIZE), paced, header_s=1)
        return sent_s, loop.time() - sent_s

    sent_s, received_s = virtually(scenario())
    # One chunk goes at once, and what a burst allows.
    assert sent_s == pytest.approx(0.9, abs=0.11)
    assert received_s == pytest.approx(0.9, abs=0.11)


# ---- a stripe of which another connection takes the far end


async def test_a_stripe_whose_end_comes_nearer_ends_there_and_reads_no_further() -> None:
    data = bytes(i % 251 for i in range(SIZE))
    messages = await sent(BytesSource(data, grain_bytes=100))
    sink, stripe = KeptSink(SIZE, 100), Stripe(0, SIZE)
    stream = iter(messages)

    async def read() -> bytes | None:
        message = next(stream)
        if stripe.at == 300:
            stripe.stop = 500
        return message

    await receive_stripe(read, sink, stripe, manner(), header_s=1)
    assert sink.order == [0, 1, 2, 3, 4]
    assert stripe.at == stripe.stop == 500
    assert len(list(stream)) == 6  # five grains and the trailer are left


async def test_its_end_may_come_nearer_before_the_header_comes() -> None:
    data = bytes(i % 251 for i in range(SIZE))
    messages = await sent(BytesSource(data, grain_bytes=100))
    sink, stripe = KeptSink(SIZE, 100), Stripe(0, SIZE)
    stream = iter(messages)

    async def read() -> bytes | None:
        stripe.stop = 500
        return next(stream)

    await receive_stripe(read, sink, stripe, manner(), header_s=1)
    assert sink.data[:500] == data[:500]
    assert sink.order == [0, 1, 2, 3, 4]


# ---- requests


async def test_a_refusal_carries_its_reason() -> None:
    messages: list[bytes] = []

    async def write(message: bytes, num_bytes: int) -> None:
        messages.append(message)

    await send_refusal(write, "not any more")
    with pytest.raises(NotAvailable, match="not any more"):
        await received(messages, KeptSink(SIZE))


@settings(deadline=None)
@given(data=st.binary(max_size=80))
def test_a_request_is_parsed_or_refused(data: bytes) -> None:
    try:
        ref, start, stop = frames.parse_request(data, num_fragments=4, max_peers=8)
    except RemoteError:
        return
    assert ref.kind in frames.BLOB_KINDS
    assert start >= 0
    assert stop is None or stop > start


@pytest.mark.parametrize(("length", "stop"), [(0, None), (1, 100), (901, 1000)])
def test_a_request_names_its_blob_and_its_range(length: int, stop: int | None) -> None:
    ref = BlobRef("average", 3, b"e" * 16, 7)
    data = frames.request_of(ref, offset=99, length=length)
    assert frames.parse_request(data, num_fragments=4, max_peers=8) == (ref, 99, stop)


@pytest.mark.parametrize("domain", ["", "law", "math"])
def test_a_request_names_its_domain(domain: str) -> None:
    ref = BlobRef("state", 3, b"e" * 16, domain=domain)
    limits = {"num_fragments": 4, "max_peers": 8}
    for ours in ("", "law"):
        parsed, _, _ = frames.parse_request(frames.request_of(ref), **limits, domain=ours)
        assert parsed == ref
    plain = pb.FetchRequest.FromString(frames.request_of(ref))
    plain.ClearField("domain")
    assert plain.SerializeToString() == frames.request_of(replace(ref, domain=""))


@pytest.mark.parametrize(
    ("domain", "fragment", "is_taken"),
    [
        ("law", 3, True),
        ("law", 4, False),
        ("math", 4, True),  # it may have more of them: who keeps it knows
        ("math", MAX_FRAGMENTS - 1, True),
        ("math", MAX_FRAGMENTS, False),
        ("d" * MAX_DOMAIN_CHARS, 0, True),
        ("d" * (MAX_DOMAIN_CHARS + 1), 0, False),
    ],
)
def test_fragments_are_counted_by_domain(domain: str, fragment: int, is_taken: bool) -> None:
    data = frames.request_of(BlobRef("state", fragment, domain=domain))
    with contextlib.nullcontext() if is_taken else pytest.raises(LimitExceeded):
        frames.parse_request(data, num_fragments=4, max_peers=8, domain="law")


@pytest.mark.parametrize(("number", "is_taken"), [(15, True), (MAX_FRAGMENTS, False)])
def test_how_many_files_a_run_has_is_not_how_many_peers(number: int, is_taken: bool) -> None:
    data = frames.request_of(BlobRef("file", part=number))
    with contextlib.nullcontext() if is_taken else pytest.raises(LimitExceeded):
        frames.parse_request(data, num_fragments=1, max_peers=2)


@pytest.mark.parametrize(
    "ref",
    [
        BlobRef("secret"),
        BlobRef("part", fragment=4),
        BlobRef("part", part=8),
        BlobRef("part", exchange_id=b"short"),
    ],
    ids=["kind", "fragment", "part", "exchange id"],
)
def test_a_request_for_what_no_run_has_is_refused(ref: BlobRef) -> None:
    with pytest.raises(RemoteError):
        frames.parse_request(frames.request_of(ref), num_fragments=4, max_peers=8)
