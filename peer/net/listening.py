"""Being called without being dialled: we listen at others, and open the tunnels they ask for."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from pathlib import Path

import grpc.aio
from google.protobuf.message import DecodeError

from peer.net.config import DIAL_S
from peer.net.link import CALL_ERRORS, Link
from peer.net.tunnel import LISTEN, PIECE_BYTES, TUNNEL_ID_BYTES, SocketEnd, carry
from protocol.errors import MalformedMessage, RemoteError, ThinwireError, TransportError
from protocol.identity import PeerId
from protocol.pb import thinwire_pb2 as pb

logger = logging.getLogger(__name__)

PAUSE_S = (1.0, 60.0)  # first and longest, before we listen again where it broke off
MAX_TUNNELS_OF_HOST = 128
"""More are not opened: a host asks for one for each connection of its own, and of those it relays
for."""
MAX_SUMMONS_BYTES = 256


class Listening:
    """Keeps a Listen open at each host, and answers summons.

    Args:
        link: Returns the link to a host.
        server_path: The socket at which our own server takes connections.
        on_change: Called when we can be called somewhere else than before.
    """

    def __init__(
        self,
        link: Callable[[PeerId], Link],
        server_path: Path,
        on_change: Callable[[], None],
    ) -> None:
        self._link = link
        self._server_path = server_path
        self._on_change = on_change
        self._tasks: dict[PeerId, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._tunnels: dict[asyncio.Task[None], PeerId] = {}
        self._listed: dict[PeerId, bool] = {}

    @property
    def hosts(self) -> tuple[PeerId, ...]:
        """Where we can be called now; where we have been for longest comes first."""
        return tuple(self._listed)

    def listen_at(self, hosts: Collection[PeerId]) -> None:
        """Listens at these hosts, and no longer at others; tunnels that are open stay."""
        for host in self._tasks.keys() - set(hosts):
            task = self._tasks.pop(host)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for host in hosts:
            if host not in self._tasks:
                self._tasks[host] = asyncio.create_task(self._keep(host))

    async def close(self) -> None:
        """Listens nowhere any more, and closes all tunnels."""
        self.listen_at(())
        tasks = [*self._tunnels, *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, host: PeerId) -> None:
        pause_s, longest_s = PAUSE_S
        while True:
            try:
                await self._listen(host)
            except ThinwireError as error:
                logger.info("cannot be called at %s: %s", host, error)
            finally:
                if was_listed := self._listed.pop(host, False):
                    self._on_change()
            pause_s = PAUSE_S[0] if was_listed else min(longest_s, 2 * pause_s)
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))

    async def _listen(self, host: PeerId) -> None:
        link = self._link(host)
        channel = await link.channel()
        if link.way != "direct":
            raise TransportError(f"it can itself be reached only {link.way}")
        call = channel.unary_stream(LISTEN)(b"")
        try:
            while True:
                message = await call.read()
                if message is grpc.aio.EOF:
                    raise TransportError("they ended it")
                self._on_summons(host, message)
        except CALL_ERRORS as error:
            raise await link.on_failure(channel, error, wait_s=DIAL_S) from None
        finally:
            call.cancel()

    def _on_summons(self, host: PeerId, message: bytes) -> None:
        summons = pb.Summons()
        try:
            if len(message) > MAX_SUMMONS_BYTES:
                raise DecodeError
            summons.ParseFromString(message)
        except DecodeError:
            raise MalformedMessage("not a summons") from None
        if not summons.tunnel_id:
            if host not in self._listed:
                logger.info("can be called at %s", host)
                self._listed[host] = True
                self._on_change()
            return
        if len(summons.tunnel_id) != TUNNEL_ID_BYTES:
            raise MalformedMessage("not a summons")
        if sum(of == host for of in self._tunnels.values()) >= MAX_TUNNELS_OF_HOST:
            logger.info("%s asks for too many tunnels", host)
            return
        tunnel = asyncio.create_task(self._open(host, summons))
        self._tunnels[tunnel] = host
        tunnel.add_done_callback(lambda _: self._tunnels.pop(tunnel, None))

    async def _open(self, host: PeerId, summons: pb.Summons) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(
                self._server_path, limit=PIECE_BYTES
            )
        except OSError as error:
            logger.warning("our own server does not answer: %s", error)
            return
        end = SocketEnd(reader, writer)
        try:
            await carry(self._link(host), pb.TunnelOpen(tunnel_id=summons.tunnel_id), end)
        except (TransportError, RemoteError) as error:
            logger.info("the tunnel for %.64s at %s ended: %s", summons.caller, host, error)
        finally:
            end.close()
