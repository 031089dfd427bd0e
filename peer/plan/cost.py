"""What a method costs in loss against data parallel: figures that somebody measured, and one rule.

The rule has three terms, and each is a range:

    base     what DiLoCo lost. Of each study the run nearest in size and replicas (the sum of the
             logarithms' distances), corrected to the H and replicas asked for, along the slopes
             that arXiv:2501.18512 (H) and arXiv:2503.09799 (replicas) have at the nearest size.
             A study that is farther than the nearest by more than a factor of e does not count.
    method   by how much the method was better or worse than DiLoCo in the same study.
    delay    a landing that comes later than the method plans, as on a full link, acts late. It is
             charged like the late round of eager updates, in proportion to the delay over H: our
             assumption, nobody has published it.

A range is as wide as studies disagree, and never narrower than their figures are good for. Models
of less than a thirtieth of the size asked for count only where nobody has tried a larger one; from
ours, tiny and with few rounds, a difference is then between nothing and what we measured.
"""

import math
from dataclasses import dataclass

from optim.method import Method
from optim.outer.co2 import CO2
from optim.outer.eager import Eager
from peer.plan.estimate import Estimate
from peer.plan.figures import (
    DIFFERENCES,
    DILOCO,
    EAGER,
    FIGURES,
    LATE,
    LONGEST,
    OURS,
    SCALING,
    STREAMING,
    Figure,
    Study,
    interval_slopes,
    replica_slopes,
)

SMALL_DELAY_STEPS = 10
"""arXiv:2501.18512: up to there an overlap changes the loss by less than `SMALL_DELAY_FRAC`."""
SMALL_DELAY_FRAC = 0.002
SMALLEST_FRAC = 1 / 30
FARTHER = 1.0
FARTHEST = 5
"""A slope is followed to so many times that."""


@dataclass(frozen=True, slots=True)
class LossCost:
    """What a method is expected to cost.

    Attributes:
        low_frac, high_frac: Increase of the loss over data parallel's; an infinite `high_frac` is
            "or more".
        studies: What it rests on.
        reasons: Why it is extrapolated, in words; empty if it is not.
    """

    low_frac: float
    high_frac: float
    studies: tuple[Study, ...]
    reasons: tuple[str, ...]

    @property
    def middle_frac(self) -> float:
        """Between the two, infinite with `high_frac`."""
        return (self.low_frac + self.high_frac) / 2


def loss_cost(method: Method, planned: Estimate, num_params: float, peers: int) -> LossCost:
    """Return what a method costs in loss on a link.

    Args:
        method: The method.
        planned: What the link makes of it.
        num_params: Of the model.
        peers: As many replicas.
    """
    family = family_of(method)
    known = cost_of(family, num_params, peers, planned.interval_steps)
    if family in ("eager", "co2"):  # theirs are the figures of a late round
        return known
    low, high, reasons = known.low_frac, known.high_frac, known.reasons
    if planned.delay_steps <= SMALL_DELAY_STEPS:
        return LossCost(low, high + SMALL_DELAY_FRAC, known.studies, reasons)
    share = min(1.0, planned.delay_steps / planned.planned_steps)
    late = f"landings come {planned.delay_steps:.0f} steps late"
    return LossCost(
        low + LATE[0] * share,
        high + max(SMALL_DELAY_FRAC, LATE[1] * share),
        tuple(dict.fromkeys((*known.studies, EAGER, OURS))),
        (*reasons, late),
    )


def cost_of(family: str, num_params: float, replicas: int, interval_steps: float) -> LossCost:
    """Return what is known of a method whose landings are as early as it plans.

    Args:
        family: See `family_of`.
        num_params: Of the model.
        replicas: M.
        interval_steps: H, as it really is.

    Raises:
        ValueError: There is no such family.
    """
    low, high, studies = _base(num_params, replicas, interval_steps)
    reasons = _beyond(num_params, replicas, interval_steps)
    if family != "diloco":
        mine = [d for d in DIFFERENCES if d.family == family]
        if not mine:
            names = dict.fromkeys(d.family for d in DIFFERENCES)
            raise ValueError(f"no figures of {family!r}; there are diloco, {', '.join(names)}")
        near = [d for d in mine if d.num_params >= SMALLEST_FRAC * num_params]
        if not near:
            reasons.append(f"{family} was measured by us only, with 117 thousand parameters")
        low += min(d.low_frac for d in near or mine)
        high += max(d.high_frac for d in near or mine)
        studies += [d.study for d in near or mine]
    if interval_steps > FARTHEST * LONGEST:
        high = math.inf
    return LossCost(low, high, tuple(dict.fromkeys(studies)), tuple(reasons))


def family_of(method: Method) -> str:
    """Return the method, of those with figures, that this one is most like."""
    if isinstance(method.outer.rule, Eager):
        return "eager"
    if isinstance(method.outer.rule, CO2):
        return "co2"
    is_whole = method.schedule.num_fragments == 1
    if method.mixing != "all":
        return "noloco" if is_whole and not method.codec.name.startswith("mod") else "gossip-stream"
    if method.codec.name == "topk":
        return "sparseloco"
    is_thin = method.codec.name not in ("fp32", "bf16", "fp16")
    return "streaming" if is_thin or not is_whole else "diloco"


def _base(
    num_params: float, replicas: int, interval_steps: float
) -> tuple[float, float, list[Study]]:
    def distance(figure: Figure) -> float:
        ratios = figure.num_params / num_params, figure.replicas / replicas
        return sum(abs(math.log(ratio)) for ratio in ratios)

    near = [f for f in FIGURES if f.num_params >= SMALLEST_FRAC * num_params] or FIGURES
    nearest = [
        min((figure for figure in near if figure.study == study), key=distance)
        for study in dict.fromkeys(figure.study for figure in near)
    ]
    farthest = min(map(distance, nearest)) + FARTHER
    nearest = [figure for figure in nearest if distance(figure) <= farthest]
    ranges = [_corrected(figure, num_params, replicas, interval_steps) for figure in nearest]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    studies = [figure.study for figure in nearest]
    if any(figure.interval_steps != interval_steps for figure in nearest):
        studies += [STREAMING, DILOCO]  # the slopes'
    if any(figure.replicas != replicas for figure in nearest):
        studies.append(SCALING)
    return low, high, studies


def _corrected(
    figure: Figure, num_params: float, replicas: int, interval_steps: float
) -> tuple[float, float]:
    # A shorter interval than any that was measured does no better: with H = 1 DiLoCo is worst.
    shortest = min(figure.interval_steps for figure in FIGURES)
    longer = math.log(max(interval_steps, shortest) / figure.interval_steps)
    more = math.log(replicas / figure.replicas)
    of_interval = [longer * slope for slope in interval_slopes(num_params)]
    of_replicas = [more * slope for slope in replica_slopes(num_params)]
    middle, noise = figure.increase_frac, figure.study.noise_frac
    low = middle + min(of_interval) + min(of_replicas) - noise
    return low, middle + max(of_interval) + max(of_replicas) + noise


def _beyond(num_params: float, replicas: int, interval_steps: float) -> list[str]:
    reasons = []
    largest = max(figure.num_params for figure in FIGURES)
    if num_params > largest:
        reasons.append(f"no model above {largest / 1e9:g}B was measured")
    most = max(figure.replicas for figure in FIGURES)
    if replicas > most:
        reasons.append(f"nobody measured more than {most} replicas")
    if interval_steps > LONGEST:
        reasons.append(f"nobody measured H above {LONGEST}")
    return reasons
