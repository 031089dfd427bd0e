"""Blocks: elements that share a scale, 8 or 4 bits each. Int8 and int4 are linear in it.

**Format:** header | block size u32 | scales bf16 [ceil(n / block)] | codes, all little-endian.
The last block may be short. Int8 has a byte an element. With 4 bits, a block is cut into tiles of
64 elements and what is left; byte j of a tile of m has element j in its lower half and element
ceil(m / 2) + j in its upper one, so that whole vectors are read and written. Every tile begins on
a byte of its own. Int8 comes to 8.06 bits an element (block 256), int4 to 4.25 (block 64).
**Precedent:** blockwise absmax, as in Dettmers et al. 2021, arXiv:2110.02861, with linear codes in
place of their quantile map.
**Symbols:** s = a block's scale, a = its absmax, L = 127 or 7, the largest level.

**Linear codes.** An element is (code - L - 1) s, between -L s and L s. Code 0 is not written; it
reads like code 1, so no code has to be refused. A hostile frame can only have hostile scales.

**Nearest.** s is a / L rounded to the nearest bf16, so a / s is at most L (1 + 2^-8) < L + 1/2 and
at least L / (1 + 2^-8) > L - 1/2: no code is out of range, a has code +-L, and the decoded absmax
is L s, exact in fp32, which gives the scale s again. So Q(Q(x)) = Q(x) to the bit, and an element
is off by at most s / 2. Scales stay in [2^-126, 1e30 / L], so neither 1 / s nor L s is out of range
and a block of zeros needs no case of its own.

**Stochastic.** s is a / L rounded up, so no element lies beyond the outermost level, and each goes
to one of its two neighbours with the probability that makes it right on average, in steps of 2^-16
(int4) or 2^-14 (int8). An element that lies on a level stays. (Where a > L s because s must not
grow, a is beyond 0.99e30, and its block is shrunk to fit.)
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optim.codec import kernels
from optim.codec.frame import (
    HEADER_BYTES,
    CodecError,
    Frame,
    array_in,
    body_of,
    frame_header,
    require_frac,
    require_largest,
    vector_of,
)

_BLOCK = struct.Struct("<I")
_SCALES_AT = HEADER_BYTES + _BLOCK.size


@dataclass(frozen=True, slots=True)
class Blockwise:
    """What the blockwise codecs have in common.

    Attributes:
        block: Elements that share a scale.
        rounding: How an element finds its code: "nearest" or "stochastic".

    Raises:
        ValueError: `block` is not in [1, 2^32), or there is no such rounding here.
    """

    name: ClassVar[str]
    codec_id: ClassVar[int]
    roundings: ClassVar[tuple[str, ...]]
    codes_a_byte: ClassVar[int]
    scale_bounds: ClassVar[tuple[int, int]]
    """The bits of the smallest and of the largest bf16 that is a scale."""
    write: ClassVar[Callable[..., float]]
    read: ClassVar[Callable[..., None]]

    block: int
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        if not 1 <= self.block < 1 << 32:
            raise ValueError(f"block must be at least 1 and below 2^32, not {self.block}")
        if self.rounding not in self.roundings:
            raise ValueError(
                f"{self.name} rounds {' or '.join(self.roundings)}, not {self.rounding!r}"
            )

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of a frame."""
        num_blocks, rest = divmod(num_elements, self.block)
        code_bytes = num_blocks * self._code_bytes(self.block) + self._code_bytes(rest)
        return _SCALES_AT + 2 * self._num_blocks(num_elements) + code_bytes

    def encode(self, x: Tensor, *, near: Tensor | None = None, seed: int = 0) -> memoryview:
        """Return the frame of `x`, see `Codec.encode`."""
        values = vector_of(x)
        frame = np.empty(self.frame_bytes(values.size), np.uint8)
        frame[:HEADER_BYTES] = memoryview(frame_header(self.codec_id, values.size))
        frame[HEADER_BYTES:_SCALES_AT] = memoryview(_BLOCK.pack(self.block))
        codes_at = _SCALES_AT + 2 * self._num_blocks(values.size)
        largest = self.write(
            values,
            self.block,
            self.rounding == "stochastic",
            kernels.keys_of(seed),
            self.scale_bounds,
            frame[_SCALES_AT:codes_at].view(np.uint16),
            frame[codes_at:],
        )
        require_largest(largest)
        return frame.data.toreadonly()

    def decode(self, frame: Frame, num_elements: int, *, near: Tensor | None = None) -> Tensor:
        """Return the vector of a frame, see `Codec.decode`."""
        scales, codes = self._sections(frame, num_elements)
        out = np.empty(num_elements, np.float32)
        self.read(scales, codes, self.block, out, np.float32(1))
        return torch.from_numpy(out)

    def accumulate(
        self, frame: Frame, into: Tensor, frac: float, *, near: Tensor | None = None
    ) -> None:
        """Move `into` towards the vector of a frame, see `Codec.accumulate`."""
        values = vector_of(into)
        require_frac(frac)
        scales, codes = self._sections(frame, values.size)
        self.read(scales, codes, self.block, values, np.float32(frac))

    def for_average(self, num_contributions: int) -> "Blockwise":
        """Return itself: the average of dense vectors is as dense."""
        return self

    def _num_blocks(self, num_elements: int) -> int:
        return -(-num_elements // self.block)

    def _code_bytes(self, num_elements: int) -> int:
        # Of one block. Only its last tile can be odd.
        return -(-num_elements // self.codes_a_byte)

    def _sections(
        self, frame: Frame, num_elements: int
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
        # The scales and codes of a frame, or a CodecError.
        frame_bytes = self.frame_bytes(num_elements)
        body = body_of(
            frame, codec_id=self.codec_id, num_elements=num_elements, frame_bytes=frame_bytes
        )
        (block,) = _BLOCK.unpack_from(body)
        if block != self.block:
            raise CodecError(f"the frame has blocks of {block}, expected {self.block}")
        num_blocks = self._num_blocks(num_elements)
        scales = array_in(body, np.uint16, num_blocks, _BLOCK.size)
        # As integers, all that is negative, infinite or NaN lies beyond the largest.
        least, most = self.scale_bounds
        if num_blocks and not (least <= scales.min() and scales.max() <= most):
            raise CodecError("the frame holds a scale that no encoder writes")
        codes_at = _BLOCK.size + 2 * num_blocks
        return scales, array_in(body, np.uint8, len(body) - codes_at, codes_at)


@dataclass(frozen=True, slots=True)
class Int8(Blockwise):
    """A byte an element: off by at most half its block's scale, absmax / 253."""

    name = "int8"
    codec_id = 3
    roundings = ("nearest", "stochastic")
    codes_a_byte = 1
    scale_bounds = (0x0080, 0x6DCB)
    write = staticmethod(kernels.write_int8)
    read = staticmethod(kernels.read_int8)

    block: int = 256


@dataclass(frozen=True, slots=True)
class Int4(Blockwise):
    """Half a byte an element: off by at most half its block's scale, absmax / 13.9."""

    name = "int4"
    codec_id = 5
    roundings = ("nearest", "stochastic")
    codes_a_byte = 2
    scale_bounds = (0x0080, 0x6FE6)
    write = staticmethod(kernels.write_int4)
    read = staticmethod(kernels.read_int4)

    block: int = 64
