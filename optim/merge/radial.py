"""Radial-directional averaging: lengths and directions are averaged apart, tensor by tensor.

The mean of vectors that point different ways is shorter than any of them, and the more so the more
there are. Here the merged vector has the contributions' mean length, so that an outer rate need not
follow the size of the group.

**Paper:** Douillard et al. 2026, Decoupled DiLoCo, arXiv:2604.21428.
**Symbols:** v_m = contribution m [n], w_m = its weight, unit(v) = v / ||v||, unit(0) = 0.
**Formula**, our reading of the method's name and not taken from the paper's text:
`[sum w_m ||v_m|| / sum w_m] unit(sum w_m unit(v_m) / sum w_m)` for each tensor.
**Deviations:** Where the directions cancel there is none to give a length to: the result is the
weighted mean then (test_directions_that_cancel_give_the_mean).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from optim.merge.contributions import fractions_of, norm_of, vectors_of

# A mean of unit vectors shorter than this is made of rounding errors.
_NO_DIRECTION = 1e-6
# 1 / norm must be finite in fp32.
_NO_LENGTH = 1e-30


def radial_mean(
    contributions: Sequence[Tensor], weights: Sequence[float], spans: Sequence[range]
) -> Tensor:
    """Return the radial-directional average, a new `[n]` fp32 tensor.

    Args:
        contributions: m of `[n]`, pseudo-gradients.
        weights: m, positive and finite, such as the tokens trained on.
        spans: The tensors' ranges; together they cover `[0, n)` once, in order.

    Raises:
        ValueError: Contributions are missing, unequal in shape or not finite, a weight is not
            positive and finite, or the spans do not cover the vectors.
    """
    vectors = vectors_of(contributions)
    fracs = fractions_of(weights, len(vectors))
    merged = torch.zeros_like(vectors[0])
    _require_cover(spans, len(merged))
    for span in spans:
        part = slice(span.start, span.stop)
        _merge_into(merged[part], [x[part] for x in vectors], fracs)
    return merged


def _merge_into(merged: Tensor, parts: list[Tensor], fracs: list[float]) -> None:
    # `merged` is zero at first, then the mean direction, then the result.
    norms = [norm_of(x) for x in parts]
    for x, norm, frac in zip(parts, norms, fracs, strict=True):
        if norm > _NO_LENGTH:
            merged.add_(x, alpha=frac / norm)
    direction_norm = norm_of(merged)
    if direction_norm > _NO_DIRECTION:
        merged.mul_(sum(f * r for f, r in zip(fracs, norms, strict=True)) / direction_norm)
        return
    merged.zero_()
    for x, frac in zip(parts, fracs, strict=True):
        merged.add_(x, alpha=frac)


def _require_cover(spans: Sequence[range], num_elements: int) -> None:
    reached = 0
    for span in spans:
        if span.start != reached or span.step != 1:
            raise ValueError(f"expected a span from element {reached}, not {span}")
        reached = max(span.stop, span.start)
    if reached != num_elements:
        raise ValueError(f"the spans end at element {reached} of {num_elements}")
