"""Heavy ball: SGD with Polyak's momentum on the averaged pseudo-gradient.

**Paper:** Kolehmainen et al. 2025, NoLoCo, arXiv:2506.10911v1: the form in which the authors' code
runs its DiLoCo baseline. SlowMo (Wang et al. 2020, arXiv:1910.00643) is the same up to scaling.
**Symbols:** `Delta` = pseudo-gradient [n], `v` = velocity [n], `lr` = eta, `momentum` = mu.
**Deviations:** None. The first step moves by `eta Delta`, Nesterov's by `eta (1 + mu) Delta`; the
whole response to one Delta is `eta / (1 - mu)` in both (test_t7_response_to_a_unit_impulse).
"""

from dataclasses import dataclass

from torch import Tensor

from optim.outer.rule import OuterRule, State, require_rates


@dataclass(frozen=True, slots=True)
class HeavyBall(OuterRule):
    """DiLoCo with classical momentum.

    Attributes:
        lr: eta, positive.
        momentum: mu, in [0, 1); NoLoCo's authors found 0.3 better than 0.9 here.

    Raises:
        ValueError: A constant is out of its range.
    """

    lr: float = 0.7
    momentum: float = 0.3

    def __post_init__(self) -> None:
        require_rates(self.lr, self.momentum)

    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor and velocity, see `OuterRule.step`."""
        (Delta,) = average.unbind()
        v = (state["momentum"] * self.momentum).sub_(Delta * self.lr)
        return anchor + v, {"momentum": v}
