"""States that stay as they are while others fetch them, and the averages that lead from them."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch

from peer.blobs import StateSource
from peer.mixing import KEPT_EXCHANGES, Mixing
from peer.pins import MAX_PINS, PIN_S, Pins
from protocol.errors import NotAvailable
from protocol.machine import BlobRef, Land, Reduce
from protocol.state_index import StateIndex, parse_index
from tests.unit.peer.test_mixing import equally, has_all, mixing_of, nothing, offer_of, offered


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow tensors of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Giver:
    """A mixing, its pins, and a clock."""

    def __init__(self, codec: str = "int4") -> None:
        self.mixing = mixing_of(codec=codec)
        self.now_s = 0.0
        self.pins = Pins(self.mixing, lambda: self.now_s)
        self.averages: list[BlobRef] = []

    async def index(self, name: bytes = b"") -> StateIndex:
        source = await self.pins.index(0, name)
        return parse_index(await source.read(0, source.size_bytes))

    def land(self, num: int = 1) -> None:
        for _ in range(num):
            self.averages.append(exchange_alone(self.mixing, len(self.averages)))

    def kept(self) -> list[bool]:
        return [has_all(self.mixing, ref) for ref in self.averages]

    async def has(self, name: bytes) -> bool:
        try:
            await self.index(name)
        except NotAvailable:
            return False
        return True


def exchange_alone(mixing: Mixing, number: int) -> BlobRef:
    id = number.to_bytes(16)
    offered(mixing, offer_of(1, id), mixing.outer[0].anchor * 0.9)
    average = BlobRef("average", 0, id)
    mixing.reduce(Reduce(average, 1), nothing)
    mixing.land(Land(0, number, id, equally(1), tokens=10))
    return average


async def test_a_state_is_served_as_it_was_when_it_was_pinned() -> None:
    giver = Giver()
    giver.land()
    then = giver.mixing.outer[0]
    index = await giver.index()
    giver.land(3)
    state = giver.pins.state(0, index.name)
    data = await state.read(0, state.size_bytes)
    expected = torch.cat([then.anchor, then.copy.state["momentum"]])
    assert data == expected.numpy().tobytes()
    assert (index.round, index.anchor_digest, index.lineage) == (1, then.digest, then.lineage)
    assert index.blocks == state.blocks()
    assert await giver.index(index.name) == index


async def test_all_who_ask_at_once_get_one_state_that_is_hashed_once() -> None:
    giver = Giver()
    sources = await asyncio.gather(*(giver.pins.index(0) for _ in range(5)))
    assert len(set(map(id, sources))) == 1
    assert await giver.pins.index(0) is sources[0]


async def test_whoever_gave_up_waiting_finds_it_when_it_asks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over a fast link an index is asked for in a second; a large state is hashed in more."""
    giver, may_go_on, hashed = Giver(), threading.Event(), []
    blocks = StateSource.blocks

    def slowly(state: StateSource) -> tuple[bytes, ...]:
        assert may_go_on.wait(10.0)
        hashed.append(state)
        return blocks(state)

    monkeypatch.setattr(StateSource, "blocks", slowly)
    impatient = [asyncio.ensure_future(giver.pins.index(0)) for _ in range(3)]
    await asyncio.sleep(0)
    patient = asyncio.ensure_future(giver.pins.index(0))
    await asyncio.sleep(0)
    for waiting in impatient:
        waiting.cancel()
    assert all(
        isinstance(outcome, asyncio.CancelledError)
        for outcome in await asyncio.gather(*impatient, return_exceptions=True)
    )
    again = asyncio.ensure_future(giver.pins.index(0))
    await asyncio.sleep(0)
    giver.land()  # it is the state of then that was asked for
    may_go_on.set()
    assert await again is await patient
    assert len(hashed) == 1
    data = await (await again).read(0, (await again).size_bytes)
    assert parse_index(data).round == 0


async def test_a_pin_that_all_gave_up_waiting_for_is_made_all_the_same() -> None:
    giver = Giver()
    task = asyncio.ensure_future(giver.pins.index(0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await giver.index()).round == 0
    giver.land()
    assert (await giver.index()).round == 1  # and the next one is made anew


async def test_what_cannot_be_hashed_now_may_be_later(monkeypatch: pytest.MonkeyPatch) -> None:
    giver = Giver()

    def fail(state: StateSource) -> tuple[bytes, ...]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(StateSource, "blocks", fail)
        outcomes = await asyncio.gather(
            *(giver.pins.index(0) for _ in range(2)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [MemoryError, MemoryError]
    assert (await giver.index()).round == 0


async def test_a_pin_ends_when_nobody_has_asked_for_it_for_so_long() -> None:
    giver = Giver()
    name = (await giver.index()).name
    for _ in range(3):
        giver.now_s += 0.9 * PIN_S
        giver.pins.expire()
        assert await giver.has(name)  # which is to ask for it
    giver.now_s += 1.1 * PIN_S
    giver.pins.expire()
    assert not await giver.has(name)
    with pytest.raises(NotAvailable, match="any more"):
        giver.pins.state(0, name)


async def test_one_long_request_keeps_a_pin_as_well_as_many_short_ones() -> None:
    """Over a link of 0.1 Mbit/s a single run of blocks takes longer than a pin lives."""
    giver = Giver()
    name = (await giver.index()).name
    state = giver.pins.state(0, name)
    for at in range(0, 40, 8):
        giver.now_s += 0.9 * PIN_S
        giver.pins.expire()
        await state.read(at, at + 8)
    assert await giver.has(name)


async def test_replaying_keeps_the_pin_from_which_one_set_out() -> None:
    giver = Giver()
    name = (await giver.index()).name
    for _ in range(3):
        giver.now_s += 0.9 * PIN_S
        giver.pins.touch(0)
        giver.pins.expire()
    assert await giver.has(name)


async def test_so_many_are_pinned_and_who_comes_then_gets_the_newest_of_them() -> None:
    giver = Giver()
    names = []
    for _ in range(MAX_PINS):
        names.append((await giver.index()).name)
        giver.land()
    assert len(set(names)) == MAX_PINS
    assert (await giver.index()).name == names[-1]
    assert all([await giver.has(name) for name in names])
    giver.now_s += 2 * PIN_S
    assert (await giver.index()).round == giver.mixing.outer[0].round


async def test_another_anchor_of_the_same_round_is_another_state() -> None:
    """As when we took over the one that counts: what nobody goes on with must not be handed out."""
    giver, other = Giver(), Giver()
    giver.land()
    old = await giver.index()
    vectors = [vector * 2 for vector in (giver.mixing.outer[0].anchor, torch.ones(34))]
    taken = giver.mixing.load_state_blob(0, vectors, 1, lineage=other.mixing.outer[0].lineage)
    new = await giver.index()
    assert (new.round, new.anchor_digest) == (1, taken.digest)
    assert new.name != old.name
    assert await giver.index() == new


# ---- the averages that lead from there


async def test_the_averages_after_a_pinned_state_are_kept_until_it_ends() -> None:
    giver = Giver()
    giver.land(4)
    await giver.index()
    giver.land(5)
    assert giver.kept() == [False] * 3 + [False] + [True] * 5
    giver.now_s += 2 * PIN_S
    giver.pins.expire()
    giver.land()
    num = len(giver.averages)
    assert giver.kept() == [False] * (num - KEPT_EXCHANGES) + [True] * KEPT_EXCHANGES


async def test_the_kept_averages_weigh_no_more_than_a_state() -> None:
    giver = Giver("fp32")  # so that each weighs half of anchor and momentum
    await giver.index()
    for _ in range(8):
        giver.land()
        made = [giver.mixing.made(ref) for ref in giver.averages[:-KEPT_EXCHANGES]]
        assert sum(one.grains.size_bytes for one in made if one) <= giver.mixing.state_bytes(0)
    kept = giver.kept()
    assert sum(kept) > KEPT_EXCHANGES
    assert kept == sorted(kept)  # the newest, without a gap: the others lead nowhere


async def test_another_fragment_keeps_what_it_ever_kept() -> None:
    mixing = mixing_of(codec="int4", num_fragments=2)
    pins = Pins(mixing, lambda: 0.0)
    await pins.index(1)
    averages = [exchange_alone(mixing, number) for number in range(5)]
    kept = [has_all(mixing, ref) for ref in averages]
    assert kept == [False] * (5 - KEPT_EXCHANGES) + [True] * KEPT_EXCHANGES
