"""Probing: how fast the link to one peer is, and where that peer sees us come from.

One call, `Probe`, for members only. What goes over it is raw bytes, so nothing is parsed:

    they send    the host that our call comes from, as text; empty through a tunnel
                 chunks, and an empty message
    we send      chunks, and close our side
    they send    what they received a second, in bit/s, as a big-endian double

Each direction ends after `MAX_BYTES` or `MAX_S`, whichever comes first, and goes at the cap of
whoever sends. The rate is that of the later half of the bytes: by then TCP has found its pace.
"""

import asyncio
import math
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc.aio

from peer.net import frames
from peer.net.counters import ByteCounters
from peer.net.dial_back import caller_host
from peer.net.link import CALL_ERRORS, Link
from peer.net.pace import Pace
from protocol.errors import LimitExceeded, MalformedMessage, NotAvailable, TransportError
from protocol.identity import PeerId

PROBE = f"/{frames.SERVICE}/Probe"
MAX_BYTES = 2 << 20
"""In each direction."""
MAX_S = 3.0
EVERY_S = 20.0
"""Nobody is served again before."""
MAX_AT_ONCE = 2
MAX_REMEMBERED = 1024
CHUNK_BYTES = 16 * 1024
LEAST_BPS = 1.0
"""Nobody sees a lower rate in so short a time, but a liar may name one."""
WAIT_S = 4 * MAX_S
"""Of a whole probe, with what lies in buffers on a thin link."""
_ANSWER = struct.Struct(">d")
_MAX_HOST_BYTES = 64
_MARK_BYTES = 4 * 1024
"""The time is noted whenever so much has come: a stranger may send byte by byte."""

Read = Callable[[], Awaitable[bytes]]
"""Returns the next message; `grpc.aio.EOF`, which is false, at the end."""
Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe has shown."""

    up_bps: float
    """From us to them, as they say it; 0 if too little came to tell."""
    down_bps: float
    seen_host: str
    """The address that we come from, as they see it; empty through a tunnel."""


@dataclass(slots=True)
class Tally:
    """What has come so far, and when."""

    num_bytes: int = 0
    marks: list[tuple[float, int]] = field(default_factory=list)

    def add(self, num_bytes: int, now_s: float) -> None:
        """Takes note of a message."""
        self.num_bytes += num_bytes
        if not self.marks or self.num_bytes - self.marks[-1][1] >= _MARK_BYTES:
            self.marks.append((now_s, self.num_bytes))

    @property
    def rate_bps(self) -> float:
        """The rate of the later half, in bit/s; 0 if too little came to tell."""
        if len(self.marks) < 3:
            return 0.0
        end_s, end_bytes = self.marks[-1]
        begin_s, begin_bytes = self.marks[len(self.marks) // 2 - 1]
        return 8 * (end_bytes - begin_bytes) / max(end_s - begin_s, 1e-6)


class Probe:
    """Answers probes of members.

    Args:
        pace: Our upload cap.
        counters: Where bytes count.
    """

    def __init__(self, pace: Pace, counters: ByteCounters) -> None:
        self._pace = pace
        self._counters = counters
        self._served_at_s: OrderedDict[PeerId, float] = OrderedDict()
        self._num_active = 0

    async def answer(self, src: PeerId, read: Read, write: Write, *, caller: str) -> None:
        """Serves one probe.

        Args:
            src: Who asks.
            read: Takes the call's next message.
            write: Answers it.
            caller: Where it comes from, as gRPC says it.

        Raises:
            LimitExceeded: they send too much.
            NotAvailable: not now.
        """
        now_s = asyncio.get_running_loop().time()
        if now_s - self._served_at_s.get(src, -EVERY_S) < EVERY_S:
            raise NotAvailable(f"you have probed in the last {EVERY_S:g} s")
        if self._num_active >= MAX_AT_ONCE:
            raise NotAvailable("too many probe at once")
        self._served_at_s.pop(src, None)
        self._served_at_s[src] = now_s
        if len(self._served_at_s) > MAX_REMEMBERED:
            self._served_at_s.popitem(last=False)
        self._num_active += 1
        try:
            await self._serve(read, write, str(caller_host(caller) or ""))
        finally:
            self._num_active -= 1

    async def _serve(self, read: Read, write: Write, host: str) -> None:
        tally = Tally()
        try:
            async with asyncio.timeout(WAIT_S):  # for who does not read, or never ends
                await write(host.encode())
                await send(write, self._pace, self._counters)
                await write(b"")
                await receive(read, tally, self._counters)
        except TimeoutError:
            raise TransportError(f"the probe took more than {WAIT_S:g} s") from None
        await write(_ANSWER.pack(tally.rate_bps))


async def probe(link: Link, *, up: Pace, down: Pace, counters: ByteCounters) -> Probed:
    """Probes the link to a peer.

    Args:
        link: To the peer.
        up: Our upload cap.
        down: Our download cap.
        counters: Where bytes count.

    Raises:
        RemoteError: they refuse, or answered against the rules.
        TransportError: they cannot be reached, or do not serve us now.
    """
    channel = await link.channel()
    call = channel.stream_stream(PROBE)(timeout=WAIT_S)

    async def paced() -> bytes:
        message: bytes = await call.read()
        if message:
            await down.take(len(message))
        return message

    tally = Tally()
    try:
        host = _parse_host(await call.read())
        await receive(paced, tally, counters)
        await send(call.write, up, counters)
        await call.done_writing()
        up_bps = _parse_answer(await call.read())
    except CALL_ERRORS as error:
        raise await link.on_failure(channel, error, wait_s=WAIT_S) from None
    finally:
        call.cancel()
    return Probed(up_bps, tally.rate_bps, host)


async def send(write: Write, pace: Pace, counters: ByteCounters) -> None:
    """Sends chunks at a cap's pace, for `MAX_S` or `MAX_BYTES`."""
    loop, sent = asyncio.get_running_loop(), 0
    end_s = loop.time() + MAX_S
    chunk = bytes(pace.chunk_bytes(CHUNK_BYTES))
    while sent + len(chunk) <= MAX_BYTES and loop.time() < end_s:
        await pace.take(len(chunk))
        await write(chunk)
        sent += len(chunk)
        counters.sent["probe"] += len(chunk)


async def receive(read: Read, tally: Tally, counters: ByteCounters) -> None:
    """Counts chunks up to an empty message or the end.

    Raises:
        LimitExceeded: there are too many of them.
    """
    while chunk := await read():
        tally.add(len(chunk), time.perf_counter())  # a loop's clock may count milliseconds
        counters.received["probe"] += len(chunk)
        if tally.num_bytes > MAX_BYTES:
            raise LimitExceeded(f"a probe has at most {MAX_BYTES} bytes")


def _parse_host(data: bytes) -> str:
    if data is grpc.aio.EOF:
        raise TransportError("they ended it")
    if len(data) > _MAX_HOST_BYTES or not data.isascii():
        raise MalformedMessage("not a host")
    host = data.decode("ascii")
    if host and caller_host(f"ipv6:[{host}]:1") is None:
        raise MalformedMessage("not a host")
    return host


def _parse_answer(data: bytes) -> float:
    if data is grpc.aio.EOF or len(data) != _ANSWER.size:
        raise MalformedMessage("not an answer to a probe")
    (rate_bps,) = _ANSWER.unpack(data)
    if not (rate_bps == 0 or LEAST_BPS <= rate_bps < math.inf):
        raise MalformedMessage("not a rate")
    return float(rate_bps)
