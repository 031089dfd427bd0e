import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from optim.codec.frame import HEADER_BYTES, LARGEST_VALUE, CodecError
from optim.codec.topk import TopK

PARAMETERS = struct.Struct("<IIB")
NAN, INF = float("nan"), float("inf")
START = HEADER_BYTES + PARAMETERS.size
EXTREME = float(np.float32(LARGEST_VALUE))
VALUES = st.floats(-EXTREME, EXTREME, width=32)
FEW_VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 2.0**-140, 3.0])
CODECS = st.builds(
    lambda chunk, k, bits: TopK(chunk, min(k, chunk), bits),
    st.integers(1, 40),
    st.integers(1, 12),
    st.sampled_from([2, 8]),
)

both_bits = pytest.mark.parametrize("bits", [2, 8])


def vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def randn(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def pack(numbers: list[int], width: int) -> bytes:
    """Return numbers one after the other, the lowest bits first."""
    bits = [number >> i & 1 for number in numbers for i in range(width)]
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def forge(codec: TopK, n: int, levels: bytes, positions: list[int], codes: list[int]) -> bytes:
    return b"".join(
        (
            struct.pack("<2sBBQ", b"TW", 1, 7, n),
            PARAMETERS.pack(codec.chunk, codec.k, codec.bits),
            levels,
            pack(positions, (codec.chunk - 1).bit_length()),
            pack(codes, codec.bits),
        )
    )


def bf16(*values: float) -> bytes:
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def kept_places(codec: TopK, frame: memoryview, n: int) -> list[int]:
    """Return the places in the vector that a frame holds."""
    num_chunks, width = -(-n // codec.chunk), (codec.chunk - 1).bit_length()
    chunk_of = [c for c in range(num_chunks) for _ in range(min(codec.k, n - c * codec.chunk))]
    bits = np.frombuffer(frame, np.uint8, offset=START + 4 * num_chunks)
    bits = np.unpackbits(bits, bitorder="little", count=len(chunk_of) * width)
    positions = bits.reshape(len(chunk_of), width) @ (1 << np.arange(width))
    return [c * codec.chunk + int(p) for c, p in zip(chunk_of, positions, strict=True)]


def largest_places(x: NDArray[np.float32], chunk: int, k: int) -> list[int]:
    """Return the places of the k largest magnitudes of each chunk, of equal ones the first."""
    places: list[int] = []
    for start in range(0, len(x), chunk):
        order = np.argsort(-np.abs(x[start : start + chunk]), kind="stable")
        places += sorted(start + int(i) for i in order[:k])
    return places


def test_at_its_defaults_it_takes_0_227_bits_an_element() -> None:
    n = 4096 * 1000
    body_bits = 8 * (TopK().frame_bytes(n) - START)
    assert body_bits / n == (64 * (12 + 2) + 32) / 4096
    assert 4 * n / TopK().frame_bytes(n) > 141  # times smaller than fp32


@given(codec=CODECS, values=st.lists(VALUES, max_size=90))
def test_a_frame_has_the_announced_size_and_decodes_to_few_bounded_values(
    codec: TopK, values: list[float]
) -> None:
    n = len(values)
    frame = codec.encode(vector(values))
    assert isinstance(frame, memoryview)
    assert len(frame) == codec.frame_bytes(n)
    decoded = codec.decode(frame, n)
    assert (decoded.dtype, decoded.shape) == (torch.float32, (n,))
    assert (decoded.abs() <= LARGEST_VALUE).all()
    for chunk in decoded.split(codec.chunk):
        assert chunk.count_nonzero() <= codec.k


@given(codec=CODECS, values=st.lists(VALUES | FEW_VALUES, max_size=90))
@example(codec=TopK(8, 3), values=[1.0] * 20)
@example(codec=TopK(8, 3), values=[0.0] * 7 + [1e-45])
def test_it_keeps_the_largest_of_each_chunk_and_of_equal_ones_the_first(
    codec: TopK, values: list[float]
) -> None:
    x = vector(values)
    expected = largest_places(x.numpy(), codec.chunk, codec.k)
    assert kept_places(codec, codec.encode(x), len(values)) == expected


def test_it_keeps_the_largest_of_long_chunks() -> None:
    x = randn(100_000)
    for codec in (TopK(), TopK(4096, 4096), TopK(1 << 16, 777, 8), TopK(1000, 1)):
        expected = largest_places(x.numpy(), codec.chunk, codec.k)
        assert kept_places(codec, codec.encode(x), 100_000) == expected


@given(
    values=st.lists(st.floats(-(2.0**50), 2.0**50, width=32) | FEW_VALUES, min_size=1, max_size=24)
)
def test_the_two_magnitudes_are_the_best_that_any_cut_in_two_can_give(values: list[float]) -> None:
    x, n = vector(values), len(values)
    decoded = TopK(n, n).decode(TopK(n, n).encode(x), n)
    assert (decoded * x >= 0).all()  # no sign is turned over
    magnitudes = np.sort(np.abs(x.numpy().astype(np.float64)))
    cuts = [(magnitudes[:i], magnitudes[i:]) for i in range(n)]
    least = min(sum(((g - g.mean()) ** 2).sum() for g in cut if len(g)) for cut in cuts)
    error = ((decoded.abs().double().numpy() - np.abs(x.numpy().astype(np.float64))) ** 2).sum()
    rounding = ((decoded.double() * 2.0**-8) ** 2).sum().item() + n * 1e-80  # of levels, to bf16
    assert error <= least * (1 + 1e-6) + rounding


def test_two_bits_cost_little_next_to_what_is_cut() -> None:
    x = randn(4096 * 20)
    kept = TopK(bits=8).decode(TopK(bits=8).encode(x), x.numel())
    two_bits = TopK().decode(TopK().encode(x), x.numel())
    assert (two_bits - kept).norm() < 0.1 * kept.norm()


@given(codec=CODECS, values=st.lists(VALUES, min_size=1, max_size=90))
def test_at_eight_bits_what_is_kept_is_off_by_at_most_half_a_scale(
    codec: TopK, values: list[float]
) -> None:
    codec, x = TopK(codec.chunk, codec.k, 8), vector(values)
    frame = codec.encode(x)
    decoded = codec.decode(frame, len(values))
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[kept_places(codec, frame, len(values))] = True
    assert (decoded[~kept] == 0).all()
    absmax = torch.cat([c.abs().amax().expand(len(c)) for c in x.split(codec.chunk)])
    half_scale = (absmax.double() / 254).clamp(min=2.0**-127)
    error = (decoded.double() - x.double()).abs()
    assert (error <= half_scale * (1 + 1e-5))[kept].all()


@both_bits
@given(num_chunks=st.integers(0, 4), tail=st.integers(0, 15))
def test_chunks_know_nothing_of_each_other(bits: int, num_chunks: int, tail: int) -> None:
    codec = TopK(15, 4, bits)  # 4 positions of 4 bits: nothing shares a byte with another chunk
    split = 15 * num_chunks
    x = randn(split + tail)
    a, b, whole = (codec.encode(part) for part in (x[:split], x[split:], x))
    tail_kept = min(4, tail)
    sizes_a = (4 * num_chunks, 2 * num_chunks, bits * num_chunks // 2)
    sizes_b = (4 * bool(tail), -(-tail_kept // 2), -(-tail_kept * bits // 8))
    joined, at_a, at_b = b"", START, START
    for size_a, size_b in zip(sizes_a, sizes_b, strict=True):
        joined += bytes(a[at_a : at_a + size_a]) + bytes(b[at_b : at_b + size_b])
        at_a, at_b = at_a + size_a, at_b + size_b
    assert whole[START:] == joined


@given(codec=CODECS, data=st.data())
def test_where_the_vector_is_split_between_chunks_does_not_matter(
    codec: TopK, data: st.DataObject
) -> None:
    x = randn(data.draw(st.integers(0, 90)))
    split = codec.chunk * data.draw(st.integers(0, x.numel() // codec.chunk))
    parts = [codec.decode(codec.encode(part), part.numel()) for part in (x[:split], x[split:])]
    assert torch.equal(torch.cat(parts), codec.decode(codec.encode(x), x.numel()))


@both_bits
def test_the_format(bits: int) -> None:
    codec = TopK(10, 2, bits)
    x = torch.zeros(23)
    x[[1, 9, 10, 17, 20, 22]] = vector([4.0, -127.0, -127.0, 127.0, 127.0, -2.0])
    positions = [1, 9, 0, 7, 0, 2]
    if bits == 2:
        levels, codes = bf16(4.0, 127.0, 127.0, 127.0, 2.0, 127.0), [0, 3, 3, 1, 1, 2]
    else:
        levels, codes = struct.pack("<3f", 1.0, 1.0, 1.0), [4, 129, 129, 127, 127, 254]
    frame = forge(codec, 23, levels, positions, codes)
    assert codec.encode(x) == frame
    assert torch.equal(codec.decode(frame, 23), x)


@both_bits
def test_a_vector_with_fewer_non_zeros_than_k_is_fine(bits: int) -> None:
    codec = TopK(64, 16, bits)
    for x in (torch.zeros(100), torch.zeros(100).index_fill_(0, torch.tensor([3, 70]), -8.0)):
        assert torch.equal(codec.decode(codec.encode(x), 100), x)


@both_bits
@pytest.mark.parametrize("k", [3, 64])
@pytest.mark.parametrize("frac", [0.0, 0.1, 0.49999, 0.5, 2 / 3, 1.0])
def test_accumulate_is_torchs_lerp_towards_the_decoded_vector(
    bits: int, k: int, frac: float
) -> None:
    codec, x, into = TopK(64, k, bits), randn(1000), randn(1000, seed=1)
    frame, before = codec.encode(x), into.clone()
    decoded = codec.decode(frame, 1000)
    codec.accumulate(frame, into, frac)
    torch.testing.assert_close(into, torch.lerp(before, decoded, frac), rtol=2e-7, atol=2e-7)
    if frac in (0.0, 1.0):
        assert torch.equal(into, decoded if frac else before)
    rubbish = torch.full((1000,), NAN)
    codec.accumulate(frame, rubbish, 1.0)
    assert torch.equal(rubbish, decoded)


def test_an_accumulated_average_is_the_average() -> None:
    codec, into = TopK(64, 8), torch.zeros(500)
    frames = [codec.encode(randn(500, seed)) for seed in range(7)]
    for i, frame in enumerate(frames):
        codec.accumulate(frame, into, 1 / (i + 1))
    average = torch.stack([codec.decode(frame, 500) for frame in frames]).mean(0)
    torch.testing.assert_close(into, average, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("m", [1, 2, 5, 11])
def test_nothing_is_cut_off_an_average(m: int) -> None:
    codec = TopK(256, 8)
    contributions = [codec.encode(randn(1000, seed)) for seed in range(m)]
    average = torch.stack([codec.decode(frame, 1000) for frame in contributions]).mean(0)
    for_average = codec.for_average(m)
    assert for_average.name == "topk"
    decoded = for_average.decode(for_average.encode(average), 1000)
    for ours, exact in zip(decoded.split(256), average.split(256), strict=True):
        assert (ours - exact).abs().max() <= exact.abs().max() / 254 * (1 + 1e-5)


def test_an_average_of_many_goes_as_dense_int8_as_soon_as_that_is_no_larger() -> None:
    n = 4096 * 100
    names = [TopK().for_average(m).name for m in range(1, 100)]
    dense = names.index("int8")
    assert names == ["topk"] * dense + ["int8"] * (99 - dense)
    int8_bytes = TopK().for_average(99).frame_bytes(n)
    assert TopK().for_average(dense).frame_bytes(n) < int8_bytes
    assert TopK(4096, 64 * (dense + 1), 8).frame_bytes(n) >= int8_bytes
    with pytest.raises(ValueError, match="needs contributions"):
        TopK().for_average(0)


def require_refused(codec: TopK, frame: bytes, n: int, match: str) -> None:
    with pytest.raises(CodecError, match=match):
        codec.decode(frame, n)
    into = torch.ones(n)
    with pytest.raises(CodecError, match=match):
        codec.accumulate(frame, into, 0.5)
    assert torch.equal(into, torch.ones(n))


@pytest.mark.parametrize(
    "positions",
    [
        [1, 1, 0, 2],  # twice
        [2, 1, 0, 2],  # decreasing
        [0, 1, 4, 4],
        [1, 10, 0, 2],  # 4 bits can say 10, a chunk of 10 has none
        [1, 15, 0, 2],
        [1, 9, 0, 7],  # beyond the short last chunk
        [1, 9, 0, 5],
    ],
)
def test_positions_that_repeat_or_leave_their_chunk_are_refused(positions: list[int]) -> None:
    codec, levels, codes = TopK(10, 2), bf16(1, 2, 1, 2), [0, 1, 2, 3]
    honest = codec.decode(forge(codec, 15, levels, [1, 9, 0, 4], codes), 15)
    assert honest[[1, 9, 10, 14]].tolist() == [1, 2, -1, -2]
    require_refused(codec, forge(codec, 15, levels, positions, codes), 15, "positions")


@pytest.mark.parametrize(
    "levels",
    [(NAN, 2), (1, NAN), (1, INF), (INF, INF), (-1, 2), (-2, -1), (2, 1), (1, 1.01e30), (1, 3e38)],
)
def test_levels_that_no_encoder_writes_are_refused(levels: tuple[float, float]) -> None:
    codec = TopK(10, 2)
    frame = forge(codec, 15, bf16(1, 2, *levels), [1, 9, 0, 4], [0, 1, 2, 3])
    require_refused(codec, frame, 15, "levels")


@pytest.mark.parametrize("scale", [NAN, INF, -1.0, 0.0, 1e-45, 8e27, 3e38])
def test_scales_that_no_encoder_writes_are_refused(scale: float) -> None:
    codec = TopK(10, 2, 8)
    frame = forge(codec, 15, struct.pack("<2f", 1, scale), [1, 9, 0, 4], [0, 1, 2, 3])
    require_refused(codec, frame, 15, "scale")


def test_other_bytes_that_no_encoder_writes_are_refused() -> None:
    codec = TopK(10, 2, 8)
    scales = struct.pack("<2f", 1, 1)
    require_refused(codec, forge(codec, 15, scales, [1, 9, 0, 4], [0, 128, 2, 3]), 15, "-128")
    codec = TopK(5, 1)
    frame = bytearray(forge(codec, 10, bf16(1, 1, 1, 1), [1, 3], [0, 1]))
    codec.decode(frame, 10)
    for place in (-1, -2):  # 4 bits of codes, 6 bits of positions
        padded = frame.copy()
        padded[place] |= 0x80
        require_refused(codec, bytes(padded), 10, "padded")


@pytest.mark.parametrize("other", [TopK(12, 2), TopK(10, 3), TopK(10, 2, 8)])
def test_other_parameters_are_refused(other: TopK) -> None:
    frame = bytearray(TopK(10, 2).encode(randn(10)))
    PARAMETERS.pack_into(frame, HEADER_BYTES, other.chunk, other.k, other.bits)
    require_refused(TopK(10, 2), bytes(frame), 10, "expected")


def test_a_count_that_no_memory_could_hold_is_refused_at_once() -> None:
    with pytest.raises(CodecError, match="bytes, expected"):
        TopK().decode(TopK().encode(randn(10)), 2**40)


@both_bits
@given(data=st.data())
def test_mutated_frames_are_refused_or_decode_to_bounded_values(
    bits: int, data: st.DataObject
) -> None:
    codec = TopK(12, 5, bits)
    frame = bytearray(codec.encode(randn(30)))
    places = st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=6)):
        frame[place] = value
    into = torch.ones(30)
    try:
        decoded = codec.decode(frame, 30)
    except CodecError:
        with pytest.raises(CodecError):
            codec.accumulate(frame, into, 0.5)
        assert torch.equal(into, torch.ones(30))
        return
    assert (decoded.abs() <= LARGEST_VALUE).all()
    assert decoded.count_nonzero() <= 15


@pytest.mark.parametrize(
    ("chunk", "k", "bits"),
    [(0, 1, 2), (1 << 17, 1, 2), (8, 0, 2), (8, 9, 2), (8, 4, 4)],
)
def test_parameters_out_of_range_are_refused(chunk: int, k: int, bits: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        TopK(chunk, k, bits)
