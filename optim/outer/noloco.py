"""NoLoCo's outer rule: momentum on the pair's mean, and a pull towards the pair's mean weights.

**Paper:** Kolehmainen et al. 2025, NoLoCo, arXiv:2506.10911v1, Eq. (1)-(3), bound: Eq. (74).
**Symbols:** `phi` = this replica's anchor [n] (no two are equal), `theta` = live parameters [n],
`Delta` = theta - phi, `delta` = outer momentum [n], `momentum` = alpha, `lr` = beta.
**Deviations:**
- The sign of beta. Eq. (2) prints minus, which with Eq. (1) climbs the loss; the paper's own A.2
  and the authors' code have plus (test_n1_everyone_in_one_group_is_heavy_ball_diloco).
- gamma = lr by default. The paper prints no gamma; the authors' code uses this one.
- One lane when gamma = lr, see `NoLoCo` (test_n4_one_lane_of_theta_equals_two_lanes).
- The bound on gamma. Eq. (74) drops the covariance of weights and momentum. Kept, for random pairs
  of many replicas and no gradient, the second moments (E e^2, E e delta, E delta^2) of a replica's
  distance e from the mean follow a linear map, stable exactly for 0 < gamma < 2 (1 - alpha^2)
  (test_the_bound_on_gamma_is_where_the_spread_stops_shrinking).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optim.outer.rule import OuterRule, State, require_rates


@dataclass(frozen=True, slots=True)
class NoLoCo(OuterRule):
    """Gossip without a collective: each round another pair, no common anchor.

    What travels depends on the constants. In general it is Delta and phi. When gamma = lr, Eq. (2)
    collapses to `phi_new = (1 - beta) phi + beta mean(theta) + alpha delta_old`, so theta alone is
    enough: half the bytes. Weights are much larger than what a round changes in them, so theta
    wants a codec of many bits (fp32; bf16 with care), or one that counts on partners being near
    each other (`optim.codec.modulo`): int8 noise on theta is as large as Delta. With two lanes the
    same holds for phi, though not for Delta.

    Attributes:
        lr: beta, positive.
        momentum: alpha, in [0, 1); 0.5 in the paper. DiLoCo's 0.9 diverges with gamma near 0.7.
        gamma: The pull towards the pair's mean weights, at least 0 (0 never agrees: the replicas
            drift apart like random walks) and below `2 (1 - alpha^2)`.

    Raises:
        ValueError: A constant is out of its range.
    """

    lr: float = 0.7
    momentum: float = 0.5
    gamma: float = 0.7

    def __post_init__(self) -> None:
        require_rates(self.lr, self.momentum)
        bound = 2 * (1 - self.momentum**2)
        if not 0 <= self.gamma < bound:
            raise ValueError(
                f"gamma must be at least 0 and below 2 (1 - momentum^2) = {bound:.3g} for "
                f"momentum {self.momentum}, not {self.gamma}: beyond it the replicas drive each "
                "other apart; lower gamma, or momentum (0.5 is the paper's)"
            )

    @property
    def lanes(self) -> int:
        """One (theta) when gamma = lr, else two (Delta, phi)."""
        return 1 if self.gamma == self.lr else 2

    @property
    def sends_parameters(self) -> bool:
        """True: theta, or phi beside Delta."""
        return True

    def outgoing(self, anchor: Tensor, theta: Tensor) -> Tensor:
        """Return theta `[1, n]`, or Delta and phi `[2, n]`."""
        if self.lanes == 1:
            return theta.clone().unsqueeze(0)
        return torch.stack((theta - anchor, anchor))  # Eq. (1)

    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor and momentum, see `OuterRule.step`."""
        delta = state["momentum"] * self.momentum
        if self.lanes == 1:
            (theta_mean,) = average.unbind()
            delta += (theta_mean - anchor).mul_(self.lr)  # Eq. (2) with gamma = beta
        else:
            Delta_mean, phi_mean = average.unbind()
            delta += Delta_mean * self.lr  # Eq. (2)
            delta -= (anchor - phi_mean).mul_(self.gamma)
        return anchor + delta, {"momentum": delta}  # Eq. (3)
