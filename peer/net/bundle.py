"""The connections to one peer that bulk data goes over, beside the one for notes.

A note must not wait behind megabytes in a socket's buffer; and where packets get lost, one TCP
connection does not fill a long link (docs/links.md), but several do.
"""

import asyncio

from peer.net.link import Channel, Link


class Bundle:
    """See the module docstring.

    Args:
        link: The way to the peer.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channels: dict[int, Channel] = {}
        self._opening = asyncio.Lock()

    def __len__(self) -> int:
        """Returns how many are open."""
        return len(self._channels)

    async def channel(self, number: int) -> Channel:
        """Returns the connection of that number, which is opened if there is none.

        Raises:
            TransportError: the peer cannot be reached now.
            RemoteError: it refuses us.
        """
        async with self._opening:
            channel = self._channels.get(number)
            if channel is None or not self._link.is_open(channel):
                channel = self._channels[number] = await self._link.another_channel()
            return channel

    async def close(self) -> None:
        """Closes all."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await self._link.release(channel)
