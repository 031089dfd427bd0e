"""What a peer needs from the outside world, and what the outside may ask of it.

Each port has two implementations that pass the same contract tests: one over real sockets, one in
memory for tests and the simulator.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from peer.signs import Signs
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note
from protocol.record import Record
from protocol.ticket import Address


class Directory(Protocol):
    """Where peers of one run find each other: signed, expiring records by topic."""

    on_reunion: Callable[[], None]
    """Called when many others can be found that could not before: all should look again."""

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

    def meet(self, addresses: Iterable[Address]) -> None:
        """Remembers at which addresses others were said to be just now, the surest last.

        They are tried whenever whoever was there cannot be found any more.
        """

    def multiaddrs(self) -> Sequence[str]:
        """Returns libp2p addresses at which others can enter the directory through us."""

    async def close(self) -> None:
        """Leaves; afterwards no process or socket of ours is left."""


class Source(Protocol):
    """Bytes to serve, which may still be in the making."""

    @property
    def size_bytes(self) -> int:
        """All of them, known from the beginning."""

    @property
    def round(self) -> int:
        """Landings behind a state; 0 for anything else."""

    @property
    def grain_bytes(self) -> int:
        """They are made, and are best sent, in pieces that end at multiples of this."""

    async def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes from `start` to `stop`, which lie in one grain; waits for them.

        Raises:
            NotAvailable: they were withdrawn, or were not made in time.
        """


class Sink(Protocol):
    """Where what is fetched goes."""

    @property
    def size_bytes(self) -> int:
        """What it has room for: a blob of another size is refused before anything is allocated."""

    @property
    def grain_bytes(self) -> int:
        """It is handed over in pieces that end at multiples of this."""

    @property
    def is_divisible(self) -> bool:
        """Whether stripes of it may be fetched at once; all are then of one round for certain."""

    def missing(self) -> list[tuple[int, int]]:
        """Returns what is still to come, as (start, stop), in order, in whole grains."""

    def begin(self, round: int) -> None:
        """The blob comes, of this round; called for each of its stripes.

        Raises:
            RemoteError: that round is of no use.
        """

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes one grain, which nobody else will write to.

        Raises:
            MalformedMessage: it makes no sense.
        """


class Inbox(Protocol):
    """What the wire calls when a peer of our run, whose identity is proven, asks something."""

    def on_note(self, src: PeerId, note: Note) -> None:
        """A note came in."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns what `src` asked for; may wait a little for something that is to be made.

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

    @property
    def up_bps(self) -> float:
        """What our uploads can carry in all, in bit/s, measured or capped; 0 while unknown."""

    @property
    def down_bps(self) -> float:
        """The same of our downloads."""

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        """Gets what is missing of a blob; given up when it makes no progress for progress_s.

        What has come before a failure stays in the sink, so another fetch goes on from there.

        Raises:
            LimitExceeded, MalformedMessage: it has another size, or what the sink refuses.
            NotAvailable: they do not have it.
            TransportError: it broke off, or made no progress.
        """

    async def ping(self, dst: PeerId, *, wait_s: float) -> None:
        """Returns when the peer's process has answered.

        Raises:
            TransportError: it has not, within `wait_s` or because it cannot be reached.
            RemoteError: it refuses us, so it lives.
        """

    @property
    def signs(self) -> Signs:
        """When something last came from each peer: notes, answers, pieces of blobs."""

    async def close(self) -> None:
        """Stops listening and drops all connections."""
