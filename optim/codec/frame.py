"""Frames: the header that every codec writes, and the checks that every codec makes.

    magic "TW" | version u8 | codec id u8 | element count u64 LE | the codec's own body

A frame comes from a stranger. Its length follows from what the receiver expects, so it is checked
before anything is allocated, and nothing in a frame decides how much memory is used. All numbers
are little-endian, and so is the machine: kernels read a frame where it lies.
"""

import math
import struct
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAGIC = b"TW"
VERSION = 1
_HEADER = struct.Struct("<2sBBQ")
HEADER_BYTES = _HEADER.size
LARGEST_VALUE = 1e30
"""Sums of larger ones could overflow fp32: none is encoded, and no frame decodes to one."""

Frame: TypeAlias = bytes | bytearray | memoryview


class CodecError(ValueError):
    """Bytes that are not a frame of this codec."""


def frame_header(codec_id: int, num_elements: int) -> bytes:
    """Return the header of a frame."""
    return _HEADER.pack(MAGIC, VERSION, codec_id, num_elements)


def body_of(frame: Frame, *, codec_id: int, num_elements: int, frame_bytes: int) -> memoryview:
    """Return what follows the header, without a copy.

    Args:
        frame: Any bytes.
        codec_id: The codec that the receiver expects.
        num_elements: The element count that the receiver expects.
        frame_bytes: The length of such a frame.

    Raises:
        CodecError: The length or the header is another one.
    """
    view = memoryview(frame).cast("B")
    if len(view) != frame_bytes:
        raise CodecError(f"the frame has {len(view)} bytes, expected {frame_bytes}")
    header = _HEADER.unpack_from(view)
    expected = (MAGIC, VERSION, codec_id, num_elements)
    if header != expected:
        raise CodecError(f"the frame's header is {header}, expected {expected}")
    return view[HEADER_BYTES:]


def array_in(body: memoryview, dtype: type[Any], count: int, offset: int = 0) -> npt.NDArray[Any]:
    """Return `count` numbers of a body, read-only; a copy only if they lie misaligned."""
    array = np.frombuffer(body, dtype, count, offset)
    if not array.flags.aligned:
        array = array.copy()
    array.setflags(write=False)  # one type for the kernels, whoever owns the bytes
    return array


def vector_of(x: Tensor) -> npt.NDArray[np.float32]:
    """Return the memory of a vector, not a copy.

    Raises:
        ValueError: `x` is not a contiguous fp32 vector on the CPU.
    """
    on_cpu = x.device.type == "cpu"
    if x.dim() != 1 or x.dtype != torch.float32 or not on_cpu or not x.is_contiguous():
        raise ValueError(
            f"expected a contiguous float32 vector on the CPU, not {list(x.shape)} {x.dtype} "
            f"on {x.device}"
        )
    array: npt.NDArray[np.float32] = x.detach().numpy()
    return array


def require_vector(x: Tensor) -> None:
    """Check that `x` can be encoded.

    Raises:
        ValueError: It is not a contiguous fp32 vector on the CPU, or has elements that are not
            finite or beyond `LARGEST_VALUE`.
    """
    vector_of(x)
    if x.numel():
        least, most = (float(m) for m in x.detach().aminmax())  # NaN propagates
        require_largest(max(-least, most))


def require_largest(largest: float) -> None:
    """Check the largest magnitude of what was to be encoded, infinite or NaN included.

    Raises:
        ValueError: It is not at most `LARGEST_VALUE`.
    """
    if not largest <= np.float32(LARGEST_VALUE):
        what = "is too large" if math.isfinite(largest) else "is not finite"
        raise ValueError(
            f"the vector {what}: its largest magnitude is {largest:g}, and only up to "
            f"{LARGEST_VALUE:g} is encoded"
        )


def require_frac(frac: float) -> None:
    """Check how far `Codec.accumulate` is to go.

    Raises:
        ValueError: It is not in [0, 1].
    """
    if not 0 <= frac <= 1:
        raise ValueError(f"frac must be at least 0 and at most 1, not {frac}")
