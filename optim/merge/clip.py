"""Clipping: whoever sends something long is heard, and no louder than a bound.

**Paper:** Karimireddy, He, Jaggi 2021, Learning from History for Byzantine Robust Optimization,
arXiv:2012.10333 (CenteredClip). He, Karimireddy, Jaggi 2022, Byzantine-Robust Decentralized
Learning via ClippedGossip, arXiv:2202.01545 (self-centred clipping). The median of norms as bound
is what the templar network's code does.
**Symbols:** x_i = contribution i [n] of m, v = the centre [n], tau = `radius`,
`clip(z, tau) = z min(1, tau / ||z||)`.
**Deviations:** The median bounds the whole vector; templar's, each tensor
(test_the_bound_is_the_lower_median_of_whole_norms).
"""

import math
from collections.abc import Sequence
from statistics import median_low

import torch
from torch import Tensor

from optim.merge.contributions import norm_of, require_finite, vectors_of


def clip_norm(x: Tensor, max_norm: float) -> Tensor:
    """Return `clip(x, max_norm)`, a new `[n]` fp32 tensor; `x` to the bit if it is short enough.

    Args:
        x: `[n]`.
        max_norm: At least 0; infinite for no bound.

    Raises:
        ValueError: `x` has an element that is not finite, or the bound is negative or NaN.
    """
    _require_radius(max_norm, "max_norm")
    (x,) = vectors_of([x])
    return x * _scale(norm_of(x), max_norm)


def clip_to_median(contributions: Sequence[Tensor]) -> list[Tensor]:
    """Return each contribution clipped to the median of all norms, as new `[n]` fp32 tensors.

    Of an even number it is the lower median: as long as at most half of the contributions are
    dishonest, no bound is above the longest honest norm.

    Args:
        contributions: m of `[n]`.

    Raises:
        ValueError: Contributions are missing, unequal in shape or not finite.
    """
    vectors = vectors_of(contributions)
    norms = [norm_of(x) for x in vectors]
    bound = median_low(norms)
    return [x * _scale(norm, bound) for x, norm in zip(vectors, norms, strict=True)]


def self_centred_clip(own: Tensor, other: Tensor, radius: float) -> Tensor:
    """Return `own + clip(other - own, radius)`, a new `[n]` fp32 tensor.

    However far off another's vector is, it is taken for one within the radius of one's own; one
    that is within the radius comes out to the bit.

    Args:
        own: `[n]`, what is trusted.
        other: `[n]`, what a stranger sent.
        radius: At least 0; infinite for full trust.

    Raises:
        ValueError: A vector is not finite, the shapes differ, or the radius is negative or NaN.
    """
    _require_radius(radius, "radius")
    own, other = vectors_of([own, other])
    difference = other - own
    distance = norm_of(difference)
    if distance <= radius:
        return other.clone()
    return difference.mul_(_scale(distance, radius)).add_(own)


def centred_clip(
    contributions: Sequence[Tensor], radius: float, iterations: int, start: Tensor
) -> Tensor:
    """Return `v` after so many times `v <- v + mean_i clip(x_i - v, radius)`, a new `[n]` tensor.

    The result is within `radius iterations` of the start. Whatever one of m contributions is
    replaced by, the result moves by at most `2 radius iterations / m`.

    Args:
        contributions: m of `[n]`.
        radius: At least 0; infinite for the mean.
        iterations: At least 1.
        start: `[n]`, where the centre is at first, such as the last round's result.

    Raises:
        ValueError: Vectors are missing, unequal in shape or not finite, the radius is negative or
            NaN, or there is no iteration.
    """
    _require_radius(radius, "radius")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations}")
    vectors = vectors_of(contributions)
    centre = start.to(torch.float32, copy=True)
    if centre.shape != vectors[0].shape:
        raise ValueError(
            f"start is {list(centre.shape)}, the contributions are {list(vectors[0].shape)}"
        )
    require_finite(centre, "start")
    for _ in range(iterations):
        step = torch.zeros_like(centre)
        for x in vectors:
            difference = x - centre
            step.add_(difference, alpha=_scale(norm_of(difference), radius) / len(vectors))
        centre += step
    return centre


def _scale(norm: float, max_norm: float) -> float:
    return 1.0 if norm <= max_norm else max_norm / norm


def _require_radius(radius: float, name: str) -> None:
    if math.isnan(radius) or radius < 0:
        raise ValueError(f"{name} must be at least 0, not {radius}")
