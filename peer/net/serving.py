"""What we serve, to whom, and how fast: the answering side of Fetch."""

import asyncio
from collections import Counter
from collections.abc import Callable

from peer.net import frames
from peer.net.config import WireConfig
from peer.net.counters import ByteCounters
from peer.net.pace import LEAST_MESSAGE_BYTES, Pace
from peer.net.rates import Direction
from peer.net.refusals import RefusalLog
from peer.net.transfer import Manner, Write, send_refusal, send_stripe
from peer.ports import Inbox, Source
from protocol.errors import NotAvailable
from protocol.identity import PeerId

CHUNK_S = 0.25
"""A chunk should take so long: gRPC delivers it whole, and until then nothing seems to move."""
UNKNOWN_BYTES = 16 * 1024
"""Of a chunk to a partner whose rate is not known yet."""

ZSTD_BELOW_BPS = 200e6
"""zstd -1 takes an eighth off 4-bit codes, and turns 0.4 GB/s of them over on one core: beyond some
hundred Mbit/s that core costs more than the eighth is worth."""


class Serving:
    """Answers fetches, at most so many at once for each peer.

    Under a cap they are no more than can all make progress, whoever asks: each must have its turn
    to send a message within half of progress_s.

    Args:
        config: The limits.
        inbox: What there is.
        counters, rates: Where to count.
        refusals: Where to complain.
        pace: The upload cap.
    """

    def __init__(
        self,
        config: WireConfig,
        inbox: Inbox,
        counters: ByteCounters,
        refusals: RefusalLog,
        *,
        rates: Direction,
        pace: Pace,
    ) -> None:
        self._config = config
        self._inbox = inbox
        self._counters = counters
        self._refusals = refusals
        self._rates = rates
        self._pace = pace
        self._num_streams: Counter[PeerId] = Counter()
        self._num_sending = 0

    async def serve(self, src: PeerId, request: bytes, write: Write) -> None:
        """Sends what a member asks for, or says why not.

        Raises:
            RemoteError: the request breaks the rules, or what was promised is not made any more.
            TransportError: the receiver stalled.
        """
        limit = self._config.max_streams_per_peer
        if self._num_streams[src] >= limit:
            self._refusals.refuse(src, "streams", f"more than {limit} fetches at once")
            await send_refusal(write, f"more than {limit} fetches at once")
            return
        self._num_streams[src] += 1
        try:
            await self._serve(src, request, write)
        finally:
            self._num_streams[src] -= 1
            if not self._num_streams[src]:
                del self._num_streams[src]

    async def _serve(self, src: PeerId, request: bytes, write: Write) -> None:
        config, loop = self._config, asyncio.get_running_loop()
        ref, start, stop = frames.parse_request(
            request,
            num_fragments=config.num_fragments,
            max_peers=config.max_peers,
            domain=config.domain,
        )
        try:
            async with asyncio.timeout(config.progress_s):
                source = await self._inbox.blob(src, ref)
            if stop is None:
                stop = source.size_bytes
            if not start <= stop <= source.size_bytes:
                raise NotAvailable(f"it has {source.size_bytes} bytes, not {max(start, stop)}")
        except NotAvailable as error:
            await send_refusal(write, str(error))
            return
        except TimeoutError:
            await send_refusal(write, "it is not ready yet")
            return
        message_bytes = self._pace.chunk_bytes(config.chunk_bytes)
        turn_bytes = self._pace.bps / 8 * config.progress_s / 2
        if self._num_sending and (self._num_sending + 1) * message_bytes > turn_bytes:
            await send_refusal(write, "too many at once under our cap")
            return

        async def write_counted(message: bytes, num_bytes: int) -> None:
            await write(message, num_bytes)
            self._counters.sent[ref.kind] += num_bytes
            self._rates.on_bytes(src, num_bytes, loop.time())

        def now_bytes() -> int:
            rate_bps = self._rates.of(src)
            rate_bps /= max(1, self._num_streams[src])  # it is that of all streams together
            most = int(rate_bps * CHUNK_S / 8) if rate_bps else UNKNOWN_BYTES
            return self._pace.chunk_bytes(max(LEAST_MESSAGE_BYTES, most))

        manner = Manner(
            chunk_bytes=config.chunk_bytes, progress_s=config.progress_s, pace=self._pace
        )
        is_compressed = config.may_compress and 0 < self._rates.bps < ZSTD_BELOW_BPS
        self._rates.began(src, loop.time())
        self._num_sending += 1
        try:
            await send_stripe(
                write_counted,
                _Watched(source, lambda idle_s: self._rates.idled(src, idle_s)),
                start,
                stop,
                manner,
                now_bytes=now_bytes,
                is_compressed=is_compressed,
            )
        finally:
            self._num_sending -= 1
            self._rates.ended(src, loop.time())


class _Watched:
    """A source whose reader says how long it waited for what was still in the making."""

    def __init__(self, source: Source, on_idle: Callable[[float], None]) -> None:
        self.size_bytes, self.round = source.size_bytes, source.round
        self.grain_bytes = source.grain_bytes
        self._source = source
        self._on_idle = on_idle

    async def read(self, start: int, stop: int) -> bytes:
        """Returns bytes of one grain; see `peer.ports.Source`."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        chunk = await self._source.read(start, stop)
        self._on_idle(loop.time() - began_s)
        return chunk
