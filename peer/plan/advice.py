"""Which method to take on a link, and what would help most.

Searched are the presets with other intervals, fragments and codecs, where the outer rule allows it.
What the link carries as planned comes first, then the smaller expected loss (the middle of its
range, to a tenth of a per cent), then fewer bytes and less memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from optim.method import Method, method_named
from optim.outer.rule import AheadRule
from optim.presets import PRESETS
from peer.plan.cost import LossCost, loss_cost
from peer.plan.estimate import Estimate, Link, estimate
from peer.plan.utilisation import Workload
from protocol.manifest import LimitSpec, RoundSpec

INTERVALS = (30, 50, 100, 200, 500, 1000)
"""Inner steps. A thousand is the longest that anybody has published (arXiv:2311.08105)."""
FRAGMENTS = (3, 6, 12)
"""Of methods that have more than one."""
CODECS = {
    False: ("fp32", "bf16", "int8", "int4"),
    True: ("fp32", "bf16", "mod8", "mod4"),
}
"""By whether the rule sends parameters, as it does with mixing pairs and groups."""
MARGIN = 2.0
"""So many times what is predicted is what a deadline should be."""
LEAST_GAIN_FRAC = 0.0005


@dataclass(frozen=True, slots=True)
class Case:
    """What a volunteer asks about.

    Attributes:
        workload: What every peer trains.
        link: How every peer is connected.
        peers: How many there are.
    """

    workload: Workload
    link: Link
    peers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A method in a case.

    Attributes:
        preset: Its preset.
        overrides: What differs from the preset, as `optim.method.method_named` takes it.
        method: The method.
        estimate: What it costs.
        loss: What it is expected to cost in loss.
    """

    preset: str
    overrides: dict[str, Any]
    method: Method
    estimate: Estimate
    loss: LossCost

    @property
    def rank(self) -> tuple[bool, float, float, float]:
        """What sorts plans: smaller is better."""
        planned = self.estimate
        loss = round(self.loss.middle_frac, 3)
        return not planned.suffices, loss, planned.bytes_per_day, planned.memory.total


@dataclass(frozen=True, slots=True)
class Help:
    """A change, and what it makes of the plan.

    Attributes:
        change: In words: "twice the upload".
        plan: With it.
        gain_frac: By how much the expected loss falls.
    """

    change: str
    plan: Plan
    gain_frac: float


def plan_for(case: Case, preset: str, **overrides: Any) -> Plan:
    """Return what a preset, with settings of your own, does in a case.

    Raises:
        ValueError: There is no such preset or setting, or it makes no sense here.
    """
    method = method_named(preset, **overrides)
    planned = estimate(method, case.workload, case.link, case.peers)
    loss = loss_cost(method, planned, case.workload.num_params, case.peers)
    return Plan(preset, overrides, method, planned, loss)


def plans(case: Case) -> list[Plan]:
    """Return the presets as they are, without those that the case does not allow."""
    return list(_possible(case, ((preset, {}) for preset in PRESETS)))


def best_plan(case: Case, preset: str | None = None) -> Plan:
    """Return the best of all that was searched, or of one preset's.

    Raises:
        ValueError: No method works in this case.
    """
    names = PRESETS if preset is None else (preset,)
    settings = ((name, overrides) for name in names for overrides in _variants(name))
    found = min(_possible(case, settings), key=lambda plan: plan.rank, default=None)
    if found is None:
        plan_for(case, preset or "streaming")  # says why
        raise ValueError("no method works in this case")
    return found


def helps(case: Case, plan: Plan, again: Callable[[Case], Plan]) -> list[Help]:
    """Return what other links or settings would do, the best first.

    Args:
        case: The case.
        plan: What is to become better.
        again: Returns the plan of another case.
    """
    link, schedule = case.link, plan.method.schedule
    candidates: list[tuple[str, Callable[[], Plan]]] = [
        ("twice the upload", lambda: again(_with(case, up_bps=2 * link.up_bps))),
        ("twice the download", lambda: again(_with(case, down_bps=2 * link.down_bps))),
        ("half the round trip", lambda: again(_with(case, rtt_s=link.rtt_s / 2))),
        ("twice the interval", lambda: _longer(case, plan, 2 * schedule.interval_steps)),
    ]
    thin = _thinner(plan)
    if thin is not None:
        candidates.append(("4 bits a value", lambda: _changed(case, plan, codec={"name": thin})))
    if schedule.num_fragments > 1:
        more = {"fragments": 2 * schedule.num_fragments}
        candidates.append(("twice the fragments", lambda: _changed(case, plan, schedule=more)))
    found = []
    for change, make in candidates:
        try:
            changed = make()
        except ValueError:  # the model has too few blocks, say
            continue
        found.append(Help(change, changed, _score(plan) - _score(changed)))
    return sorted(found, key=lambda help: -help.gain_frac)


def needed_settings(plan: Plan, peers: int) -> dict[str, dict[str, Any]]:
    """Return the tables of a run.toml that the plan needs, `method` and perhaps more."""
    method: dict[str, Any] = {"preset": plan.preset, **plan.overrides}
    tables: dict[str, dict[str, Any]] = {"method": method}
    deadlines = RoundSpec()
    waits: dict[str, float] = {
        "exchange_s": MARGIN * plan.estimate.exchange_s,
        "progress_s": MARGIN * plan.estimate.least_progress_s,
    }
    needed = {
        name: float(math.ceil(wait_s))
        for name, wait_s in waits.items()
        if wait_s > getattr(deadlines, name)
    }
    if needed:
        tables["round"] = needed
    if plan.method.mixing == "all" and peers > LimitSpec().max_peers:
        tables["limits"] = {"max_peers": peers}
    return tables


def _variants(preset: str) -> Iterator[dict[str, Any]]:
    method = method_named(preset)
    is_ahead = isinstance(method.outer.rule, AheadRule)
    own, possible = method.codec.name, CODECS[method.outer.rule.sends_parameters]
    codecs = [own, *(name for name in possible if name != own)] if own != "topk" else [own]
    own_fragments = method.schedule.num_fragments
    for H in INTERVALS:
        for fragments in FRAGMENTS if own_fragments > 1 else (1,):
            schedule: dict[str, int] = {}
            if method.schedule.interval_steps != H:
                schedule["interval_steps"] = H
                if is_ahead:
                    schedule["overlap_steps"] = H
            if fragments != own_fragments:
                schedule["fragments"] = fragments
            for codec in codecs:
                overrides: dict[str, Any] = {"schedule": schedule} if schedule else {}
                yield overrides | ({"codec": {"name": codec}} if codec != own else {})


def _possible(case: Case, settings: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[Plan]:
    for preset, overrides in settings:
        try:
            yield plan_for(case, preset, **overrides)
        except ValueError:  # too many peers for `all`, more fragments than blocks
            continue


def _with(case: Case, **link: float) -> Case:
    return replace(case, link=replace(case.link, **link))


def _changed(case: Case, plan: Plan, **overrides: dict[str, Any]) -> Plan:
    laid_over = dict(plan.overrides)
    for axis, settings in overrides.items():
        laid_over[axis] = {**laid_over.get(axis, {}), **settings}
    return plan_for(case, plan.preset, **laid_over)


def _longer(case: Case, plan: Plan, interval_steps: int) -> Plan:
    schedule = {"interval_steps": interval_steps}
    if isinstance(plan.method.outer.rule, AheadRule):
        schedule["overlap_steps"] = interval_steps
    return _changed(case, plan, schedule=schedule)


def _thinner(plan: Plan) -> str | None:
    """Returns a codec of 4 bits in place of a wider one."""
    if plan.method.codec.name not in ("fp32", "bf16", "fp16", "int8", "mod8"):
        return None
    rule = plan.method.outer.rule
    if not rule.sends_parameters:
        return "int4"
    return "mod4" if rule.lanes == 1 else None


def _score(plan: Plan) -> float:
    # Where nobody knows the loss, a shorter interval still counts.
    loss = plan.loss.middle_frac
    return loss if math.isfinite(loss) else 1 + plan.loss.low_frac
