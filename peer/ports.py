"""What a peer needs from the outside world, and what the outside may ask of it.

Each port has two implementations that pass the same contract tests: one over real sockets, one in
memory for tests and the simulator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note
from protocol.record import Record


class Directory(Protocol):
    """Where peers of one run find each other: signed, expiring records by topic."""

    async def publish(self, topic: str, payload: bytes, *, lifetime_s: float) -> None:
        """Sets our own record under `topic`, until `lifetime_s` from now.

        Raises:
            LimitExceeded: the payload is too large, or would live too long.
            TransportError: nobody could store it; try again later.
        """

    async def read(self, topic: str) -> list[Record]:
        """Returns every valid, living record under `topic`, by owner; our own included.

        Raises:
            TransportError: nobody could be asked.
        """

    def multiaddrs(self) -> Sequence[str]:
        """Returns libp2p addresses at which others can enter the directory through us."""

    async def close(self) -> None:
        """Leaves; afterwards no process or socket of ours is left."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes to serve, read-only; they must not change while somebody reads them."""

    data: memoryview
    round: int = 0


class Inbox(Protocol):
    """What the wire calls when a peer of our run, whose identity is proven, asks something."""

    def on_note(self, src: PeerId, note: Note) -> None:
        """A note came in."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Blob:
        """Returns what `src` asked for; may wait a little for something that is being made.

        Raises:
            NotAvailable: with the reason that `src` may read.
        """


class Wire(Protocol):
    """Notes and blobs, to and from peers whose identity is proven."""

    async def send(self, dst: PeerId, note: Note) -> None:
        """Delivers one note, once or not at all.

        Raises:
            TransportError: it may not have arrived.
            RemoteError: they refuse us, or answered against the rules.
        """

    async def fetch(self, src: PeerId, ref: BlobRef, *, max_bytes: int) -> Blob:
        """Gets a whole blob, in chunks, given up when no chunk comes in for the run's progress_s.

        Raises:
            LimitExceeded: it is larger than `max_bytes`; nothing was allocated.
            NotAvailable: they do not have it.
            MalformedMessage: count or hash did not fit.
            TransportError: it broke off, or made no progress.
        """

    async def close(self) -> None:
        """Stops listening and drops all connections."""
