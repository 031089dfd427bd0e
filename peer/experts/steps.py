"""How many steps a budget makes, once each domain's model has been chosen.

Steps are multiples of the method's interval, since what follows the last departure reaches no
anchor, unless more than 2 % of the budget were left over, or a domain got over 10 % more or less
than its share: then all are any number. What rounding down leaves goes to those that lost most. The
total is never above the budget; what is left is less than 2 % of it, or than a step of every
domain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_LEFT_FRAC = 0.02
MOST_MOVED_FRAC = 0.1
"""By rounding, of a domain's steps."""
_ROUND_OFF = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """One entry for each domain.

    Attributes:
        costs: FLOPs of a step.
        weights: What each may spend in proportion; of those tied together their sum counts.
        given: Steps that are not ours to choose; their FLOPs come off the budget first.
        intervals: H.
        least: The fewest steps.
        is_tied: Whether it has as many steps as all others that are tied.
    """

    costs: Sequence[float]
    weights: Sequence[float]
    given: Sequence[int | None]
    intervals: Sequence[int]
    least: Sequence[int]
    is_tied: Sequence[bool]

    def smallest_flops(self) -> float:
        """Return the smallest budget of which each domain gets its fewest steps."""
        rates = self._steps_per_flop()
        needed = (self.least[i] / rates[i] for i in self._open())
        return self._given_flops() + max(needed, default=0.0)

    def exact(self, budget_flops: float) -> list[float]:
        """Return the steps of each before rounding."""
        pool_flops = budget_flops - self._given_flops()
        rates = self._steps_per_flop()
        return [
            pool_flops * rate if given is None else float(given)
            for rate, given in zip(rates, self.given, strict=True)
        ]

    def nearest_intervals(self, budget_flops: float) -> list[int]:
        """Return the steps of each in whole intervals, up or down, whatever all then cost."""
        steps = []
        for i, exact in enumerate(self.exact(budget_flops)):
            quantum = self._quantum(i, self.intervals)
            whole = max(round(exact / quantum), math.ceil(self.least[i] / quantum))
            steps.append(self.given[i] or quantum * whole)
        return steps

    def in_intervals(self, budget_flops: float) -> list[int] | None:
        """Return steps in whole intervals; None if too much were left over or moved, or too few."""
        steps, exact = self._rounded(budget_flops, self.intervals), self.exact(budget_flops)
        left = budget_flops - self._spent(steps)
        is_fair = all(
            steps[i] >= self.least[i] and abs(steps[i] - exact[i]) <= MOST_MOVED_FRAC * exact[i]
            for i in self._open()
        )
        return steps if is_fair and 0 <= left <= MOST_LEFT_FRAC * budget_flops else None

    def in_single_steps(self, budget_flops: float) -> list[int]:
        """Return steps that leave as little as can be."""
        return self._rounded(budget_flops, [1] * len(self.costs))

    def _open(self) -> list[int]:
        return [i for i, given in enumerate(self.given) if given is None]

    def _spent(self, steps: Sequence[int]) -> float:
        return sum(count * cost for count, cost in zip(steps, self.costs, strict=True))

    def _given_flops(self) -> float:
        return self._spent([given or 0 for given in self.given])

    def _steps_per_flop(self) -> list[float]:
        """Return the steps that each gets of one FLOP of what is open, before rounding."""
        rates = [0.0] * len(self.costs)
        whole = sum(self.weights[i] for i in self._open())
        tied = [i for i in self._open() if self.is_tied[i]]
        for i in self._open():
            group = tied if self.is_tied[i] else [i]
            share = sum(self.weights[j] for j in group) / whole
            rates[i] = share / sum(self.costs[j] for j in group)
        return rates

    def _quantum(self, i: int, quanta: Sequence[int]) -> int:
        """Return what the steps of one are a multiple of; of those that are tied, of all theirs."""
        if not self.is_tied[i]:
            return quanta[i]
        return math.lcm(*(quanta[j] for j in self._open() if self.is_tied[j]))

    def _rounded(self, budget_flops: float, quanta: Sequence[int]) -> list[int]:
        """Return the steps as multiples of these numbers."""
        exact = self.exact(budget_flops)
        steps, lost = [given or 0 for given in self.given], {}
        for i in self._open():
            quantum = self._quantum(i, quanta)
            count = max(0.0, exact[i] / quantum * (1 + _ROUND_OFF))
            steps[i] = quantum * math.floor(count)
            if not self.is_tied[i]:
                lost[i] = count - math.floor(count)
        left = budget_flops - self._spent(steps)
        for i in sorted(lost, key=lambda i: (-lost[i], i)):
            if quanta[i] * self.costs[i] <= left:
                steps[i] += quanta[i]
                left -= quanta[i] * self.costs[i]
        return steps
