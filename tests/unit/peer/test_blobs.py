"""Sources and sinks: what is served as it is made, and where it goes."""

import asyncio
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.codec.codec import codec_named
from optim.codec.grains import ALIGNMENT_ELEMENTS, Grains
from peer.bench import GrainsMade
from peer.blobs import FrameSink, FrameSource
from protocol.errors import NotAvailable
from tests.unit.peer.net.test_transfer import virtually

CODEC = codec_named("int8")
NUM_ELEMENTS = 3 * ALIGNMENT_ELEMENTS + 10
HOLD_S = 2.0


class Kitchen:
    """Makes grains one by one, and wakes whoever waits for them."""

    def __init__(self) -> None:
        self.grains = Grains(CODEC, NUM_ELEMENTS, ALIGNMENT_ELEMENTS)
        self.frames = [
            bytes(CODEC.encode(torch.randn(stop - start)))
            for start, stop in map(self.grains.bounds, range(len(self.grains)))
        ]
        self.made = GrainsMade(self.grains)
        self._news = asyncio.Event()
        self.source = FrameSource(self.made, self._news.wait, HOLD_S)

    def make(self, *grains: int) -> None:
        for grain in grains:
            self.made.frames[grain] = self.frames[grain]
        self.wake()

    def wake(self) -> None:
        self._news.set()
        self._news.clear()


# ---- frames


@settings(deadline=None)
@given(data=st.data())
def test_any_range_within_a_grain_is_that_of_all_frames_together(data: st.DataObject) -> None:
    async def scenario() -> None:
        kitchen = Kitchen()
        kitchen.make(*range(len(kitchen.frames)))
        whole, source = b"".join(kitchen.frames), kitchen.source
        assert source.size_bytes == len(whole)
        grain = data.draw(st.integers(0, len(kitchen.frames) - 1))
        first = grain * source.grain_bytes
        last = min(first + source.grain_bytes, len(whole))
        start = data.draw(st.integers(first, last - 1))
        stop = data.draw(st.integers(start + 1, last))
        assert await source.read(start, stop) == whole[start:stop]

    asyncio.run(scenario())


def test_a_whole_grain_is_served_without_a_copy() -> None:
    async def scenario() -> None:
        kitchen = Kitchen()
        kitchen.make(1)
        size = kitchen.source.grain_bytes
        assert await kitchen.source.read(size, 2 * size) is kitchen.frames[1]

    virtually(scenario())


def test_a_grain_in_the_making_is_waited_for() -> None:
    async def scenario() -> None:
        kitchen = Kitchen()
        reading = asyncio.create_task(kitchen.source.read(0, 5))
        await asyncio.sleep(HOLD_S / 2)
        kitchen.make(1)  # another one
        await asyncio.sleep(HOLD_S / 4)
        assert not reading.done()
        kitchen.make(0)
        assert await reading == kitchen.frames[0][:5]

    virtually(scenario())


def test_a_grain_that_is_not_made_in_time_is_not_available() -> None:
    async def scenario() -> float:
        kitchen = Kitchen()
        with pytest.raises(NotAvailable, match="not yet"):
            await kitchen.source.read(0, 5)
        return asyncio.get_running_loop().time()

    assert virtually(scenario()) == HOLD_S


def test_who_reads_what_is_withdrawn_is_told_at_once() -> None:
    async def scenario() -> float:
        kitchen = Kitchen()
        kitchen.make(0)
        reading = asyncio.create_task(
            kitchen.source.read(kitchen.source.grain_bytes, kitchen.source.grain_bytes + 1)
        )
        await asyncio.sleep(0.5)
        kitchen.made.withdraw()
        kitchen.wake()
        with pytest.raises(NotAvailable, match="given up"):
            await reading
        return asyncio.get_running_loop().time()

    assert virtually(scenario()) == 0.5


@settings(deadline=None)
@given(has=st.sets(st.integers(0, 9)), num_elements=st.integers(1, 10 * ALIGNMENT_ELEMENTS))
def test_what_a_sink_misses_is_in_ranges_of_whole_grains(has: set[int], num_elements: int) -> None:
    grains = Grains(CODEC, num_elements, ALIGNMENT_ELEMENTS)
    missing = [grain for grain in range(len(grains)) if grain not in has]
    ranges = FrameSink(grains, missing, _take_nothing).missing()
    covered: list[int] = []
    for start, stop in ranges:
        first, rest = divmod(start, grains.grain_bytes)
        last = -(-stop // grains.grain_bytes)
        assert rest == 0
        assert stop == min(grains.size_bytes, last * grains.grain_bytes)
        covered += range(first, last)
    assert covered == missing
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ranges))


def test_a_sink_hands_each_grain_on_by_its_number() -> None:
    kitchen, taken = Kitchen(), []

    async def take(grain: int, frame: bytes | memoryview) -> None:
        taken.append((grain, frame))

    async def scenario() -> None:
        sink = FrameSink(kitchen.grains, [1, 3], take)
        sink.begin(7)
        for grain in (1, 3):
            await sink.put(grain * sink.grain_bytes, kitchen.frames[grain])

    virtually(scenario())
    assert taken == [(1, kitchen.frames[1]), (3, kitchen.frames[3])]


def test_a_part_without_elements_is_nothing_to_fetch() -> None:
    sink = FrameSink(Grains(CODEC, 0, ALIGNMENT_ELEMENTS), [], _take_nothing)
    assert (sink.size_bytes, sink.missing()) == (0, [])


async def _take_nothing(grain: int, frame: bytes | memoryview) -> None:
    raise AssertionError
