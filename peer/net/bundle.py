"""The connections to one peer that bulk data goes over, beside the one for notes.

A note must not wait behind megabytes in a socket's buffer; and where packets get lost, one TCP
connection does not fill a long link (docs/links.md), but several do. One that is not wanted any
more is closed as soon as no transfer uses it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from peer.net.link import Channel, Link
from peer.net.width import Width


class Bundle:
    """See the module docstring. Closing the link closes them all.

    Args:
        link: The way to the peer.
        width: How many are wanted.

    Attributes:
        received_bytes: What has come over them so far.
    """

    def __init__(self, link: Link, width: Width) -> None:
        self.link = link
        self.width = width
        self.received_bytes = 0
        self._channels: dict[int, Channel] = {}
        self._num_transfers: Counter[int] = Counter()
        self._opening = asyncio.Lock()

    @property
    def num_in_use(self) -> int:
        """How many have transfers."""
        return len(+self._num_transfers)

    @asynccontextmanager
    async def transfer(self, number: int) -> AsyncIterator[None]:
        """Keeps the connection of that number, whether it is wanted or not, while this lasts."""
        self._num_transfers[number] += 1
        try:
            yield
        finally:
            self._num_transfers[number] -= 1
            await self._close_unwanted()

    async def channel(self, number: int) -> Channel:
        """Returns the connection of that number, which is opened if there is none.

        Raises:
            TransportError: the peer cannot be reached now.
            RemoteError: it refuses us.
        """
        async with self._opening:
            channel = self._channels.get(number)
            if channel is None or not self.link.is_open(channel):
                channel = self._channels[number] = await self.link.another_channel()
            return channel

    async def _close_unwanted(self) -> None:
        idle = [number for number in self._channels if not self._num_transfers[number]]
        unwanted = [self._channels.pop(number) for number in idle if number >= self.width.wanted]
        for channel in unwanted:
            await self.link.release(channel)
