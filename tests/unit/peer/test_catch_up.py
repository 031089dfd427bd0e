"""Catching up from several donors, on a virtual clock: who gives what, lies, dies or dawdles."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from peer.blobs import BytesSink, StateShare, StateSink, StateSource
from peer.catch_up import (
    AGAIN_S,
    MAX_DONORS,
    MAX_FAILURES,
    STREAMS_PER_DONOR,
    CatchingUp,
    Survey,
)
from peer.mixing import Mixing
from peer.ports import Sink
from peer.signs import Signs
from protocol.errors import NotAvailable, TransportError
from protocol.identity import PeerId
from protocol.lineage import EMPTY
from protocol.machine import BlobRef
from protocol.messages import Note
from protocol.state_index import BLOCK_BYTES, StateIndex
from tests.unit.peer.net.test_transfer import virtually

NUM_BLOCKS = 24
NUM_ELEMENTS = NUM_BLOCKS * BLOCK_BYTES // 4 // 2
"""Of the anchor, and of the one vector beside it."""
A, B, C = (PeerId(name) for name in "abc")
RATE = 4.0
"""Blocks that a donor gives in a second, over each stream."""


def state_of(seed: int) -> StateSource:
    start = float(seed * 2 * NUM_ELEMENTS)
    vectors = torch.arange(start, start + 2 * NUM_ELEMENTS).split(NUM_ELEMENTS)
    return StateSource(vectors, 7 + seed)


STATES = [state_of(seed) for seed in range(2)]
INDEXES = [StateIndex(state.round, b"d" * 32, EMPTY, state.blocks()) for state in STATES]


@dataclass
class Donor:
    """What somebody has, and what goes wrong with it."""

    state: int = 0
    rate: float = RATE
    lies_about: frozenset[int] = frozenset()
    left: int = 10**9
    """So many blocks it gives before it dies."""
    is_silent: bool = False
    """It does not even answer a ping."""
    index: bytes | None = None
    """In the place of the true one."""
    num_refusals: int = 0
    """So many requests for blocks it refuses, as if others had come first."""
    refused_at_s: list[float] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    """Of the indexes that it was asked for."""


class Site:
    """Implements `peer.ports.Wire` for one who catches up, and keeps its events."""

    up_bps = down_bps = 0.0

    def __init__(self, **donors: Donor) -> None:
        self.donors = {PeerId(name): donor for name, donor in donors.items()}
        self.signs = Signs()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.on_block: Callable[[PeerId, int], None] = lambda donor, block: None
        mixing = SimpleNamespace(
            state_bytes=lambda fragment: STATES[0].size_bytes,
            state_lengths=lambda fragment: [NUM_ELEMENTS, NUM_ELEMENTS],
            is_common=True,
            round_of=lambda fragment: 0,
        )
        self.ours = mixing
        self.catching_up = CatchingUp(
            cast("Mixing", mixing), self, progress_s=20.0, events=cast("Any", self)
        )

    def write(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    @property
    def dropped(self) -> list[PeerId]:
        return [fields["src"] for event, fields in self.events if event == "donor_dropped"]

    @property
    def given(self) -> Counter[int]:
        return Counter(block for donor in self.donors.values() for block in donor.given)

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        donor = self.donors.get(src)
        if donor is None or not donor.left:
            raise TransportError("nobody is there")
        if donor.is_silent:
            await asyncio.sleep(1e6)
        index = INDEXES[donor.state]
        if ref.kind == "index":
            assert isinstance(sink, BytesSink)
            donor.names.append(ref.exchange_id)
            if ref.exchange_id not in (b"", index.name) and donor.index is None:
                raise NotAvailable("that state is not here any more")
            await sink.put(0, donor.index or index.to_bytes())
            return
        assert isinstance(sink, StateShare)
        if ref.exchange_id != index.name:
            raise NotAvailable("that state is not here any more")
        if len(donor.refused_at_s) < donor.num_refusals:
            donor.refused_at_s.append(asyncio.get_running_loop().time())
            raise NotAvailable("too many ask for it")
        for start, stop in sink.missing():
            for block in range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
                await self._give(src, donor, sink, block)

    async def _give(self, src: PeerId, donor: Donor, sink: Sink, block: int) -> None:
        await asyncio.sleep(1 / donor.rate)
        if not donor.left:
            raise TransportError("it broke off")
        donor.left -= 1
        self.signs.hear(src, asyncio.get_running_loop().time())
        data = STATES[donor.state].block(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
        if block in donor.lies_about:
            data = bytes(len(data))
        await sink.put(block * BLOCK_BYTES, data)
        donor.given.append(block)
        self.on_block(src, block)

    async def ping(self, dst: PeerId, *, wait_s: float) -> None:
        if self.donors[dst].is_silent:
            await asyncio.sleep(wait_s)
            raise TransportError("no answer")
        await asyncio.sleep(0)

    async def send(self, dst: PeerId, note: Note) -> None:
        raise AssertionError("nothing is said here")

    async def close(self) -> None:
        """Nothing is open."""

    async def catch_up(
        self, donors: Sequence[PeerId] = (A, B, C), others: Sequence[PeerId] = ()
    ) -> StateSink:
        survey = await self.catching_up.survey(0, donors, others)
        return await self.catching_up.fetch(0, survey)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    virtually(scenario)


def assert_whole(sink: StateSink, seed: int = 0) -> None:
    data = b"".join(vector.numpy().tobytes() for vector in sink.whole())
    assert data == STATES[seed].block(0, STATES[seed].size_bytes)


# ---- the survey


def surveyed(site: Site, donors: Sequence[PeerId], others: Sequence[PeerId] = ()) -> Survey:
    return virtually(site.catching_up.survey(0, donors, others))


def test_what_most_donors_have_is_believed() -> None:
    site = Site(a=Donor(state=1), b=Donor(), c=Donor())
    assert surveyed(site, (A, B, C)) == [(B, INDEXES[0]), (C, INDEXES[0])]


def test_of_two_states_that_as_many_have_the_later_is_believed() -> None:
    site = Site(a=Donor(), b=Donor(state=1))
    assert surveyed(site, (A, B)) == [(B, INDEXES[1])]


def test_others_help_but_have_no_say() -> None:
    site = Site(a=Donor(state=1), b=Donor(), c=Donor(), d=Donor(state=1))
    others = (B, C, PeerId("d"))
    assert surveyed(site, (A,), others) == [(A, INDEXES[1]), (PeerId("d"), INDEXES[1])]


def test_only_so_many_are_asked() -> None:
    names = "abcdefghijkl"
    site = Site(**{name: Donor() for name in names})
    survey = surveyed(site, [A], [PeerId(name) for name in names])
    assert [donor for donor, _ in survey] == [PeerId(name) for name in names[:MAX_DONORS]]
    assert sum(bool(donor.names) for donor in site.donors.values()) == MAX_DONORS


@pytest.mark.parametrize(
    ("donor", "is_named"),
    [(Donor(left=0), True), (Donor(is_silent=True), True), (Donor(index=b"?"), True)],
    ids=["dead", "silent", "garbage"],
)
def test_nobody_answers(donor: Donor, is_named: bool) -> None:
    site = Site(a=donor)
    with pytest.raises(TransportError, match="none of 1"):
        surveyed(site, (A,), (PeerId("gone"),) * 0)
    assert (A in site.dropped) == is_named


def test_an_index_of_another_size_is_garbage_of_its_giver_alone() -> None:
    right = INDEXES[0].to_bytes()
    site = Site(a=Donor(index=right[:-1]), b=Donor(), c=Donor(index=b"\xff" * len(right)))
    assert surveyed(site, (A, B, C)) == [(B, INDEXES[0])]
    assert sorted(site.dropped) == [A, C]


# ---- the blocks


def test_one_donor_gives_all_and_each_block_once() -> None:
    async def scenario() -> None:
        site = Site(a=Donor())
        assert_whole(await site.catch_up((A,)))
        assert sorted(site.donors[A].given) == list(range(NUM_BLOCKS))
        assert not site.dropped
        assert site.catching_up.progress() == (0, 0)

    run(scenario())


@pytest.mark.parametrize("rate", [RATE, 1 / 30])
def test_a_donor_is_not_asked_twice_for_what_it_is_giving(rate: float) -> None:
    """Over a thin link that would halve what is left of it."""

    async def scenario() -> None:
        site = Site(a=Donor(rate=rate))
        assert_whole(await site.catch_up((A,)))
        assert set(site.given.values()) == {1}

    run(scenario())


def test_several_donors_each_give_some_and_it_takes_a_part_of_the_time() -> None:
    async def took_s(*donors: PeerId) -> float:
        site, loop = Site(a=Donor(), b=Donor(), c=Donor()), asyncio.get_running_loop()
        begun_s = loop.time()
        assert_whole(await site.catch_up(donors))
        assert set(site.given.values()) == {1}
        for donor in donors:
            assert len(site.donors[donor].given) >= NUM_BLOCKS / len(donors) / 2
        return loop.time() - begun_s

    async def scenario() -> None:
        alone_s, together_s = await took_s(A), await took_s(A, B, C)
        assert alone_s == pytest.approx(NUM_BLOCKS / RATE / STREAMS_PER_DONOR)
        assert together_s < alone_s * 2 / 3  # and not a third: runs are whole blocks

    run(scenario())


def test_a_donor_with_another_state_is_asked_for_none_of_it() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(), b=Donor(), c=Donor(state=1))
        assert_whole(await site.catch_up())
        assert site.donors[C].names == [b""]
        assert not site.donors[C].given
        assert not site.dropped

    run(scenario())


@pytest.mark.parametrize("lies", [{0}, {NUM_BLOCKS - 1}, set(range(NUM_BLOCKS))], ids=str)
def test_a_donor_that_lies_is_named_once_and_the_state_is_right(lies: set[int]) -> None:
    async def scenario() -> None:
        site = Site(a=Donor(lies_about=frozenset(lies)), b=Donor(), c=Donor())
        assert_whole(await site.catch_up())
        # It may have had no chance to tell one of its few lies.
        assert site.dropped in ([A], []) if len(lies) == 1 else site.dropped == [A]

    run(scenario())


def test_who_lied_once_is_asked_for_nothing_more() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(lies_about=frozenset({0})), b=Donor(rate=RATE / 4))
        asked_since: list[int] = []

        def on_block(donor: PeerId, block: int) -> None:
            if donor == A and A in site.dropped:
                asked_since.append(block)

        site.on_block = on_block
        assert_whole(await site.catch_up((A, B)))
        assert site.dropped == [A]
        assert len(asked_since) <= 4  # of the run that its other stream was at

    run(scenario())


def test_when_only_liars_are_left_it_fails_and_keeps_what_was_right() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(lies_about=frozenset(range(0, NUM_BLOCKS, 5))))
        with pytest.raises(TransportError, match="no donor is left"):
            await site.catch_up((A,))
        assert site.dropped == [A]
        site.donors[B] = Donor()
        right = len(site.donors[A].given)
        assert_whole(await site.catch_up((B,)))
        assert len(site.donors[B].given) in (NUM_BLOCKS, NUM_BLOCKS - right)

    run(scenario())


def test_donors_that_die_in_the_middle_leave_their_blocks_to_the_others() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(left=3), b=Donor(left=5), c=Donor())
        assert_whole(await site.catch_up())
        assert sorted(site.dropped) == [A, B]
        assert set(site.given.values()) == {1}
        assert len(site.donors[C].given) == NUM_BLOCKS - 8

    run(scenario())


def test_a_connection_that_breaks_now_and_then_is_used_again() -> None:
    async def scenario() -> None:
        site = Site(a=Donor())
        num_given = 0

        def on_block(donor: PeerId, block: int) -> None:
            nonlocal num_given
            num_given += 1
            if num_given % 3 == 0:
                raise TransportError("it broke off")

        site.on_block = on_block
        assert_whole(await site.catch_up((A,)))
        assert not site.dropped

    run(scenario())


def test_a_donor_that_is_busy_is_asked_again_after_a_pause_and_gives_what_it_has() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(num_refusals=1), b=Donor())
        assert_whole(await site.catch_up((A, B)))
        assert not site.dropped
        assert site.donors[A].refused_at_s
        assert len(site.donors[A].given) > NUM_BLOCKS / 4
        assert set(site.given.values()) == {1}

    run(scenario())


def test_a_busy_donor_may_be_the_only_one() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(num_refusals=1))
        assert_whole(await site.catch_up((A,)))
        assert not site.dropped

    run(scenario())


def test_a_donor_that_has_it_no_more_is_dropped_and_not_asked_without_end() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(num_refusals=10**9), b=Donor())
        assert_whole(await site.catch_up((A, B)))
        assert site.dropped == [A]
        refused_at_s = site.donors[A].refused_at_s
        assert len(refused_at_s) <= STREAMS_PER_DONOR * MAX_FAILURES
        assert max(refused_at_s) - min(refused_at_s) == pytest.approx(AGAIN_S)
        assert len(site.donors[B].given) == NUM_BLOCKS

    run(scenario())


def test_when_the_only_donor_has_it_no_more_it_fails_soon() -> None:
    async def scenario() -> None:
        site, loop = Site(a=Donor(num_refusals=10**9)), asyncio.get_running_loop()
        begun_s = loop.time()
        with pytest.raises(TransportError, match="no donor is left"):
            await site.catch_up((A,))
        assert loop.time() - begun_s <= STREAMS_PER_DONOR * MAX_FAILURES * AGAIN_S
        assert site.dropped == [A]

    run(scenario())


def test_a_donor_that_falls_silent_holds_nothing_up() -> None:
    async def scenario() -> None:
        site, loop = Site(a=Donor(), b=Donor()), asyncio.get_running_loop()

        def on_block(donor: PeerId, block: int) -> None:
            if len(site.donors[A].given) == 3:
                site.donors[A].is_silent, site.donors[A].rate = True, 1e-9

        site.on_block = on_block
        begun_s = loop.time()
        assert_whole(await site.catch_up((A, B)))
        assert loop.time() - begun_s < 2 * NUM_BLOCKS / RATE

    run(scenario())


def test_a_slow_donor_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        site, loop = Site(a=Donor(rate=1 / 60), b=Donor()), asyncio.get_running_loop()
        begun_s = loop.time()
        assert_whole(await site.catch_up((A, B)))
        took_s = loop.time() - begun_s
        assert took_s < 3 * NUM_BLOCKS / RATE  # and not the minute of its first block
        assert len(site.donors[B].given) == NUM_BLOCKS
        assert not site.dropped  # slow is no sin

    run(scenario())


# ---- attempt after attempt


def test_the_next_attempt_fetches_only_what_is_missing() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(left=7), b=Donor(left=4))
        with pytest.raises(TransportError, match=f"{NUM_BLOCKS - 11} of {NUM_BLOCKS}"):
            await site.catch_up((A, B))
        site.donors[B] = Donor()
        assert_whole(await site.catch_up((A, B)))
        assert site.donors[B].names == [INDEXES[0].name]
        assert len(site.donors[B].given) == NUM_BLOCKS - 11
        assert set(site.given.values()) == {1}

    run(scenario())


def test_when_nobody_has_that_state_any_more_another_is_begun() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(left=7))
        with pytest.raises(TransportError):
            await site.catch_up((A,))
        site.donors[A] = Donor(state=1)
        assert_whole(await site.catch_up((A,)), 1)
        assert site.donors[A].names == [INDEXES[0].name, b""]
        assert len(site.donors[A].given) == NUM_BLOCKS

    run(scenario())


@pytest.mark.parametrize(
    ("round", "is_common", "first"),
    [
        (STATES[0].round - 1, True, INDEXES[0].name),
        (STATES[0].round, True, b""),
        (STATES[0].round + 5, True, b""),
        (STATES[0].round + 5, False, INDEXES[0].name),
    ],
    ids=["behind it", "at it", "beyond it", "rounds of our own"],
)
def test_what_came_of_a_state_that_we_have_passed_is_let_go_of(
    round: int, is_common: bool, first: bytes
) -> None:
    """Where rounds are common we came there some other way, and go on from where others are."""

    async def scenario() -> None:
        site = Site(a=Donor(left=7))
        with pytest.raises(TransportError):
            await site.catch_up((A,))
        site.ours.round_of, site.ours.is_common = lambda fragment, round=round: round, is_common
        site.donors[A] = Donor()
        assert_whole(await site.catch_up((A,)))
        assert site.donors[A].names == [first]
        assert len(site.donors[A].given) == (NUM_BLOCKS - 7 if first else NUM_BLOCKS)

    run(scenario())


def test_who_is_no_donor_any_more_does_not_keep_us_at_its_state() -> None:
    """Others helped; but what they alone have is not what we are to compare ours with."""

    async def scenario() -> None:
        site = Site(a=Donor(left=7))
        with pytest.raises(TransportError):
            await site.catch_up((A,))
        site.donors |= {A: Donor(), B: Donor(state=1)}
        assert_whole(await site.catch_up((B,), (A,)), 1)

    run(scenario())


def test_an_index_of_another_name_than_the_one_that_was_begun_is_no_answer() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(left=7))
        with pytest.raises(TransportError):
            await site.catch_up((A,))
        site.donors |= {A: Donor(index=INDEXES[1].to_bytes()), B: Donor()}
        survey = await site.catching_up.survey(0, (A, B))
        assert survey == [(B, INDEXES[0])]
        assert site.dropped[-1] == A

    run(scenario())


def test_progress_is_what_has_come_of_what_is_under_way() -> None:
    async def scenario() -> None:
        site = Site(a=Donor())
        seen: list[tuple[int, int]] = []
        site.on_block = lambda donor, block: seen.append(site.catching_up.progress())
        await site.catch_up((A,))
        total = STATES[0].size_bytes
        assert seen == [(n * BLOCK_BYTES, total) for n in range(1, NUM_BLOCKS + 1)]

    run(scenario())


def test_whoever_stops_waiting_leaves_no_fetch_behind_and_loses_nothing() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(), b=Donor())
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.1):
                await site.catch_up((A, B))
        assert asyncio.all_tasks() == before
        assert site.given
        assert_whole(await site.catch_up((A, B)))
        assert set(site.given.values()) == {1}

    run(scenario())


def test_a_bug_of_ours_is_not_taken_for_a_failure_of_theirs() -> None:
    async def scenario() -> None:
        site = Site(a=Donor(), b=Donor())

        def on_block(donor: PeerId, block: int) -> None:
            raise ZeroDivisionError

        site.on_block = on_block
        with pytest.raises(ZeroDivisionError):
            await site.catch_up((A, B))
        assert not site.dropped

    run(scenario())
