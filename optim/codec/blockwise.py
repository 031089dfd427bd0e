"""Int8 in blocks: one byte an element and one fp32 scale a block.

**Format:** header | block size u32 LE | scales fp32 LE [ceil(n / block)] | codes int8 [n].
Element i is `codes[i] * scales[i // block]`; the last block may be short.

**Precedent:** blockwise absmax, as in Dettmers et al. 2021, arXiv:2110.02861, with linear codes in
place of their quantile map.

**Rounding.** The scale is absmax / 127 in fp32. Encoding a decoded vector gives the same bytes
again, because fl(fl(127 s) / 127) = s for each scale s that the division can give (fp32 has others,
none of them is the quotient of an absmax). Scales stay in `[2^-126, 8454659 * 2^98]`: below it they
would lose bits, beyond it 127 * s would be infinite. So a block of zeros needs no case of its own.
"""

import struct

import numpy as np
import torch
from torch import Tensor

from optim.codec.frame import HEADER_BYTES, CodecError, body_of, frame_header, require_vector

_BLOCK = struct.Struct("<I")
_MIN_SCALE = 2.0**-126
_MAX_SCALE = 8454659 * 2.0**98
_CHUNK_ELEMENTS = 1 << 18
"""Elements quantized at a time: 1 MiB of temporaries, which stays in the cache."""


class Int8:
    """Blockwise 8-bit codec: an element is off by at most half its block's scale, absmax / 254.

    Attributes:
        block: Elements that share a scale.
    """

    name = "int8"
    codec_id = 3

    def __init__(self, block: int = 256) -> None:
        """Fix the block size.

        Raises:
            ValueError: `block` is not in [1, 2^32).
        """
        if not 1 <= block < 1 << 32:
            raise ValueError(f"block must be at least 1 and below 2^32, not {block}")
        self.block = block

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of a frame."""
        return HEADER_BYTES + _BLOCK.size + 4 * self._num_blocks(num_elements) + num_elements

    def encode(self, x: Tensor) -> bytes:
        """Return the frame of `x`, see `Codec.encode`."""
        require_vector(x)
        x, n = x.detach(), x.numel()
        scales = torch.empty(self._num_blocks(n))
        codes = torch.empty(n, dtype=torch.int8)
        num_whole = n // self.block
        split = num_whole * self.block
        if num_whole:
            shape = (num_whole, self.block)
            _quantize(x[:split].view(shape), scales[:num_whole], codes[:split].view(shape))
        if split < n:
            _quantize(x[split:].view(1, -1), scales[num_whole:], codes[split:].view(1, -1))
        head = frame_header(self.codec_id, n) + _BLOCK.pack(self.block)
        return b"".join((head, scales.numpy().astype("<f4", copy=False).data, codes.numpy().data))

    def decode(self, frame: bytes | bytearray | memoryview, num_elements: int) -> Tensor:
        """Return the vector of a frame, see `Codec.decode`."""
        body = body_of(
            frame,
            codec_id=self.codec_id,
            num_elements=num_elements,
            frame_bytes=self.frame_bytes(num_elements),
        )
        (block,) = _BLOCK.unpack_from(body)
        if block != self.block:
            raise CodecError(f"the frame has blocks of {block}, expected {self.block}")
        num_blocks = self._num_blocks(num_elements)
        scales = np.frombuffer(body, "<f4", num_blocks, _BLOCK.size)
        codes = np.frombuffer(body, np.int8, num_elements, _BLOCK.size + 4 * num_blocks)
        if num_elements:
            _require_sane(scales, codes)
        out = np.empty(num_elements, np.float32)
        num_whole = num_elements // self.block
        split = num_whole * self.block
        shape = (num_whole, self.block)
        whole = out[:split].reshape(shape)
        np.multiply(codes[:split].reshape(shape), scales[:num_whole, None], out=whole)
        if split < num_elements:
            np.multiply(codes[split:], scales[num_whole], out=out[split:])
        return torch.from_numpy(out)

    def _num_blocks(self, num_elements: int) -> int:
        return -(-num_elements // self.block)


def _quantize(x_NB: Tensor, scales_N: Tensor, codes_NB: Tensor) -> None:
    # Writes the scales and codes of N blocks of B elements, a few rows at a time.
    rows = max(1, _CHUNK_ELEMENTS // x_NB.shape[1])
    steps = torch.empty((min(rows, x_NB.shape[0]), x_NB.shape[1]))
    for i in range(0, x_NB.shape[0], rows):
        x, scales, codes = x_NB[i : i + rows], scales_N[i : i + rows], codes_NB[i : i + rows]
        torch.maximum(x.amax(dim=1), x.amin(dim=1).neg_(), out=scales)
        scales.div_(127).clamp_(_MIN_SCALE, _MAX_SCALE)
        q = torch.div(x, scales.unsqueeze(1), out=steps[: x.shape[0]])
        codes.copy_(q.round_().clamp_(-127, 127))


def _require_sane(
    scales: "np.ndarray[tuple[int], np.dtype[np.float32]]",
    codes: "np.ndarray[tuple[int], np.dtype[np.int8]]",
) -> None:
    # A NaN fails both comparisons; a scale beyond the largest one could decode to infinity.
    if not (scales.min() >= 0 and scales.max() <= _MAX_SCALE):
        raise CodecError("the frame holds a scale that is negative, too large or not finite")
    if codes.min() < -127:
        raise CodecError("the frame holds the code -128, which no encoder writes")
