"""States in blocks: from any number of peers, in any order, each checked by itself."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peer.blobs import BytesSink, BytesSource, StateShare, StateSink, StateSource
from protocol.errors import MalformedMessage
from protocol.lineage import EMPTY, LINEAGE_BYTES
from protocol.messages import MAX_ROUND
from protocol.state_index import BLOCK_BYTES, StateIndex, index_bytes, num_blocks, parse_index

BLOCK = BLOCK_BYTES // 4
"""In elements."""
LENGTHS = [
    [1],
    [3, 4],
    [BLOCK],
    [BLOCK - 1, 2],
    [BLOCK + 1],
    [BLOCK // 2] * 3,
    [2 * BLOCK + 5, 2 * BLOCK + 5],
    [0, BLOCK + 7, 0, 3],
]
SIZES = pytest.mark.parametrize("lengths", LENGTHS, ids=str)


def vectors_of(lengths: Sequence[int]) -> list[Tensor]:
    """No two elements are equal, so nothing can be in another's place."""
    return list(torch.arange(1.0, 1 + sum(lengths)).split(list(lengths)))


def index_of(source: StateSource, round: int = 9) -> StateIndex:
    return StateIndex(round, b"d" * 32, EMPTY.landed(round, b"d" * 32, 5), source.blocks())


def state_of(lengths: Sequence[int]) -> tuple[StateSource, StateSink]:
    source = StateSource(vectors_of(lengths), 9)
    return source, StateSink(lengths, index_of(source))


def block_of(source: StateSource, block: int) -> bytes:
    return source.block(block * BLOCK_BYTES, min(source.size_bytes, (block + 1) * BLOCK_BYTES))


# ---- serving


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=4),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_state_is_its_vectors_one_after_the_other(
    lengths: list[int], cut: tuple[float, float]
) -> None:
    vectors = [torch.randn(length) for length in lengths]
    expected = np.concatenate([vector.numpy() for vector in vectors]).astype("<f4").tobytes()
    source = StateSource(vectors, 9)
    start, stop = sorted(int(frac * len(expected)) for frac in cut)
    assert (source.round, source.size_bytes) == (9, len(expected))
    assert asyncio.run(source.read(start, stop)) == expected[start:stop]


@SIZES
def test_the_digests_are_those_of_its_blocks(lengths: list[int]) -> None:
    source = StateSource(vectors_of(lengths), 9)
    data = torch.cat(vectors_of(lengths)).numpy().astype("<f4").tobytes()
    pieces = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
    assert source.blocks() == tuple(blake3(piece).digest() for piece in pieces)
    assert len(pieces) == num_blocks(source.size_bytes)


# ---- the index


@SIZES
def test_an_index_survives_its_bytes_of_which_the_number_is_known_before(
    lengths: list[int],
) -> None:
    source = StateSource(vectors_of(lengths), 9)
    index = index_of(source)
    assert len(index.to_bytes()) == index_bytes(source.size_bytes)
    assert parse_index(index.to_bytes()) == index


def test_equal_states_have_equal_names_however_they_came_about() -> None:
    source = StateSource(vectors_of([3, 4]), 9)
    index = index_of(source)
    same = StateIndex(9, b"d" * 32, EMPTY, source.blocks())
    others = [
        StateIndex(8, b"d" * 32, EMPTY, source.blocks()),
        StateIndex(9, b"e" * 32, EMPTY, source.blocks()),
        StateIndex(9, b"d" * 32, EMPTY, StateSource(vectors_of([8]), 9).blocks()),
    ]
    assert index.name == same.name
    assert len({index.name, *(other.name for other in others)}) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:39],
        lambda data: data[: 40 + LINEAGE_BYTES - 1],
        lambda data: MAX_ROUND.to_bytes(8) + data[8:],
        lambda data: data[:40] + b"\xff" * LINEAGE_BYTES + data[40 + LINEAGE_BYTES :],
    ],
    ids=["empty", "short", "long", "no head", "no lineage", "far round", "garbage"],
)
def test_what_is_no_index_is_refused(spoil: object) -> None:
    data = index_of(StateSource(vectors_of([3, 4]), 9)).to_bytes()
    with pytest.raises(MalformedMessage):
        parse_index(spoil(data))  # type: ignore[operator]


@given(data=st.binary(max_size=100))
def test_random_bytes_are_no_index(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_index(data)


def test_an_index_goes_as_one_piece() -> None:
    data = index_of(StateSource(vectors_of([3, 4]), 9)).to_bytes()
    source, sink = BytesSource(data, 9), BytesSink(len(data))
    assert (source.round, source.size_bytes) == (9, sink.size_bytes)
    assert sink.missing() == [(0, len(data))]
    asyncio.run(sink.put(0, memoryview(asyncio.run(source.read(0, len(data))))))
    assert (sink.data, sink.missing()) == (data, [])


# ---- taking in


@settings(deadline=None, max_examples=60)
@given(data=st.data(), lengths=st.sampled_from(LENGTHS))
def test_blocks_come_in_any_order_over_any_shares_and_more_than_once(
    data: st.DataObject, lengths: list[int]
) -> None:
    source, sink = state_of(lengths)
    every = range(len(sink.index.blocks))
    shares = [StateShare(sink, every)]
    for _ in range(data.draw(st.integers(0, 3))):
        shares.append(StateShare(sink, sorted(data.draw(st.sets(st.sampled_from(every))))))
    asked = [(share, block) for share in shares for block in share.blocks]
    come: set[int] = set()
    for share, block in data.draw(st.permutations(asked)):
        asyncio.run(share.put(block * BLOCK_BYTES, block_of(source, block)))
        come.add(block)
        assert set(sink.missing) == set(every) - come
        for one in shares:
            assert one.missing_blocks() == [b for b in one.blocks if b not in come]
        assert sink.received_bytes == sum(len(block_of(source, b)) for b in come)
    assert all(map(torch.equal, sink.whole(), vectors_of(lengths)))
    assert [len(vector) for vector in sink.whole()] == lengths


@SIZES
def test_a_share_asks_for_whole_blocks_within_the_state(lengths: list[int]) -> None:
    source, sink = state_of(lengths)
    every = len(sink.index.blocks)
    assert StateShare(sink, range(every)).missing() == [(0, source.size_bytes)]
    last = StateShare(sink, [every - 1])
    assert last.missing() == [((every - 1) * BLOCK_BYTES, source.size_bytes)]
    assert last.size_bytes == source.size_bytes


def test_a_share_asks_for_what_is_missing_and_neighbours_as_one() -> None:
    source, sink = state_of([6 * BLOCK])
    sink.put(3, block_of(source, 3))
    assert StateShare(sink, range(1, 6)).missing() == [
        (1 * BLOCK_BYTES, 3 * BLOCK_BYTES),
        (4 * BLOCK_BYTES, 6 * BLOCK_BYTES),
    ]


@SIZES
def test_a_block_that_is_not_what_the_index_says_is_refused(lengths: list[int]) -> None:
    source, sink = state_of(lengths)
    last = len(sink.index.blocks) - 1
    good = block_of(source, last)
    wrong = [
        good[:-1] + bytes([good[-1] ^ 1]),
        good[:-1],
        good + b"\0",
        b"",
        *([block_of(source, 0)] if last else []),
    ]
    for data in wrong:
        with pytest.raises(MalformedMessage):
            sink.put(last, data)
        assert last in sink.missing
    assert sink.received_bytes == 0
    sink.put(last, good)
    with pytest.raises(MalformedMessage):
        sink.put(last, wrong[0])  # also when it is here already
    assert last not in sink.missing
    for block in list(sink.missing):
        sink.put(block, block_of(source, block))
    assert all(map(torch.equal, sink.whole(), vectors_of(lengths)))


def test_a_state_of_which_something_is_missing_is_none() -> None:
    source, sink = state_of([2 * BLOCK + 1])
    for block in (2, 0):
        sink.put(block, block_of(source, block))
        with pytest.raises(MalformedMessage, match="without its blocks"):
            sink.whole()
    sink.put(1, block_of(source, 1))
    assert torch.equal(sink.whole()[0], vectors_of([2 * BLOCK + 1])[0])


def test_a_state_that_came_is_in_memory_of_its_own() -> None:
    source, sink = state_of([3, 4])
    data = bytearray(block_of(source, 0))
    sink.put(0, memoryview(data))
    data[:] = b"\xff" * len(data)
    assert torch.equal(torch.cat(sink.whole()), torch.arange(1.0, 8.0))
