"""CO2: momentum on an average that is one round old, so that a whole round may hide its transport.

**Paper:** Sun et al. 2024, CO2, arXiv:2401.16265. The text was not available to us; the structure
(one-round-stale average, staleness gap penalty, outer momentum clipping) is from its abstract and
reviews, the equations are **our reading**, on the base of SlowMo (arXiv:1910.00643):

    Lambda = gap(moved, Delta)                       # >= 1
    m      = clip(momentum * m + Delta / Lambda)     # elementwise to [-clip, clip]
    Theta  = Theta - lr * m

**Symbols:** `Delta` = mean pseudo-gradient of the last round [n], `moved` = how far the anchor has
moved since the inner steps behind Delta set out [n], `m` = outer momentum [n].
**Deviations:**
- The inner rate gamma_t, by which SlowMo divides m and multiplies the step, is left out: m is in
  units of the parameters, and so is `clip`.
- The penalty: see `GAPS`. The authors' released code has a constant in its place.
- The clip really clips (test_c4_...); the released code discards what it clipped.
- `keep`: the reading above drops a replica's own round from the live parameters until the average
  brings it back, one round later. `keep` is the part that stays, as in Overlap-Local-SGD
  (Wang et al. 2020, arXiv:2002.09539). 0 is the literal reading
  (test_without_keep_it_is_the_literal_reading); see docs/methods.md for what it costs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from optim.outer.rule import AheadRule, State, require_rates

Gap = Callable[[Tensor, Tensor], Tensor]
"""`moved` [n] and `Delta` [n] -> the penalty, `[]` or `[n]`, at least 1 everywhere."""


def no_gap(moved: Tensor, Delta: Tensor) -> Tensor:
    """Return 1: staleness is not punished."""
    return torch.ones(())


def norm_gap(moved: Tensor, Delta: Tensor) -> Tensor:
    """Return `1 + |moved| / |Delta|`, in steps of 1/256.

    The shape is that of gap-aware SGD (Barkai et al. 2020, arXiv:1909.10802), with the size of the
    new update as the yardstick. The last bits of a norm differ between CPUs and anchors must not,
    hence the steps.
    """
    if not (size := torch.linalg.vector_norm(Delta, dtype=torch.float64)):
        return torch.ones(())
    ratio: Tensor = torch.linalg.vector_norm(moved, dtype=torch.float64) / size
    return (ratio * 256).round().div(256).add(1).to(torch.float32)


def elementwise_gap(moved: Tensor, Delta: Tensor) -> Tensor:
    """Return `1 + |moved_i| / rms(Delta)` for each element, the yardstick as a power of two."""
    size = torch.linalg.vector_norm(Delta, dtype=torch.float64) / math.sqrt(max(1, len(Delta)))
    if not size:
        return torch.ones(())
    yardstick = 2.0 ** max(-126, round(math.log2(size.item())))  # normal in fp32: nothing is 0 / 0
    return moved.abs().div(yardstick).add(1)


GAPS: dict[str, Gap] = {"none": no_gap, "norm": norm_gap, "elementwise": elementwise_gap}
"""Penalties by name. None of them is claimed to be the paper's."""


@dataclass(frozen=True, slots=True)
class CO2(AheadRule):
    """See the module docstring.

    Attributes:
        lr: alpha, positive.
        momentum: beta, in [0, 1). The released examples have 0 for few replicas and 0.6 for many.
        clip: Bound of each element of the momentum, positive; infinite by default.
        gap: One of `GAPS` by name, or a function like them.
        keep: In [0, 1]: what live parameters keep of their own round until its average lands.

    Raises:
        ValueError: A constant is out of its range.
    """

    lr: float = 1.0
    momentum: float = 0.2
    clip: float = math.inf
    gap: str | Gap = "norm"
    keep: float = 1.0

    def __post_init__(self) -> None:
        require_rates(self.lr, self.momentum)
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, not {self.clip}")
        if isinstance(self.gap, str) and self.gap not in GAPS:
            raise ValueError(f"there is no gap {self.gap!r}; choose one of {', '.join(GAPS)}")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must be between 0 and 1, not {self.keep}")

    @property
    def is_elementwise(self) -> bool:
        """Only without a penalty: the others measure the whole vector."""
        return self.gap == "none"

    def init_own(self, num_elements: int) -> State:
        """Return nothing: an offset depends on one round only."""
        return {}

    def ahead(self, Delta: Tensor, own: State, *, share: float) -> tuple[Tensor, State]:
        """Return what is kept of one's own round, see `AheadRule.ahead`."""
        return Delta * -self.keep, {}

    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor and momentum, see `OuterRule.step`."""
        (Delta,) = average.unbind()
        m = state["momentum"]
        gap = GAPS[self.gap] if isinstance(self.gap, str) else self.gap
        # The steps behind Delta set out one landing ago, and that landing moved the anchor by lr m.
        Lambda = gap(m * self.lr, Delta)
        m = (m * self.momentum).add_(Delta / Lambda).clamp_(-self.clip, self.clip)
        return anchor - m * self.lr, {"momentum": m}
