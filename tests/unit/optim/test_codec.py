"""What holds for every dense codec; what each promises beyond it has a file of its own."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.codec import Codec, codec_named
from optim.codec.frame import LARGEST_VALUE, require_vector

DENSE = ["fp32", "bf16", "fp16", "int8", "int4", "e3m0"]
NAMES = [*DENSE, "topk", "mod8", "mod4"]
BYTES_AN_ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "int4": 0.5, "e3m0": 0.5}

each_name = pytest.mark.parametrize("name", DENSE)
each_rounding = pytest.mark.parametrize(
    ("name", "rounding"),
    [*((name, "nearest") for name in DENSE), ("int8", "stochastic"), ("int4", "stochastic")],
)
lengths = st.integers(0, 1000)
blocks = st.sampled_from([1, 2, 7, 8, 63, 64, 65, 100, 128, 256, 1000, 5000])
seeds = st.integers(0, 2**32)


def vector(length: int, seed: int, *, largest: float = LARGEST_VALUE) -> Tensor:
    """Return numbers of all magnitudes: denormal ones, zeros of both signs, up to 1e30."""
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.0, 3.0, 40.0])  # alike, of a few orders, of all
    exponents = rng.uniform(-45, 30) + rng.normal(0, spread, length)
    x = rng.standard_normal(length) * 10.0 ** exponents.clip(-46, 30)
    x *= rng.choice([0.0, 1.0, 1.0, 1.0], length)
    return torch.from_numpy(x.clip(-largest, largest).astype(np.float32))


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int32)


@each_rounding
@given(length=lengths, seed=seeds, block=blocks)
@example(length=0, seed=0, block=64)
def test_a_frame_has_the_announced_size_and_decodes_to_finite_numbers(
    name: str, rounding: str, length: int, seed: int, block: int
) -> None:
    codec = codec_named(name, block=block, rounding=rounding)
    x = vector(length, seed)
    frame = codec.encode(x, seed=seed)
    assert isinstance(frame, memoryview)
    assert frame.nbytes == codec.frame_bytes(length)
    decoded = codec.decode(frame, length)
    assert (decoded.dtype, decoded.shape) == (torch.float32, (length,))
    require_vector(decoded)  # finite, and none beyond the largest value


@each_name
@given(length=lengths, seed=seeds, block=blocks)
def test_quantizing_twice_is_quantizing_once(name: str, length: int, seed: int, block: int) -> None:
    codec = codec_named(name, block=block)
    frame = codec.encode(vector(length, seed))
    assert codec.encode(codec.decode(frame, length)) == frame


@each_rounding
@given(length=lengths, seed=seeds, block=blocks, frac=st.floats(0, 1))
@example(length=1000, seed=0, block=64, frac=0.5)
@example(length=1000, seed=0, block=64, frac=math.nextafter(0.5, 0))
def test_accumulating_is_torch_lerp_of_the_decoded_vector_to_the_bit(
    name: str, rounding: str, length: int, seed: int, block: int, frac: float
) -> None:
    codec = codec_named(name, block=block, rounding=rounding)
    frame = codec.encode(vector(length, seed))
    into = vector(length, seed + 1)
    expected = torch.lerp(into, codec.decode(frame, length), frac)
    codec.accumulate(frame, into, frac)
    assert torch.equal(into, expected)


@each_name
def test_accumulating_all_the_way_is_decoding_whatever_was_there(name: str) -> None:
    codec = codec_named(name)
    frame = codec.encode(vector(1000, 3))
    into = torch.full((1000,), math.nan)
    codec.accumulate(frame, into, 1)
    assert torch.equal(bits(into), bits(codec.decode(frame, 1000)))


@each_name
def test_a_running_mean_of_frames_is_the_mean_of_the_decoded_vectors(name: str) -> None:
    codec = codec_named(name)
    xs = torch.randn(7, 500, generator=torch.Generator().manual_seed(0))
    mean = torch.empty(500)
    for i, x in enumerate(xs):
        codec.accumulate(codec.encode(x), mean, 1 / (i + 1))
    decoded = torch.stack([codec.decode(codec.encode(x), 500) for x in xs])
    torch.testing.assert_close(mean, decoded.mean(0), rtol=1e-5, atol=1e-6)


@each_name
@pytest.mark.parametrize("frac", [-0.1, 1.1, math.nan, math.inf])
def test_nobody_goes_farther_than_all_the_way(name: str, frac: float) -> None:
    codec = codec_named(name)
    into = torch.ones(20)
    with pytest.raises(ValueError, match="frac"):
        codec.accumulate(codec.encode(torch.zeros(20)), into, frac)
    assert torch.equal(into, torch.ones(20))


@each_name
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf, 1.001e30, -3e38])
@pytest.mark.parametrize("place", [0, 70, 129])
def test_what_is_not_finite_or_too_large_is_not_encoded(name: str, bad: float, place: int) -> None:
    x = torch.ones(130)
    x[place] = bad
    with pytest.raises(ValueError, match=r"is too large|is not finite"):
        codec_named(name).encode(x)


@each_rounding
@pytest.mark.parametrize("value", [LARGEST_VALUE, -LARGEST_VALUE])
def test_the_largest_value_is_encoded_to_no_larger_one(
    name: str, rounding: str, value: float
) -> None:
    codec = codec_named(name, block=64, rounding=rounding)
    x = torch.full((100,), value)
    x[1::2] = value / 3
    for seed in range(20):
        decoded = codec.decode(codec.encode(x, seed=seed), 100)
        require_vector(decoded)
        if name != "fp16":
            assert (decoded[::2] / x[::2] > 0.99).all()


@each_name
@pytest.mark.parametrize(
    "x", [torch.ones(4, dtype=torch.float64), torch.ones(2, 2), torch.ones(8)[::2]]
)
def test_what_is_not_a_contiguous_fp32_vector_is_refused(name: str, x: Tensor) -> None:
    codec = codec_named(name)
    with pytest.raises(ValueError, match="contiguous float32 vector"):
        codec.encode(x)
    with pytest.raises(ValueError, match="contiguous float32 vector"):
        codec.accumulate(codec.encode(torch.ones(4)), x, 0.5)


@each_name
def test_live_parameters_can_be_encoded_and_stay_untouched(name: str) -> None:
    x = torch.nn.Parameter(torch.linspace(-2, 2, 100))
    before = x.detach().clone()
    codec_named(name).encode(x)
    assert torch.equal(x, before)


@each_name
def test_a_vector_and_its_frame_share_no_memory(name: str) -> None:
    codec = codec_named(name)
    x = torch.linspace(-2, 2, 100)
    encoded = codec.encode(x)
    frame = bytearray(encoded)
    x.zero_()
    assert encoded == frame
    decoded = codec.decode(frame, 100)
    before = decoded.clone()
    frame[:] = bytes(len(frame))
    assert torch.equal(decoded, before)
    decoded.add_(1)  # writable, although frames may not be


@each_name
def test_frames_may_be_bytes_bytearray_or_memoryview_at_any_address(name: str) -> None:
    codec = codec_named(name)
    frame = bytes(codec.encode(torch.linspace(-2, 2, 100)))
    expected = codec.decode(frame, 100)
    assert torch.equal(codec.decode(bytearray(frame), 100), expected)
    for offset in range(4):
        padded = memoryview(bytes(offset) + frame + b"?")[offset:-1]
        assert torch.equal(codec.decode(padded, 100), expected)


@each_rounding
def test_near_is_ignored_and_equal_input_gives_equal_bytes(name: str, rounding: str) -> None:
    codec = codec_named(name, rounding=rounding)
    x = vector(1000, 7)
    frame = codec.encode(x, seed=11)
    assert codec.encode(x.clone(), near=torch.ones(1000), seed=11) == frame
    changed = codec.encode(x, seed=12)
    assert (changed == frame) == (rounding == "nearest")


@each_name
def test_the_average_of_dense_vectors_travels_in_the_same_codec(name: str) -> None:
    codec = codec_named(name)
    assert codec.for_average(5) is codec


@each_name
@given(num_elements=st.integers(0, 10**12), block=blocks)
def test_frame_sizes_are_those_of_the_format(name: str, num_elements: int, block: int) -> None:
    size = codec_named(name, block=block).frame_bytes(num_elements)
    if name in ("fp32", "bf16", "fp16"):
        assert size == 12 + BYTES_AN_ELEMENT[name] * num_elements
    else:
        whole, rest = divmod(num_elements, block)
        a_byte = int(1 / BYTES_AN_ELEMENT[name])
        codes = whole * math.ceil(block / a_byte) + math.ceil(rest / a_byte)
        assert size == 12 + 4 + 2 * (whole + (rest > 0)) + codes


def test_bits_an_element_are_those_of_the_docs() -> None:
    n = 1 << 20
    sizes = {name: 8 * codec_named(name).frame_bytes(n) / n for name in DENSE}
    expected = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8.0625, "int4": 4.25, "e3m0": 4.25}
    assert sizes == pytest.approx(expected, abs=1e-3)


def test_codecs_by_name() -> None:
    codecs: list[Codec] = [codec_named(name) for name in NAMES]
    assert [codec.name for codec in codecs] == NAMES
    for a, b in itertools.combinations(codecs, 2):
        assert (
            a.encode(torch.ones(64), near=torch.ones(64))[3]
            != b.encode(torch.ones(64), near=torch.ones(64))[3]
        )  # the ids in their headers


@pytest.mark.parametrize(
    ("name", "parameters", "complaint"),
    [
        ("int3", {}, "no codec 'int3'; choose one of fp32, bf16, fp16, int8, int4, e3m0, topk"),
        ("int8", {"block": 0}, "block must be"),
        ("int4", {"block": 1 << 32}, "block must be"),
        ("e3m0", {"rounding": "stochastic"}, "e3m0 rounds nearest, not 'stochastic'"),
        ("int4", {"rounding": "up"}, "int4 rounds nearest or stochastic, not 'up'"),
        ("bf16", {"rounding": "stochastic"}, "bf16 rounds to the nearest"),
    ],
)
def test_codecs_that_do_not_exist_are_refused(
    name: str, parameters: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        codec_named(name, **parameters)  # type: ignore[arg-type]
