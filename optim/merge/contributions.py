"""What a group hands in: vectors of one length, all finite, and their weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_PART = 1 << 16
# Outside of it the squares that a norm adds up may overflow or underflow in fp32.
_SAFE_NORM_MIN = 1e-16


def norm_of(x: Tensor) -> float:
    """Return the Euclidean norm of `[n]` fp32, for any n and magnitude; NaN or inf if `x` has any.

    fp32 sums over parts of the vector, float64 over the sums: as fast as fp32, and it does not
    stop growing where a term is lost beside the sum of a hundred million others.
    """
    norm = math.hypot(*(float(torch.linalg.vector_norm(part)) for part in torch.split(x, _PART)))
    if _SAFE_NORM_MIN < norm < math.inf:
        return norm
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def require_finite(x: Tensor, what: str) -> None:
    """Refuse `[n]` fp32 with an element that is no finite number.

    Args:
        x: `[n]`.
        what: What to call it.

    Raises:
        ValueError: It has one.
    """
    if not math.isfinite(norm_of(x)):
        raise ValueError(f"{what} has NaN or infinite elements: leave it out")


def vectors_of(contributions: Sequence[Tensor]) -> list[Tensor]:
    """Return the contributions in fp32, those that are in fp32 already as they are.

    Args:
        contributions: m of `[n]`.

    Raises:
        ValueError: There are none, their shapes are not all the same `[n]`, or one is not finite.
    """
    if len(contributions) == 0:
        raise ValueError("merging nothing is not defined: hand in a contribution")
    vectors = [x.to(torch.float32) for x in contributions]
    for i, x in enumerate(vectors):
        if x.dim() != 1 or x.shape != vectors[0].shape:
            raise ValueError(
                f"expected vectors of one length, and contribution {i} is {list(x.shape)}, "
                f"contribution 0 {list(vectors[0].shape)}"
            )
        require_finite(x, f"contribution {i}")
    return vectors


def fractions_of(weights: Sequence[float], num_contributions: int) -> list[float]:
    """Return the weights divided by their sum.

    Args:
        weights: Positive and finite, such as the tokens trained on.
        num_contributions: How many there must be.

    Raises:
        ValueError: There are more or fewer, or they or their sum are not positive and finite.
    """
    if len(weights) != num_contributions:
        raise ValueError(f"{num_contributions} contributions need as many weights, not {weights}")
    total = sum(weights) if all(0 < w < math.inf for w in weights) else math.nan
    if not math.isfinite(total):
        raise ValueError(f"weights, and their sum, must be positive and finite, not {weights}")
    return [w / total for w in weights]
