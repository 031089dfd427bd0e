"""Plain: the anchor moves along the averaged contribution, without momentum.

**Papers:** McMahan et al. 2017, FedAvg, arXiv:1602.05629 (lr = 1). SparseLoCo, arXiv:2508.15706:
`Theta <- Theta - alpha mean(q)`, where error feedback around a sparse codec takes the place of
momentum (`optim.codec.feedback`).
**Symbols:** `q` = the contributions as the codec delivers them [n], `lr` = alpha.
**Deviations:** None.
"""

from dataclasses import dataclass

from torch import Tensor

from optim.outer.rule import OuterRule, State, require_rates


@dataclass(frozen=True, slots=True)
class Plain(OuterRule):
    """Averaging of the weights, damped or stretched by `lr`.

    Attributes:
        lr: alpha, positive. SparseLoCo: 1, and 0.65 late in a long run.

    Raises:
        ValueError: lr is not positive.
    """

    lr: float = 1.0

    def __post_init__(self) -> None:
        require_rates(self.lr, 0.0)

    def init_state(self, num_elements: int) -> State:
        """Return nothing: there is no momentum."""
        return {}

    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor, see `OuterRule.step`."""
        (mean_q,) = average.unbind()
        return anchor - mean_q * self.lr, {}
