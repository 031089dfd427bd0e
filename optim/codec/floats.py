"""Fp32 and bf16: one float an element."""

import numpy as np
import torch
from torch import Tensor

from optim.codec.frame import (
    HEADER_BYTES,
    CodecError,
    body_of,
    frame_header,
    is_finite,
    require_vector,
)

_BF16_MAX = torch.finfo(torch.bfloat16).max


class Fp32:
    """Four bytes an element, lossless."""

    name = "fp32"
    codec_id = 1

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of a frame."""
        return HEADER_BYTES + 4 * num_elements

    def encode(self, x: Tensor) -> bytes:
        """Return the frame of `x`, see `Codec.encode`."""
        require_vector(x)
        body = x.detach().numpy().astype("<f4", copy=False)
        return b"".join((frame_header(self.codec_id, x.numel()), body.data))

    def decode(self, frame: bytes | bytearray | memoryview, num_elements: int) -> Tensor:
        """Return the vector of a frame, see `Codec.decode`."""
        body = body_of(
            frame,
            codec_id=self.codec_id,
            num_elements=num_elements,
            frame_bytes=self.frame_bytes(num_elements),
        )
        return _finite(np.frombuffer(body, "<f4").astype(np.float32))  # a copy: frames are not ours


class Bf16:
    """Two bytes an element, rounded to the nearest (ties to even): relative error up to 2^-9.

    A finite value beyond the largest bf16 becomes that one, not infinity.
    """

    name = "bf16"
    codec_id = 2

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of a frame."""
        return HEADER_BYTES + 2 * num_elements

    def encode(self, x: Tensor) -> bytes:
        """Return the frame of `x`, see `Codec.encode`."""
        require_vector(x)
        halves = x.detach().clamp(-_BF16_MAX, _BF16_MAX).to(torch.bfloat16)
        body = halves.view(torch.int16).numpy().astype("<i2", copy=False)
        return b"".join((frame_header(self.codec_id, x.numel()), body.data))

    def decode(self, frame: bytes | bytearray | memoryview, num_elements: int) -> Tensor:
        """Return the vector of a frame, see `Codec.decode`."""
        body = body_of(
            frame,
            codec_id=self.codec_id,
            num_elements=num_elements,
            frame_bytes=self.frame_bytes(num_elements),
        )
        # A bf16 is the upper half of an fp32.
        bits = np.left_shift(np.frombuffer(body, "<u2"), 16, dtype=np.uint32)
        return _finite(bits.view(np.float32))


def _finite(values: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> Tensor:
    x = torch.from_numpy(values)
    if not is_finite(x):
        raise CodecError("the frame holds values that are not finite")
    return x
