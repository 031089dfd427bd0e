"""One end of a pair's exchanges: each sends the whole of its contribution, and averages for itself.

What `benchmarks.exchange_end` is for mixing `all`; there is one part, and nothing is sent after it.
"""

import asyncio

from torch import Tensor

from benchmarks.exchange_end import _TOKENS, ExchangeEnd
from peer.blobs import FrameSink
from peer.mixing import OuterState
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.terms import Terms

_TERMS = Terms((1,))


class PairEnd(ExchangeEnd):
    """See the module docstring."""

    async def exchange(self, exchange_id: bytes, theta: Tensor) -> OuterState:
        """Exchanges once, and returns the new outer state; see `ExchangeEnd.exchange`."""
        mixing, round = self.mixing, self.mixing.outer[0].round
        offer = Offer(0, round, exchange_id, _TERMS, (self._their_id,))
        mixing.open(0, exchange_id, _TERMS)
        await self._make(lambda: mixing.offer(offer, theta))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._make(lambda: mixing.encode(offer, self._on_grain)))
            group.create_task(self._fetch(BlobRef("part", 0, exchange_id)))
        average = BlobRef("average", 0, exchange_id)
        reduce = Reduce(average, _TOKENS, is_shared=False)
        await self._job(lambda: mixing.reduce(reduce, self._on_grain))
        return await self._job(lambda: mixing.land(Land(0, round, exchange_id, _TERMS)))

    async def _fetch(self, ref: BlobRef) -> None:
        mixing, fetch = self.mixing, Fetch(self._their_id, ref, _TERMS, _TOKENS)

        async def take(grain: int, frame: bytes | memoryview) -> None:
            mixing.collect(fetch, grain, frame)

        sink = FrameSink(mixing.grains(ref, _TERMS), mixing.missing(fetch), take)
        await self.wire.fetch(self._their_id, ref, sink)
