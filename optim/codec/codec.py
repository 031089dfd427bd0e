"""The contract of a codec: a vector becomes a frame of bytes, and back."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from optim.codec.blockwise import Int4, Int8
from optim.codec.distance import Distance
from optim.codec.e3m0 import E3M0
from optim.codec.floats import Bf16, Fp16, Fp32
from optim.codec.frame import CodecError, Frame
from optim.codec.modulo import Modulo
from optim.codec.topk import TopK

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

    def encode(self, x: Tensor, *, near: Tensor | None = None, seed: int = 0) -> memoryview:
        """Return the frame of `x`.

        Args:
            x: `[n]` fp32, contiguous, on the CPU, finite, no magnitude beyond `LARGEST_VALUE`.
            near: `[n]`, something that `x` is expected to lie close to. For modulo codecs; all
                others ignore it.
            seed: 64 bits, for stochastic rounding; all others ignore it.

        Raises:
            ValueError: `x` is something else.
        """
        ...

    def decode(self, frame: Frame, num_elements: int, *, near: Tensor | None = None) -> Tensor:
        """Return the vector `[num_elements]` fp32 of a frame, in memory of its own.

        All of it is finite and no magnitude is beyond `LARGEST_VALUE`.

        Args:
            frame: Any bytes, from anyone. Memory used depends on `num_elements` only.
            num_elements: What the receiver expects.
            near: `[num_elements]`, what the receiver has instead of the sender's `near`.

        Raises:
            CodecError: The bytes are not a frame of this codec with that many elements.
        """
        ...

    def accumulate(
        self, frame: Frame, into: Tensor, frac: float, *, near: Tensor | None = None
    ) -> Distance | None:
        """Make `into` what `torch.lerp(into, decode(frame), frac)` would be, without a temporary.

        With `frac` = 1 it becomes the decoded vector to the bit, whatever it was.

        Args:
            frame: As in `decode`. If it is refused, `into` stays as it was.
            into: `[n]` fp32, contiguous, on the CPU; changed.
            frac: How far to go, in [0, 1].
            near: As in `decode`.

        Returns:
            Of a modulo codec, how far `near` was from what the frame holds.

        Raises:
            CodecError: The bytes are not a frame of this codec with that many elements.
            ValueError: `into` or `frac` is something else.
        """
        ...

    def for_average(self, num_contributions: int) -> "Codec":
        """Return the codec for the average of so many decoded vectors, encoded once again."""
        ...


def codec_named(
    name: str, *, block: int | None = None, rounding: str = "nearest", kept: int | None = None
) -> Codec:
    """Return the codec of that name.

    Args:
        name: "fp32", "bf16", "fp16", "int8", "int4", "e3m0", "topk", "mod8" or "mod4".
        block: Elements that share a scale, or None for the codec's own choice. Codecs without
            blocks ignore it.
        rounding: "nearest", or "stochastic" for int8 and int4.
        kept: Of topk: how many values of a block are sent, or None for its own choice.

    Raises:
        ValueError: There is no such codec, or it cannot be had with these parameters.
    """
    own = _given(block=block)
    codecs: dict[str, Callable[[], Codec]] = {
        "fp32": Fp32,
        "bf16": Bf16,
        "fp16": Fp16,
        "int8": lambda: Int8(rounding=rounding, **own),
        "int4": lambda: Int4(rounding=rounding, **own),
        "e3m0": lambda: E3M0(rounding=rounding, **own),
        "topk": lambda: TopK(**_given(chunk=block, k=kept)),
        "mod8": lambda: Modulo(8, **own),
        "mod4": lambda: Modulo(4, **own),
    }
    if name not in codecs:
        raise ValueError(f"there is no codec {name!r}; choose one of {', '.join(codecs)}")
    if kept is not None and name != "topk":
        raise ValueError(f"codec {name} keeps all values; kept is for topk")
    if rounding != "nearest" and name not in ("int8", "int4", "e3m0"):
        raise ValueError(f"{name} rounds to the nearest, not {rounding!r}")
    return codecs[name]()


def _given(**settings: int | None) -> dict[str, int]:
    return {name: value for name, value in settings.items() if value is not None}
