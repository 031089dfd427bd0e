"""How compute is divided among domains: the harder ones get larger models, more steps, or both.

**Paper:** HDEE, arXiv:2502.19385. Its M_Ho-I_Ho, M_Ho-I_He and M_He-I_Ho are `equal`, `steps` and
`size` here; `both` is ours. All have equal compute, so they can be compared.
**Symbols:** `d` = difficulty of a domain, `s` = spread, `w` = its weight, divided by the mean of
all; `f`, `S` = FLOPs for a token, and steps, where all is equal.

    w = s^((d - min d) / (max d - min d))      1 if all are equally difficult, or have none

                 equal      steps      size       both
    FLOPs        f          f          f w        f sqrt(w)     for a token
    steps        S          S w        S          S sqrt(w)

**Deviations:**
- The paper has three groups of difficulty, assigned by hand; here it is a number, such as bits per
  byte of a probe, and the weights lie between 1 and s (s = 5/3 gives the paper's 300, 400 and 500
  steps; test_three_difficulties_give_the_paper_s_steps).
- Steps are whole intervals of the method where that can be, see `peer.experts.steps`. So that they
  can, `size` and `both` first round the steps and then choose models that spend what is left.
- Shapes are rungs of a ladder (`peer.experts.shape`), so FLOPs meet their weights within what the
  rungs allow. Where no rungs come within 2 % of the budget, models come first and steps last.

FLOPs are those of one peer's steps: a domain with n peers spends n times as much.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peer.experts.flops import flops_per_token
from peer.experts.shape import shape_near
from peer.experts.steps import StepTable
from protocol.models import ModelSpec

DIVISIONS = ("equal", "steps", "size", "both")
_SIZE_POWER = {"equal": 0.0, "steps": 0.0, "size": 1.0, "both": 0.5}
_ROUND_OFF = 1e-9
_SCALES = (1.0, 0.995, 0.99, 0.985, 0.98, 0.97, 0.96, 1.005, 1.01, 1.02)
"""Of the models; tried in turn, as rungs may lie above or below what was asked for."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a domain brings to the division.

    Attributes:
        difficulty: Any number that grows with it; None: not weighed, as a seed or where all is
            equal, so it gets the base model and an equal share.
        model: Its shape, if it is given, which no division changes.
        total_steps: Its steps, if they are given; their FLOPs are taken off the budget first.
        step_tokens, interval_steps: If they are not everybody's.
        least_steps: Fewer make no sense; None: one interval.
    """

    difficulty: float | None = None
    model: ModelSpec | None = None
    total_steps: int | None = None
    step_tokens: int | None = None
    interval_steps: int | None = None
    least_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a domain gets.

    Attributes:
        model: Of its expert.
        total_steps: Its budget.
        step_tokens: Of one peer's inner step.
        flops: Of all its steps, by one peer.
    """

    model: ModelSpec
    total_steps: int
    step_tokens: int
    flops: float


def divide(
    claims: Sequence[Claim | float],
    base: ModelSpec,
    *,
    division: str,
    spread: float,
    budget_flops: float,
    step_tokens: int,
    interval_steps: int,
) -> list[Share]:
    """Return what each domain gets, in the order of the claims.

    Args:
        claims: Of all domains, seeds too; a number is a domain's difficulty.
        base: The model where all is equal.
        division: `equal`, `steps`, `size` or `both`.
        spread: Compute of the hardest domain over that of the easiest, unless `equal`.
        budget_flops: What all together may spend.
        step_tokens: Of one peer's inner step.
        interval_steps: H, between two departures of a fragment.

    Raises:
        ValueError: There is no such division, or the budget is too small.
    """
    if division not in DIVISIONS:
        raise ValueError(f"there is no division {division!r}; there are {', '.join(DIVISIONS)}")
    seats = [claim if isinstance(claim, Claim) else Claim(claim) for claim in claims]
    case = _Case(
        seats=seats,
        weights=_weights(seats, 1.0 if division == "equal" else spread),
        base=base,
        division=division,
        tokens=[seat.step_tokens or step_tokens for seat in seats],
        intervals=[seat.interval_steps or interval_steps for seat in seats],
    )
    models = case.models([1.0] * len(seats))
    table = case.table(models, [seat.total_steps for seat in seats])
    smallest = table.smallest_flops()
    if budget_flops < smallest * (1 - _ROUND_OFF):
        raise ValueError(
            f"a budget of {budget_flops:.3g} FLOPs is too small for {len(seats)} domains with "
            f"these models: {_rounded_up(smallest)} is the least that does"
        )
    steps = table.in_intervals(budget_flops)
    if any(case.is_sized):
        models, table, steps = _refined(case, table, budget_flops) or (models, table, None)
    if steps is None:
        steps = table.in_single_steps(budget_flops)
    return [
        Share(model, count, n, count * cost)
        for model, count, n, cost in zip(models, steps, case.tokens, table.costs, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is asked, with one entry for each domain."""

    seats: list[Claim]
    weights: list[float]
    base: ModelSpec
    division: str
    tokens: list[int]
    intervals: list[int]

    @property
    def is_sized(self) -> list[bool]:
        """Whether the division chooses its model."""
        is_sizing = _SIZE_POWER[self.division] > 0
        return [is_sizing and not seat.model and seat.difficulty is not None for seat in self.seats]

    @property
    def is_tied(self) -> list[bool]:
        """Whether it has as many steps as all others that are tied."""
        everybody, weighed = self.division == "equal", self.division == "size"
        return [everybody or (weighed and seat.difficulty is not None) for seat in self.seats]

    def models(self, scales: Sequence[float]) -> list[ModelSpec]:
        """Return the models with so many times the FLOPs for a token that the division wants."""
        wanted = [
            scale * weight ** _SIZE_POWER[self.division] * flops_per_token(self.base)
            for scale, weight in zip(scales, self.weights, strict=True)
        ]
        return [
            shape_near(self.base, flops) if is_sized else seat.model or self.base
            for seat, flops, is_sized in zip(self.seats, wanted, self.is_sized, strict=True)
        ]

    def table(self, models: Sequence[ModelSpec], given: Sequence[int | None]) -> StepTable:
        """Return what makes steps of a budget, with these models, and these steps given."""
        pairs = zip(self.seats, self.intervals, strict=True)
        return StepTable(
            costs=[flops_per_token(m) * n for m, n in zip(models, self.tokens, strict=True)],
            weights=self.weights,
            given=given,
            intervals=self.intervals,
            least=[seat.least_steps or interval for seat, interval in pairs],
            is_tied=self.is_tied,
        )


def _refined(
    case: _Case, table: StepTable, budget_flops: float
) -> tuple[list[ModelSpec], StepTable, list[int]] | None:
    """Return models for steps in whole intervals; None if no rungs come near the budget."""
    exact, near = table.exact(budget_flops), table.nearest_intervals(budget_flops)
    is_set = [sized or tied for sized, tied in zip(case.is_sized, case.is_tied, strict=True)]
    given = [
        count if is_ else seat.total_steps
        for count, is_, seat in zip(near, is_set, case.seats, strict=True)
    ]
    for scale in _SCALES:
        models = case.models([scale * e / n for e, n in zip(exact, near, strict=True)])
        refined = case.table(models, given)
        steps = refined.in_intervals(budget_flops)
        if steps is not None:
            return models, refined, steps
    return None


def _weights(seats: Sequence[Claim], spread: float) -> list[float]:
    """Return w of each claim, 1 for those that are not weighed."""
    known = [seat.difficulty for seat in seats if seat.difficulty is not None]
    low, width = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)

    def raw(difficulty: float) -> float:
        return spread ** ((difficulty - low) / width) if width > 0 else 1.0

    mean = sum(map(raw, known)) / len(known) if known else 1.0
    return [1.0 if seat.difficulty is None else raw(seat.difficulty) / mean for seat in seats]


def _rounded_up(flops: float) -> str:
    """Return three digits, of a number not below: 1.24e+12."""
    unit = 10.0 ** (math.floor(math.log10(flops)) - 2)
    return f"{math.ceil(flops / unit * (1 - _ROUND_OFF)) * unit:.3g}"
