import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from optim.codec.blockwise import Int8
from optim.codec.codec import Codec, CodecError, codec_named

NAMES = ["fp32", "bf16", "int8"]
HEADER = struct.Struct("<2sBBQ")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
FP32_MAX = torch.finfo(torch.float32).max
BF16_MAX = torch.finfo(torch.bfloat16).max

each_codec = pytest.mark.parametrize("codec", [codec_named(n, block=8) for n in NAMES], ids=NAMES)


def vector(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def block_scales(frame: bytes, n: int, block: int) -> torch.Tensor:
    """Return each element's scale, read from an int8 frame."""
    scales = np.frombuffer(frame, "<f4", -(-n // block), HEADER.size + 4)
    return torch.from_numpy(np.repeat(scales, block)[:n])


@each_codec
@given(values=st.lists(FINITE, max_size=40))
@example(values=[])
@example(values=[0.0] * 17)
@example(values=[FP32_MAX, -FP32_MAX, 0.0, 1e-45])
def test_a_frame_has_the_announced_size_and_survives_a_second_round(
    codec: Codec, values: list[float]
) -> None:
    frame = codec.encode(vector(values))
    assert isinstance(frame, bytes)
    assert len(frame) == codec.frame_bytes(len(values))
    decoded = codec.decode(frame, len(values))
    assert decoded.dtype == torch.float32
    assert decoded.shape == (len(values),)
    assert decoded.isfinite().all()
    assert codec.encode(decoded) == frame


@given(values=st.lists(FINITE, max_size=40))
def test_fp32_is_lossless_to_the_bit(values: list[float]) -> None:
    x = vector(values)
    codec = codec_named("fp32")
    decoded = codec.decode(codec.encode(x), len(values))
    assert torch.equal(decoded.view(torch.int32), x.view(torch.int32))


@given(values=st.lists(FINITE, min_size=1, max_size=40))
def test_bf16_rounds_to_nearest_even_and_clamps_what_overflows(values: list[float]) -> None:
    x = vector(values)
    codec = codec_named("bf16")
    decoded = codec.decode(codec.encode(x), len(values))
    rounded = x.to(torch.bfloat16).float()
    expected = torch.where(rounded.isinf(), BF16_MAX * rounded.sign(), rounded)
    assert torch.equal(decoded, expected)


@given(values=st.lists(FINITE, min_size=1, max_size=40), block=st.integers(1, 12))
@example(values=[FP32_MAX, 1.0, -1.0], block=4)
@example(values=[1e-45, 3e-39, -1e-37], block=4)
def test_int8_is_off_by_at_most_half_a_scale(values: list[float], block: int) -> None:
    x, codec = vector(values), Int8(block)
    frame = codec.encode(x)
    scale = block_scales(frame, len(values), block).double()
    error = (codec.decode(frame, len(values)).double() - x.double()).abs()
    assert (error <= scale * (0.5 + 1e-5)).all()  # x / scale is itself rounded, once
    absmax = torch.stack([b.abs().max() for b in x.split(block)]).double()
    ideal = absmax.repeat_interleave(block)[: len(values)] / 127
    assert (scale <= (ideal * (1 + 2.0**-23)).clamp(min=2.0**-126)).all()


def test_int8_is_idempotent_over_all_scales() -> None:
    # Long enough to go through several chunks, with a short last block, at every magnitude.
    generator = torch.Generator().manual_seed(0)
    n = 600_001
    exponents = torch.randint(-140, 127, (n // 256 + 1, 1), generator=generator)
    x = torch.randn(n // 256 + 1, 256, generator=generator).flatten()
    x = torch.ldexp(x, exponents.expand(-1, 256).flatten())[:n].clamp(-FP32_MAX, FP32_MAX)
    codec = Int8(256)
    frame = codec.encode(x)
    decoded = codec.decode(frame, n)
    assert codec.encode(decoded) == frame
    error, scale = (decoded.double() - x).abs(), block_scales(frame, n, 256).double()
    assert (error <= scale * (0.5 + 1e-5)).all()


def test_int8_scales_are_stable_for_every_mantissa_of_an_absmax() -> None:
    # One element a block, so each absmax of a binade in steps, and the last of all floats.
    bits = torch.arange(0x3F800000, 0x40000000, 37, dtype=torch.int32)
    x = torch.cat([bits.view(torch.float32), vector([FP32_MAX, -FP32_MAX, 2.0**-126, 1e-45])])
    codec = Int8(1)
    frame = codec.encode(x)
    assert codec.encode(codec.decode(frame, x.numel())) == frame


def test_int8_keeps_small_blocks_apart_from_large_ones() -> None:
    x = torch.cat([torch.full((4,), 1e-3), torch.full((4,), 1e3), torch.zeros(4), vector([5.0])])
    codec = Int8(4)
    decoded = codec.decode(codec.encode(x), 13)
    torch.testing.assert_close(decoded, x, rtol=1e-4, atol=0)


@pytest.mark.parametrize("block", [1, 3, 256, 10_000])
def test_int8_block_boundaries(block: int) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    codec = Int8(block)
    for n in (1, 2, 3, 4, 255, 256, 257, 1000):
        frame = codec.encode(x[:n])
        assert len(frame) == codec.frame_bytes(n)
        error = (codec.decode(frame, n) - x[:n]).abs()
        assert (error <= block_scales(frame, n, block) * 0.501).all()


@each_codec
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 9, 18])
def test_what_is_not_finite_is_not_encoded(codec: Codec, bad: float, place: int) -> None:
    x = torch.ones(19)
    x[place] = bad
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(x)


@each_codec
@pytest.mark.parametrize(
    "x", [torch.ones(4, dtype=torch.float64), torch.ones(2, 2), torch.ones(8)[::2]]
)
def test_what_is_not_a_contiguous_fp32_vector_is_not_encoded(codec: Codec, x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous float32 vector"):
        codec.encode(x)


@each_codec
def test_live_parameters_can_be_encoded_and_stay_untouched(codec: Codec) -> None:
    x = torch.nn.Parameter(torch.linspace(-2, 2, 20))
    before = x.detach().clone()
    codec.encode(x)
    assert torch.equal(x, before)


@each_codec
def test_the_vector_does_not_share_memory_with_the_frame(codec: Codec) -> None:
    frame = bytearray(codec.encode(torch.linspace(-2, 2, 20)))
    decoded = codec.decode(frame, 20)
    before = decoded.clone()
    frame[:] = bytes(len(frame))
    assert torch.equal(decoded, before)
    decoded.add_(1)  # writable, although frames may not be


@each_codec
def test_frames_may_be_bytes_bytearray_or_memoryview(codec: Codec) -> None:
    frame = codec.encode(torch.linspace(-2, 2, 20))
    padded = memoryview(b"?" + frame + b"?")[1:-1]  # not aligned
    expected = codec.decode(frame, 20)
    assert torch.equal(codec.decode(bytearray(frame), 20), expected)
    assert torch.equal(codec.decode(padded, 20), expected)


@each_codec
def test_another_length_or_count_is_refused(codec: Codec) -> None:
    frame = codec.encode(torch.linspace(-2, 2, 20))
    for hostile in (b"", frame[:1], frame[:11], frame[:12], frame[:-1], frame + b"\0", frame * 2):
        with pytest.raises(CodecError, match="bytes, expected"):
            codec.decode(hostile, 20)
    for count in (0, 19, 21, 2**40):  # 2**40: refused before a terabyte is allocated
        with pytest.raises(CodecError):
            codec.decode(frame, count)


@each_codec
@pytest.mark.parametrize(
    "header",
    [
        (b"WT", 1, None, 20),
        (b"TW", 0, None, 20),
        (b"TW", 2, None, 20),
        (b"TW", 1, 0, 20),
        (b"TW", 1, 255, 20),
        (b"TW", 1, None, 21),
        (b"TW", 1, None, 2**64 - 1),
    ],
)
def test_another_header_is_refused(
    codec: Codec, header: tuple[bytes, int, int | None, int]
) -> None:
    magic, version, codec_id, count = header
    frame = codec.encode(torch.linspace(-2, 2, 20))
    forged = HEADER.pack(magic, version, frame[3] if codec_id is None else codec_id, count)
    with pytest.raises(CodecError, match="header"):
        codec.decode(forged + frame[HEADER.size :], 20)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    codec = codec_named(name)
    frame = codec.encode(torch.ones(5))
    half = struct.pack("<f", bad) if name == "fp32" else struct.pack("<f", bad)[2:]
    with pytest.raises(CodecError, match="not finite"):
        codec.decode(frame[: -len(half)] + half, 5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -1.0, FP32_MAX])
@pytest.mark.parametrize("which", [0, 2])
def test_int8_refuses_scales_that_no_encoder_writes(bad: float, which: int) -> None:
    codec = Int8(8)
    frame = bytearray(codec.encode(torch.ones(20)))
    struct.pack_into("<f", frame, HEADER.size + 4 + 4 * which, bad)
    with pytest.raises(CodecError, match="scale"):
        codec.decode(frame, 20)


def test_int8_refuses_the_code_that_no_encoder_writes_and_other_blocks() -> None:
    codec = Int8(8)
    frame = codec.encode(torch.ones(20))
    with pytest.raises(CodecError, match="-128"):
        codec.decode(frame[:-1] + b"\x80", 20)
    with pytest.raises(CodecError, match="blocks of 8, expected 9"):
        Int8(9).decode(frame, 20)  # three blocks as well, so the same length


@each_codec
@given(frame=st.binary(max_size=120), count=st.integers(0, 30))
def test_random_bytes_only_ever_raise_codec_error(codec: Codec, frame: bytes, count: int) -> None:
    with pytest.raises(CodecError):
        codec.decode(frame, count)


@each_codec
@given(data=st.data())
def test_mutated_frames_are_refused_or_decode_to_finite_values(
    codec: Codec, data: st.DataObject
) -> None:
    frame = bytearray(codec.encode(torch.linspace(-2, 2, 20)))
    places = st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=8)):
        frame[place] = value
    try:
        decoded = codec.decode(frame, 20)
    except CodecError:
        return
    assert decoded.shape == (20,)
    assert decoded.isfinite().all()


def test_every_codec_refuses_the_frames_of_the_others() -> None:
    x = torch.ones(16)
    codecs = [codec_named(n, block=4) for n in NAMES]
    for a in codecs:
        for b in codecs:
            if a is not b:
                with pytest.raises(CodecError):
                    b.decode(a.encode(x), 16)


def test_codecs_by_name() -> None:
    assert [codec_named(n).name for n in NAMES] == NAMES
    assert codec_named("int8", block=64).frame_bytes(65) == 12 + 4 + 2 * 4 + 65
    with pytest.raises(ValueError, match="no codec 'int3'; choose one of fp32, bf16, int8"):
        codec_named("int3")
    with pytest.raises(ValueError, match="block must be"):
        codec_named("int8", block=0)
