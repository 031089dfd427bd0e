"""Top-k: of each chunk the few largest values, two bits each, and nothing of the rest.

**Paper:** Sarfi et al. 2025, SparseLoCo, arXiv:2508.15706; at 72B parameters Covenant-72B,
arXiv:2603.08163. Lossy beyond what averaging forgives: it belongs inside `optim.codec.feedback`.
**Format:** header | chunk u32 | k u32 | bits u8 | levels | positions | codes, all little-endian.
Positions are places in their chunk, strictly increasing, ceil(log2(chunk)) bits each, packed lowest
bits first; codes are packed likewise. Levels are four bytes a chunk: at 2 bits two bf16 magnitudes,
at 8 bits one fp32 scale for int8 codes. With 64 of 4096 that is 0.227 bits an element.
**Deviations:**
- The 2-bit code is our reading. Code of that family bins values by their mean and standard
  deviation and sends each bin's mean; ours is a sign and one of two magnitudes, the means of the
  best cut in two (test_the_two_magnitudes_are_the_best_that_any_cut_in_two_can_give). Zeros that
  are kept for want of others take part in it.
- Chunks are consecutive runs of the flat vector, not tiles of each matrix
  (test_chunks_know_nothing_of_each_other).
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from optim.codec.blockwise import Int8
from optim.codec.frame import (
    HEADER_BYTES,
    LARGEST_VALUE,
    CodecError,
    Frame,
    array_in,
    body_of,
    frame_header,
    require_frac,
    require_vector,
    vector_of,
)
from optim.codec.kernels import Bytes, Floats, Halves
from optim.codec.topk_kernels import (
    pack_bits,
    read_sparse,
    select_largest,
    split_in_two,
    unpack_bits,
)

_PARAMETERS = struct.Struct("<IIB")
_LEVELS_AT = HEADER_BYTES + _PARAMETERS.size
_LEVEL_BYTES = 4
_MAX_CHUNK = 1 << 16
_MAX_LEVEL = 201 * 2.0**92
"""The largest bf16 that is no larger than LARGEST_VALUE."""
_MIN_SCALE = np.float32(2.0**-126)
_MAX_SCALE = np.float32(LARGEST_VALUE) / np.float32(127)


@dataclass(frozen=True, slots=True)
class TopK:
    """Chunk-wise top-k codec. What is not kept decodes to zero.

    Attributes:
        chunk: Consecutive elements that compete with each other, at most 65536; the last chunk may
            be short.
        k: Elements kept of each chunk: the largest in magnitude, of equal ones the first.
        bits: 2 (a sign and one of two magnitudes) or 8 (int8 with a scale), a kept element.

    Raises:
        ValueError: A parameter is out of its range.
    """

    name: ClassVar[str] = "topk"
    codec_id: ClassVar[int] = 7

    chunk: int = 4096
    k: int = 64
    bits: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.chunk <= _MAX_CHUNK:
            raise ValueError(f"chunk must be at least 1 and at most {_MAX_CHUNK}, not {self.chunk}")
        if not 1 <= self.k <= self.chunk:
            raise ValueError(f"k must be at least 1 and at most chunk = {self.chunk}, not {self.k}")
        if self.bits not in (2, 8):
            raise ValueError(f"bits must be 2 or 8, not {self.bits}")

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of a frame."""
        level_bytes = _LEVEL_BYTES * self._num_chunks(num_elements)
        code_bytes = -(-self._num_kept(num_elements) * self.bits // 8)
        return _LEVELS_AT + level_bytes + self._position_bytes(num_elements) + code_bytes

    def encode(self, x: Tensor, *, near: Tensor | None = None, seed: int = 0) -> memoryview:
        """Return the frame of `x`, see `Codec.encode`."""
        require_vector(x)
        n = x.numel()
        positions = np.empty(self._num_kept(n), np.uint16)
        values = np.empty(positions.size, np.float32)
        select_largest(vector_of(x), self.chunk, self.k, positions, values)
        levels, codes = (_two_levels if self.bits == 2 else _int8)(values, self.k)
        frame = np.empty(self.frame_bytes(n), np.uint8)
        frame[:HEADER_BYTES] = memoryview(frame_header(self.codec_id, n))
        frame[HEADER_BYTES:_LEVELS_AT] = memoryview(_PARAMETERS.pack(self.chunk, self.k, self.bits))
        positions_at = _LEVELS_AT + levels.nbytes
        codes_at = positions_at + self._position_bytes(n)
        frame[_LEVELS_AT:positions_at] = levels.view(np.uint8)
        pack_bits(positions, self._position_bits, frame[positions_at:codes_at])
        pack_bits(codes, self.bits, frame[codes_at:])
        return frame.data.toreadonly()

    def decode(self, frame: Frame, num_elements: int, *, near: Tensor | None = None) -> Tensor:
        """Return the vector of a frame, see `Codec.decode`."""
        positions, values = self._kept(frame, num_elements)
        out = np.empty(num_elements, np.float32)
        read_sparse(positions, values, self.chunk, self.k, out, np.float32(1))
        return torch.from_numpy(out)

    def accumulate(
        self, frame: Frame, into: Tensor, frac: float, *, near: Tensor | None = None
    ) -> None:
        """Move `into` towards the vector of a frame, see `Codec.accumulate`."""
        out = vector_of(into)
        require_frac(frac)
        positions, values = self._kept(frame, out.size)
        read_sparse(positions, values, self.chunk, self.k, out, np.float32(frac))

    def for_average(self, num_contributions: int) -> "TopK | Int8":
        """Return a codec that cuts nothing off the average of so many decoded vectors.

        Together they have at most `num_contributions * k` elements of a chunk that are not zero.
        Where it is no larger to send all elements, that is the dense int8 codec.

        Raises:
            ValueError: There are no contributions.
        """
        if num_contributions < 1:
            raise ValueError(f"an average needs contributions, not {num_contributions}")
        sparse = TopK(self.chunk, min(self.chunk, num_contributions * self.k), bits=8)
        dense = Int8()
        is_smaller = sparse.frame_bytes(self.chunk) < dense.frame_bytes(self.chunk)
        return sparse if is_smaller else dense

    @property
    def _position_bits(self) -> int:
        return (self.chunk - 1).bit_length()

    def _num_chunks(self, num_elements: int) -> int:
        return -(-num_elements // self.chunk)

    def _num_kept(self, num_elements: int) -> int:
        num_whole, rest = divmod(num_elements, self.chunk)
        return num_whole * self.k + min(self.k, rest)

    def _position_bytes(self, num_elements: int) -> int:
        return -(-self._num_kept(num_elements) * self._position_bits // 8)

    def _kept(self, frame: Frame, num_elements: int) -> tuple[Halves, Floats]:
        # The positions and values of a frame, or a CodecError.
        frame_bytes = self.frame_bytes(num_elements)
        body = body_of(
            frame, codec_id=self.codec_id, num_elements=num_elements, frame_bytes=frame_bytes
        )
        theirs, ours = _PARAMETERS.unpack_from(body), (self.chunk, self.k, self.bits)
        if theirs != ours:
            raise CodecError(f"the frame has (chunk, k, bits) = {theirs}, expected {ours}")
        level_bytes = _LEVEL_BYTES * self._num_chunks(num_elements)
        position_bytes = self._position_bytes(num_elements)
        codes_at = _PARAMETERS.size + level_bytes + position_bytes
        levels = array_in(body, np.uint8, level_bytes, _PARAMETERS.size)
        packed = array_in(body, np.uint8, position_bytes, _PARAMETERS.size + level_bytes)
        positions = np.empty(self._num_kept(num_elements), np.uint16)
        left_over = unpack_bits(packed, self._position_bits, positions)
        codes = np.empty(positions.size, np.uint8)
        packed = array_in(body, np.uint8, len(body) - codes_at, codes_at)
        if left_over or unpack_bits(packed, self.bits, codes):
            raise CodecError("the frame is padded with something else than zeros")
        self._require_ordered(positions, num_elements)
        read = _read_two_levels if self.bits == 2 else _read_int8
        return positions, read(levels, codes, self.k)

    def _require_ordered(self, positions: Halves, num_elements: int) -> None:
        rising = positions[1:] > positions[:-1]
        rising[self.k - 1 :: self.k] = True  # from a chunk to the next
        in_last_chunk = num_elements - (num_elements - 1) // self.chunk * self.chunk
        inside = positions.size == 0 or (
            positions.max() < self.chunk and positions[-1] < in_last_chunk
        )
        if not (rising.all() and inside):
            raise CodecError("the frame's positions do not increase, or leave their chunk")


def _two_levels(values: Floats, k: int) -> tuple[Bytes, Bytes]:
    # Levels as they travel, and codes: the upper level is 1, negative is 2.
    levels = np.empty((-(-values.size // k), 2), np.float32)
    codes = np.empty(values.size, np.uint8)
    split_in_two(values, k, levels, codes)
    halves = torch.from_numpy(levels.clip(max=_MAX_LEVEL).ravel()).to(torch.bfloat16)
    return halves.view(torch.int16).numpy().view(np.uint8), codes


def _read_two_levels(levels: Bytes, codes: Bytes, k: int) -> Floats:
    halves = np.left_shift(levels.view(np.uint16), 16, dtype=np.uint32)
    lower, upper = halves.view(np.float32).reshape(-1, 2).T
    if not ((lower >= 0) & (lower <= upper) & (upper <= LARGEST_VALUE)).all():  # a NaN fails each
        raise CodecError("the frame holds levels that are negative, out of order or too large")
    values = np.where(codes & 1, _spread(upper, k, codes.size), _spread(lower, k, codes.size))
    np.negative(values, out=values, where=(codes & 2) != 0)
    return values


def _int8(values: Floats, k: int) -> tuple[Bytes, Bytes]:
    # Scales as they travel, and codes.
    absmax = np.maximum.reduceat(np.abs(values), np.arange(0, values.size, k))
    scales = (absmax / np.float32(127)).clip(_MIN_SCALE, _MAX_SCALE)
    steps = np.rint(values / _spread(scales, k, values.size)).clip(-127, 127)
    return scales.view(np.uint8), steps.astype(np.int8).view(np.uint8)


def _read_int8(levels: Bytes, codes: Bytes, k: int) -> Floats:
    scales, steps = levels.view(np.float32), codes.view(np.int8)
    if not ((scales >= _MIN_SCALE) & (scales <= _MAX_SCALE)).all():  # a NaN fails both
        raise CodecError("the frame holds a scale that is too small, too large or not finite")
    if (steps == -128).any():
        raise CodecError("the frame holds the code -128, which no encoder writes")
    return _spread(scales, k, steps.size) * steps


def _spread(per_chunk: Floats, k: int, num_kept: int) -> Floats:
    # [C] -> [K]: each kept element's own.
    return np.repeat(per_chunk, k)[:num_kept]
