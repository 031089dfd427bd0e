"""A wire in one process: the same messages and limits, without sockets. For tests."""

import asyncio

from peer.net import frames
from peer.net.config import WireConfig
from peer.ports import Blob, Inbox
from protocol.errors import LimitExceeded, RemoteError, RunMismatch, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note, note_to_bytes, parse_note


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
                note_to_bytes(note),
                max_bytes=their._config.max_message_bytes,
                num_fragments=their._config.num_fragments,
                max_peers=their._config.max_peers,
            )
        except RemoteError as error:
            raise RemoteError(f"{dst} refuses our note: {error}") from None
        their._inbox.on_note(self._peer_id, parsed)

    async def fetch(self, src: PeerId, ref: BlobRef, *, max_bytes: int) -> Blob:
        """Gets a whole blob; see `peer.ports.Wire`.

        Raises:
            LimitExceeded: it is larger than `max_bytes`.
            NotAvailable: they do not have it.
            TransportError: nobody is there.
        """
        their = self._reach(src)
        ref, _ = frames.parse_request(
            frames.request_of(ref),
            num_fragments=their._config.num_fragments,
            max_peers=their._config.max_peers,
        )
        try:
            async with asyncio.timeout(self._config.progress_s):
                blob = await their._inbox.blob(self._peer_id, ref)
        except TimeoutError:
            raise TransportError(f"no progress for {self._config.progress_s:g} s") from None
        if blob.data.nbytes > max_bytes:
            raise LimitExceeded(
                f"a blob of {blob.data.nbytes} bytes, at most {max_bytes} are allowed"
            )
        return Blob(memoryview(bytes(blob.data)), round=blob.round)

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
