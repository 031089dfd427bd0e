"""The wire of a simulated peer: the real messages, limits and transfers over the virtual network.

What travels is what travels over gRPC, byte for byte, through the same gates (`parse_note`,
`peer.net.transfer`): chunks, progress deadlines and refusals are the product's.
"""

import asyncio
import contextvars
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from peer.net import frames
from peer.net.config import DIAL_S, WireConfig
from peer.net.counters import ByteCounters
from peer.net.link import BACKOFF_S
from peer.net.pace import NO_CAP, Pace
from peer.net.rates import LinkRates
from peer.net.refusals import RefusalLog
from peer.net.serving import Serving
from peer.net.transfer import Manner, Stripe, receive_stripe
from peer.ports import Inbox, Sink
from peer.signs import Signs
from peer.sim.loop import VirtualLoop
from peer.sim.network import Flow, VirtualHost, VirtualNetwork
from protocol.errors import NotAvailable, PeerGone, RemoteError, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note, note_to_bytes, parse_note

logger = logging.getLogger(__name__)

NOTE_OVERHEAD_BYTES = 150.0
"""HTTP/2, TLS and acknowledgements of one small message; see docs/results.md."""
CHUNK_OVERHEAD_FRAC = 0.01
"""TLS and HTTP/2 framing of bulk data."""
MIN_CHUNK_BYTES = 1024
HANDSHAKE_BYTES = 3000.0
HANDSHAKE_TRIPS = 3
"""TCP, TLS 1.3 and Hello."""

Answer = TypeVar("Answer")


def scaled_chunk_bytes(chunk_bytes: int, byte_scale: float) -> int:
    """Returns what a chunk carries: it weighs `chunk_bytes`, or more when it cannot be smaller."""
    return max(MIN_CHUNK_BYTES, int(chunk_bytes / byte_scale))


class Internet:
    """The wires that can be dialled: of each peer the one of its newest life.

    Args:
        loop, network: Where everything happens.
        byte_scale: Bulk data weighs so many times its length: a small model stands in for a
            large one.
    """

    def __init__(
        self, loop: VirtualLoop, network: VirtualNetwork, *, byte_scale: float = 1.0
    ) -> None:
        self.loop = loop
        self.network = network
        self.byte_scale = byte_scale
        self.wires: dict[PeerId, SimWire] = {}


class SimWire:
    """Implements `peer.ports.Wire`.

    Args:
        internet: Whom we can reach.
        host: Ours.
        context: In which whatever happens on our host runs.
        config: The run's limits.
        inbox: Asked when others call.
    """

    def __init__(
        self,
        internet: Internet,
        host: VirtualHost,
        context: contextvars.Context,
        config: WireConfig,
        *,
        inbox: Inbox,
    ) -> None:
        self._internet = internet
        self._network = internet.network
        self._host = host
        self._our_id = host.host_id
        self._context = context
        self._config = config
        self._inbox = inbox
        self.payload_sent_bytes = 0.0
        self.payload_received_bytes = 0.0
        """Notes and bulk data alone, without what carries them."""
        self._connections: dict[PeerId, SimWire] = {}
        self._failed_dials: dict[PeerId, tuple[float, int]] = {}
        """When to dial again, after how many failures."""
        self._dialling: defaultdict[PeerId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._streams: defaultdict[PeerId, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(config.max_streams_per_peer)
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._streaming: dict[_Stream, None] = {}
        self._rates = LinkRates()
        self._serving = Serving(
            replace(config, chunk_bytes=self.chunk_bytes, may_compress=False),
            inbox,
            ByteCounters(),
            RefusalLog(logger),
            rates=self._rates.up,
            pace=Pace(NO_CAP),
        )
        self.signs = Signs()
        self._is_closed = False
        internet.wires[self._our_id] = self

    async def send(self, dst: PeerId, note: Note) -> None:
        """Delivers one note; see `peer.ports.Wire`.

        Raises:
            TransportError: it may not have arrived.
            RemoteError: they refuse it.
        """
        data = note_to_bytes(note)
        self.payload_sent_bytes += len(data)
        their = await self._connect(dst)
        taken: asyncio.Future[str] = self._internet.loop.create_future()
        self._say(their, len(data), lambda: their._on_note(self, data, taken), is_repeatable=True)
        reason = await self._timed(taken, their, self._config.progress_s)
        if reason:
            raise RemoteError(f"{dst} refuses our note: {reason}")

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        """Gets what is missing of a blob, over one connection; see `peer.ports.Wire`.

        Raises:
            LimitExceeded, NotAvailable, MalformedMessage, TransportError: as there.
        """
        missing = sink.missing()
        async with self._streams[src]:
            for start, stop in missing:
                await self._fetch(src, ref, sink, Stripe(start, stop))

    async def _fetch(self, src: PeerId, ref: BlobRef, sink: Sink, stripe: Stripe) -> None:
        their = await self._connect(src)
        stream = _Stream(their, self)
        request = frames.request_of(ref, offset=stripe.start, length=stripe.stop - stripe.start)
        self._say(their, len(request), lambda: their._on_fetch(self, request, stream))
        manner = Manner(chunk_bytes=self.chunk_bytes, progress_s=self._config.progress_s)
        try:
            header_s = 2 * manner.progress_s
            await receive_stripe(stream.read, sink, stripe, manner, header_s=header_s)
        except TransportError:
            if not self._still_reaches(their):
                self._connections.pop(src, None)
            raise
        finally:
            stream.is_closed = True

    async def ping(self, dst: PeerId, *, wait_s: float) -> None:
        """Returns when their process has answered; see `peer.ports.Wire`.

        Raises:
            TransportError: it has not.
        """
        try:
            async with asyncio.timeout(wait_s):
                their = await self._connect(dst)
                pong: asyncio.Future[None] = self._internet.loop.create_future()
                self._say(their, 0, lambda: their._on_ping(self, pong))
                await self._timed(pong, their, wait_s)
        except TimeoutError:
            raise TransportError(f"no answer for {wait_s:g} s") from None

    @property
    def up_bps(self) -> float:
        """What our link was seen to carry; see `peer.ports.Wire`."""
        return self._rates.up_bps * self._internet.byte_scale

    @property
    def down_bps(self) -> float:
        """Returns 0: nobody asks a simulated peer for it."""
        return 0.0

    @property
    def chunk_bytes(self) -> int:
        """Of what a chunk carries; it weighs `byte_scale` times as much."""
        return scaled_chunk_bytes(self._config.chunk_bytes, self._internet.byte_scale)

    def die(self) -> None:
        """Our process ends; unless the machine is gone with it, that breaks our streams off."""
        for stream in () if self._host.is_silent else tuple(self._streaming):
            stream.break_off()

    async def close(self) -> None:
        """Stops listening, and breaks off what is under way."""
        self.die()
        self._is_closed = True
        if self._internet.wires.get(self._our_id) is self:
            del self._internet.wires[self._our_id]
        for task in list(self._tasks):
            task.cancel()

    # ---- what arrives at our host

    def _on_note(self, src: "SimWire", data: bytes, taken: "asyncio.Future[str]") -> None:
        self._hear(src)
        config, reason = self._config, ""
        self.payload_received_bytes += len(data)
        try:
            note = parse_note(
                data,
                max_bytes=config.max_message_bytes,
                num_fragments=config.num_fragments,
                max_peers=config.max_peers,
            )
            self._inbox.on_note(src._our_id, note)
        except RemoteError as error:
            reason = str(error)
        self._say(src, 0, lambda: _settle(taken, reason))

    def _on_ping(self, src: "SimWire", pong: "asyncio.Future[None]") -> None:
        self._hear(src)
        self._say(src, 0, lambda: _settle(pong, None))

    def _hear(self, src: "SimWire") -> None:
        self.signs.hear(src._our_id, self._internet.loop.time())

    def _on_fetch(self, src: "SimWire", request: bytes, stream: "_Stream") -> None:
        task = self._internet.loop.create_task(self._serve(src._our_id, request, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, src: PeerId, request: bytes, stream: "_Stream") -> None:
        self._streaming[stream] = None
        try:
            await self._serving.serve(src, request, stream.write)
        except NotAvailable as error:
            stream.withdraw(error)
        except (TransportError, asyncio.InvalidStateError):
            pass  # the receiver stalled or hung up; it knows
        finally:
            del self._streaming[stream]

    # ---- connections

    async def _connect(self, dst: PeerId) -> "SimWire":
        """Returns the other end of a connection, dialling if there is none.

        Raises:
            TransportError: nobody answers there.
        """
        if self._is_closed:
            raise TransportError("the wire is closed")
        async with self._dialling[dst]:
            known = self._connections.get(dst)
            if known is not None:
                if self._is_alive(known):
                    return known
                del self._connections[dst]
            retry_at_s, num_failures = self._failed_dials.get(dst, (0.0, 0))
            if self._internet.loop.time() < retry_at_s:
                raise TransportError("not reachable; we shall try again soon")
            try:
                their = await self._dial(dst)
            except TransportError:
                first_s, longest_s = BACKOFF_S
                pause_s = min(longest_s, first_s * 2**num_failures)
                retry_at_s = self._internet.loop.time() + pause_s
                self._failed_dials[dst] = retry_at_s, num_failures + 1
                raise
            self._failed_dials.pop(dst, None)
            return their

    async def _dial(self, dst: PeerId) -> "SimWire":
        network, their = self._network, self._internet.wires.get(dst)
        if their is None or dst not in network.hosts:
            raise TransportError(f"no address of {dst} is known")
        for _ in range(HANDSHAKE_TRIPS):
            reply: asyncio.Future[str] = self._internet.loop.create_future()

            def accept(reply: "asyncio.Future[str]" = reply) -> None:
                their._say(self, HANDSHAKE_BYTES / HANDSHAKE_TRIPS, lambda: _settle(reply, ""))

            if not their._host.is_hidden:
                self._say(their, HANDSHAKE_BYTES / HANDSHAKE_TRIPS, accept)
            await self._answer(reply, their, DIAL_S)
        self._connections[dst] = their
        return their

    def _still_reaches(self, their: "SimWire") -> bool:
        return self._is_alive(their) and self._network.is_open(self._our_id, their._our_id)

    def _is_alive(self, their: "SimWire") -> bool:
        """Whether the process at the other end of a connection still is."""
        is_same = self._internet.wires.get(their._our_id) is their
        return their._host.is_silent or (is_same and not their._host.is_dead)

    async def _timed(
        self, answer: "asyncio.Future[Answer]", their: "SimWire", wait_s: float
    ) -> Answer:
        """Waits as `_answer` does, and notes how long it took."""
        asked_s = self._internet.loop.time()
        value = await self._answer(answer, their, wait_s)
        now_s = self._internet.loop.time()
        self.signs.answer(their._our_id, now_s - asked_s, now_s)
        return value

    async def _answer(
        self, answer: "asyncio.Future[Answer]", their: "SimWire", wait_s: float
    ) -> Answer:
        """Waits for an answer; a machine whose process is gone says so by itself.

        Raises:
            TransportError: there was none.
        """
        if not self._is_alive(their):
            self._connections.pop(their._our_id, None)
            await asyncio.sleep(self._network.round_trip_s(self._our_id, their._our_id))
            is_told = self._network.is_open(self._our_id, their._our_id)
            raise (PeerGone if is_told else TransportError)("not reachable: connection refused")
        try:
            async with asyncio.timeout(wait_s):
                return await answer
        except TimeoutError:
            if not self._still_reaches(their):
                self._connections.pop(their._our_id, None)
            raise TransportError(f"no answer for {wait_s:g} s") from None

    def _say(
        self,
        their: "SimWire",
        num_bytes: float,
        arrive: Callable[[], object],
        *,
        is_repeatable: bool = False,
    ) -> None:
        """Sends something small to another host, where `arrive` runs."""
        self._network.note(
            self._our_id,
            their._our_id,
            num_bytes + NOTE_OVERHEAD_BYTES,
            lambda: their._run(arrive),
            is_repeatable=is_repeatable,
        )

    def _run(self, action: Callable[[], object]) -> None:
        """Runs something on our host, if this life of it goes on."""
        if not self._is_closed:
            self._internet.loop.call_soon(action, context=self._context)


class _Stream:
    """One blob on its way from `server` to `client`."""

    def __init__(self, server: SimWire, client: SimWire) -> None:
        self.is_closed = False
        """The client has hung up."""
        self._server = server
        self._client = client
        self._flow = Flow()
        self._arrived: asyncio.Queue[bytes | NotAvailable | None] = asyncio.Queue()

    async def write(self, message: bytes, num_bytes: int) -> None:
        """Sends a message, of which so many bytes weigh as bulk data do; see `transfer.Write`.

        Raises:
            asyncio.InvalidStateError: the client hung up.
        """
        if self.is_closed:
            raise asyncio.InvalidStateError("the receiver hung up")
        server, client, network = self._server, self._client, self._server._network
        loop = server._internet.loop
        has_left: asyncio.Future[None] = loop.create_future()
        arrived: bytes | None = message
        scale = 1.0
        if num_bytes:
            scale = server._internet.byte_scale
            server.payload_sent_bytes += num_bytes * scale
            client.payload_received_bytes += num_bytes * scale
            if self._is_altered():
                arrived = None
        network.chunk(
            server._our_id,
            client._our_id,
            len(message) * scale * (1 + CHUNK_OVERHEAD_FRAC),
            lambda: client._run(lambda: self._arrived.put_nowait(arrived)),
            left=lambda: server._run(lambda: _settle(has_left, None)),
            flow=self._flow,
        )
        await has_left

    async def read(self) -> bytes | None:
        """Returns the next message, None when the server's process has died.

        Raises:
            NotAvailable: the server has no more of it.
        """
        message = await self._arrived.get()
        self._client._hear(self._server)
        if isinstance(message, NotAvailable):
            raise message
        return message

    def withdraw(self, error: NotAvailable) -> None:
        """The server says that there will be no more."""
        self._end_with(error)

    def break_off(self) -> None:
        """The server's process is gone; its machine says so."""
        self._end_with(None)

    def _end_with(self, last: NotAvailable | None) -> None:
        client, server = self._client, self._server
        client._network.note(
            server._our_id,
            client._our_id,
            0,
            lambda: client._run(lambda: self._arrived.put_nowait(last)),
        )

    def _is_altered(self) -> bool:
        """Whether bytes are altered on their way: TLS sees it, and ends the connection."""
        network = self._server._network
        frac = network.weather.corrupt_frac
        if frac and network.rng.random() < frac:
            network.fired["corrupt"] += 1
            return True
        return False


def _settle(future: "asyncio.Future[Answer]", value: Answer) -> None:
    if not future.done():  # else whoever waited has given up
        future.set_result(value)
