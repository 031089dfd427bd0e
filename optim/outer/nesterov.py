"""DiLoCo's outer rule: SGD with Nesterov momentum on the averaged pseudo-gradient.

**Paper:** Douillard et al. 2023, DiLoCo, arXiv:2311.08105v3, Algorithm 1.
**Symbols:** `Delta` = pseudo-gradient [n], `b` = momentum buffer [n], `lr` = eta, `momentum` = mu.
**Deviations:** The paper does not print the buffer equations; this is the form of
torch.optim.SGD(nesterov=True), which OpenDiLoCo and others use (test_equals_torch_sgd).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optim.outer.rule import OuterRule, State, require_rates


@dataclass(frozen=True, slots=True)
class Nesterov(OuterRule):
    """DiLoCo. With momentum 0 it is FedAvg (lr = 1), or Lookahead for a replica alone.

    Attributes:
        lr: eta, positive. Tuned values grow with H and the number of replicas, 0.4 to 0.8.
        momentum: mu, in [0, 1).

    Raises:
        ValueError: A constant is out of its range.
    """

    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        require_rates(self.lr, self.momentum)

    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor and momentum, see `OuterRule.step`."""
        (Delta,) = average.unbind()
        # Products and sums stay apart: a fused multiply-add rounds once and exists only on some
        # CPUs, and anchors have to be equal to the bit on all of them.
        b = (state["momentum"] * self.momentum).add_(Delta)
        update = (b * self.momentum).add_(Delta).mul_(self.lr)
        return torch.sub(anchor, update, out=update), {"momentum": b}
