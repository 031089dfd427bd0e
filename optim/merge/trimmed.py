"""The trimmed mean: coordinate by coordinate, without the largest and the smallest.

**Paper:** Yin, Chen, Ramchandran, Bartlett 2018, Byzantine-Robust Distributed Learning: Towards
Optimal Statistical Rates, arXiv:1803.01498, Definition 2.
**Deviations:** What is trimmed on each side is a number, not a fraction of the contributions
(test_equals_leaving_out_the_extremes_one_by_one). There are no weights: one who lies about a vector
lies about its weight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from optim.merge.contributions import vectors_of

_PART = 1 << 18


def trimmed_mean(contributions: Sequence[Tensor], trim: int) -> Tensor:
    """Return the mean of what is left of each coordinate, a new `[n]` fp32 tensor.

    With at most `trim` dishonest contributions each coordinate lies between the smallest and the
    largest honest one, whatever the others are.

    Args:
        contributions: m of `[n]`.
        trim: How many to leave out on each side of a coordinate; 0 for the mean.

    Raises:
        ValueError: Contributions are missing, unequal in shape or not finite, or nothing is left.
    """
    vectors = vectors_of(contributions)
    if not 0 <= 2 * trim < len(vectors):
        raise ValueError(
            f"trim must be at least 0 and below half of the {len(vectors)} contributions, "
            f"not {trim}"
        )
    merged = torch.empty_like(vectors[0])
    # Part by part: sorting takes several times the memory of what it sorts.
    for out, *parts in zip(*(torch.split(x, _PART) for x in (merged, *vectors)), strict=True):
        kept = torch.stack(parts).sort(dim=0).values[trim : len(parts) - trim]
        # Rounding could lead out of the range: then the mean of equal numbers would be another.
        torch.clamp(kept.mean(dim=0), kept[0], kept[-1], out=out)
    return merged
