"""What travels between peers, as the two ports of the wire see it.

Contributions and averages are frames in grains, which one end makes while the other uses them up.
States are vectors, served from where they lie.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import torch
from torch import Tensor

from optim.codec.grains import Grains
from peer.bench import GrainsMade
from protocol.errors import MalformedMessage, NotAvailable

STATE_GRAIN_BYTES = 256 * 1024


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
        self._take = take

    def missing(self) -> list[tuple[int, int]]:
        """Returns what is still to come; see `peer.ports.Sink`."""
        ranges: list[tuple[int, int]] = []
        for grain in self._missing:
            start = grain * self.grain_bytes
            stop = min(self.size_bytes, start + self.grain_bytes)
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, stop))
        return ranges

    def begin(self, round: int) -> None:
        """Does nothing: the exchange's id says it all."""

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes one grain; see `peer.ports.Sink`."""
        await self._take(start // self.grain_bytes, data)


class StateSource:
    """Serves vectors, one after the other, as raw little-endian fp32; implements `Source`."""

    grain_bytes = STATE_GRAIN_BYTES

    def __init__(self, vectors: Sequence[Tensor], round: int) -> None:
        self.round = round
        self._raw = [_raw(vector) for vector in vectors]
        self.size_bytes = sum(map(len, self._raw))

    async def read(self, start: int, stop: int) -> bytes:
        """Returns bytes of one grain; see `peer.ports.Source`."""
        pieces = []
        for raw in self._raw:
            pieces.append(raw[max(0, start) : max(0, stop)])
            start, stop = start - len(raw), stop - len(raw)
        return b"".join(pieces)


class StateSink:
    """Takes vectors in, one after the other, each into memory of its own; implements `Sink`.

    Args:
        lengths: Of the vectors, in elements.

    Attributes:
        round: Its round.
    """

    grain_bytes = STATE_GRAIN_BYTES
    is_divisible = False
    """The giver's round goes on meanwhile, and every stripe is of the round of its request."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._vectors = [torch.empty(length) for length in lengths]  # no memory before it is here
        self._raw = [_raw(vector) for vector in self._vectors]
        self.size_bytes = sum(map(len, self._raw))
        self.round = -1
        self._missing_bytes = self.size_bytes

    def missing(self) -> list[tuple[int, int]]:
        """Returns all or nothing: whoever asks again could get another round."""
        return [(0, self.size_bytes)] if self._missing_bytes else []

    def begin(self, round: int) -> None:
        """Notes the round.

        Raises:
            NotAvailable: it has changed while the state was on its way.
        """
        if self.round not in (-1, round):
            raise NotAvailable("the state has changed on its way")
        self.round = round

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes bytes of a grain; see `peer.ports.Sink`."""
        self._missing_bytes = self.size_bytes - start - len(data)  # one stripe, in order
        for raw in self._raw:
            part = data[max(0, -start) : max(0, len(raw) - start)]
            if part:
                raw[max(0, start) : max(0, start) + len(part)] = part
            start -= len(raw)

    def whole(self) -> list[Tensor]:
        """Returns the vectors.

        Raises:
            MalformedMessage: they did not come.
        """
        if self._missing_bytes:
            raise MalformedMessage("a state without its bytes")
        return self._vectors


def _raw(vector: Tensor) -> memoryview:
    data: memoryview = vector.numpy().astype("<f4", copy=False).data
    return data.cast("B")
