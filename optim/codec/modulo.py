"""Modulo: parameters in 4 or 8 bits, because the receiver already holds nearly the same ones.

Both ends share a lattice of step s. The sender rounds to it and sends the lattice index modulo
2^bits; the receiver takes, of all points with that residue, the one nearest to its own parameters.
So the step follows from how far replicas are apart, not from how large parameters are.

**Paper:** Lu and De Sa 2020, Moniqua, ICML, arXiv:2002.11787; Davies et al. 2020,
arXiv:2002.09268 (there with a lattice in many dimensions; this one is cubic).
**Symbols:** x = what is sent [n], `near` = what an end holds [n]: the sender its anchor, the
receiver its own parameters; s = the block's scale, M = max |x - near| over the block.
**Format:** header | block u32 | scales bf16 [ceil(n / block)] | checks u16 [tiles] | codes, all
little-endian. Tiles are those of `optim.codec.blockwise`: 64 elements of a block, or what is left.
With 8 bits a code has a byte; 4-bit codes lie in tiles as there. What is checked is the lattice
index as a whole, see `optim.codec.modulo_kernels`.
**Guarantee:** where |x - near| < s (2^(bits-1) - 1/2) at the receiver all over a tile, there
|decoded - x| <= s / 2, plus the rounding to fp32. A tile with an element farther away does not pass
its check, but for one in 65,000, and is decoded as `near`: nothing was heard.
**Deviations:**
- The scale is each block's own and measured: `reach` times M over 2^(bits-1), for the sender does
  not know how far the receiver is. In the papers one bound for all is given
  (test_the_step_follows_the_sender_s_own_drift). Who is farther asks for a wider codec, see `wider`
  and `optim.codec.distance`.
- Checks. In the papers who is too far decodes something else and does not know
  (test_who_is_too_far_knows_it_and_keeps_its_own).
- The scale is at least 2^-25 of the block's largest magnitude, beneath the resolution of fp32
  there: a block that did not move arrives unchanged, and indices stay below 2^26
  (test_a_block_that_did_not_move_arrives_as_it_was).
- Rounding to nearest, no shared dither: both ends of a pair decode the same numbers, so that what
  they agree on is the same (test_both_ends_of_a_pair_decode_the_same_values).
"""

import math
import struct
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from optim.codec.distance import Distance
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
from optim.codec.kernels import TILE, Bytes, Floats, Halves, largest_fp32
from optim.codec.modulo_kernels import SCALE_BOUNDS, read_mod4, read_mod8, write_mod4, write_mod8

_BLOCK = struct.Struct("<I")
_SCALES_AT = HEADER_BYTES + _BLOCK.size
_WRITE = {4: write_mod4, 8: write_mod8}
_READ = {4: read_mod4, 8: read_mod8}
NUM_WIDER = 6
"""The widest reaches 4096 times as far as the first: beyond what replicas can be apart."""


@dataclass(frozen=True, slots=True)
class Modulo:
    """Blockwise modulo codec; `near` is required at both ends.

    Attributes:
        bits: 4 or 8, an element.
        block: Elements that share a scale.
        reach: How far the receiver may be, in distances of the sender from its own anchor (the
            largest of the block). At least 1.1, so that a sender can read its own frame; with 4,
            one tile in 100 is out of reach when anchors are apart twice what a round moves.

    Raises:
        ValueError: A parameter is out of its range.
    """

    bits: int = 8
    block: int = 64
    reach: float = 4.0

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {self.bits}")
        if not 1 <= self.block < 1 << 32:
            raise ValueError(f"block must be at least 1 and below 2^32, not {self.block}")
        if not 1.1 <= self.reach < math.inf:
            raise ValueError(f"reach must be at least 1.1 and finite, not {self.reach}")

    @property
    def name(self) -> str:
        """The name by which `codec_named` knows it."""
        return f"mod{self.bits}"

    @property
    def codec_id(self) -> int:
        """What stands in the header."""
        return {4: 8, 8: 9}[self.bits]

    @property
    def wider(self) -> "tuple[Modulo, ...]":
        """The same with more and more reach, for those who are far; their frames are as long.

        Each reaches four times as far as the one before, in steps four times as coarse.
        """
        return tuple(replace(self, reach=self.reach * 4**rung) for rung in range(1, NUM_WIDER + 1))

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of a frame."""
        num_blocks, rest = divmod(num_elements, self.block)
        code_bytes = num_blocks * self._code_bytes(self.block) + self._code_bytes(rest)
        num_halves = self._num_blocks(num_elements) + self._num_tiles(num_elements)
        return _SCALES_AT + 2 * num_halves + code_bytes

    def encode(self, x: Tensor, *, near: Tensor | None = None, seed: int = 0) -> memoryview:
        """Return the frame of `x`, see `Codec.encode`.

        Args:
            x: `[n]`.
            near: `[n]`, the sender's anchor: what `x` has moved away from.
            seed: Ignored.

        Raises:
            ValueError: `x` or `near` is not a vector that can be encoded, or `near` is missing.
        """
        values = vector_of(x)
        anchor = _required(near, values.size)
        frame = np.empty(self.frame_bytes(values.size), np.uint8)
        frame[:HEADER_BYTES] = memoryview(frame_header(self.codec_id, values.size))
        frame[HEADER_BYTES:_SCALES_AT] = memoryview(_BLOCK.pack(self.block))
        checks_at = _SCALES_AT + 2 * self._num_blocks(values.size)
        codes_at = checks_at + 2 * self._num_tiles(values.size)
        largest = _WRITE[self.bits](
            values,
            anchor,
            self.block,
            self.reach / 2 ** (self.bits - 1),
            frame[_SCALES_AT:checks_at].view(np.uint16),
            frame[checks_at:codes_at].view(np.uint16),
            frame[codes_at:],
        )
        require_largest(largest)
        return frame.data.toreadonly()

    def decode(self, frame: Frame, num_elements: int, *, near: Tensor | None = None) -> Tensor:
        """Return the vector of a frame, see `Codec.decode`.

        Args:
            frame: Any bytes, from anyone.
            num_elements: What the receiver expects.
            near: `[num_elements]`, the receiver's own parameters.

        Raises:
            CodecError: The bytes are not a frame of this codec with that many elements.
            ValueError: `near` is missing, or not such a vector.
        """
        known = _required(near, num_elements)
        sections = self._sections(frame, num_elements)
        out = np.empty(num_elements, np.float32)
        _READ[self.bits](*sections, self.block, known, out, np.float32(1))
        return torch.from_numpy(out)

    def accumulate(
        self, frame: Frame, into: Tensor, frac: float, *, near: Tensor | None = None
    ) -> Distance:
        """Move `into` towards the vector of a frame, see `Codec.accumulate` and `decode`.

        `into` may itself be `near`: each element is read before it is written.

        Returns:
            How far `near` was from what the frame holds.
        """
        out = vector_of(into)
        require_frac(frac)
        known = _required(near, out.size)
        sections = self._sections(frame, out.size)
        return Distance(*_READ[self.bits](*sections, self.block, known, out, np.float32(frac)))

    def for_average(self, num_contributions: int) -> "Modulo":
        """Return itself: an average of parameters lies close to parameters too."""
        return self

    def _num_blocks(self, num_elements: int) -> int:
        return -(-num_elements // self.block)

    def _num_tiles(self, num_elements: int) -> int:
        num_blocks, rest = divmod(num_elements, self.block)
        return num_blocks * -(-self.block // int(TILE)) + -(-rest // int(TILE))

    def _code_bytes(self, num_elements: int) -> int:
        # Of one block. Only its last tile can be odd.
        return -(-num_elements * self.bits // 8)

    def _sections(self, frame: Frame, num_elements: int) -> tuple[Halves, Halves, Bytes]:
        # The scales, checks and codes of a frame, or a CodecError.
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
        least, most = SCALE_BOUNDS
        if num_blocks and not (least <= scales.min() and scales.max() <= most):
            raise CodecError("the frame holds a scale that no encoder writes")
        checks_at = _BLOCK.size + 2 * num_blocks
        num_tiles = self._num_tiles(num_elements)
        codes_at = checks_at + 2 * num_tiles
        checks = array_in(body, np.uint16, num_tiles, checks_at)
        return scales, checks, array_in(body, np.uint8, len(body) - codes_at, codes_at)


def _required(near: Tensor | None, num_elements: int) -> Floats:
    if near is None:
        raise ValueError("the modulo codec sends only what is left modulo a lattice: pass `near`")
    if near.shape != (num_elements,):
        raise ValueError(f"near has shape {list(near.shape)}, expected [{num_elements}]")
    known = vector_of(near)
    require_largest(largest_fp32(known))
    return known
