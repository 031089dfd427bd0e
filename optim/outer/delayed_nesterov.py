"""Delayed Nesterov: the momentum moves only every N-th step, the gradient term at each.

**Paper:** Liu et al. 2024, Asynchronous Local-SGD Training for Language Modeling, arXiv:2401.09135,
Algorithm 3 (read in the authors' released code, not in the text).
**Symbols:** `g` = pseudo-gradient [n], `m` = momentum [n], `D` = sum of g since m moved [n],
`buffer` = N, `c` = momentum's share in the steps between, `lr` = eta, `momentum` = beta.
**Deviations:** Theirs steps once for each worker's lone arrival; here a step is a landing, of
however many contributions. With N = 1 and c = 0 it is `Nesterov`
(test_delayed_nesterov_with_a_buffer_of_one_is_nesterov).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optim.outer.rule import OuterRule, State, require_rates


@dataclass(frozen=True, slots=True)
class DelayedNesterov(OuterRule):
    """For many small landings, each of few contributions, where Nesterov's momentum overshoots.

    Attributes:
        lr: eta, positive.
        momentum: beta, in [0, 1).
        buffer: N, a whole number, at least 1; about the number of replicas.
        c: In [0, 1/N].

    Raises:
        ValueError: A constant is out of its range.
    """

    lr: float = 0.7
    momentum: float = 0.9
    buffer: float = 4
    c: float = 0.0

    def __post_init__(self) -> None:
        require_rates(self.lr, self.momentum)
        if not (self.buffer >= 1 and float(self.buffer).is_integer()):
            raise ValueError(f"buffer must be a whole number of at least 1, not {self.buffer}")
        if not 0 <= self.c <= 1 / self.buffer:
            raise ValueError(f"c must be between 0 and 1 / buffer, not {self.c}")

    def init_state(self, num_elements: int) -> State:
        """Return momentum and buffer of zeros."""
        return {"momentum": torch.zeros(num_elements), "buffer": torch.zeros(num_elements)}

    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor, momentum and buffer, see `OuterRule.step`."""
        (g,) = average.unbind()
        N, c, beta = int(self.buffer), self.c, self.momentum
        m, D = state["momentum"], state["buffer"] + g
        weight = c
        if (round + 1) % N == 0:
            m, D = (m * beta).add_(D / N), torch.zeros_like(D)
            weight = 1 - c * N + c
        update = (m * (weight * beta)).add_(g / N).mul_(self.lr)
        return anchor - update, {"momentum": m, "buffer": D}
