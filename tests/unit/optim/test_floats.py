"""Fp32, bf16, fp16 against numpy's and torch's own conversions, over all bit patterns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.codec import codec_named

BF16_LARGEST = 201 * 2.0**92
LARGEST_BITS = 0x7149F2CA  # of 1e30


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int32)


def through(name: str, x: Tensor) -> Tensor:
    codec = codec_named(name)
    return codec.decode(codec.encode(x), x.numel())


def everywhere() -> Tensor:
    """Return floats of both signs, of all magnitudes up to the largest value, and all ties."""
    patterns = np.arange(0, LARGEST_BITS, 1009, dtype=np.uint32)
    halfway = np.arange(0, 0x71490000, 0x800, dtype=np.uint32)  # 11 low bits: ties of fp16
    around = np.concatenate([halfway, halfway[1:] - 1, halfway + 1])
    magnitudes = np.concatenate([patterns, around]).view(np.float32)
    return torch.from_numpy(np.concatenate([magnitudes, -magnitudes]))


@given(magnitudes=st.lists(st.integers(0, LARGEST_BITS), max_size=40))
def test_fp32_is_lossless_to_the_bit(magnitudes: list[int]) -> None:
    x = torch.tensor(magnitudes, dtype=torch.int32).view(torch.float32)
    x = torch.cat([x, -x])
    assert torch.equal(bits(through("fp32", x)), bits(x))


def test_bf16_is_the_bf16_of_torch_up_to_the_largest_value() -> None:
    x = everywhere()
    expected = x.to(torch.bfloat16).float().clamp(-BF16_LARGEST, BF16_LARGEST)
    assert torch.equal(bits(through("bf16", x)), bits(expected))


def test_fp16_is_the_fp16_of_numpy_and_saturates() -> None:
    x = everywhere()
    expected = x.clamp(-65504, 65504).numpy().astype(np.float16).astype(np.float32)
    assert torch.equal(bits(through("fp16", x)), bits(torch.from_numpy(expected)))


def test_every_finite_fp16_decodes_to_itself() -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    codes = codes[np.isfinite(codes.view(np.float16))]
    x = torch.from_numpy(codes.view(np.float16).astype(np.float32))
    frame = codec_named("fp16").encode(x)
    np.testing.assert_array_equal(np.frombuffer(frame, np.uint16, offset=12), codes)
    assert torch.equal(bits(codec_named("fp16").decode(frame, x.numel())), bits(x))


@pytest.mark.parametrize(("name", "eps"), [("bf16", 2.0**-8), ("fp16", 2.0**-11)])
def test_the_relative_error_is_at_most_half_a_unit(name: str, eps: float) -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x = x[x.abs() > 2.0**-14]
    error = ((through(name, x).double() - x) / x).abs()
    assert 0.9 * eps < error.max() <= eps
