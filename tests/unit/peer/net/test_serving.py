"""What is served under a cap arrives, or is refused at once: nobody waits in vain."""

import asyncio
import itertools
import logging
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peer.net import frames
from peer.net.config import WireConfig
from peer.net.counters import ByteCounters
from peer.net.pace import LEAST_BPS, LEAST_MESSAGE_BYTES, Cap, Pace
from peer.net.rates import LinkRates
from peer.net.refusals import RefusalLog
from peer.net.serving import Serving
from peer.net.transfer import Manner, Stripe, receive_stripe
from peer.ports import Source
from protocol.errors import NotAvailable, ThinwireError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note
from tests.blobs import BytesSource, KeptSink
from tests.unit.peer.net.test_transfer import virtually

REF = BlobRef("state")
PROGRESS_S = 3.0


class Shelf:
    def __init__(self, source: Source) -> None:
        self.source = source

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        return self.source

    def on_note(self, src: PeerId, note: Note) -> None:
        raise AssertionError("nobody sends notes")


class Giver:
    """Serves one blob under a cap, over links that are as fast as one likes."""

    def __init__(self, cap_bps: float, size_bytes: int) -> None:
        config = WireConfig(run_id=RunId("ab" * 32), progress_s=PROGRESS_S, may_compress=False)
        self.size_bytes = size_bytes
        self._chunk_bytes = config.chunk_bytes
        self._names = itertools.count()
        self._serving = Serving(
            config,
            Shelf(BytesSource(bytes(size_bytes))),
            ByteCounters(),
            RefusalLog(logging.getLogger(__name__)),
            rates=LinkRates().up,
            pace=Pace(Cap(cap_bps), minute_of_day=lambda: 0),
        )

    async def give(self) -> ThinwireError | None:
        """Returns how it ended for one who fetches."""
        messages: asyncio.Queue[bytes] = asyncio.Queue(1)

        async def write(message: bytes, num_bytes: int) -> None:
            await messages.put(message)

        src = PeerId(f"peer {next(self._names)}")
        serving = asyncio.create_task(self._serving.serve(src, frames.request_of(REF), write))
        sink = KeptSink(self.size_bytes, 256 * 1024)
        manner = Manner(chunk_bytes=self._chunk_bytes, progress_s=PROGRESS_S)
        stripe = Stripe(0, self.size_bytes)
        try:
            await receive_stripe(messages.get, sink, stripe, manner, header_s=2 * PROGRESS_S)
        except ThinwireError as error:
            return error
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        assert not sink.missing()
        return None

    async def give_many(self, pauses_s: list[float]) -> list[ThinwireError | None]:
        tasks = []
        for pause_s in pauses_s:
            await asyncio.sleep(pause_s)
            tasks.append(asyncio.create_task(self.give()))
        return await asyncio.gather(*tasks)


def outcomes(giver: Giver, pauses_s: list[float]) -> list[ThinwireError | None]:
    return virtually(giver.give_many(pauses_s))


@settings(deadline=None, max_examples=40)
@given(
    cap_bps=st.floats(math.log(LEAST_BPS), math.log(1e8)).map(math.exp),
    size_s=st.floats(0.1, 3.0),
    pauses_s=st.lists(st.sampled_from([0.0, 0.0, 0.5, 5.0]), min_size=1, max_size=90),
)
@example(cap_bps=64e3, size_s=1.0, pauses_s=[0.0] * 30)
@example(cap_bps=400e3, size_s=1.0, pauses_s=[0.0] * 30)
@example(cap_bps=20e6, size_s=0.5, pauses_s=[0.0] * 90)
def test_under_a_cap_who_is_served_gets_all_and_the_others_are_refused(
    cap_bps: float, size_s: float, pauses_s: list[float]
) -> None:
    giver = Giver(cap_bps, max(LEAST_MESSAGE_BYTES, int(size_s * cap_bps / 8)))
    ends = outcomes(giver, pauses_s)
    assert ends[0] is None
    for error in ends:
        assert error is None or isinstance(error, NotAvailable), error


@pytest.mark.parametrize(("cap_bps", "num_served"), [(64e3, 2), (256e3, 11), (1e6, 45), (20e6, 75)])
def test_so_many_are_served_as_can_have_a_turn_in_half_of_progress_s(
    cap_bps: float, num_served: int
) -> None:
    ends = outcomes(Giver(cap_bps, 20 * LEAST_MESSAGE_BYTES), [0.0] * (num_served + 9))
    assert [error is None for error in ends] == [True] * num_served + [False] * 9
    assert "under our cap" in str(ends[-1])


def test_whoever_comes_when_others_are_through_is_served() -> None:
    giver = Giver(64e3, LEAST_MESSAGE_BYTES)
    assert outcomes(giver, [0.0, 0.0, 5.0, 0.0, 5.0]) == [None] * 5


def test_without_a_cap_nobody_is_refused() -> None:
    assert outcomes(Giver(math.inf, 1 << 16), [0.0] * 200) == [None] * 200
