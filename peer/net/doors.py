"""Local sockets behind which tunnels begin, so that gRPC can dial a peer that nobody can dial.

There is one door for each peer and way. Every connection to it becomes a tunnel of its own: opened
by the peer at our request if it listens at us, else passed on by a relay at which it listens.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from peer.net.link import Addresses, Link
from peer.net.switchboard import RELAY_IDLE_S, Switchboard
from peer.net.tunnel import PIECE_BYTES, SocketEnd, carry
from peer.net.ways import Candidate
from protocol.errors import ThinwireError
from protocol.identity import PeerId
from protocol.pb import thinwire_pb2 as pb

logger = logging.getLogger(__name__)

RELAYS_AT_ONCE = 2
"""Each costs two connections when it is dialled."""
AVOIDED_S = 60.0
"""So long a relay is left alone that did not lead to a peer, if there are others."""

Relays = Callable[[PeerId], Sequence[PeerId]]


class _Door(NamedTuple):
    path: Path
    server: asyncio.Server


class Doors:
    """Implements `ways.Tunnels`.

    Args:
        our_id: Ours.
        folder: Where the sockets are; only we can look into it.
        switchboard: Knows who listens at us.
        link: Returns the link to a relay.
        addresses: Of relays: one without any cannot be used.
        relays: Where a peer says that it listens.
    """

    def __init__(
        self,
        our_id: PeerId,
        folder: Path,
        *,
        switchboard: Switchboard,
        link: Callable[[PeerId], Link],
        addresses: Addresses,
        relays: Relays,
    ) -> None:
        self._our_id = our_id
        self._folder = folder
        self._switchboard = switchboard
        self._link = link
        self._addresses = addresses
        self._relays = relays
        self._doors: dict[tuple[PeerId, PeerId | None], _Door] = {}
        self._num_doors = 0
        self._lock = asyncio.Lock()
        self._failed_at_s: dict[tuple[PeerId, PeerId], float] = {}
        self._tunnels: dict[asyncio.Task[None], PeerId] = {}

    async def candidates(self, peer_id: PeerId) -> Sequence[Candidate]:
        """Returns the ways through tunnels that may lead to a peer."""
        found = []
        if peer_id in self._switchboard:
            found.append(Candidate("reverse", await self._door(peer_id, None)))
        for relay in self._relays_for(peer_id):
            found.append(Candidate("relayed", await self._door(peer_id, relay)))
        return found

    async def forget(self, peer_id: PeerId) -> None:
        """Closes the doors to a peer, and the tunnels behind them."""
        async with self._lock:
            for key in [key for key in self._doors if key[0] == peer_id]:
                door = self._doors.pop(key)
                door.server.close()
                door.path.unlink(missing_ok=True)
        for pair in [pair for pair in self._failed_at_s if pair[0] == peer_id]:
            del self._failed_at_s[pair]
        tunnels = [tunnel for tunnel, dst in self._tunnels.items() if dst == peer_id]
        for tunnel in tunnels:
            tunnel.cancel()
        await asyncio.gather(*tunnels, return_exceptions=True)

    async def close(self) -> None:
        """Closes all doors and tunnels."""
        for peer_id in {*(dst for dst, _ in self._doors), *self._tunnels.values()}:
            await self.forget(peer_id)

    def _relays_for(self, dst: PeerId) -> list[PeerId]:
        """Returns the relays to try, in an order of our own, so that not all crowd at one."""
        now_s = asyncio.get_running_loop().time()
        usable = [
            relay
            for relay in self._relays(dst)
            if relay not in (self._our_id, dst) and self._addresses(relay)
        ]

        def rank(relay: PeerId) -> tuple[bool, bytes]:
            has_failed = self._failed_at_s.get((dst, relay), -AVOIDED_S) + AVOIDED_S > now_s
            return has_failed, hashlib.sha256(f"{self._our_id}{dst}{relay}".encode()).digest()

        return sorted(usable, key=rank)[:RELAYS_AT_ONCE]

    async def _door(self, dst: PeerId, relay: PeerId | None) -> str:
        """Returns the address of a door, for gRPC."""

        def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tunnel = asyncio.create_task(self._enter(dst, relay, SocketEnd(reader, writer)))
            self._tunnels[tunnel] = dst
            tunnel.add_done_callback(lambda _: self._tunnels.pop(tunnel, None))

        async with self._lock:  # a link may look for a better way while it dials
            door = self._doors.get((dst, relay))
            if door is None:
                self._num_doors += 1
                path = self._folder / f"{self._num_doors}"
                server = await asyncio.start_unix_server(enter, path, limit=PIECE_BYTES)
                door = self._doors[dst, relay] = _Door(path, server)
        return f"unix:{door.path}"

    async def _enter(self, dst: PeerId, relay: PeerId | None, end: SocketEnd) -> None:
        try:
            if relay is None:
                await self._switchboard.call(dst, end)
            else:
                await carry(self._link(relay), pb.TunnelOpen(dst=dst), end)
        except ThinwireError as error:
            way = f"through {relay}" if relay else "from there"
            logger.debug("the tunnel to %s %s ended: %s", dst, way, error)
            now_s = asyncio.get_running_loop().time()
            # Relays close idle tunnels, which is no failure; half, since theirs is another clock.
            was_idle = now_s - end.moved_at_s >= RELAY_IDLE_S / 2
            if relay is not None and not was_idle:
                self._failed_at_s[dst, relay] = now_s
        finally:
            end.close()
