"""Frames from strangers: refused, or decoded to numbers that can do no harm."""

import itertools
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.codec.codec import Codec, CodecError, codec_named
from optim.codec.frame import LARGEST_VALUE, require_vector

NAMES = ["fp32", "bf16", "fp16", "int8", "int4", "e3m0"]
BLOCKWISE = ["int8", "int4", "e3m0"]
HEADER = struct.Struct("<2sBBQ")
SCALES_AT = HEADER.size + 4

each_codec = pytest.mark.parametrize("codec", [codec_named(n, block=8) for n in NAMES], ids=NAMES)
each_blockwise = pytest.mark.parametrize(
    "codec", [codec_named(n, block=8) for n in BLOCKWISE], ids=BLOCKWISE
)


def frame_of(codec: Codec) -> bytes:
    return bytes(codec.encode(torch.linspace(-2, 2, 20)))


def bf16_bits(value: float) -> bytes:
    return struct.pack("<f", value)[2:]


def assert_refused(codec: Codec, frame: bytes, *, count: int = 20, match: str) -> None:
    """Check that `frame` is refused, and before anything is changed."""
    with pytest.raises(CodecError, match=match):
        codec.decode(frame, count)
    if count == 20:
        into = torch.ones(20)
        with pytest.raises(CodecError, match=match):
            codec.accumulate(frame, into, 0.5)
        assert torch.equal(into, torch.ones(20))


@each_codec
def test_another_length_or_count_is_refused(codec: Codec) -> None:
    frame = frame_of(codec)
    for hostile in (b"", frame[:1], frame[:11], frame[:12], frame[:-1], frame + b"\0", frame * 2):
        assert_refused(codec, hostile, match="bytes, expected")
    for count in (0, 19, 21, 2**40):  # 2**40: refused before a terabyte is allocated
        assert_refused(codec, frame, count=count, match=r"bytes, expected|header")


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
    frame = frame_of(codec)
    forged = HEADER.pack(magic, version, frame[3] if codec_id is None else codec_id, count)
    assert_refused(codec, forged + frame[HEADER.size :], match="header")


@pytest.mark.parametrize("place", [0, 13, 19])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(["fp32", "bf16", "fp16"], [math.nan, -math.nan, math.inf, -math.inf]),
        *itertools.product(["fp32", "bf16"], [1.1e30, -1.1e30]),
    ],
)
def test_floats_that_are_not_finite_or_too_large_are_refused(
    name: str, place: int, value: float
) -> None:
    codec = codec_named(name)
    frame = bytearray(frame_of(codec))
    packed = struct.pack("<e" if name == "fp16" else "<f", value)
    packed = packed[2:] if name == "bf16" else packed
    at = HEADER.size + len(packed) * place
    frame[at : at + len(packed)] = packed
    assert_refused(codec, bytes(frame), match="not finite, or beyond")


@each_blockwise
@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1.0, -0.0, 0.0, 1e-39, 1.1e30])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_scales_that_no_encoder_writes_are_refused(codec: Codec, which: int, scale: float) -> None:
    frame = bytearray(frame_of(codec))
    frame[SCALES_AT + 2 * which : SCALES_AT + 2 * which + 2] = bf16_bits(scale)
    assert_refused(codec, bytes(frame), match="scale")


@each_blockwise
def test_any_of_all_65536_scales_is_refused_or_decodes_within_the_bounds(codec: Codec) -> None:
    frame = bytearray(codec.encode(torch.ones(8)))
    accepted = 0
    for bits in range(1 << 16):
        struct.pack_into("<H", frame, SCALES_AT, bits)
        try:
            decoded = codec.decode(frame, 8)
        except CodecError:
            continue
        accepted += 1
        # The value of the code of ones is the largest that this scale can give.
        assert 0 < float(decoded[0]) <= np.float32(LARGEST_VALUE)
        assert codec.encode(decoded) == frame
    assert accepted > 27_000  # nearly all that are positive, normal and small enough


@each_blockwise
def test_any_codes_at_the_largest_scale_stay_within_the_bounds(codec: Codec) -> None:
    frame = bytearray(codec.encode(torch.full((512,), LARGEST_VALUE)))
    for byte in range(256):
        frame[SCALES_AT + 2 * 64 :] = bytes([byte]) * (len(frame) - SCALES_AT - 2 * 64)
        require_vector(codec.decode(frame, 512))


@each_blockwise
def test_other_blocks_are_refused_even_if_the_frame_is_as_long(codec: Codec) -> None:
    # With 16 elements, 8 to 15 a block are two blocks, and with even ones as many bytes.
    frame = codec.encode(torch.ones(16))
    other = codec_named(codec.name, block=10)
    assert other.frame_bytes(16) == len(frame)
    with pytest.raises(CodecError, match="blocks of 8, expected 10"):
        other.decode(frame, 16)


@each_codec
@given(frame=st.binary(max_size=120), count=st.integers(0, 30))
def test_random_bytes_only_ever_raise_codec_error(codec: Codec, frame: bytes, count: int) -> None:
    with pytest.raises(CodecError):
        codec.decode(frame, count)


@each_codec
@given(data=st.data())
def test_mutated_frames_are_refused_or_decode_to_sane_values(
    codec: Codec, data: st.DataObject
) -> None:
    frame = bytearray(frame_of(codec))
    places = st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=8)):
        frame[place] = value
    try:
        decoded = codec.decode(frame, 20)
    except CodecError:
        return
    assert decoded.shape == (20,)
    require_vector(decoded)


def test_every_codec_refuses_the_frames_of_the_others() -> None:
    codecs = [codec_named(n, block=4) for n in NAMES]
    for a in codecs:
        for b in codecs:
            if a is not b:
                with pytest.raises(CodecError):
                    b.decode(a.encode(torch.ones(16)), 16)
