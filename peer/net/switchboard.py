"""Where peers that cannot be dialled listen, and can be called through tunnels.

    they     Listen -> we                        "here I can be called"
    we       Summons(id, caller) -> they         over the answers of that call
    they     Tunnel(id) -> we                    bytes from now on

The caller is this peer itself, or another one that opened a tunnel to us and named the listener as
its destination: then we are a relay. Only members of the run get here. We see no more of what is
said than the number of bytes, and pass on only so many of them a second.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from peer.net.config import DIAL_S, WireConfig
from peer.net.counters import ByteCounters
from peer.net.pace import Cap, Pace
from peer.net.tunnel import TUNNEL_ID_BYTES, TUNNEL_IDLE_S, End, ServedEnd, join, parse_opening
from protocol.errors import LimitExceeded, NotAvailable, TransportError
from protocol.identity import PeerId
from protocol.pb import thinwire_pb2 as pb

logger = logging.getLogger(__name__)

MAX_WAITING_SUMMONS = 16
MAX_TUNNELS_OF_CALLER = 32
MAX_RELAYED = 128
CALLERS_AT_FULL_RATE = 4
"""For so many callers we relay at `relay_bps` each; more of them share that."""
RELAY_IDLE_S = 120.0
"""Shorter than for a tunnel of our own: what is relayed costs somebody else."""

Take = Callable[[int], Awaitable[None]]


class _Tunnel:
    """One that somebody was asked to open."""

    def __init__(self, dst: PeerId, end: End, take: Take, idle_s: float) -> None:
        self.dst, self.end, self.take, self.idle_s = dst, end, take, idle_s
        self.is_open = asyncio.Event()
        self.joining: asyncio.Task[None] | None = None


class Switchboard:
    """See the module docstring.

    Args:
        our_id: The peer that calls, unless it relays.
        config: `relay_bps` bounds what is relayed, `max_peers` who listens.
        counters: Relayed bytes count as `relay`, both ways.
        up: The upload cap, which relayed bytes share.
    """

    def __init__(
        self, our_id: PeerId, config: WireConfig, counters: ByteCounters, *, up: Pace
    ) -> None:
        self._our_id = our_id
        self._config = config
        self._counters = counters
        self._listeners: dict[PeerId, asyncio.Queue[pb.Summons | None]] = {}
        self._asked: dict[bytes, _Tunnel] = {}
        self._num_relayed: Counter[PeerId] = Counter()
        self._paces: dict[PeerId, Pace] = {}
        """Of each caller: more tunnels do not mean more for one."""
        self._all_relayed = Pace(Cap(CALLERS_AT_FULL_RATE * config.relay_bps))
        self._up = up

    def __contains__(self, peer_id: PeerId) -> bool:
        """Whether this peer can be called here."""
        return peer_id in self._listeners

    async def call(self, dst: PeerId, end: End) -> None:
        """Asks a listener for a tunnel, and joins it to `end` until both are done.

        Raises:
            NotAvailable: it does not listen here, or opened none.
            TransportError: the tunnel broke off.
        """
        await self._call(_Tunnel(dst, end, _at_once, TUNNEL_IDLE_S), self._our_id)

    async def on_listen(self, src: PeerId, context: grpc.aio.ServicerContext) -> None:
        """Serves a Listen: from now on `src` can be called here. Of two by one peer the newer wins.

        Raises:
            LimitExceeded: too many listen here.
        """
        if src not in self._listeners and len(self._listeners) >= self._config.max_peers:
            raise LimitExceeded(f"{len(self._listeners)} peers listen here already")
        queue: asyncio.Queue[pb.Summons | None] = asyncio.Queue(MAX_WAITING_SUMMONS)
        if (older := self._listeners.get(src)) is not None:
            while not older.empty():
                older.get_nowait()
            older.put_nowait(None)
        self._listeners[src] = queue
        try:
            await context.write(pb.Summons().SerializeToString())
            while (summons := await queue.get()) is not None:
                await context.write(summons.SerializeToString())
        finally:
            if self._listeners.get(src) is queue:
                del self._listeners[src]

    async def on_tunnel(self, src: PeerId, context: grpc.aio.ServicerContext) -> None:
        """Serves a Tunnel: one that we asked `src` for, or one that it wants to be passed on.

        Raises:
            RemoteError: nobody asked for it, or it asks for too much.
            TransportError: it broke off, or leads to nobody.
        """
        try:
            async with asyncio.timeout(DIAL_S):
                opening = parse_opening(await context.read())
        except TimeoutError:
            raise TransportError("a tunnel without its name") from None
        if opening.dst:
            await self._relay(src, PeerId(opening.dst), context)
            return
        tunnel = self._asked.get(opening.tunnel_id)
        if tunnel is None or tunnel.dst != src or tunnel.is_open.is_set():
            raise NotAvailable("nobody waits for this tunnel")
        tunnel.joining = asyncio.create_task(
            join(tunnel.end, ServedEnd(context, tunnel.take), idle_s=tunnel.idle_s)
        )
        tunnel.is_open.set()
        try:
            await asyncio.wait((tunnel.joining,))
        finally:
            await _end(tunnel.joining)

    async def _relay(self, src: PeerId, dst: PeerId, context: grpc.aio.ServicerContext) -> None:
        if not self._config.relay_bps:
            raise NotAvailable("this peer does not relay")
        if self._num_relayed[src] >= MAX_TUNNELS_OF_CALLER:
            raise LimitExceeded(f"more than {MAX_TUNNELS_OF_CALLER} relayed tunnels at once")
        if self._num_relayed.total() >= MAX_RELAYED:
            raise NotAvailable("too much is relayed here already")
        pace = self._paces.setdefault(src, Pace(Cap(self._config.relay_bps)))

        async def take(num_bytes: int) -> None:
            for each in (pace, self._all_relayed, self._up):
                await each.take(num_bytes)
            self._counters.received["relay"] += num_bytes
            self._counters.sent["relay"] += num_bytes

        self._num_relayed[src] += 1
        try:
            await self._call(_Tunnel(dst, ServedEnd(context, take), take, RELAY_IDLE_S), src)
        finally:
            self._num_relayed[src] -= 1
            if not self._num_relayed[src]:
                del self._num_relayed[src], self._paces[src]

    async def _call(self, tunnel: _Tunnel, caller: PeerId) -> None:
        queue = self._listeners.get(tunnel.dst)
        if queue is None or queue.full():
            raise NotAvailable(f"{tunnel.dst} cannot be called here")
        tunnel_id = secrets.token_bytes(TUNNEL_ID_BYTES)
        self._asked[tunnel_id] = tunnel
        try:
            queue.put_nowait(pb.Summons(tunnel_id=tunnel_id, caller=caller))
            try:
                async with asyncio.timeout(DIAL_S):
                    await tunnel.is_open.wait()
            except TimeoutError:
                raise NotAvailable(f"{tunnel.dst} opened no tunnel") from None
            finally:
                del self._asked[tunnel_id]
            joining = tunnel.joining
            assert joining is not None  # set before the event was
            await asyncio.wait((joining,))
        finally:
            if tunnel.joining is not None:
                await _end(tunnel.joining)
        if joining.cancelled():
            raise TransportError("the tunnel broke off")
        joining.result()


async def _end(joining: "asyncio.Task[None]") -> None:
    joining.cancel()
    await asyncio.gather(joining, return_exceptions=True)


async def _at_once(num_bytes: int) -> None:
    """Tunnels of our own are paced by what runs in them."""
