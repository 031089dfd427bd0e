"""Grains: sizes that are known in advance, and values that do not depend on the cut."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.codec.codec import Codec, codec_named
from optim.codec.grains import ALIGNMENT_ELEMENTS, MOST_ELEMENTS, Grains, grain_elements
from tests.unit.optim.test_codec import BYTES_AN_ELEMENT, NAMES, bits

CODECS = [*((name, None) for name in NAMES), ("int8", 64), ("int4", 256), ("topk", 512)]
each_codec = pytest.mark.parametrize(("name", "block"), CODECS)

lengths = st.integers(0, 5 * ALIGNMENT_ELEMENTS)
units = st.integers(1, 3)


def grains_of(codec: Codec, num_elements: int, units: int) -> Grains:
    return Grains(codec, num_elements, units * ALIGNMENT_ELEMENTS)


@each_codec
@given(num_elements=lengths, units=units)
def test_grains_cover_the_vector_in_order_and_their_sizes_add_up(
    name: str, block: int | None, num_elements: int, units: int
) -> None:
    grains = grains_of(codec_named(name, block=block), num_elements, units)
    bounds = [grains.bounds(grain) for grain in range(len(grains))]
    assert [start for start, _ in bounds] + [num_elements] == [0, *(stop for _, stop in bounds)]
    assert all(start < stop for start, stop in bounds)
    lengths = [grains.frame_bytes(grain) for grain in range(len(grains))]
    assert sum(lengths) == grains.size_bytes
    assert all(length == grains.grain_bytes for length in lengths[:-1])
    assert all(length <= grains.grain_bytes for length in lengths)


@each_codec
@given(num_elements=lengths, units=units, seed=st.integers(0, 1000))
def test_grains_decode_to_the_values_of_one_frame(
    name: str, block: int | None, num_elements: int, units: int, seed: int
) -> None:
    codec = codec_named(name, block=block)
    generator = torch.Generator().manual_seed(seed)
    near = torch.randn(num_elements, generator=generator)
    x = near + torch.randn(num_elements, generator=generator) / 10
    grains = grains_of(codec, num_elements, units)
    pieces = []
    for grain in range(len(grains)):
        start, stop = grains.bounds(grain)
        frame = codec.encode(x[start:stop], near=near[start:stop])
        assert len(frame) == grains.frame_bytes(grain)
        pieces.append(codec.decode(bytes(frame), stop - start, near=near[start:stop]))
    whole = codec.decode(codec.encode(x, near=near), num_elements, near=near)
    together = torch.cat([torch.empty(0), *pieces])
    assert torch.equal(bits(together), bits(whole))


@each_codec
@pytest.mark.parametrize("most_bytes", [1, 4096, 65_536, 262_144, 1_000_000])
def test_a_grain_is_the_largest_that_fits(name: str, block: int | None, most_bytes: int) -> None:
    codec = codec_named(name, block=block)
    num, rest = divmod(grain_elements(codec, most_bytes), ALIGNMENT_ELEMENTS)
    assert rest == 0
    assert num >= 1
    assert num == 1 or codec.frame_bytes(num * ALIGNMENT_ELEMENTS) <= most_bytes
    if num < MOST_ELEMENTS // ALIGNMENT_ELEMENTS:
        assert codec.frame_bytes((num + 1) * ALIGNMENT_ELEMENTS) > most_bytes


def test_a_grain_of_a_sparse_codec_is_not_long_in_the_making() -> None:
    codec = codec_named("topk")
    assert codec.frame_bytes(2 * MOST_ELEMENTS) < 1_000_000
    assert grain_elements(codec, 1_000_000) == MOST_ELEMENTS


@pytest.mark.parametrize("name", BYTES_AN_ELEMENT)
def test_a_grain_of_a_chunk_wastes_little_on_what_is_around_its_values(name: str) -> None:
    codec, most_bytes = codec_named(name), 256 * 1024
    values_bytes = BYTES_AN_ELEMENT[name] * grain_elements(codec, most_bytes)
    assert 0.9 * most_bytes < values_bytes < most_bytes


@given(most_bytes=st.lists(st.integers(1, 1 << 22), min_size=2, max_size=6))
def test_more_bytes_never_make_smaller_grains(most_bytes: list[int]) -> None:
    codec = codec_named("int4")
    elements = [grain_elements(codec, most) for most in sorted(most_bytes)]
    assert all(one <= other for one, other in itertools.pairwise(elements))


def test_of_nothing_there_are_no_grains() -> None:
    grains = grains_of(codec_named("int4"), 0, 1)
    assert (len(grains), grains.size_bytes) == (0, 0)
