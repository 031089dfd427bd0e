"""Int8 and int4: where the levels are, how far one is off, and that dithering is unbiased."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.blockwise import Blockwise, Int4, Int8

LEVELS = {"int8": 127, "int4": 7}
SCALES_AT = 16

lengths = st.integers(1, 1000)
blocks = st.sampled_from([1, 2, 7, 8, 63, 64, 65, 100, 128, 200, 256, 5000])
decades = st.integers(-30, 29)
seeds = st.integers(0, 2**32)
each_codec = pytest.mark.parametrize("make", [Int8, Int4], ids=["int8", "int4"])


def vector(length: int, decade: int, seed: int) -> Tensor:
    x = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    return (x.double() * 10.0**decade).clamp(-1e30, 1e30).float()


def scales_of(frame: memoryview, length: int, block: int) -> Tensor:
    """Return each element's scale, float64, read from a frame."""
    bits = np.frombuffer(frame, np.uint16, math.ceil(length / block), SCALES_AT)
    scales = torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32))
    return scales.double().repeat_interleave(block)[:length]


def reference(x: Tensor, levels: int, block: int) -> Tensor:
    """Return what the nearest codec decodes to, by torch alone."""
    out = []
    for part in x.split(block):
        scale = (part.abs().max() / levels).to(torch.bfloat16).float()
        scale = scale.clamp(min=2.0**-126)
        out.append((part.double() / scale).round().clamp(-levels, levels).float() * scale)
    return torch.cat(out)


@each_codec
@given(length=lengths, decade=st.integers(-30, 28), seed=seeds, block=blocks)
def test_the_nearest_code_is_that_of_a_few_lines_of_torch(
    make: type[Blockwise], length: int, decade: int, seed: int, block: int
) -> None:
    x, codec = vector(length, decade, seed), make(block)
    decoded = codec.decode(codec.encode(x), length)
    expected = reference(x, LEVELS[codec.name], block)
    assert torch.equal(decoded, expected)


@each_codec
@given(length=lengths, decade=decades, seed=seeds, block=blocks)
@example(length=5, decade=-44, seed=0, block=4)
def test_an_element_is_off_by_at_most_half_a_scale(
    make: type[Blockwise], length: int, decade: int, seed: int, block: int
) -> None:
    x, codec = vector(length, decade, seed), make(block)
    frame = codec.encode(x)
    scale = scales_of(frame, length, block)
    error = (codec.decode(frame, length).double() - x.double()).abs()
    assert (error <= scale * 0.5 * (1 + 1e-4)).all()
    absmax = torch.cat([part.abs().max().expand(len(part)) for part in x.split(block)]).double()
    ideal = absmax / LEVELS[codec.name]
    assert (scale <= (ideal * (1 + 2.0**-8)).clamp(min=2.0**-126)).all()


@each_codec
@pytest.mark.parametrize("exponent", [-149, -126, -120, 0, 31, 98])
def test_every_mantissa_of_an_absmax_gives_a_scale_that_stays(
    make: type[Blockwise], exponent: int
) -> None:
    # All 2^23 of them would take minutes; 37 shares no factor with the steps of a bf16.
    mantissas = torch.arange(0x3F800000, 0x40000000, 37, dtype=torch.int32).view(torch.float32)
    x = torch.ldexp(mantissas, torch.tensor(exponent)).clamp(max=1e30)
    codec = make(1)
    frame = codec.encode(x)
    decoded = codec.decode(frame, x.numel())
    assert codec.encode(decoded) == frame
    if exponent > -120:
        torch.testing.assert_close(decoded, x, rtol=2.0**-8, atol=0)  # each has the largest code


@each_codec
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_every_level_decodes_to_itself_whatever_the_seed(
    make: type[Blockwise], rounding: str
) -> None:
    # Scales of all 128 mantissas of a bf16; each block holds every level.
    codec = make(256, rounding)
    levels = LEVELS[codec.name]
    codes = torch.arange(256).remainder(2 * levels + 1) - levels
    scales = torch.arange(128, 256) * 2.0**-20
    x = (codes * scales.unsqueeze(1)).flatten()
    for seed in range(8):
        assert torch.equal(codec.decode(codec.encode(x, seed=seed), x.numel()), x)


@each_codec
def test_blocks_do_not_know_each_other(make: type[Blockwise]) -> None:
    codec = make(64)
    parts = [vector(64, decade, 0) for decade in (-20, 0, 20)] + [torch.zeros(64), vector(9, 1, 1)]
    together = codec.decode(codec.encode(torch.cat(parts)), 265)
    alone = [codec.decode(codec.encode(part), len(part)) for part in parts]
    assert torch.equal(together, torch.cat(alone))


def test_nibbles_lie_where_the_format_says() -> None:
    # Blocks of 70: a tile of 64, a tile of 6; then 3 more elements. Code 8 + q, scale 1.
    q = torch.arange(143).remainder(15) - 7
    q[[0, 70, 140]] = 7
    codes = (q + 8).tolist()
    packed = []
    for start, num in ((0, 64), (64, 6), (70, 64), (134, 6), (140, 3)):
        tile, half = codes[start : start + num], (num + 1) // 2
        upper = [*tile[half:], 0] if num % 2 else tile[half:]
        packed += [low | high << 4 for low, high in zip(tile[:half], upper, strict=True)]
    frame = Int4(70).encode(q.float())
    assert list(frame[SCALES_AT + 2 * 3 :]) == packed


def test_bytes_are_the_level_plus_128() -> None:
    q = torch.arange(-127, 128)
    frame = Int8(1000).encode(q.float())
    assert list(frame[SCALES_AT + 2 :]) == (q + 128).tolist()


# ---- stochastic rounding


@each_codec
@given(length=lengths, decade=decades, seed=seeds, block=blocks)
def test_dithered_elements_go_to_one_of_their_two_neighbours(
    make: type[Blockwise], length: int, decade: int, seed: int, block: int
) -> None:
    x, codec = vector(length, decade, seed), make(block, "stochastic")
    frame = codec.encode(x, seed=seed)
    scale = scales_of(frame, length, block)
    steps = (codec.decode(frame, length).double() - x.double()) / scale
    assert (steps.abs() < 1 + (1e-2 if decade == 29 else 1e-4)).all()


@each_codec
def test_dithering_is_unbiased(make: type[Blockwise]) -> None:
    codec = make(64, "stochastic")
    num_seeds, length = 4000, 300
    x = vector(length, 0, 0)
    total = torch.zeros(length, dtype=torch.float64)
    for seed in range(num_seeds):
        total += codec.decode(codec.encode(x, seed=seed), length)
    scale = scales_of(codec.encode(x), length, 64)
    # Between two neighbours a fraction f apart the variance is f (1 - f) steps squared.
    f = (x.double() / scale).remainder(1)
    sigma = scale * (f * (1 - f) / num_seeds).sqrt()
    bias = (total / num_seeds - x.double()).abs()
    assert (bias <= 6 * sigma + scale * 1e-3).all()
    # And over all elements together, where the errors of independent ones would cancel.
    z = ((total / num_seeds - x.double()) / sigma.clamp(min=1e-9))[f.remainder(1) > 0.01]
    assert abs(float(z.mean())) < 6 / math.sqrt(z.numel())
    assert float(z.std()) == pytest.approx(1, abs=0.3)


@each_codec
def test_seeds_and_elements_are_dithered_independently(make: type[Blockwise]) -> None:
    codec = make(64, "stochastic")
    x = torch.full((64_000,), 0.5 * 2 / (2 * LEVELS[make.name] - 1))
    x[::64] = LEVELS[make.name] * 2 / (2 * LEVELS[make.name] - 1)  # halfway between two levels
    rounds = []
    for seed in (0, 1, 2**32, 2**63):
        decoded = codec.decode(codec.encode(x, seed=seed), x.numel())
        is_up = (decoded > x).view(-1, 64)[:, 1:].double()
        rounds.append(is_up.flatten() - is_up.mean())
    bound = 6 / math.sqrt(rounds[0].numel())
    for i, a in enumerate(rounds):
        assert 0.24 < float(a.square().mean()) < 0.26
        for b in rounds[:i]:
            assert abs(float((a * b).mean())) < bound
        for lag in (1, 31, 32, 63):
            assert abs(float((a[lag:] * a[:-lag]).mean())) < bound


@each_codec
def test_equal_seeds_give_equal_bytes_and_seeds_are_64_bits(make: type[Blockwise]) -> None:
    codec, x = make(64, "stochastic"), vector(1000, 0, 0)
    frames = {seed: bytes(codec.encode(x, seed=seed)) for seed in (0, 1, 2**32, 2**64 - 1)}
    assert len(set(frames.values())) == 4
    assert all(codec.encode(x, seed=seed) == frame for seed, frame in frames.items())


def test_dithering_more_than_nearest_but_less_than_two_steps_of_noise() -> None:
    x = vector(100_000, 0, 0)
    noise = {}
    for rounding in ("nearest", "stochastic"):
        codec = Int4(64, rounding)
        noise[rounding] = float((codec.decode(codec.encode(x), x.numel()) - x).square().mean())
    # s^2 / 12 against s^2 / 6, and a scale that is rounded up is up to 2^-7 larger.
    assert 1.9 < noise["stochastic"] / noise["nearest"] < 2.15
