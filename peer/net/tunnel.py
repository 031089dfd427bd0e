"""A tunnel: a stream of bytes in a gRPC call that whoever cannot be dialled opened.

Through it runs another connection, with its own mutual TLS from end to end, so whoever carries a
tunnel sees nothing of what is said. In a tunnel's call the first message says which tunnel it is,
and all others are bytes. An empty message ends its direction, since a gRPC server cannot half-close
a call. Nothing is buffered but one piece a direction: who reads slowly is written to slowly.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc.aio
from google.protobuf.message import DecodeError

from peer.net import frames
from peer.net.config import DIAL_S
from peer.net.link import CALL_ERRORS, Link, error_from
from protocol.errors import MalformedMessage, TransportError
from protocol.pb import thinwire_pb2 as pb

LISTEN = f"/{frames.SERVICE}/Listen"
TUNNEL = f"/{frames.SERVICE}/Tunnel"

PIECE_BYTES = 64 * 1024
TUNNEL_ID_BYTES = 16
MAX_OPEN_BYTES = 256
TUNNEL_IDLE_S = 600.0
"""A tunnel in which nothing moves for so long is closed; the next call opens another one."""


class End(Protocol):
    """One end of a tunnel."""

    async def read(self) -> bytes:
        """Returns the next bytes, at most a piece; none at the end of this direction.

        Raises:
            TransportError: it broke off.
        """

    async def write(self, data: bytes) -> None:
        """Passes bytes on, and returns when there is room for more; none end this direction.

        Raises:
            TransportError: it broke off.
        """


class SocketEnd:
    """A local socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.moved_at_s = asyncio.get_running_loop().time()
        """When bytes last went through it."""
        writer.transport.set_write_buffer_limits(high=PIECE_BYTES)

    async def read(self) -> bytes:
        """See `End`."""
        try:
            data = await self._reader.read(PIECE_BYTES)
        except OSError as error:
            raise TransportError(f"the local connection broke off: {error}") from None
        if data:
            self.moved_at_s = asyncio.get_running_loop().time()
        return data

    async def write(self, data: bytes) -> None:
        """See `End`."""
        try:
            if data:
                self.moved_at_s = asyncio.get_running_loop().time()
                self._writer.write(data)
                await self._writer.drain()
            elif not self._writer.is_closing():
                self._writer.write_eof()
        except (OSError, RuntimeError) as error:
            raise TransportError(f"the local connection broke off: {error}") from None

    def close(self) -> None:
        """Closes the socket; what is under way is lost."""
        self._writer.transport.abort()


class CallEnd:
    """A tunnel's call at the side that opened it."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> bytes:
        """See `End`."""
        try:
            message = await self._call.read()
        except CALL_ERRORS as error:
            raise error_from(error, our_wait_s=DIAL_S) from None
        return _piece(message)

    async def write(self, data: bytes) -> None:
        """See `End`."""
        try:
            await self._call.write(data)
        except CALL_ERRORS as error:
            raise error_from(error, our_wait_s=DIAL_S) from None


class ServedEnd:
    """A tunnel's call at the side that serves it.

    Args:
        context: Of the call.
        take: Waits until so many bytes may be passed on.
    """

    def __init__(
        self, context: grpc.aio.ServicerContext, take: Callable[[int], Awaitable[None]]
    ) -> None:
        self._context = context
        self._take = take

    async def read(self) -> bytes:
        """See `End`."""
        try:
            data = _piece(await self._context.read())
        except (asyncio.InvalidStateError, grpc.aio.BaseError):
            raise TransportError("the tunnel broke off") from None
        await self._take(len(data))
        return data

    async def write(self, data: bytes) -> None:
        """See `End`."""
        try:
            await self._context.write(data)
        except (asyncio.InvalidStateError, grpc.aio.BaseError):
            raise TransportError("the tunnel broke off") from None


async def join(one: End, other: End, *, idle_s: float = TUNNEL_IDLE_S) -> None:
    """Passes bytes both ways until both directions have ended.

    Raises:
        TransportError: one end broke off, or nothing moved for `idle_s`.
    """
    loop = asyncio.get_running_loop()
    moved_at_s = loop.time()

    async def pass_on(src: End, dst: End) -> None:
        nonlocal moved_at_s
        while data := await src.read():
            moved_at_s = loop.time()
            await dst.write(data)
        await dst.write(b"")

    pumps = [asyncio.create_task(pass_on(one, other)), asyncio.create_task(pass_on(other, one))]
    pending = set(pumps)
    try:
        while pending:
            wait_s = moved_at_s + idle_s - loop.time()
            if wait_s <= 0:
                raise TransportError(f"nothing moved for {idle_s:g} s")
            done, pending = await asyncio.wait(
                pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
            for pump in done:
                pump.result()
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def carry(link: Link, opening: pb.TunnelOpen, end: End) -> None:
    """Opens a tunnel over a connection of its own, and joins it to `end` until both are done.

    Args:
        link: To whoever serves tunnels; it must be dialled directly, or tunnels would run in
            tunnels.
        opening: Which tunnel.
        end: Ours.

    Raises:
        TransportError: it broke off, or cannot be opened.
        RemoteError: it is refused.
    """
    channel = await link.another_channel()
    try:
        if link.way != "direct":
            raise TransportError(f"{link.peer_id} itself can be reached only {link.way}")
        call = channel.stream_stream(TUNNEL)()
        try:
            ours = CallEnd(call)
            await ours.write(opening.SerializeToString())
            await join(ours, end)
            with contextlib.suppress(*CALL_ERRORS, TimeoutError):
                async with asyncio.timeout(DIAL_S):  # or what is on the way would be lost
                    await call.done_writing()
                    await call.code()
        finally:
            call.cancel()
    finally:
        await link.release(channel)


def parse_opening(message: Any) -> pb.TunnelOpen:
    """Returns what a tunnel's first message says.

    Raises:
        MalformedMessage: it is none.
    """
    raw = pb.TunnelOpen()
    try:
        if not isinstance(message, bytes) or len(message) > MAX_OPEN_BYTES:
            raise DecodeError
        raw.ParseFromString(message)
    except DecodeError:
        raise MalformedMessage("a tunnel without its name") from None
    if bool(raw.tunnel_id) == bool(raw.dst) or len(raw.tunnel_id) not in (0, TUNNEL_ID_BYTES):
        raise MalformedMessage("a tunnel that has no name, or two")
    return raw


def _piece(message: Any) -> bytes:
    if message is grpc.aio.EOF:
        raise TransportError("the tunnel broke off")
    if not isinstance(message, bytes) or len(message) > PIECE_BYTES:
        raise TransportError(f"a piece of more than {PIECE_BYTES} bytes in a tunnel")
    return message
