"""A wire in one process: the same messages and limits, without sockets. For tests."""

import asyncio
import logging
from dataclasses import replace
from typing import TypeAlias

from peer.net import frames
from peer.net.config import WireConfig
from peer.net.counters import ByteCounters
from peer.net.pace import NO_CAP, Pace
from peer.net.rates import LinkRates
from peer.net.refusals import RefusalLog
from peer.net.serving import Serving
from peer.net.transfer import Manner, Stripe, receive_stripe
from peer.ports import Inbox, Sink
from peer.signs import Signs
from protocol.errors import RemoteError, RunMismatch, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note, note_to_bytes, parse_note

logger = logging.getLogger(__name__)

_Messages: TypeAlias = "asyncio.Queue[bytes | None]"


class MemoryNetwork:
    """The wires that can reach each other."""

    def __init__(self) -> None:
        self.wires: dict[PeerId, MemoryWire] = {}


class MemoryWire:
    """Implements `peer.ports.Wire`; identities are as given, since nobody here can forge one."""

    def __init__(
        self, network: MemoryNetwork, peer_id: PeerId, config: WireConfig, *, inbox: Inbox
    ) -> None:
        self._network = network
        self._peer_id = peer_id
        self._config = config
        self._inbox = inbox
        self.signs = Signs()
        self.is_frozen = False
        """It takes what comes, and answers nothing."""
        self._serving = Serving(
            config,
            inbox,
            ByteCounters(),
            RefusalLog(logger),
            rates=LinkRates().up,
            pace=Pace(NO_CAP),
        )
        network.wires[peer_id] = self

    async def send(self, dst: PeerId, note: Note) -> None:
        """Delivers one note; see `peer.ports.Wire`.

        Raises:
            TransportError: nobody is there.
            RemoteError: they refuse us, or the note.
        """
        their = self._reach(dst)
        await asyncio.sleep(0)  # a note never arrives within the call that sends it
        try:
            parsed = parse_note(
                note_to_bytes(note, domain=self._config.domain),
                max_bytes=their._config.max_message_bytes,
                num_fragments=their._config.num_fragments,
                max_peers=their._config.max_peers,
                domain=their._config.domain,
            )
        except RemoteError as error:
            raise RemoteError(f"{dst} refuses our note: {error}") from None
        now_s = asyncio.get_running_loop().time()
        their.signs.hear(self._peer_id, now_s)
        their._inbox.on_note(self._peer_id, parsed)
        self.signs.answer(dst, 0.0, now_s)

    @property
    def up_bps(self) -> float:
        """Returns 0: memory has no rate."""
        return 0.0

    down_bps = up_bps

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        """Gets what is missing of a blob; see `peer.ports.Wire`.

        Raises:
            LimitExceeded: it is larger than the sink.
            NotAvailable: they do not have it.
            TransportError: nobody is there.
        """
        their = self._reach(src)
        ref, _, _ = frames.parse_request(
            frames.request_of(ref if ref.domain else replace(ref, domain=self._config.domain)),
            num_fragments=their._config.num_fragments,
            max_peers=their._config.max_peers,
            domain=their._config.domain,
        )
        for start, stop in sink.missing():
            messages: asyncio.Queue[bytes | None] = asyncio.Queue(1)
            request = frames.request_of(ref, offset=start, length=stop - start)
            manner = Manner(
                chunk_bytes=self._config.chunk_bytes, progress_s=self._config.progress_s
            )

            async def write(message: bytes, num_bytes: int, messages: _Messages = messages) -> None:
                await messages.put(message)
                self.signs.hear(src, asyncio.get_running_loop().time())

            serving = asyncio.create_task(their._serving.serve(self._peer_id, request, write))
            try:
                header_s = 2 * manner.progress_s
                stripe = Stripe(start, stop)
                await receive_stripe(messages.get, sink, stripe, manner, header_s=header_s)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    async def ping(self, dst: PeerId, *, wait_s: float) -> None:
        """Returns when they have answered; see `peer.ports.Wire`.

        Raises:
            TransportError: nobody is there, or it is frozen.
            RemoteError: they refuse us.
        """
        their = self._reach(dst)
        if their.is_frozen:
            await asyncio.sleep(wait_s)
            raise TransportError(f"no answer for {wait_s:g} s")
        await asyncio.sleep(0)
        self.signs.answer(dst, 0.0, asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Leaves the network."""
        self._network.wires.pop(self._peer_id, None)

    def _reach(self, peer_id: PeerId) -> "MemoryWire":
        if self._peer_id not in self._network.wires:
            raise TransportError("the wire is closed")
        their = self._network.wires.get(peer_id)
        if their is None:
            raise TransportError(f"no address of {peer_id} is known")
        if their._config.run_id != self._config.run_id:
            raise RunMismatch(f"{peer_id} refuses us: it is in run {their._config.run_id[:12]}")
        return their
