import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.blockwise import Int8
from optim.codec.frame import HEADER_BYTES, LARGEST_VALUE, CodecError
from optim.codec.modulo import Modulo

START = HEADER_BYTES + 4
TILE = 64
MISSES = 2.0**-15
"""Of tiles out of reach, so many at most pass their check."""
NAN, INF = float("nan"), float("inf")
EXTREME = float(np.float32(LARGEST_VALUE))
FP32 = 2.0**-24  # relative, what rounding to fp32 costs at most

both_bits = pytest.mark.parametrize("bits", [4, 8])


def randn(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def scales_of(frame: memoryview, n: int, block: int) -> Tensor:
    """Return each element's scale, as float64."""
    halves = np.frombuffer(frame, "<u2", -(-n // block), START).astype(np.uint32)
    return torch.from_numpy(np.repeat((halves << 16).view(np.float32), block)[:n]).double()


def num_tiles(n: int, block: int) -> int:
    return len(tiles_of(n, block))


def tiles_of(n: int, block: int) -> list[slice]:
    """Return the tiles of a vector: each block's, 64 elements or what is left."""
    return [
        slice(start, min(start + TILE, first + block, n))
        for first in range(0, n, block)
        for start in range(first, min(first + block, n), TILE)
    ]


def all_over_its_tile(is_so: Tensor, block: int) -> Tensor:
    """Return, for each element, whether that `is_so` of all elements of its tile."""
    out = is_so.clone()
    for tile in tiles_of(len(is_so), block):
        out[tile] = is_so[tile].all()
    return out


def codes_of(frame: memoryview, n: int, block: int, bits: int) -> Tensor:
    """Return each element's code, as float64."""
    packed = np.frombuffer(
        frame, np.uint8, offset=START + 2 * -(-n // block) + 2 * num_tiles(n, block)
    )
    codes: list[int] = []
    while bits == 4 and len(codes) < n:
        in_block = min(block - len(codes) % block, n - len(codes))
        num = min(in_block, 64)
        tile, packed = packed[: (num + 1) // 2], packed[(num + 1) // 2 :]
        codes += [*(tile & 15), *(tile >> 4)][:num]
    return torch.from_numpy(np.array(codes or packed, np.float64))


def triples(magnitude: float = 100.0) -> st.SearchStrategy[tuple[Tensor, Tensor, Tensor]]:
    """Return x, the sender's anchor and the receiver's parameters: far apart, near, or equal."""
    offset = st.floats(-1, 1, width=32) | st.just(0.0) | st.floats(-(2.0**-20), 2.0**-20, width=32)
    element = st.tuples(st.floats(-magnitude, magnitude, width=32), offset, offset)

    def columns(rows: list[tuple[float, float, float]]) -> tuple[Tensor, Tensor, Tensor]:
        x, anchor, theirs = torch.tensor(rows, dtype=torch.float32).view(-1, 3).unbind(1)
        return x.contiguous(), x + anchor, x + theirs

    return st.lists(element, min_size=1, max_size=40).map(columns)


def check_of(indices: list[int]) -> int:
    """Return a tile's check: the indices times numbers drawn by splitmix64, and 16 bits of that."""
    mask, total = (1 << 64) - 1, 0
    for place, index in enumerate(indices):
        z = (256 + place + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        total += index * ((z ^ (z >> 31)) & 0xFFFFFFFF | 1)
    return total >> 16 & 0xFFFF


@both_bits
def test_the_format(bits: int) -> None:
    # The drift is 2^(bits-1) / 4 in the first block, so s = 1, and 4 in the second.
    half = 2 ** (bits - 1)
    x = torch.tensor([7.0, -3.0, 1000.0, half / 4, 8.0])
    anchor = torch.tensor([7.0, -3.0, 1000.0, 0.0, 4.0])
    codec = Modulo(bits, block=4, reach=4.0)
    indices = [7, -3, 1000, half // 4, half // 2]
    codes = [i % 2**bits for i in indices]
    if bits == 4:
        codes = [codes[0] | codes[2] << 4, codes[1] | codes[3] << 4, codes[4]]
    scales = struct.pack("<f", 1.0)[2:] + struct.pack("<f", 16 / half)[2:]
    header = struct.pack("<2sBBQI", b"TW", 1, {4: 8, 8: 9}[bits], 5, 4)
    frame = codec.encode(x, near=anchor)
    checks = b"".join(struct.pack("<H", check_of(block)) for block in (indices[:4], indices[4:]))
    assert frame == header + scales + checks + bytes(codes)
    assert torch.equal(codec.decode(frame, 5, near=x + 0.9), x)


@both_bits
def test_a_frame_has_the_announced_size(bits: int) -> None:
    codec = Modulo(bits)
    assert codec.name == f"mod{bits}"
    assert codec.frame_bytes(64_000) == START + 2000 + 2000 + 64_000 * bits // 8
    for n in (0, 1, 2, 63, 64, 65, 1001):
        frame = codec.encode(randn(n), near=torch.zeros(n))
        assert isinstance(frame, memoryview)
        assert len(frame) == codec.frame_bytes(n)


@both_bits
@pytest.mark.parametrize("block", [1, 3, 63, 64, 65, 127, 128, 200, 5000])
def test_every_block_is_cut_into_tiles_of_64_and_what_is_left(bits: int, block: int) -> None:
    x, anchor, n = 1000 * randn(1001), 1000 * randn(1001) + randn(1001, 1), 1001
    codec = Modulo(bits, block)
    frame = codec.encode(x, near=anchor)
    scale = scales_of(frame, n, block)
    index = (x.double() / scale).round()
    assert torch.equal(codes_of(frame, n, block, bits), index % 2**bits)
    assert torch.equal(codec.decode(frame, n, near=x), (index * scale).float())
    assert len(frame) == codec.frame_bytes(n)


@both_bits
@given(vectors=triples(), block=st.integers(1, 9))
def test_a_tile_is_its_own_or_has_the_codes_residues_and_is_the_nearest_such_point(
    bits: int, vectors: tuple[Tensor, Tensor, Tensor], block: int
) -> None:
    x, anchor, theirs = vectors
    n, codec = x.numel(), Modulo(bits, block)
    frame = codec.encode(x, near=anchor)
    scale, code = scales_of(frame, n, block), codes_of(frame, n, block, bits)
    decoded = codec.decode(frame, n, near=theirs).double()
    index = (decoded / scale).round()
    heard = ~all_over_its_tile(decoded == theirs.double(), block)
    exact = heard & (index.abs() < 2**16)  # 16 bits times a bf16: no rounding to fp32
    assert torch.equal((index * scale)[exact], decoded[exact])
    assert ((index - code) % 2**bits == 0)[exact].all()
    distance = (decoded - theirs.double()).abs()
    assert (distance <= scale * 2 ** (bits - 1) + decoded.abs() * FP32).all()


@both_bits
@given(vectors=triples(), block=st.integers(1, 9))
def test_it_is_off_by_half_a_step_at_most_wherever_the_receiver_is_near_enough(
    bits: int, vectors: tuple[Tensor, Tensor, Tensor], block: int
) -> None:
    x, anchor, theirs = vectors
    n, codec = x.numel(), Modulo(bits, block)
    frame = codec.encode(x, near=anchor)
    scale = scales_of(frame, n, block)
    for near in (theirs, anchor, x):
        near_enough = (x.double() - near.double()).abs() < scale * (2 ** (bits - 1) - 0.5)
        near_enough = all_over_its_tile(near_enough, block)
        error = (codec.decode(frame, n, near=near).double() - x.double()).abs()
        bound = scale / 2 + (x.double().abs() + scale) * FP32
        assert (error <= bound)[near_enough].all()
        assert near_enough.all() or near is theirs  # a sender always can read its own frame


def lattice(bits: int, mantissa: int, exponent: int, index: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return a scale, and x near its multiples with an anchor that makes a block have that scale.

    In front of every 63 of them is an element 0 that has moved by all that makes the scale.
    """
    scale = mantissa * 2.0 ** (exponent - 7)
    x = (index * scale).float().view(-1, 63)
    x = torch.cat([torch.zeros(len(x), 1), x], dim=1)
    anchor = x.clone()
    anchor[:, 0] = scale * 2 ** (bits - 1) / 4
    return scale, x.flatten(), anchor.flatten()


@both_bits
@given(mantissa=st.integers(128, 255), exponent=st.integers(-90, 70), seed=st.integers(0, 99))
def test_what_lies_next_to_the_middle_between_two_points_goes_to_the_nearer(
    bits: int, mantissa: int, exponent: int, seed: int
) -> None:
    magnitude = torch.repeat_interleave(2.0 ** torch.arange(1, 24), 63).double()
    index = (randn(63 * 23, seed).double().clamp(-2, 2) * magnitude).round() + 0.5
    scale, x, anchor = lattice(bits, mantissa, exponent, index)
    for side in (-INF, INF):
        beside = torch.nextafter(x, torch.tensor(side))
        beside[anchor != x] = 0.0
        frame = Modulo(bits).encode(beside, near=torch.where(anchor == x, beside, anchor))
        assert (scales_of(frame, x.numel(), 64) == scale).all()
        residue = codes_of(frame, x.numel(), 64, bits)
        nearest = (beside.double() / scale).round()  # float64 has room for index and scale
        is_middle = (beside.double() - nearest * scale).abs() == scale / 2
        assert torch.equal(residue[~is_middle], nearest[~is_middle] % 2**bits)
        assert not is_middle[: 63 * 10].any()


@both_bits
@given(mantissa=st.integers(128, 255), exponent=st.integers(-90, 70), seed=st.integers(0, 99))
def test_the_reach_is_exact(bits: int, mantissa: int, exponent: int, seed: int) -> None:
    # Also where indices have 25 bits: whoever is nearer than half a period hears the right one.
    magnitude = torch.repeat_interleave(2.0 ** torch.arange(1, 24), 63).double()
    index = (randn(63 * 23, seed).double().clamp(-2, 2) * magnitude).round()
    scale, x, anchor = lattice(bits, mantissa, exponent, index)
    codec = Modulo(bits)
    frame = codec.encode(x, near=anchor)
    nearest = (x.double() / scale).round()
    half_period = scale * 2 ** (bits - 1)
    for side in (-1.0, 1.0):
        farthest = torch.nextafter((nearest * scale + side * half_period).float(), x)
        decoded = codec.decode(frame, x.numel(), near=farthest)
        assert torch.equal(decoded, (nearest * scale).float())


@both_bits
@given(vectors=triples(), block=st.integers(1, 9))
def test_the_step_follows_the_sender_s_own_drift(
    bits: int, vectors: tuple[Tensor, Tensor, Tensor], block: int
) -> None:
    x, anchor, _ = vectors
    n, codec = x.numel(), Modulo(bits, block, reach=3.0)
    scale = scales_of(codec.encode(x, near=anchor), n, block)
    for s, a, b in zip(scale.split(block), x.split(block), anchor.split(block), strict=True):
        drift = (a.double() - b.double()).abs().max()
        least = max(3.0 * drift / 2 ** (bits - 1), a.double().abs().max() * 2**-25, 2.0**-126)
        assert least * (1 - 1e-6) <= s[0] <= least * (1 + 2**-7)


@both_bits
def test_both_ends_of_a_pair_decode_the_same_values(bits: int) -> None:
    # So the mean that both land is one and the same.
    anchors = randn(5000) + 0.002 * torch.stack([randn(5000, s) for s in (1, 2)])
    thetas = anchors + 0.01 * torch.stack([randn(5000, s) for s in (3, 4)])
    codec = Modulo(bits)
    frames = [codec.encode(t, near=a) for t, a in zip(thetas, anchors, strict=True)]
    means = []
    for theta in thetas:
        decoded = [codec.decode(frame, 5000, near=theta) for frame in frames]
        means.append((decoded[0] + decoded[1]) / 2)
    assert torch.equal(*means)
    noise = means[0] - thetas.mean(0)
    assert noise.norm() < {4: 0.5, 8: 0.03}[bits] * (thetas - anchors).mean(0).norm()


@both_bits
def test_a_block_that_did_not_move_arrives_as_it_was(bits: int) -> None:
    for x in (randn(64), torch.zeros(64), torch.full((64,), EXTREME), torch.full((64,), 1e-45)):
        codec = Modulo(bits)
        decoded = codec.decode(codec.encode(x, near=x), 64, near=x)
        assert (decoded - x).abs().max() <= max(x.abs().max() * 2.0**-25, 2.0**-127)
        largest = x.abs() > x.abs().max() / 2
        assert torch.equal(decoded[largest], x[largest]) or x.abs().max() < 2.0**-100


@both_bits
@pytest.mark.parametrize("block", [64, 200])
def test_who_is_too_far_knows_it_and_keeps_its_own(bits: int, block: int) -> None:
    n = 6400
    x, anchor = randn(n), randn(n) + 0.01 * randn(n, 1)
    codec = Modulo(bits, block)
    frame = codec.encode(x, near=anchor)
    scale = scales_of(frame, n, block)
    right = codec.decode(frame, n, near=x)
    first = torch.tensor([tile.start for tile in tiles_of(n, block)])
    for distance in (0.0, 0.01, 0.05, 0.1, 100.0):
        theirs = x + distance * randn(n, 2)
        off = (right.double() - theirs.double()).abs() / scale
        heard = all_over_its_tile(off < 2 ** (bits - 1), block)
        decoded = codec.decode(frame, n, near=theirs)
        assert torch.equal(decoded[heard], right[heard])
        assert torch.equal(decoded[~heard], theirs[~heard])
        told = codec.accumulate(frame, theirs.clone(), 0.5, near=theirs)
        is_close = all_over_its_tile(off <= 2 ** (bits - 3), block)
        assert told.total == pytest.approx(float(scale[first].sum()))
        assert told.missed == pytest.approx(float((scale * ~heard)[first].sum()))
        assert told.far == pytest.approx(float((scale * (heard & ~is_close))[first].sum()))
        if distance in (0.0, 100.0):
            assert heard.all() == (distance == 0) == heard.any()


@both_bits
@pytest.mark.parametrize("off", ["one", "two", "all"])
def test_a_tile_out_of_reach_is_detected_but_for_one_in_thirty_thousand(
    bits: int, off: str
) -> None:
    # One element off by one period; two by one, often to opposite sides; all by anything.
    num = 1 << 18
    n, codec = num * TILE, Modulo(bits)
    generator = torch.Generator().manual_seed(7)
    x = torch.zeros(num, TILE)
    anchor = torch.full_like(x, 2.0 ** (bits - 3))  # so steps are 1, and periods 2^bits
    frame = codec.encode(x.view(n), near=anchor.view(n))
    if off == "all":
        periods = torch.randint(-4, 5, (num, TILE), generator=generator).float()
    else:
        periods = torch.zeros(num, TILE)
        for _ in range({"one": 1, "two": 2}[off]):
            where = torch.randint(TILE, (num, 1), generator=generator)
            sign = 2.0 * torch.randint(2, (num, 1), generator=generator) - 1
            periods.scatter_(1, where, sign)
    theirs = (x + periods * 2**bits).view(n)
    decoded = codec.decode(frame, n, near=theirs)
    assert torch.equal(decoded, theirs)  # which also is what it would be without checks
    told = codec.accumulate(frame, theirs.clone(), 1.0, near=theirs)
    assert told.total == num
    assert num - told.missed <= (MISSES * num if off == "all" else 0)


@both_bits
def test_wider_codecs_reach_farther_in_frames_as_long(bits: int) -> None:
    codec = Modulo(bits)
    rungs = [codec, *codec.wider]
    assert rungs[-1].reach == 4096 * codec.reach
    x = randn(6400)
    anchor = x + 0.01 * randn(6400, 1)
    before = None
    for rung in rungs:
        assert (rung.name, rung.frame_bytes(6400)) == (codec.name, codec.frame_bytes(6400))
        frame = rung.encode(x, near=anchor)
        scale = scales_of(frame, 6400, 64)
        if before is not None:
            torch.testing.assert_close(scale, 4 * before / 2 ** (bits - 1), rtol=0.02, atol=0)
        before = scale * 2 ** (bits - 1)
        theirs = x + (before * 0.49 * randn(6400, 2).sign()).float()
        error = rung.decode(frame, 6400, near=theirs).double() - x.double()
        assert (error.abs() <= scale / 2 + (x.abs() + scale) * FP32).all()
        assert rung.accumulate(frame, theirs.clone(), 1.0, near=theirs).missed == 0


@both_bits
def test_few_tiles_are_out_of_reach_when_anchors_are_apart_twice_what_a_round_moves(
    bits: int,
) -> None:
    anchor = randn(400_000)
    x = anchor + 0.01 * randn(400_000, 1)
    theirs = anchor + 0.02 * randn(400_000, 2) + 0.01 * randn(400_000, 3)
    lost = {}
    for reach in (2.0, 4.0):
        codec = Modulo(bits, reach=reach)
        frame = codec.encode(x, near=anchor)
        lost[reach] = codec.accumulate(frame, theirs.clone(), 1.0, near=theirs).missed_frac
    assert lost[4.0] < 1 / 80
    assert lost[2.0] > 1 / 2


def test_it_sends_parameters_much_more_exactly_than_int8_does() -> None:
    anchor = randn(64_000)
    theta = anchor + 0.003 * randn(64_000, 1)
    theirs = anchor + 0.003 * randn(64_000, 2)
    modulo, int8 = Modulo(8), Int8(64)
    error = modulo.decode(modulo.encode(theta, near=anchor), 64_000, near=theirs) - theta
    dense = int8.decode(int8.encode(theta), 64_000) - theta
    assert error.norm() < 0.03 * (theta - anchor).norm()
    assert dense.norm() > (theta - anchor).norm()


@both_bits
@pytest.mark.parametrize("frac", [0.0, 0.3, 0.5, 1.0])
def test_accumulate_is_torchs_lerp_also_into_the_receivers_own_parameters(
    bits: int, frac: float
) -> None:
    x, anchor, theirs, other = (randn(1001, seed) for seed in range(4))
    codec = Modulo(bits)
    frame = codec.encode(x, near=anchor)
    decoded = codec.decode(frame, 1001, near=theirs)
    for start in (theirs, other):
        into = start.clone()
        codec.accumulate(frame, into, frac, near=into if start is theirs else theirs)
        expected = torch.lerp(start, decoded, frac)
        torch.testing.assert_close(into, expected, rtol=1e-6, atol=1e-6)
        if frac in (0.0, 1.0):
            assert torch.equal(into, decoded if frac else start)
    rubbish = torch.full((1001,), NAN)
    codec.accumulate(frame, rubbish, 1.0, near=theirs)
    assert torch.equal(rubbish, decoded)


def test_a_missing_or_other_near_is_a_mistake_of_the_caller() -> None:
    codec, x = Modulo(8), randn(10)
    frame = codec.encode(x, near=x)
    for near, match in ((None, "pass `near`"), (randn(11), "near has shape"), (x * NAN, "finite")):
        with pytest.raises(ValueError, match=match) as caught:
            codec.encode(x, near=near)
        assert not isinstance(caught.value, CodecError)
        with pytest.raises(ValueError, match=match):
            codec.decode(frame, 10, near=near)
        into = x.clone()
        with pytest.raises(ValueError, match=match):
            codec.accumulate(frame, into, 0.5, near=near)
        assert torch.equal(into, x)


@both_bits
@pytest.mark.parametrize("scale", [NAN, INF, -INF, -1.0, 0.0, -0.0, 1e-40, 1.3e30, 3e38])
def test_scales_that_no_encoder_writes_are_refused(bits: int, scale: float) -> None:
    codec, x = Modulo(bits), randn(100)
    frame = bytearray(codec.encode(x, near=torch.zeros(100)))
    frame[START + 2 : START + 4] = struct.pack("<f", scale)[2:]
    into = x.clone()
    with pytest.raises(CodecError, match="scale"):
        codec.decode(frame, 100, near=x)
    with pytest.raises(CodecError, match="scale"):
        codec.accumulate(frame, into, 0.5, near=x)
    assert torch.equal(into, x)


def test_frames_of_other_blocks_or_bits_are_refused() -> None:
    x = randn(100)
    frame = Modulo(8, 64).encode(x, near=x)
    with pytest.raises(CodecError, match="blocks of 64, expected 63"):
        Modulo(8, 63).decode(frame, 100, near=x)
    with pytest.raises(CodecError, match="bytes, expected"):
        Modulo(4, 64).decode(frame, 100, near=x)
    with pytest.raises(CodecError, match="header"):
        Modulo(4, 64).decode(Modulo(8, 64).encode(x[:0], near=x[:0]), 0, near=x[:0])


@both_bits
@given(codes=st.binary(min_size=10, max_size=10), exponent=st.integers(-126, 98), data=st.data())
def test_whatever_a_stranger_sends_stays_near_and_bounded(
    bits: int, codes: bytes, exponent: int, data: st.DataObject
) -> None:
    n = 64 // bits
    codec = Modulo(bits)
    frame = bytearray(codec.encode(torch.zeros(n), near=torch.zeros(n)))
    frame[START : START + 2] = struct.pack("<f", 2.0**exponent)[2:]
    frame[START + 2 :] = codes  # and their check
    near = torch.tensor(
        data.draw(st.lists(st.floats(-EXTREME, EXTREME, width=32), min_size=n, max_size=n))
    )
    decoded = codec.decode(frame, n, near=near)
    assert (decoded.abs() <= LARGEST_VALUE).all()
    distance = (decoded.double() - near.double()).abs()
    assert (distance <= 2.0 ** (exponent + bits - 1) + near.double().abs() * 2 * FP32).all()


@both_bits
def test_the_largest_values_that_can_be_encoded_arrive(bits: int) -> None:
    x = torch.tensor([EXTREME, -EXTREME, 0.0, EXTREME / 3])
    codec = Modulo(bits)
    frame = codec.encode(x, near=-x)
    for near in (x, -x, torch.zeros(4)):
        decoded = codec.decode(frame, 4, near=near)
        error = (decoded.double() - x.double()).abs()
        assert (error <= scales_of(frame, 4, 64) * (0.5 + 1e-6)).all()
        assert (decoded.abs() <= LARGEST_VALUE).all()


@pytest.mark.parametrize(
    ("bits", "block", "reach"),
    [(2, 64, 2.0), (8, 0, 2.0), (8, 1 << 32, 2.0), (8, 64, 1.0), (8, 64, INF), (8, 64, NAN)],
)
def test_parameters_out_of_range_are_refused(bits: int, block: int, reach: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Modulo(bits, block, reach)
