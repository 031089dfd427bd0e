"""What the live parameters become when a new anchor lands.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Algorithm 2 (`blend`).
**Symbols:** theta = live parameters, Theta = anchor, the outer copy. All vectors `[n]`, one dtype.
**Deviations:** `rebase` is ours: a landing that comes late, or after missed rounds, discards no
local step (test_rebase_keeps_the_local_steps). So is what `blend` does with late landings
(test_a_late_blend_keeps_the_steps_that_were_not_planned).
"""

import torch
from torch import Tensor


@torch.no_grad()
def rebase(theta: Tensor, anchor_new: Tensor, base: Tensor) -> None:
    """Set theta to `Theta_new + (theta - base)`: the steps since departure survive. Mutates theta.

    Where theta equals `base`, theta becomes `anchor_new` to the bit: with no steps since departure
    this is DiLoCo's `theta <- Theta`.

    Args:
        theta: `[n]`, live parameters.
        anchor_new: `[n]`, the anchor that lands.
        base: `[n]`, theta as it was at departure.

    Raises:
        ValueError: The shapes differ.
    """
    _require_same_shape(theta, anchor_new, base)
    # Theta_new - (base - theta), in place. The order matters: theta + (Theta_new - base) would
    # round, and Theta_new + (theta - base) would turn an anchor's -0.0 into 0.0.
    torch.sub(base, theta, out=theta)
    torch.sub(anchor_new, theta, out=theta)


@torch.no_grad()
def blend(
    theta: Tensor, anchor_new: Tensor, base: Tensor, alpha: float, *, planned_frac: float = 1.0
) -> None:
    """Set theta to `alpha * theta + (1 - alpha) * Theta_new`. Mutates theta.

    A landing that is late blends what theta was when it should have come, as far as that can be
    told from the two ends, and keeps all steps since: who is late costs nobody a step.

    Args:
        theta: `[n]`, live parameters.
        anchor_new: `[n]`, the anchor that lands.
        base: `[n]`, theta as it was at departure.
        alpha: In [0, 1]. 1 keeps theta, 0 takes the anchor and drops the planned overlap's steps.
        planned_frac: In [0, 1], of the steps since departure, those that the overlap had planned;
            1 is a landing in time, the paper's.

    Raises:
        ValueError: `alpha` or `planned_frac` is outside [0, 1], or the shapes differ.
    """
    if not 0.0 <= alpha <= 1.0 or not 0.0 <= planned_frac <= 1.0:
        raise ValueError(
            f"alpha and planned_frac must be between 0 and 1, not {alpha} and {planned_frac}"
        )
    _require_same_shape(theta, anchor_new, base)
    if planned_frac == 1.0:
        theta.lerp_(anchor_new, 1.0 - alpha)  # Alg. 2; exact at both ends
        return
    late = torch.lerp(theta, base, planned_frac).sub_(base)  # (1 - planned_frac) (theta - base)
    theta.sub_(late).lerp_(anchor_new, 1.0 - alpha).add_(late)


def _require_same_shape(theta: Tensor, *others: Tensor) -> None:
    # Torch would broadcast, which here only ever hides a mistake.
    for other in others:
        if other.shape != theta.shape:
            raise ValueError(f"theta is {list(theta.shape)}, the other is {list(other.shape)}")
