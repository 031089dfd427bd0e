"""One end of a pair's exchanges: each sends the whole of its contribution, and averages for itself.

What `benchmarks.exchange_end` is for mixing `all`. There is one part, and nothing is sent after it.
As in `peer.driver`, our offer is encoded before theirs is decoded: parameters are decoded as what
lies near our own.
"""

import asyncio

from torch import Tensor

from benchmarks.exchange_end import _TOKENS, ExchangeEnd
from peer.mixing import OuterState
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce


class PairEnd(ExchangeEnd):
    """See the module docstring."""

    async def exchange(self, exchange_id: bytes, theta: Tensor) -> OuterState:
        """Exchanges once, and returns the new outer state; see `ExchangeEnd.exchange`."""
        mixing, round = self.mixing, self.mixing.outer[0].round
        offer = Offer(0, round, exchange_id, 1, (self._their_id,))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._make(lambda: mixing.offer(offer, theta)))
            group.create_task(self._fetch(BlobRef("part", 0, exchange_id)))
        reduce = Reduce(BlobRef("average", 0, exchange_id), _TOKENS, is_shared=False)
        await self._job(lambda: mixing.reduce(reduce))
        return await self._job(lambda: mixing.land(Land(0, round, exchange_id, 1)))

    async def _fetch(self, ref: BlobRef) -> None:
        fetch = Fetch(self._their_id, ref, 1, _TOKENS)
        size = self.mixing.fetch_bytes(fetch)
        blob = await self.wire.fetch(self._their_id, ref, max_bytes=size)
        await self._job(lambda: self.mixing.collect(fetch, blob.data))
