"""One blob's journey: sent chunk by chunk with back-pressure, received whole or not at all.

Neither side has a total deadline, since a slow link is no fault; both have a progress deadline for
every single chunk. Nothing is allocated before the size is known to be allowed.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import numpy

from peer.net import frames
from peer.net.refusals import readable
from peer.ports import Blob
from protocol.errors import LimitExceeded, MalformedMessage, NotAvailable, TransportError
from protocol.pb import thinwire_pb2 as pb

Write = Callable[[bytes], Awaitable[None]]
Read = Callable[[], Awaitable[bytes | None]]

_HASH_IN_LOOP_BYTES = 1 << 20


async def send_refusal(write: Write, reason: str) -> None:
    """Answers a request for which there is nothing to send."""
    await write(frames.frame(frames.HEADER, pb.FetchHeader(refusal=reason).SerializeToString()))


async def send_blob(
    write: Write, blob: Blob, *, offset: int, chunk_bytes: int, progress_s: float
) -> None:
    """Sends `blob` from `offset` on.

    Args:
        write: sends one message, and returns when there is room for the next.
        blob: must not change meanwhile.
        offset: what the receiver has already; the trailer's hash is of the whole blob all the same.
        chunk_bytes: of every chunk but the last.
        progress_s: a receiver that does not take a message for so long is given up.

    Raises:
        TransportError: the receiver stalled.
    """
    data = blob.data.cast("B")
    size = len(data)
    header = pb.FetchHeader(size_bytes=size, round=blob.round)
    hasher = hashlib.sha256()
    if offset > _HASH_IN_LOOP_BYTES:
        await asyncio.to_thread(hasher.update, data[:offset])
    else:
        hasher.update(data[:offset])
    try:
        async with asyncio.timeout(progress_s):
            await write(frames.frame(frames.HEADER, header.SerializeToString()))
        for start in range(offset, size, chunk_bytes):
            chunk = data[start : start + chunk_bytes]
            hasher.update(chunk)
            async with asyncio.timeout(progress_s):
                await write(frames.frame(frames.CHUNK, chunk))
        trailer = pb.FetchTrailer(size_bytes=size, sha256=hasher.digest())
        async with asyncio.timeout(progress_s):
            await write(frames.frame(frames.TRAILER, trailer.SerializeToString()))
    except TimeoutError:
        raise TransportError(f"the receiver took nothing for {progress_s:g} s") from None


async def receive_blob(
    read: Read, *, max_bytes: int, chunk_bytes: int, progress_s: float, header_s: float
) -> Blob:
    """Returns a whole blob whose hash fits.

    Args:
        read: returns the next message, None at the end of the stream.
        max_bytes: a larger blob is refused before anything is allocated.
        chunk_bytes: what every chunk but the last must have.
        progress_s: the longest wait for a chunk.
        header_s: the longest wait for the header; the blob may still be in the making.

    Raises:
        LimitExceeded: it is larger than `max_bytes`.
        NotAvailable: they do not have it.
        MalformedMessage: count or hash did not fit.
        TransportError: it broke off, or made no progress.
    """
    header = frames.parse_header(await _next(read, header_s, "header"))
    if header.refusal:
        raise NotAvailable(readable(header.refusal))
    size = header.size_bytes
    if size > max_bytes:
        raise LimitExceeded(f"a blob of {size} bytes, at most {max_bytes} are allowed")
    # Not bytearray(size): it writes zeros first, which held the loop for seconds with gigabytes.
    view = numpy.empty(size, dtype=numpy.uint8).data
    hasher = hashlib.sha256()
    at = 0
    while at < size:
        message = await _next(read, progress_s, f"byte {at} of {size}")
        chunk = frames.parse_chunk(message, size=min(chunk_bytes, size - at))
        view[at : at + len(chunk)] = chunk
        hasher.update(chunk)
        at += len(chunk)
    trailer = frames.parse_trailer(await _next(read, progress_s, "trailer"))
    if trailer.size_bytes != size or trailer.sha256 != hasher.digest():
        raise MalformedMessage(f"a blob of {size} bytes was altered: its hash does not fit")
    return Blob(view.toreadonly(), round=header.round)


async def _next(read: Read, wait_s: float, what: str) -> bytes:
    try:
        async with asyncio.timeout(wait_s):
            message = await read()
    except TimeoutError:
        raise TransportError(f"no progress for {wait_s:g} s, waiting for {what}") from None
    if message is None:
        raise TransportError(f"broke off before {what}")
    return message
