"""What the live parameters become when a new anchor lands.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Algorithm 2 (`blend`).
**Symbols:** theta = live parameters, Theta = anchor, the outer copy. All vectors `[n]`, one dtype.
**Deviations:** `rebase` is ours: a landing that comes late, or after missed rounds, discards no
local step (test_rebase_keeps_the_local_steps).
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
def blend(theta: Tensor, anchor_new: Tensor, alpha: float) -> None:
    """Set theta to `alpha * theta + (1 - alpha) * Theta_new`. Mutates theta.

    Args:
        theta: `[n]`, live parameters.
        anchor_new: `[n]`, the anchor that lands.
        alpha: In [0, 1]. 1 keeps theta, 0 takes the anchor and drops the steps since departure.

    Raises:
        ValueError: `alpha` is outside [0, 1], or the shapes differ.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
    _require_same_shape(theta, anchor_new)
    theta.lerp_(anchor_new, 1.0 - alpha)  # Alg. 2; exact at both ends


def _require_same_shape(theta: Tensor, *others: Tensor) -> None:
    # Torch would broadcast, which here only ever hides a mistake.
    for other in others:
        if other.shape != theta.shape:
            raise ValueError(f"theta is {list(theta.shape)}, the other is {list(other.shape)}")
