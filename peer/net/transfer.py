"""One stripe's journey: sent chunk by chunk with back-pressure, received grain by grain.

Neither side has a total deadline, since a slow link is no fault; both have a deadline for progress.
Nothing is allocated before the size is known to be right, and never more than a grain of what the
sink expects. Chunks have no size of their own: a sender with a slow link sends small ones, so that
several streams share it smoothly, and so that its receivers see that it lives.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import numpy
import zstandard

from peer.net import frames
from peer.net.pace import Pace
from peer.net.refusals import readable
from peer.ports import Sink, Source
from protocol.errors import LimitExceeded, MalformedMessage, NotAvailable, TransportError
from protocol.pb import thinwire_pb2 as pb

Write = Callable[[bytes, int], Awaitable[None]]
"""Sends one message, of which so many bytes are the blob's; returns when there is room for more."""
Read = Callable[[], Awaitable[bytes | None]]

MIN_PROGRESS_BYTES = 4096
"""Less than this, or a chunk, in progress_s is none: a trickle must not hold us for ever."""
_ZSTD_LEVEL = 1


@dataclass(slots=True)
class Stripe:
    """Part of a blob, from grain to grain; `stop` may come nearer while it is under way."""

    start: int
    stop: int
    at: int = field(init=False)
    """All before this is in the sink."""

    def __post_init__(self) -> None:
        self.at = self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a stripe travels.

    Attributes:
        chunk_bytes: no chunk is larger.
        progress_s: who makes no progress for so long is given up.
        pace: how fast at most; None as fast as it goes.
    """

    chunk_bytes: int
    progress_s: float
    pace: Pace | None = None


async def send_refusal(write: Write, reason: str) -> None:
    """Answers a request for which there is nothing to send."""
    await write(pb.FetchHeader(refusal=reason).SerializeToString(), 0)


async def send_stripe(
    write: Write,
    source: Source,
    start: int,
    stop: int,
    manner: Manner,
    *,
    now_bytes: Callable[[], int],
    is_compressed: bool,
) -> None:
    """Sends the bytes of `source` from `start` to `stop`.

    Args:
        write: where to.
        source: what.
        start: the first byte.
        stop: after the last byte.
        manner: how.
        now_bytes: returns how large a chunk should be now.
        is_compressed: whether each chunk is a zstd frame.

    Raises:
        TransportError: the receiver stalled.
        NotAvailable: what was promised is not made any more.
    """
    progress_s, pace = manner.progress_s, manner.pace
    header = pb.FetchHeader(size_bytes=source.size_bytes, round=source.round, zstd=is_compressed)
    compressor = zstandard.ZstdCompressor(_ZSTD_LEVEL) if is_compressed else None
    try:
        async with asyncio.timeout(progress_s):
            await write(header.SerializeToString(), 0)
        for grain_start, grain_stop in _grains(start, stop, source.grain_bytes):
            at = grain_start
            while at < grain_stop:
                end = min(grain_stop, at + min(now_bytes(), manner.chunk_bytes))
                chunk = await source.read(at, end)
                message = compressor.compress(chunk) if compressor else chunk
                if pace is not None:
                    await pace.take(len(message))
                async with asyncio.timeout(progress_s):
                    await write(message, len(message))
                at = end
        async with asyncio.timeout(progress_s):
            await write(pb.FetchTrailer(size_bytes=stop - start).SerializeToString(), 0)
    except TimeoutError:
        raise TransportError(f"the receiver took nothing for {progress_s:g} s") from None


async def receive_stripe(
    read: Read, sink: Sink, stripe: Stripe, manner: Manner, *, header_s: float
) -> None:
    """Takes in one stripe, or as much of it as is wanted by then.

    Args:
        read: returns the next message, None at the end of the stream.
        sink: where it goes.
        stripe: advances with every grain.
        manner: how it travels.
        header_s: the longest wait for the header; the blob may still be in the making.

    Raises:
        LimitExceeded, MalformedMessage: it has another size than the sink, or breaks the rules.
        NotAvailable: they do not have it.
        TransportError: it broke off, or made no progress.
    """
    end = stripe.stop  # as it was asked for; it may come nearer from now on
    header = frames.parse_header(await _next(read, header_s, "the header"))
    if header.refusal:
        raise NotAvailable(readable(header.refusal))
    if header.size_bytes != sink.size_bytes:
        error = LimitExceeded if header.size_bytes > sink.size_bytes else MalformedMessage
        raise error(f"a blob of {header.size_bytes} bytes, expected {sink.size_bytes}")
    sink.begin(header.round)
    chunks = _Chunks(read, manner, is_compressed=header.zstd)
    for start, stop in _grains(stripe.start, end, sink.grain_bytes):
        if start >= stripe.stop:
            return  # somebody else fetches the rest
        await sink.put(start, await chunks.grain(start, stop))
        stripe.at = stop
    trailer = frames.parse_trailer(await _next(read, manner.progress_s, "the trailer"))
    if trailer != end - stripe.start:
        raise MalformedMessage(f"a stripe of {trailer} bytes, expected {end - stripe.start}")


class _Chunks:
    """Puts chunks together to grains."""

    def __init__(self, read: Read, manner: Manner, *, is_compressed: bool) -> None:
        self._read = read
        self._manner = manner
        self._decompressor = zstandard.ZstdDecompressor() if is_compressed else None

    async def grain(self, start: int, stop: int) -> bytes | memoryview:
        """Returns the bytes from `start` to `stop`, without a copy if one chunk has them all."""
        size, filled = stop - start, 0
        view: memoryview | None = None
        step = min(MIN_PROGRESS_BYTES, self._manner.chunk_bytes)
        enough = min(size, step)
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._manner.progress_s
        while filled < size:
            what = f"byte {start + filled}"
            chunk = await self._chunk(due_s - loop.time(), what, most=size - filled)
            if len(chunk) == size:
                return chunk
            if view is None:
                # Not bytearray(size): it writes zeros first, which holds the loop with gigabytes.
                view = numpy.empty(size, dtype=numpy.uint8).data
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
            if filled >= enough:
                due_s = loop.time() + self._manner.progress_s
                enough = min(size, filled + step)
        assert view is not None
        return view.toreadonly()

    async def _chunk(self, wait_s: float, what: str, *, most: int) -> bytes:
        message = await _next(self._read, wait_s, what)
        if self._manner.pace is not None:
            await self._manner.pace.take(len(message))
        most = min(most, self._manner.chunk_bytes)
        if self._decompressor is not None:
            message = _decompressed(self._decompressor, message, most)
        if not 0 < len(message) <= most:
            raise MalformedMessage(f"a chunk of {len(message)} bytes, at most {most} can follow")
        return message


def _decompressed(decompressor: zstandard.ZstdDecompressor, data: bytes, most: int) -> bytes:
    """Returns what a zstd frame holds, which is allocated only if its size is allowed."""
    try:
        size = zstandard.frame_content_size(data)
        if not 0 < size <= most:
            raise MalformedMessage(f"a compressed chunk of {size} bytes, at most {most} can follow")
        return decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"not a compressed chunk: {error}") from None


def _grains(start: int, stop: int, grain_bytes: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min(stop, (start // grain_bytes + 1) * grain_bytes)
        yield start, end
        start = end


async def _next(read: Read, wait_s: float, what: str) -> bytes:
    try:
        async with asyncio.timeout(wait_s):
            message = await read()
    except TimeoutError:
        raise TransportError(f"no progress for {wait_s:.3g} s, waiting for {what}") from None
    if message is None:
        raise TransportError(f"broke off before {what}")
    return message
