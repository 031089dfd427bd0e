"""Eager updates: step with your own new pseudo-gradient, and with the others' of the last round.

**Paper:** Kale et al. 2025, Eager Updates for Overlapped Communication and Computation in DiLoCo,
arXiv:2502.12996 (read in a careful summary, not in the text):
`theta_m <- OuterOpt(theta_m, Dtil_m)`, `Dtil_m(t) = 1/M (Delta_m(t) + sum_{j != m} Delta_j(t-H))`.
**Symbols:** `Delta_m` = own pseudo-gradient [n], `Theta` = anchor [n], `share` = 1/M, `lr` = eta,
`momentum` = mu, `c` = momentum of one's own pseudo-gradients [n].
**Deviations:** The same numbers, arranged otherwise. Since
`Dtil_m(t) = mean(Delta(t-H)) + 1/M (Delta_m(t) - Delta_m(t-H))` and Nesterov's step is linear,

    theta_m(t) = Theta(t) + offset_m(t),    Theta <- Nesterov(Theta, mean(Delta(t-H)))
    offset_m(t) = -eta/M (Delta_m(t) + mu c_m(t)),    c_m(t) = mu c_m(t-H) + Delta_m(t)

where Theta is equal on all replicas, to the bit: newcomers fetch it, digests compare it
(test_eager_is_the_papers_rule). Where an average lands before the round is over, it takes the
offset's place (test_an_average_that_lands_early_takes_the_place_of_the_offset). Where M changes,
the share is the present one. `own_share` is ours: the paper has M = 2, hence a half; with many
replicas 1/M throws nearly all of a replica's last round away until its average comes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optim.outer.nesterov import Nesterov
from optim.outer.rule import AheadRule, State, require_rates


@dataclass(frozen=True, slots=True)
class Eager(AheadRule):
    """A whole round to deliver, and no step waits. Alone (M = 1) it is DiLoCo.

    Attributes:
        lr: eta, positive.
        momentum: mu, in [0, 1).
        own_share: In [0, 1], in place of 1/M in the offset; 0 is 1/M, the paper's.

    Raises:
        ValueError: A constant is out of its range.
    """

    lr: float = 0.4
    momentum: float = 0.9
    own_share: float = 0.0

    def __post_init__(self) -> None:
        require_rates(self.lr, self.momentum)
        if not 0 <= self.own_share <= 1:
            raise ValueError(f"own_share must be between 0 and 1, not {self.own_share}")

    def init_own(self, num_elements: int) -> State:
        """Return a momentum of zeros for one's own pseudo-gradients."""
        return {"own_momentum": torch.zeros(num_elements)}

    def ahead(self, Delta: Tensor, own: State, *, share: float) -> tuple[Tensor, State]:
        """Return one's own share of Nesterov's step, see `AheadRule.ahead`."""
        c = (own["own_momentum"] * self.momentum).add_(Delta)
        offset = (c * self.momentum).add_(Delta).mul_(-self.lr * (self.own_share or share))
        return offset, {"own_momentum": c}

    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor and momentum: Nesterov's, of the average of the last round."""
        return Nesterov(self.lr, self.momentum).step(anchor, average, state, round=round)
