"""The wire: notes and blobs over gRPC, to and from peers whose identity is proven."""

import asyncio
from collections.abc import Sequence
from typing import NoReturn

import grpc.aio
from google.protobuf.message import DecodeError

from peer.net import frames, transfer
from peer.net.admission import Membership, Welcome
from peer.net.config import WireConfig
from peer.net.counters import ByteCounters
from peer.net.link import (
    CALL_ERRORS,
    Addresses,
    Channel,
    ConnectionBroken,
    Link,
    NotIntroduced,
    error_from,
)
from peer.net.refusals import readable
from peer.net.server import WireServer
from peer.ports import Blob, Inbox
from protocol.errors import MalformedMessage, NotAvailable, RemoteError, TransportError
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note, note_to_bytes
from protocol.pb import thinwire_pb2 as pb

_MAX_REPLY_BYTES = 1024


class GrpcWire:
    """Implements `peer.ports.Wire`. Make it with `start`.

    Attributes:
        counters: payload bytes up and down, by kind.
    """

    def __init__(
        self, identity: Identity, config: WireConfig, *, inbox: Inbox, addresses: Addresses
    ) -> None:
        self.counters = ByteCounters()
        self._identity = identity
        self._config = config
        self._addresses = addresses
        self._membership = Membership(
            run_id=config.run_id,
            secret=config.secret,
            manifest=config.manifest_bytes or b"",
            signature=config.manifest_signature,
        )
        self._links: dict[PeerId, Link] = {}
        self._is_closed = False
        self._server = WireServer(
            identity,
            config,
            membership=self._membership,
            inbox=inbox,
            counters=self.counters,
        )

    @classmethod
    async def start(
        cls, identity: Identity, config: WireConfig, *, inbox: Inbox, addresses: Addresses
    ) -> "GrpcWire":
        """Returns a wire that listens.

        Args:
            identity: proven to every peer.
            config: the run, its limits, and where to listen.
            inbox: asked when peers of our run call.
            addresses: returns "host:port" candidates for a peer; asked whenever it is dialled.

        Raises:
            ConfigError: cannot listen there.
        """
        wire = cls(identity, config, inbox=inbox, addresses=addresses)
        await wire._server.start()
        return wire

    @property
    def listen_port(self) -> int:
        """The TCP port that others can dial."""
        return self._server.listen_port

    async def hello(self, peer_id: PeerId, address: str | None = None) -> Welcome:
        """Says Hello to a peer, at `address` or wherever it is known to be.

        Raises:
            RunMismatch: they refuse us.
            TransportError: they cannot be reached.
        """
        return await self._link(peer_id).hello(address)

    async def send(self, dst: PeerId, note: Note) -> None:
        """Delivers one note, once or not at all.

        Raises:
            TransportError: it may not have arrived.
            RemoteError: they refuse us, or answered against the rules.
        """
        link = self._link(dst)
        data = note_to_bytes(note)
        try:
            reply = await self._send(link, data)
        except _NotAdmitted:
            reply = await self._send(link, data)
        if not reply.taken:
            raise RemoteError(f"{dst} refuses our note: {readable(reply.reason)}")

    async def fetch(self, src: PeerId, ref: BlobRef, *, max_bytes: int) -> Blob:
        """Gets a whole blob, in chunks; see `peer.ports.Wire`.

        Raises:
            LimitExceeded: it is larger than `max_bytes`; nothing was allocated.
            NotAvailable: they do not have it.
            MalformedMessage: count or hash did not fit.
            TransportError: it broke off, or made no progress.
        """
        link = self._link(src)
        async with link.streams:
            try:
                return await self._fetch(link, ref, max_bytes)
            except _NotAdmitted:
                return await self._fetch(link, ref, max_bytes)

    async def forget(self, peer_id: PeerId) -> None:
        """Closes the channel to a peer; it must also say Hello again before it is served."""
        self._server.forget(peer_id)
        link = self._links.pop(peer_id, None)
        if link is not None:
            await link.close()

    async def close(self) -> None:
        """Stops listening and drops all connections."""
        self._is_closed = True
        links, self._links = self._links, {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._server.close())
            for link in links.values():
                group.create_task(link.close())

    def _link(self, peer_id: PeerId) -> Link:
        if self._is_closed:
            raise TransportError("the wire is closed")
        link = self._links.get(peer_id)
        if link is None:
            link = self._links[peer_id] = Link(
                self._identity,
                peer_id,
                membership=self._membership,
                addresses=self._addresses,
                counters=self.counters,
                software=self._config.software,
                max_streams=self._config.max_streams_per_peer,
            )
        return link

    async def _send(self, link: Link, data: bytes) -> pb.NoteReply:
        channel = await link.channel()
        wait_s = self._config.progress_s
        call = channel.unary_unary(frames.NOTE)(data, timeout=wait_s)
        self.counters.sent["note"] += len(data)
        try:
            answer: bytes = await call
        except CALL_ERRORS as error:
            await _failed(link, channel, error, wait_s)
        if len(answer) > _MAX_REPLY_BYTES:
            raise MalformedMessage(f"an answer of {len(answer)} bytes to a note")
        reply = pb.NoteReply()
        try:
            reply.ParseFromString(answer)
        except DecodeError:
            raise MalformedMessage("not an answer to a note") from None
        return reply

    async def _fetch(self, link: Link, ref: BlobRef, max_bytes: int) -> Blob:
        channel = await link.channel()
        progress_s = self._config.progress_s
        call = channel.unary_stream(frames.FETCH)(frames.request_of(ref))

        async def read() -> bytes | None:
            message = await call.read()
            if message is grpc.aio.EOF:
                return None
            data: bytes = message
            if data and data[0] == frames.CHUNK:
                self.counters.received[ref.kind] += len(data) - 1
            return data

        try:
            return await transfer.receive_blob(
                read,
                max_bytes=max_bytes,
                chunk_bytes=self._config.chunk_bytes,
                progress_s=progress_s,
                # It may be in the making at the sender for one, and then has to travel.
                header_s=2 * progress_s,
            )
        except CALL_ERRORS as error:
            await _failed(link, channel, error, progress_s)
        finally:
            call.cancel()  # of no effect on a call that ended well


async def fetch_manifest(
    identity: Identity,
    peer_id: PeerId,
    addresses: Sequence[str],
    *,
    run_id: RunId,
    secret: bytes | None = None,
) -> tuple[bytes, bytes]:
    """Returns manifest and founder's signature, for a joiner that has only a ticket.

    The caller checks both against the ticket, with `protocol.manifest.verify_manifest`.

    Raises:
        RunMismatch: the peer refuses us.
        NotAvailable: it has no manifest itself.
        TransportError: it cannot be reached.
    """
    link = Link(
        identity,
        peer_id,
        membership=Membership(run_id=run_id, secret=secret),
        addresses=lambda _: addresses,
        counters=ByteCounters(),
    )
    try:
        welcome = await link.hello()
    finally:
        await link.close()
    if not welcome.manifest:
        raise NotAvailable(f"{peer_id} has no manifest itself")
    return welcome.manifest, welcome.signature


class _NotAdmitted(RemoteError):
    """They did not know us any more. We said Hello again, so the call can be repeated."""


async def _failed(link: Link, channel: Channel, error: BaseException, wait_s: float) -> NoReturn:
    """Raises what the end of a call means; gives up a channel that leads nowhere."""
    failure = error_from(error, our_wait_s=wait_s)
    if isinstance(failure, NotIntroduced):
        await link.hello()
        raise _NotAdmitted(f"{link.peer_id} welcomes us, and then does not know us") from None
    if isinstance(failure, ConnectionBroken):
        await link.drop(channel)
    raise failure from None
