"""The wire: notes and blobs over gRPC, to and from peers whose identity is proven."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import grpc.aio
from google.protobuf.message import DecodeError

from peer.net import frames
from peer.net.admission import Membership, Welcome
from peer.net.bundle import Bundle
from peer.net.config import WireConfig
from peer.net.counters import ByteCounters
from peer.net.download import Download
from peer.net.link import (
    CALL_ERRORS,
    Addresses,
    ConnectionBroken,
    Link,
    NotIntroduced,
    error_from,
)
from peer.net.pace import Pace
from peer.net.probe import Probed, probe
from peer.net.rates import LinkRates
from peer.net.reach import Reach
from peer.net.refusals import readable
from peer.net.server import WireServer
from peer.net.transfer import Manner, Stripe, receive_stripe
from peer.net.ways import WAYS, Way
from peer.net.width import Width
from peer.ports import Inbox, Sink
from peer.signs import Signs
from protocol.errors import MalformedMessage, NotAvailable, RemoteError, TransportError
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note, note_to_bytes
from protocol.pb import thinwire_pb2 as pb
from protocol.report import Tie
from protocol.report_codec import SignedReport, verify_report

_MAX_REPLY_BYTES = 1024
CAPPED_FRAC = 0.8
"""A goodput of so much of our cap is limited by it."""
FIRST_CONNECTIONS = 2
"""Where packets get lost, two fill a link from the start that one would fill only after a while."""
SMALL_BYTES = 64 * 1024
"""Blobs up to this go over the connection that notes use."""


class GrpcWire:
    """Implements `peer.ports.Wire`. Make it with `start`.

    Attributes:
        counters: payload bytes up and down, by kind.
        rates: what our link was seen to carry.
        signs: when something last came from each peer.
        reach: how we are reached, and reach others, when dialling is of no use.
    """

    def __init__(
        self, identity: Identity, config: WireConfig, *, inbox: Inbox, addresses: Addresses
    ) -> None:
        self.counters = ByteCounters()
        self._up, self._down = Pace(config.up), Pace(config.down)
        self.rates = LinkRates(up_cap_bps=lambda: self._up.bps, down_cap_bps=lambda: self._down.bps)
        self.signs = Signs()
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
        self._bundles: dict[PeerId, Bundle] = {}
        self._is_closed = False
        self._server = WireServer(
            identity,
            config,
            membership=self._membership,
            inbox=inbox,
            counters=self.counters,
            rates=self.rates,
            pace=self._up,
            signs=self.signs,
        )
        self.reach = Reach(
            identity,
            config,
            membership=self._membership,
            link=self._link,
            addresses=addresses,
            counters=self.counters,
            up=self._up,
        )
        self._server.attach(self.reach)

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

    @property
    def up_bps(self) -> float:
        """What our uploads can carry; see `peer.ports.Wire`."""
        return self.rates.up_bps

    @property
    def down_bps(self) -> float:
        """The same of our downloads."""
        return self.rates.down_bps

    @property
    def ways(self) -> dict[str, int]:
        """How many peers we are connected to, by the way."""
        used = Counter(link.way for link in self._links.values())
        return {way: used[way] for way in WAYS if used[way]}

    @property
    def ties(self) -> tuple[Tie, ...]:
        """The peers that we are connected to."""
        return tuple(
            Tie(peer_id=peer, way=link.way, round_trip_s=self.signs.trip_s(peer) or None)
            for peer, link in self._links.items()
            if link.way is not None
        )

    def answer_reports(self, make: Callable[[], bytes] | None) -> None:
        """From now on whoever asks how we are gets what `make` returns: a signed report."""
        self._server.on_report = make

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
        data = note_to_bytes(note, domain=self._config.domain)
        try:
            reply = await self._send(link, data)
        except NotIntroduced:
            reply = await self._send(link, data)
        if not reply.taken:
            raise RemoteError(f"{dst} refuses our note: {readable(reply.reason)}")

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        """Gets what is missing of a blob; see `peer.ports.Wire`.

        Raises:
            LimitExceeded, MalformedMessage: it has another size, or what the sink refuses.
            NotAvailable: they do not have it.
            TransportError: it broke off, or made no progress.
        """
        bundle = self._bundle(src)

        async def fetch_stripe(stripe: Stripe, connection: int) -> None:
            async with bundle.link.streams, bundle.transfer(connection):
                try:
                    await self._fetch(bundle, ref, sink, stripe, connection)
                except NotIntroduced:
                    await self._fetch(bundle, ref, sink, stripe, connection)

        download = Download(
            sink,
            fetch_stripe,
            bundle.width,
            received_bytes=lambda: bundle.received_bytes,
            num_connections=lambda: bundle.num_in_use,
            is_capped=lambda goodput_bps: goodput_bps > CAPPED_FRAC * self._down.bps,
        )
        await download.run()

    async def ping(self, dst: PeerId, *, wait_s: float) -> None:
        """Returns when the peer's process has answered; see `peer.ports.Wire`.

        Raises:
            TransportError: it has not, within `wait_s` or because it cannot be reached.
            RemoteError: it refuses us, so it lives.
        """
        link, loop = self._link(dst), asyncio.get_running_loop()
        give_up_at_s = loop.time() + wait_s
        try:
            async with asyncio.timeout(wait_s):
                channel = await link.channel()
        except TimeoutError:
            raise TransportError(f"not reached within {wait_s:g} s") from None
        asked_s = loop.time()
        call = channel.unary_unary(frames.PING)(b"", timeout=give_up_at_s - asked_s)
        try:
            await call
        except CALL_ERRORS as error:
            failure = error_from(error, our_wait_s=wait_s)
            if isinstance(failure, ConnectionBroken):
                await link.drop(channel)
            if not _is_older(error):
                raise failure from None
        self.signs.answer(dst, loop.time() - asked_s, loop.time())

    async def probe(self, peer_id: PeerId) -> Probed:
        """Returns how fast the link to a peer is; it serves us once in `probe.EVERY_S`.

        Raises:
            TransportError: it cannot be reached, or does not serve us now.
            RemoteError: it refuses us, or answered against the rules.
        """
        link = self._link(peer_id)
        return await probe(link, up=self._up, down=self._down, counters=self.counters)

    def way(self, peer_id: PeerId) -> Way | None:
        """Returns the way by which we are connected to a peer; None if we are not."""
        link = self._links.get(peer_id)
        return link.way if link is not None else None

    async def report(self, peer_id: PeerId, *, wait_s: float) -> SignedReport:
        """Returns how a peer is, as it signs itself.

        Raises:
            NotAvailable: it has nothing to report, being a bootstrap node or an older version.
            TransportError: it has not answered, within `wait_s` or because it cannot be reached.
            RemoteError: it refuses us, or what it says is no report of its own.
        """
        try:
            async with asyncio.timeout(wait_s):
                link = self._link(peer_id)
                try:
                    data = await self._ask_for_report(link, wait_s=wait_s)
                except NotIntroduced:
                    data = await self._ask_for_report(link, wait_s=wait_s)
        except TimeoutError:
            raise TransportError(f"no report within {wait_s:g} s") from None
        self.counters.received["report"] += len(data)
        return SignedReport(verify_report(data, self._config.run_id, peer_id), data)

    async def forget(self, peer_id: PeerId) -> None:
        """Closes the channel to a peer; it must also say Hello again before it is served."""
        self._server.forget(peer_id)
        self._bundles.pop(peer_id, None)
        self.signs.forget(peer_id)
        link = self._links.pop(peer_id, None)
        if link is not None:
            await link.close()
        await self.reach.forget(peer_id)

    async def close(self) -> None:
        """Stops listening and drops all connections."""
        self._is_closed = True
        await self.reach.close()
        links, self._links = self._links, {}
        self._bundles.clear()
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
                tunnels=self.reach.doors,
            )
        return link

    async def _ask_for_report(self, link: Link, *, wait_s: float) -> bytes:
        channel = await link.channel()
        call = channel.unary_unary(frames.REPORT)(b"", timeout=wait_s)
        try:
            data: bytes = await call
        except CALL_ERRORS as error:
            if _is_older(error):
                raise NotAvailable("they have no reports to give") from None
            raise await link.on_failure(channel, error, wait_s=wait_s) from None
        return data

    async def _send(self, link: Link, data: bytes) -> pb.NoteReply:
        channel = await link.channel()
        wait_s = self._config.progress_s
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        call = channel.unary_unary(frames.NOTE)(data, timeout=wait_s)
        self.counters.sent["note"] += len(data)
        try:
            answer: bytes = await call
        except CALL_ERRORS as error:
            raise await link.on_failure(channel, error, wait_s=wait_s) from None
        self.signs.answer(link.peer_id, loop.time() - asked_s, loop.time())
        if len(answer) > _MAX_REPLY_BYTES:
            raise MalformedMessage(f"an answer of {len(answer)} bytes to a note")
        reply = pb.NoteReply()
        try:
            reply.ParseFromString(answer)
        except DecodeError:
            raise MalformedMessage("not an answer to a note") from None
        return reply

    async def _fetch(
        self, bundle: Bundle, ref: BlobRef, sink: Sink, stripe: Stripe, connection: int
    ) -> None:
        if sink.size_bytes <= SMALL_BYTES:
            channel = await bundle.link.channel()
        else:  # notes must not wait behind it
            channel = await bundle.channel(connection)
        progress_s, src = self._config.progress_s, bundle.link.peer_id
        loop = asyncio.get_running_loop()
        named = ref if ref.domain else replace(ref, domain=self._config.domain)
        request = frames.request_of(named, offset=stripe.at, length=stripe.stop - stripe.at)
        call = channel.unary_stream(frames.FETCH)(request)
        has_begun = False

        async def read() -> bytes | None:
            nonlocal has_begun
            message = await call.read()
            if message is grpc.aio.EOF:
                return None
            data: bytes = message
            self.signs.hear(src, loop.time())
            if not has_begun:  # not before: it may have been in the making
                has_begun = True
                self.rates.down.began(src, loop.time())
            if len(data) > frames.MAX_REQUEST_BYTES:  # neither header nor trailer
                self.counters.received[ref.kind] += len(data)
                bundle.received_bytes += len(data)
                self.rates.down.on_bytes(src, len(data), loop.time())
            return data

        manner = Manner(
            chunk_bytes=self._config.chunk_bytes, progress_s=progress_s, pace=self._down
        )
        try:
            # It may be in the making at the sender for progress_s, and then has to travel.
            await receive_stripe(read, sink, stripe, manner, header_s=2 * progress_s)
        except CALL_ERRORS as error:
            raise await bundle.link.on_failure(channel, error, wait_s=progress_s) from None
        finally:
            if has_begun:
                self.rates.down.ended(src, loop.time())
            call.cancel()  # of no effect on a call that ended well

    def _bundle(self, peer_id: PeerId) -> Bundle:
        link, bundle = self._link(peer_id), self._bundles.get(peer_id)
        if bundle is None:
            width = Width(self._config.most_connections, first=FIRST_CONNECTIONS)
            bundle = self._bundles[peer_id] = Bundle(link, width)
        return bundle


def _is_older(error: BaseException) -> bool:
    """Whether the peer does not know this call, which is an answer as well."""
    unknown = grpc.StatusCode.UNIMPLEMENTED
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is unknown


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
