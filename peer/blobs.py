"""What travels between peers, as the two ports of the wire see it.

Contributions and averages are frames in grains, which one end makes while the other uses them up.
States are vectors, served from where they lie, in blocks that are checked one by one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import torch
from blake3 import blake3
from torch import Tensor

from optim.codec.grains import Grains
from peer.bench import GrainsMade
from protocol.errors import MalformedMessage, NotAvailable
from protocol.state_index import BLOCK_BYTES, StateIndex


class FrameSource:
    """Serves grains; implements `peer.ports.Source`.

    Args:
        made: What there is of them so far.
        next_one: Returns when something has been made, here or elsewhere.
        hold_s: So long a grain is waited for.
    """

    round = 0

    def __init__(
        self, made: GrainsMade, next_one: Callable[[], Awaitable[object]], hold_s: float
    ) -> None:
        self.size_bytes = made.grains.size_bytes
        self.grain_bytes = made.grains.grain_bytes
        self._made = made
        self._next_one = next_one
        self._hold_s = hold_s

    async def read(self, start: int, stop: int) -> bytes:
        """Returns bytes of one grain; see `peer.ports.Source`."""
        grain, skipped = divmod(start, self.grain_bytes)
        if (frame := self._made.frames[grain]) is None:
            frame = await self._wait_for(grain)
        stop -= start - skipped
        return frame if (skipped, stop) == (0, len(frame)) else frame[skipped:stop]

    async def _wait_for(self, grain: int) -> bytes:
        try:
            async with asyncio.timeout(self._hold_s):
                while (frame := self._made.frames[grain]) is None:
                    if self._made.is_withdrawn:
                        raise NotAvailable("that exchange was given up")
                    await self._next_one()
        except TimeoutError:
            raise NotAvailable("not here, or not yet") from None
        return frame


class FrameSink:
    """Takes grains in, the missing ones only; implements `peer.ports.Sink`.

    Args:
        grains: What is expected.
        missing: Which of them.
        take: Decodes one and uses it.
    """

    is_divisible = True

    def __init__(
        self,
        grains: Grains,
        missing: Sequence[int],
        take: Callable[[int, bytes | memoryview], Awaitable[None]],
    ) -> None:
        self.size_bytes = grains.size_bytes
        self.grain_bytes = grains.grain_bytes
        self._missing = missing
        self._taken_bytes = 0
        self._take = take

    def missing(self) -> list[tuple[int, int]]:
        """Returns what is still to come; see `peer.ports.Sink`."""
        return ranges_of(self._missing, self.grain_bytes, self.size_bytes)

    def progress(self) -> tuple[int, int]:
        """Returns how many bytes have come, of how many."""
        return self._taken_bytes, self.size_bytes

    def begin(self, round: int) -> None:
        """Does nothing: the exchange's id says it all."""

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes one grain; see `peer.ports.Sink`."""
        await self._take(start // self.grain_bytes, data)
        self._taken_bytes += len(data)


class BytesSource:
    """Serves what is small enough to lie in one piece; implements `peer.ports.Source`.

    Args:
        data: All of it.
        round: Of the state that it is about.
    """

    def __init__(self, data: bytes, round: int) -> None:
        self.size_bytes = self.grain_bytes = len(data)
        self.round = round
        self._data = data

    async def read(self, start: int, stop: int) -> bytes:
        """Returns some of the bytes."""
        return self._data[start:stop]


class BytesSink:
    """Takes in what is small enough to lie in one piece; implements `peer.ports.Sink`.

    Args:
        size_bytes: How much that is.
    """

    is_divisible = False

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = self.grain_bytes = size_bytes
        self.data = b""

    def missing(self) -> list[tuple[int, int]]:
        """Returns all or nothing."""
        return [] if self.data else [(0, self.size_bytes)]

    def begin(self, round: int) -> None:
        """Does nothing: the bytes say it themselves."""

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes all of it."""
        self.data = bytes(data)


class StateSource:
    """Serves vectors, one after the other, as raw little-endian fp32; implements `Source`."""

    grain_bytes = BLOCK_BYTES

    def __init__(self, vectors: Sequence[Tensor], round: int) -> None:
        self.round = round
        self._raw = [_raw(vector) for vector in vectors]
        self.size_bytes = sum(map(len, self._raw))

    def block(self, start: int, stop: int) -> bytes:
        """Returns some of the bytes."""
        pieces = []
        for raw in self._raw:
            pieces.append(raw[max(0, start) : max(0, stop)])
            start, stop = start - len(raw), stop - len(raw)
        return b"".join(pieces)

    async def read(self, start: int, stop: int) -> bytes:
        """Returns bytes of one grain; see `peer.ports.Source`."""
        return self.block(start, stop)

    def blocks(self) -> tuple[bytes, ...]:
        """Returns the digest of each block; hashing takes a while, so call it on a thread."""
        return tuple(
            blake3(self.block(at, min(at + BLOCK_BYTES, self.size_bytes))).digest()
            for at in range(0, self.size_bytes, BLOCK_BYTES)
        )


class StateSink:
    """Takes in a state from any number of peers at once, block by block, each into its place.

    Args:
        lengths: Of its vectors, in elements.
        index: What it is made of.

    Attributes:
        missing: The blocks that are not here yet.
        received_bytes: What is here.
    """

    def __init__(self, lengths: Sequence[int], index: StateIndex) -> None:
        self.index = index
        self._vectors = [torch.empty(length) for length in lengths]  # no memory before it is here
        self._raw = [_raw(vector) for vector in self._vectors]
        self.size_bytes = sum(map(len, self._raw))
        self.missing = dict.fromkeys(range(len(index.blocks)))
        self.received_bytes = 0

    def put(self, block: int, data: bytes | memoryview) -> None:
        """Takes one block; one that is here already does no harm.

        Raises:
            MalformedMessage: it is not that block.
        """
        if blake3(data).digest() != self.index.blocks[block]:
            raise MalformedMessage(f"block {block} of a state is not what its index says")
        if block not in self.missing:
            return
        start = block * BLOCK_BYTES
        for raw in self._raw:
            part = data[max(0, -start) : max(0, len(raw) - start)]
            if part:
                raw[max(0, start) : max(0, start) + len(part)] = part
            start -= len(raw)
        del self.missing[block]
        self.received_bytes += len(data)

    def whole(self) -> list[Tensor]:
        """Returns the vectors.

        Raises:
            MalformedMessage: they did not come.
        """
        if self.missing:
            raise MalformedMessage("a state without its blocks")
        return self._vectors


class StateShare:
    """What one peer is asked for of a state: some blocks; implements `peer.ports.Sink`.

    Args:
        state: Where they go.
        blocks: Which.
    """

    grain_bytes = BLOCK_BYTES
    is_divisible = True

    def __init__(self, state: StateSink, blocks: Sequence[int]) -> None:
        self.size_bytes = state.size_bytes
        self.blocks = tuple(blocks)
        self._state = state

    def missing(self) -> list[tuple[int, int]]:
        """Returns what is still to come; see `peer.ports.Sink`."""
        return ranges_of(self.missing_blocks(), BLOCK_BYTES, self.size_bytes)

    def missing_blocks(self) -> list[int]:
        """Returns the blocks that are still to come, from whomever."""
        return [block for block in self.blocks if block in self._state.missing]

    def begin(self, round: int) -> None:
        """Does nothing: a state's name says all, and its blocks are checked."""

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes one block; see `peer.ports.Sink`."""
        self._state.put(start // BLOCK_BYTES, data)


def ranges_of(pieces: Sequence[int], piece_bytes: int, size_bytes: int) -> list[tuple[int, int]]:
    """Returns where these pieces of a blob start and stop, neighbours as one."""
    ranges: list[tuple[int, int]] = []
    for piece in pieces:
        start = piece * piece_bytes
        stop = min(size_bytes, start + piece_bytes)
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, stop))
    return ranges


def _raw(vector: Tensor) -> memoryview:
    data: memoryview = vector.numpy().astype("<f4", copy=False).data
    return data.cast("B")
