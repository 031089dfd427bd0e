"""S7, what Streaming DiLoCo needs of E3M0: idempotent, signs, ratios, and means in fp32."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.codec import codec_named
from optim.codec.e3m0 import E3M0

lengths = st.integers(1, 1000)
blocks = st.sampled_from([1, 3, 8, 64, 100, 256])
decades = st.integers(-30, 29)
seeds = st.integers(0, 2**32)


def vector(length: int, decade: int, seed: int) -> Tensor:
    x = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    return (x.double() * 10.0**decade).clamp(-1e30, 1e30).float()


def quantized(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return the decoded vector and each element's scale, both float64."""
    codec = E3M0(block)
    frame = codec.encode(x)
    num_blocks = math.ceil(x.numel() / block)
    scales = np.frombuffer(frame, np.uint16, num_blocks, 16).astype(np.uint32) << 16
    scale = torch.from_numpy(scales.view(np.float32)).double()
    return codec.decode(frame, x.numel()).double(), scale.repeat_interleave(block)[: x.numel()]


@given(length=lengths, decade=decades, seed=seeds, block=blocks)
def test_s7_quantizing_twice_is_quantizing_once(
    length: int, decade: int, seed: int, block: int
) -> None:
    codec = E3M0(block)
    frame = codec.encode(vector(length, decade, seed))
    assert codec.encode(codec.decode(frame, length)) == frame


@given(length=lengths, decade=decades, seed=seeds, block=blocks)
def test_s7_the_sign_is_preserved(length: int, decade: int, seed: int, block: int) -> None:
    x = vector(length, decade, seed)
    x[::5] *= 1e-4  # some become zero, and some zeros are negative
    decoded, _ = quantized(x, block)
    assert torch.equal(decoded.signbit(), x.signbit())


@given(length=lengths, decade=decades, seed=seeds, block=blocks)
def test_s7_inside_the_range_the_relative_error_is_at_most_sqrt_2_minus_1(
    length: int, decade: int, seed: int, block: int
) -> None:
    x = vector(length, decade, seed)
    decoded, scale = quantized(x, block)
    inside = x.abs().double() >= scale * 2**-6.5 * (1 + 1e-6)
    error = (decoded - x).abs() / x.abs()
    assert (error[inside] <= math.sqrt(2) - 1 + 1e-6).all()


def test_s7_the_bound_on_the_relative_error_is_sharp() -> None:
    x = vector(1000, 0, 0)
    decoded, scale = quantized(x, 256)
    inside = x.abs().double() >= scale * 2**-6.5
    error = (decoded - x).abs() / x.abs()
    assert error[inside].max() > 0.38  # the bound is sharp


@given(length=lengths, decade=decades, seed=seeds, block=blocks)
def test_s7_below_the_range_it_is_the_nearer_of_zero_and_the_smallest_level(
    length: int, decade: int, seed: int, block: int
) -> None:
    x = vector(length, decade, seed)
    x[1::2] *= 0.01
    decoded, scale = quantized(x, block)
    below = x.abs().double() < scale * 2**-6.5 * (1 - 1e-6)
    error = (decoded - x).abs()
    nearer = torch.minimum(x.abs().double(), (scale * 2**-6 - x.abs()).abs())
    assert (error[below] <= nearer[below] * (1 + 1e-6) + scale[below] * 1e-8).all()


def test_s7_the_sixteen_codes_are_zeros_and_powers_of_two() -> None:
    levels = [0.0, *(2.0**e for e in range(-6, 1))]
    x = torch.tensor([*levels, *(-level for level in levels)]) * 3
    assert torch.equal(E3M0().decode(E3M0().encode(x), 16), x)


def test_s7_the_mean_of_dequantized_vectors_is_numpys_in_fp32() -> None:
    # Signs and powers of two of one scale: sums of eight are exact, so that any order is right.
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (8, 640)) * 2.0 ** rng.integers(-6, 1, (8, 640))
    x[:, ::64] = 1.0  # every block has its scale at 1
    codec = codec_named("e3m0")
    frames = [codec.encode(torch.from_numpy(row.astype(np.float32))) for row in x]
    decoded = np.stack([codec.decode(frame, 640).numpy() for frame in frames])
    mean = torch.zeros(640)
    for i, frame in enumerate(frames):
        codec.accumulate(frame, mean, 1 / (i + 1))
    expected = decoded.mean(axis=0, dtype=np.float32)
    np.testing.assert_array_equal(expected, x.mean(axis=0).astype(np.float32))
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_s7_means_of_any_vectors_are_numpys_but_for_rounding() -> None:
    codec = codec_named("e3m0")
    frames = [codec.encode(vector(1000, 0, seed)) for seed in range(16)]
    mean = torch.empty(1000)
    for i, frame in enumerate(frames):
        codec.accumulate(frame, mean, 1 / (i + 1))
    decoded = np.stack([codec.decode(frame, 1000).numpy() for frame in frames])
    expected = decoded.mean(axis=0, dtype=np.float32)
    np.testing.assert_allclose(mean.numpy(), expected, rtol=0, atol=1e-6)


def test_every_mantissa_of_an_absmax_gives_a_scale_that_stays() -> None:
    mantissas = torch.arange(0x3F800000, 0x40000000, 101, dtype=torch.int32).view(torch.float32)
    codec = E3M0(1)
    for exponent in (-149, -120, -119, 0, 98):
        x = torch.ldexp(mantissas, torch.tensor(exponent)).clamp(max=1e30)
        frame = codec.encode(x)
        assert codec.encode(codec.decode(frame, x.numel())) == frame


def test_blocks_do_not_know_each_other() -> None:
    small, large = vector(64, -20, 0), vector(64, 20, 1)
    codec = E3M0(64)
    both = codec.decode(codec.encode(torch.cat([small, large])), 128)
    alone = [codec.decode(codec.encode(x), 64) for x in (small, large)]
    assert torch.equal(both, torch.cat(alone))
