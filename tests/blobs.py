"""The two ports of a blob as tests like them: bytes that are there, and a sink that keeps them."""

import asyncio
from collections.abc import Sequence

from peer.ports import Wire
from protocol.errors import ThinwireError
from protocol.identity import PeerId
from protocol.machine import BlobRef


class BytesSource:
    """Serves bytes; implements `peer.ports.Source`.

    Args:
        data: What.
        round: Of a state.
        grain_bytes: In pieces of.
        made_bytes: What is there at once; the rest is waited for (`made`).
    """

    def __init__(
        self,
        data: bytes,
        round: int = 0,
        *,
        grain_bytes: int = 256 * 1024,
        made_bytes: int | None = None,
    ) -> None:
        self.data, self.round, self.grain_bytes = data, round, grain_bytes
        self.size_bytes = len(data)
        self.made = asyncio.Event()
        self._made_bytes = len(data) if made_bytes is None else made_bytes
        self.error: ThinwireError | None = None

    async def read(self, start: int, stop: int) -> bytes:
        assert start // self.grain_bytes == (stop - 1) // self.grain_bytes, "one grain at most"
        if stop > self._made_bytes:
            await self.made.wait()
            if self.error:
                raise self.error
        return self.data[start:stop]


class KeptSink:
    """Keeps what comes; implements `peer.ports.Sink`. Each grain may come once.

    Args:
        size_bytes: What is expected.
        grain_bytes: In pieces of; all at once if it is None.
        has: The grains that are here already.
    """

    is_divisible = True

    def __init__(
        self, size_bytes: int, grain_bytes: int | None = None, has: Sequence[int] = ()
    ) -> None:
        self.size_bytes = size_bytes
        self.grain_bytes = grain_bytes or max(1, size_bytes)
        self.data = bytearray(size_bytes)
        self.taken = set(has)
        self.order: list[int] = []
        self.rounds: list[int] = []
        self.last: bytes | memoryview = b""
        self.has_grown = asyncio.Event()
        self.refuses: ThinwireError | None = None

    def missing(self) -> list[tuple[int, int]]:
        if not self.size_bytes:
            return [] if self.order else [(0, 0)]
        num = -(-self.size_bytes // self.grain_bytes)
        ranges = []
        for grain in range(num):
            if grain not in self.taken:
                start = grain * self.grain_bytes
                ranges.append((start, min(self.size_bytes, start + self.grain_bytes)))
        joined: list[tuple[int, int]] = []
        for start, stop in ranges:
            if joined and joined[-1][1] == start:
                start = joined.pop()[0]
            joined.append((start, stop))
        return joined

    def begin(self, round: int) -> None:
        self.rounds.append(round)
        if self.refuses:
            raise self.refuses

    async def put(self, start: int, data: bytes | memoryview) -> None:
        grain, skipped = divmod(start, self.grain_bytes)
        assert skipped == 0, "a grain comes whole"
        assert len(data) == min(self.grain_bytes, self.size_bytes - start)
        assert grain not in self.taken, f"grain {grain} comes twice"
        self.taken.add(grain)
        self.order.append(grain)
        self.data[start : start + len(data)] = data
        self.last = data
        self.has_grown.set()


async def fetched(
    wire: Wire, src: PeerId, ref: BlobRef, size_bytes: int, *, grain_bytes: int | None = None
) -> bytes:
    """Returns a blob of that size, from over the wire."""
    sink = KeptSink(size_bytes, grain_bytes)
    await wire.fetch(src, ref, sink)
    assert not size_bytes or not sink.missing()
    return bytes(sink.data)
