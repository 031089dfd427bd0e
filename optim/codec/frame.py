"""Frames: the header that every codec writes, and the checks that every codec makes.

    magic "TW" | version u8 | codec id u8 | element count u64 LE | the codec's own body

A frame comes from a stranger. Its length follows from what the receiver expects, so it is checked
before anything is allocated, and nothing in a frame decides how much memory is used.
"""

import struct

import torch
from torch import Tensor

MAGIC = b"TW"
VERSION = 1
_HEADER = struct.Struct("<2sBBQ")
HEADER_BYTES = _HEADER.size


class CodecError(ValueError):
    """Bytes that are not a frame of this codec."""


def frame_header(codec_id: int, num_elements: int) -> bytes:
    """Return the header of a frame."""
    return _HEADER.pack(MAGIC, VERSION, codec_id, num_elements)


def body_of(
    frame: bytes | bytearray | memoryview, *, codec_id: int, num_elements: int, frame_bytes: int
) -> memoryview:
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


def require_vector(x: Tensor) -> None:
    """Check that `x` can be encoded.

    Raises:
        ValueError: `x` is not a contiguous fp32 vector on the CPU, or not finite.
    """
    on_cpu = x.device.type == "cpu"
    if x.dim() != 1 or x.dtype != torch.float32 or not on_cpu or not x.is_contiguous():
        raise ValueError(
            f"expected a contiguous float32 vector on the CPU, not {list(x.shape)} {x.dtype} "
            f"on {x.device}"
        )
    if not is_finite(x):
        raise ValueError("the vector is not finite")


def is_finite(x: Tensor) -> bool:
    """Return whether no element is infinite or NaN, in one pass without temporaries."""
    return x.numel() == 0 or all(bool(m.isfinite()) for m in x.aminmax())  # NaN propagates
