"""The arms of the experiment: who is trained how long, at the same total of FLOPs.

*equal*, *steps*, *size* and *both* are the divisions of `peer.experts.division`, from scratch.
*branched* arms first train one model on the mix of all domains with half of the compute, and their
experts go on from it (Branch-Train-Merge, arXiv:2208.03306; HDEE branches, too). *dense* is one
model on the mix; *dense large* one of three times the FLOPs for a byte, and a third of the steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.experts_training import BATCH_SEQUENCES, MIX, Training
from peer.experts.division import divide
from peer.experts.flops import flops_per_token
from peer.experts.shape import shape_near
from protocol.models import ModelSpec

BRANCH_FRAC = 0.5
LARGE_TIMES = 3.0
HDEE_SPREAD = 5 / 3
WIDE_SPREAD = 3.0


@dataclass(frozen=True)
class Arm:
    """One way to spend the compute.

    Attributes:
        name: For people.
        division: As `divide` has it; "dense" for one model.
        by: What difficulty is: `level`, `slope`, or empty where nothing is weighed.
        spread: Compute of the hardest domain over that of the easiest.
        is_branched: From a model of the mix, instead of from scratch.
    """

    name: str
    division: str
    by: str = ""
    spread: float = HDEE_SPREAD
    is_branched: bool = False

    @property
    def is_for_one_seed(self) -> bool:
        """Whether a look is enough: no claim is about it."""
        return self.spread == WIDE_SPREAD or "large" in self.name


EXPERT_ARMS = (
    Arm("equal", "equal"),
    Arm("steps", "steps", "level"),
    Arm("size", "size", "level"),
    Arm("both", "both", "level"),
    Arm("steps, slope", "steps", "slope"),
    Arm("steps, 3", "steps", "level", WIDE_SPREAD),
    Arm("steps, slope, 3", "steps", "slope", WIDE_SPREAD),
    Arm("branched, equal", "equal", is_branched=True),
    Arm("branched, steps", "steps", "level", is_branched=True),
    Arm("branched, steps, slope", "steps", "slope", is_branched=True),
)
DENSE_ARMS = (Arm("dense", "dense"), Arm("dense large", "dense"))

PAPER = ("equal", "steps", "size", "both")
"""Which arms HDEE's claim is about; `both` is ours."""


@dataclass(frozen=True)
class Scale:
    """How large all of it is.

    Attributes:
        base: The model where all is equal.
        steps: Of each expert where all is equal.
        lr: The peak rate, of all.
        domains: Names.
    """

    base: ModelSpec
    steps: int
    lr: float
    domains: tuple[str, ...]

    @property
    def step_tokens(self) -> int:
        """In a step."""
        return BATCH_SEQUENCES * self.base.context

    @property
    def budget_flops(self) -> float:
        """Of an arm."""
        return len(self.domains) * self.steps * self.step_tokens * flops_per_token(self.base)


def probes(scale: Scale, seed: int) -> dict[str, tuple[Training, Training]]:
    """Returns two short trainings of a small model for each domain, the second twice as long."""
    small = shape_near(scale.base, flops_per_token(scale.base) / 3)
    steps = scale.steps // 3
    return {
        domain: (
            Training(small, domain, seed, steps, scale.lr),
            Training(small, domain, seed, 2 * steps, scale.lr),
        )
        for domain in scale.domains
    }


def difficulties(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Returns each domain's difficulty by measure.

    `level` is the longer probe's bits per byte, as a stand-in for HDEE's groups by hand. `slope` is
    what twice the steps gained: how much more compute would help, whatever the level.

    Args:
        found: Bits per byte of the shorter and the longer probe, by domain.
    """
    return {
        "level": {domain: longer for domain, (_, longer) in found.items()},
        "slope": {domain: shorter - longer for domain, (shorter, longer) in found.items()},
    }


def trainings_of(
    arm: Arm, scale: Scale, difficulty: Mapping[str, Mapping[str, float]], seed: int
) -> list[Training]:
    """Returns the trainings of an arm, its experts in the order of the domains."""
    if arm.division == "dense":
        return [_dense(scale, seed, LARGE_TIMES if "large" in arm.name else 1.0)]
    branch_steps, budget = 0, scale.budget_flops
    if arm.is_branched:
        branch_steps = math.floor(BRANCH_FRAC * len(scale.domains) * scale.steps)
        budget -= branch_steps * scale.step_tokens * flops_per_token(scale.base)
    level = difficulty[arm.by or "level"]
    shares = divide(
        [level[domain] for domain in scale.domains],
        scale.base,
        division=arm.division,
        spread=arm.spread,
        budget_flops=budget,
        step_tokens=scale.step_tokens,
        interval_steps=1,
    )
    return [
        Training(share.model, domain, seed, share.total_steps, scale.lr, branch_steps)
        for domain, share in zip(scale.domains, shares, strict=True)
    ]


def flops_of(trainings: Sequence[Training]) -> float:
    """Returns the FLOPs of all of them, with what they branch from, once."""
    starts = {training.start for training in trainings if training.start is not None}
    return sum(training.flops for training in (*trainings, *starts))


def _dense(scale: Scale, seed: int, times: float) -> Training:
    spec = scale.base if times == 1 else shape_near(scale.base, times * flops_per_token(scale.base))
    steps = math.floor(scale.budget_flops / scale.step_tokens / flops_per_token(spec) + 1e-6)
    return Training(spec, MIX, seed, steps, scale.lr)
