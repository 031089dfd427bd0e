"""The weighted mean: what averaging is, as long as nobody in the group has to be mistrusted.

**Paper:** Douillard et al. 2023, DiLoCo, arXiv:2311.08105v3, Algorithm 1 (the mean of the outer
gradients) and Sec. 6.1 (weights by examples when shards are unbalanced).
"""

import math

import torch
from torch import Tensor

from optim.codec.codec import Codec
from optim.codec.distance import Distance
from optim.codec.frame import Frame
from optim.merge.contributions import require_finite


class WeightedMean:
    """The mean of vectors added one by one, in fp32, with one vector of memory.

    It is a running mean, not a sum divided at the end: a lone contribution, and any number of equal
    ones, come out to the bit, and token counts as weights cost no precision. Rounding depends on
    the order and, slightly, on the CPU: who needs the same bits everywhere shares the result.
    """

    def __init__(self, num_elements: int) -> None:
        self._mean = torch.zeros(num_elements, dtype=torch.float32)
        self._total_weight = 0.0

    @classmethod
    def in_place(cls, vector: Tensor) -> "WeightedMean":
        """Return a mean that is kept in `vector` `[n]`, whose values mean nothing any more."""
        mean = cls(0)
        mean._mean = vector
        return mean

    @property
    def total_weight(self) -> float:
        """The sum of the weights so far."""
        return self._total_weight

    def add(self, x: Tensor, weight: float) -> None:
        """Take one more contribution in; `x` is read, not kept.

        Args:
            x: `[num_elements]`.
            weight: Positive and finite, such as the tokens trained on.

        Raises:
            ValueError: The weight is not positive and finite, `x` has another shape, or an element
                that is not finite.
        """
        total_weight = self._total_with(weight)
        if x.shape != self._mean.shape:
            raise ValueError(f"expected a vector {list(self._mean.shape)}, not {list(x.shape)}")
        x = x.to(torch.float32)
        require_finite(x, "the contribution")
        self._mean.lerp_(x, weight / total_weight)
        self._total_weight = total_weight

    def add_frame(
        self,
        codec: Codec,
        frame: Frame,
        weight: float,
        *,
        near: Tensor | None = None,
    ) -> Distance | None:
        """Take in one more contribution as it came over the wire, without a decoded copy of it.

        The mean is the same to the bit as that of `add` with the decoded frame.

        Args:
            codec: What the frame was written with.
            frame: Any bytes, from anyone.
            weight: Positive and finite, such as the tokens trained on.
            near: `[num_elements]`, what the contribution is expected to lie close to; see `Codec`.

        Returns:
            Of a modulo codec, how far `near` was from what the frame holds.

        Raises:
            ValueError: The weight is not positive and finite.
            CodecError: The bytes are not such a frame; the mean is as it was.
        """
        total_weight = self._total_with(weight)
        distance = codec.accumulate(frame, self._mean, weight / total_weight, near=near)
        self._total_weight = total_weight
        return distance

    def mean(self) -> Tensor:
        """Return the weighted mean so far, a new `[num_elements]` fp32 tensor.

        Raises:
            ValueError: Nothing was added.
        """
        if self._total_weight == 0.0:
            raise ValueError("the mean of nothing is not defined: add a contribution first")
        return self._mean.clone()

    def _total_with(self, weight: float) -> float:
        total_weight = self._total_weight + weight
        if not (weight > 0 and math.isfinite(total_weight)):
            raise ValueError(f"a weight, and their sum, must be positive and finite, not {weight}")
        return total_weight
