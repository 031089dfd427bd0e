"""What travels between peers, as the two ports of the wire see it.

Contributions and averages are frames in grains, which one end makes while the other uses them up.
States are vectors, served from where they lie.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

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
    """Keeps a state whole; implements `Sink`.

    Attributes:
        data: The state, once it is here.
        round: Its round.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = self.grain_bytes = size_bytes
        self.data: memoryview | None = None
        self.round = 0

    def missing(self) -> list[tuple[int, int]]:
        """Returns all or nothing: two stripes of a state could be of two rounds."""
        return [(0, self.size_bytes)] if self.data is None else []

    def begin(self, round: int) -> None:
        """Notes the round."""
        self.round = round

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes the state; see `peer.ports.Sink`."""
        self.data = memoryview(data)

    def whole(self) -> memoryview:
        """Returns the state.

        Raises:
            MalformedMessage: it did not come.
        """
        if self.data is None:
            raise MalformedMessage("a state without its bytes")
        return self.data


def _raw(vector: Tensor) -> memoryview:
    data: memoryview = vector.numpy().astype("<f4", copy=False).data
    return data.cast("B")
