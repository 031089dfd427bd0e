"""One end of exchanges that follow each other without a pause, over the real wire.

Two of these do what two peers of a run with mixing `all` do in an exchange, with the same `Mixing`
and the same `GrpcWire`, but without the machines: who is a member is known, so nobody is waited
for. A note begins an exchange at the other end; from then on both do the same:

    encode two parts | fetch our part of theirs, decode, average, encode   | take the outer step,
                     | fetch their average, decode                         | hash the anchor

As in `peer.driver` the mathematics runs on one worker thread, in the order of its calls, and every
grain is sent as soon as it is made, and used as soon as it is here.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from peer.blobs import FrameSink, FrameSource
from peer.identity_file import load_identity
from peer.memory import return_large_blocks
from peer.method import mixing_of
from peer.mixing import OuterState
from peer.net.config import WireConfig
from peer.net.wire import GrpcWire
from peer.ports import Source
from peer.run_folder import MANIFEST, SIGNATURE
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.manifest import Manifest, parse_manifest, sign_manifest
from protocol.messages import EXCHANGE_ID_BYTES, Note, Propose
from protocol.terms import Terms

Result = TypeVar("Result")

OURS, THEIRS = "ours.key", "theirs.key"
_TOKENS = 1000
"""The weight of either contribution."""
_TERMS = Terms((1, 1))


@dataclass(frozen=True, slots=True)
class Pair:
    """A run of two, in a folder that both ends read: the manifest, and the identities."""

    folder: Path
    manifest: Manifest
    signature: bytes

    @classmethod
    def create(cls, folder: Path, manifest_for: Callable[[PeerId], Manifest]) -> "Pair":
        """Writes the folder; the manifest is that of the founder, which is our end."""
        founder = load_identity(folder / OURS)
        load_identity(folder / THEIRS)
        manifest = manifest_for(founder.peer_id)
        (folder / MANIFEST).write_bytes(manifest.to_bytes())
        (folder / SIGNATURE).write_bytes(sign_manifest(manifest, founder))
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> "Pair":
        """Reads what `create` wrote."""
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
        return cls(folder, manifest, (folder / SIGNATURE).read_bytes())

    def identities(self, ours: str) -> tuple[Identity, PeerId]:
        """Returns the identity in the key file `ours`, and the id of the other end."""
        theirs = THEIRS if ours == OURS else OURS
        return load_identity(self.folder / ours), load_identity(self.folder / theirs).peer_id


class ExchangeEnd:
    """Implements `peer.ports.Inbox`. Make it with `start`.

    Args:
        our_id, their_id: The two ends.
        manifest: Their run.

    Attributes:
        mixing: Our outer side.
        wire: Set by `start`.
        their_port: Where the other end listens; set it before the first exchange.
    """

    wire: GrpcWire

    def __init__(self, our_id: PeerId, their_id: PeerId, manifest: Manifest) -> None:
        return_large_blocks()
        self.mixing = mixing_of(manifest, our_id)
        self.their_port = 0
        self.on_proposal: Callable[[bytes], None] = lambda exchange_id: None
        """Called with the id of each exchange that the other end begins."""
        self._their_id = their_id
        self._our_part = int(our_id > their_id)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mixing")
        self._made = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._hold_s = manifest.round.progress_s / 2

    @classmethod
    async def start(cls, pair: Pair, ours: str) -> "ExchangeEnd":
        """Returns an end that listens on loopback.

        Args:
            pair: The run.
            ours: `OURS` or `THEIRS`.
        """
        identity, their_id = pair.identities(ours)
        end = cls(identity.peer_id, their_id, pair.manifest)
        limits = pair.manifest.limits
        config = WireConfig(
            run_id=pair.manifest.run_id,
            manifest_bytes=pair.manifest.to_bytes(),
            manifest_signature=pair.signature,
            chunk_bytes=limits.chunk_bytes,
            max_message_bytes=limits.max_message_bytes,
            progress_s=pair.manifest.round.progress_s,
            max_streams_per_peer=limits.max_streams_per_peer,
        )
        end.wire = await GrpcWire.start(identity, config, inbox=end, addresses=end._addresses)
        return end

    async def propose(self) -> bytes:
        """Makes the other end begin a new exchange; returns its id."""
        exchange_id = secrets.token_bytes(EXCHANGE_ID_BYTES)
        round = self.mixing.outer[0].round
        await self.wire.send(self._their_id, Propose(0, round, _TOKENS, exchange_id))
        return exchange_id

    async def exchange(self, exchange_id: bytes, theta: Tensor) -> OuterState:
        """Exchanges once, and returns the new outer state.

        Args:
            exchange_id: The other end must begin the same one.
            theta: `[n]`, what we bring.
        """
        mixing, round = self.mixing, self.mixing.outer[0].round
        offer = Offer(0, round, exchange_id, _TERMS, (self._their_id,))
        part = BlobRef("part", 0, exchange_id, self._our_part)
        mixing.open(0, exchange_id, _TERMS)
        await self._make(lambda: mixing.offer(offer, theta))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._make(lambda: mixing.encode(offer, self._on_grain)))
            group.create_task(self._fetch(part))
        reduce = Reduce(BlobRef("average", 0, exchange_id, self._our_part), _TOKENS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._make(lambda: mixing.reduce(reduce, self._on_grain)))
            group.create_task(self._fetch(BlobRef("average", 0, exchange_id, 1 - self._our_part)))
        return await self._job(lambda: mixing.land(Land(0, round, exchange_id, _TERMS)))

    async def close(self) -> None:
        """Stops listening."""
        await self.wire.close()
        self._worker.shutdown()

    # ---- what the wire asks

    def on_note(self, src: PeerId, note: Note) -> None:
        """The other end begins an exchange."""
        assert isinstance(note, Propose), note
        self.on_proposal(note.exchange_id)

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns what the other end fetches, once it is begun; the wire limits the wait."""
        while (made := self.mixing.made(ref)) is None:
            await self._made.wait()
        return FrameSource(made, self._made.wait, self._hold_s)

    # ---- plumbing

    def _addresses(self, peer: PeerId) -> Sequence[str]:
        return (f"127.0.0.1:{self.their_port}",)

    async def _fetch(self, ref: BlobRef) -> None:
        mixing, fetch = self.mixing, Fetch(self._their_id, ref, _TERMS, _TOKENS)

        async def take(grain: int, frame: bytes | memoryview) -> None:
            mixing.collect(fetch, grain, frame)  # in the loop, as `peer.driver` does

        sink = FrameSink(mixing.grains(ref, _TERMS), mixing.missing(fetch), take)
        await self.wire.fetch(self._their_id, ref, sink)

    async def _make(self, job: Callable[[], object]) -> None:
        await self._job(job)
        self._wake()

    def _on_grain(self) -> None:
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._made.set()
        self._made.clear()

    def _job(self, function: Callable[[], Result]) -> "asyncio.Future[Result]":
        return asyncio.get_running_loop().run_in_executor(self._worker, function)
