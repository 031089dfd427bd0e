"""The contract of a codec: a vector becomes a frame of bytes, and back."""

from typing import Protocol

from torch import Tensor

from optim.codec.blockwise import Int8
from optim.codec.floats import Bf16, Fp32
from optim.codec.frame import CodecError

__all__ = ["Codec", "CodecError", "codec_named"]


class Codec(Protocol):
    """Writes and reads self-describing frames. Stateless; equal input gives equal bytes."""

    @property
    def name(self) -> str:
        """The name by which `codec_named` knows it."""
        ...

    def frame_bytes(self, num_elements: int) -> int:
        """Return the exact size of the frame of that many elements, known in advance."""
        ...

    def encode(self, x: Tensor) -> bytes:
        """Return the frame of `x`.

        Args:
            x: `[n]` fp32, contiguous, on the CPU, finite.

        Raises:
            ValueError: `x` is something else.
        """
        ...

    def decode(self, frame: bytes | bytearray | memoryview, num_elements: int) -> Tensor:
        """Return the vector `[num_elements]` fp32 of a frame, all finite and in memory of its own.

        Args:
            frame: Any bytes, from anyone. Memory used depends on `num_elements` only.
            num_elements: What the receiver expects.

        Raises:
            CodecError: The bytes are not a frame of this codec with that many elements.
        """
        ...


def codec_named(name: str, *, block: int = 256) -> Codec:
    """Return the codec of that name.

    Args:
        name: "fp32", "bf16" or "int8".
        block: Elements that share a scale; int8 only.

    Raises:
        ValueError: There is no such codec, or the block size makes no sense.
    """
    codecs: dict[str, Codec] = {"fp32": Fp32(), "bf16": Bf16(), "int8": Int8(block)}
    if name not in codecs:
        raise ValueError(f"there is no codec {name!r}; choose one of {', '.join(codecs)}")
    return codecs[name]
