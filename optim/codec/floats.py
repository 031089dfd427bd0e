"""Fp32, bf16 and fp16: one float an element, rounded to the nearest, ties to even.

**Format:** header | floats [n], little-endian.

Fp32 is lossless; bf16 is off by up to 2^-8 of the value; fp16 by up to 2^-11 of it, or 2^-25 below
2^-14. What is beyond the largest value of a format becomes that one: 65504 in fp16, in bf16 the
last one that is no more than `LARGEST_VALUE`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optim.codec import kernels
from optim.codec.frame import (
    HEADER_BYTES,
    LARGEST_VALUE,
    CodecError,
    Frame,
    array_in,
    body_of,
    frame_header,
    require_frac,
    require_largest,
    vector_of,
)


class Floats:
    """What the formats have in common."""

    name: ClassVar[str]
    codec_id: ClassVar[int]
    dtype: ClassVar[type[Any]]
    """What the body is read as: bf16 and fp16 as their bits."""
    write: ClassVar[Callable[..., float]]
    read: ClassVar[Callable[..., None]]
    largest: ClassVar[Callable[..., float]]
    limit: ClassVar[float]
    """The largest magnitude that may be in a body, as `largest` gives it."""

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of a frame."""
        return HEADER_BYTES + np.dtype(self.dtype).itemsize * num_elements

    def encode(self, x: Tensor, *, near: Tensor | None = None, seed: int = 0) -> memoryview:
        """Return the frame of `x`, see `Codec.encode`."""
        values = vector_of(x)
        frame = np.empty(self.frame_bytes(values.size), np.uint8)
        frame[:HEADER_BYTES] = memoryview(frame_header(self.codec_id, values.size))
        require_largest(self.write(values, frame[HEADER_BYTES:].view(self.dtype)))
        return frame.data.toreadonly()

    def decode(self, frame: Frame, num_elements: int, *, near: Tensor | None = None) -> Tensor:
        """Return the vector of a frame, see `Codec.decode`."""
        body = self._body(frame, num_elements)
        out = np.empty(num_elements, np.float32)
        self.read(body, out, np.float32(1))
        return torch.from_numpy(out)

    def accumulate(
        self, frame: Frame, into: Tensor, frac: float, *, near: Tensor | None = None
    ) -> None:
        """Move `into` towards the vector of a frame, see `Codec.accumulate`."""
        values = vector_of(into)
        require_frac(frac)
        self.read(self._body(frame, values.size), values, np.float32(frac))

    def for_average(self, num_contributions: int) -> "Floats":
        """Return itself: the average of dense vectors is as dense."""
        return self

    def _body(self, frame: Frame, num_elements: int) -> npt.NDArray[Any]:
        # The floats of a frame, or a CodecError.
        frame_bytes = self.frame_bytes(num_elements)
        body = body_of(
            frame, codec_id=self.codec_id, num_elements=num_elements, frame_bytes=frame_bytes
        )
        values = array_in(body, self.dtype, num_elements)
        if not self.largest(values) <= self.limit:
            raise CodecError(
                f"the frame holds values that are not finite, or beyond {LARGEST_VALUE:g}"
            )
        return values


class Fp32(Floats):
    """Four bytes an element, lossless."""

    name = "fp32"
    codec_id = 1
    dtype = np.float32
    write = staticmethod(kernels.write_fp32)
    read = staticmethod(kernels.read_fp32)
    largest = staticmethod(kernels.largest_fp32)
    limit = float(np.float32(LARGEST_VALUE))


class Bf16(Floats):
    """Two bytes an element: the range of fp32, and three digits."""

    name = "bf16"
    codec_id = 2
    dtype = np.uint16
    write = staticmethod(kernels.write_bf16)
    read = staticmethod(kernels.read_bf16)
    largest = staticmethod(kernels.largest_half)
    limit = kernels.BF16_MAX


class Fp16(Floats):
    """Two bytes an element: four digits between 6e-5 and 65504."""

    name = "fp16"
    codec_id = 4
    dtype = np.uint16
    write = staticmethod(kernels.write_fp16)
    read = staticmethod(kernels.read_fp16)
    largest = staticmethod(kernels.largest_half)
    limit = kernels.FP16_MAX
