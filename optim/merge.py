"""Merging: what the contributions of a group become before the outer rule sees them.

**Paper:** Douillard et al. 2023, DiLoCo, arXiv:2311.08105v3, Algorithm 1 (the mean of the outer
gradients) and Sec. 6.1 (weights by examples when shards are unbalanced).
"""

import math

import torch
from torch import Tensor


class WeightedMean:
    """The mean of vectors added one by one, in fp32, with one vector of memory.

    It is a running mean, not a sum divided at the end: a lone contribution, and any number of equal
    ones, come out to the bit, and token counts as weights cost no precision. Rounding depends on
    the order and, slightly, on the CPU: who needs the same bits everywhere shares the result.
    """

    def __init__(self, num_elements: int) -> None:
        self._mean = torch.zeros(num_elements, dtype=torch.float32)
        self._total_weight = 0.0

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
            ValueError: The weight is not positive and finite, or `x` has another shape.
        """
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"a weight must be positive and finite, not {weight}")
        if x.shape != self._mean.shape:
            raise ValueError(f"expected a vector {list(self._mean.shape)}, not {list(x.shape)}")
        self._total_weight += weight
        self._mean.lerp_(x.to(torch.float32), weight / self._total_weight)

    def mean(self) -> Tensor:
        """Return the weighted mean so far, a new `[num_elements]` fp32 tensor.

        Raises:
            ValueError: Nothing was added.
        """
        if self._total_weight == 0.0:
            raise ValueError("the mean of nothing is not defined: add a contribution first")
        return self._mean.clone()
