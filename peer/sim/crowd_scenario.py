"""A scenario of level `sizes`, as a crowd: what it may not say, and what its settings come to.

Contributions and states weigh what they would with the run's codec and outer rule, as
`thinwire plan` has them; how often a peer looks around is the product's.
"""

from typing import TYPE_CHECKING

from optim.method import Method
from optim.outer.noloco import NoLoCo
from peer.method import method_of_run
from peer.plan.estimate import Estimate, Link, estimate, layers_of
from peer.plan.utilisation import Workload
from peer.presence import CARD_LIFETIME_S, REFRESH_S
from peer.sim.crowd import CrowdSpec
from peer.train.model import layout_of_run
from peer.units import format_duration
from protocol.errors import ConfigError
from protocol.manifest import Manifest

if TYPE_CHECKING:
    from peer.sim.scenario import Group, Scenario

MOST_PEERS = 100_000
_IDLE = {
    "task": "nothing is trained",
    "toy": "nothing is trained",
    "evaluate_every_rounds": "nothing is trained",
    "evaluation_bytes": "nothing is trained",
    "distances": "all peers are in one place",
    "faults": "all that happens is churn",
}
"""Settings of the other level, and why they do nothing here."""


def crowd_params(scenario: "Scenario", manifest: Manifest) -> int:
    """Returns how many parameters the bulk data weighs as much as."""
    if scenario.stands_for_params is not None:
        return round(scenario.stands_for_params)
    return layout_of_run(manifest).num_elements


def crowd_spec(scenario: "Scenario", manifest: Manifest) -> CrowdSpec:
    """Returns the crowd that a scenario describes.

    Raises:
        ConfigError: names a setting that does nothing at this level, or cannot be had.
    """
    _refuse_idle(scenario)
    group, round, method = scenario.groups[0], manifest.round, method_of_run(manifest)
    _check_count(group.count, manifest)
    _check_schedule(method)
    cost = _estimate(group, method, crowd_params(scenario, manifest))
    if cost.least_progress_s > round.progress_s:
        raise ConfigError(
            "run.round.progress_s: when all streams share a link, a chunk takes "
            f"{format_duration(cost.least_progress_s)}; write more than that"
        )
    rule, H = method.outer.rule, method.schedule.interval_steps
    momentum, gamma = (rule.momentum, rule.gamma) if isinstance(rule, NoLoCo) else (0.0, 0.0)
    return CrowdSpec(
        num_peers=group.count,
        mixing=method.mixing,
        momentum=momentum,
        gamma=gamma,
        interval_steps=H,
        step_s=group.step_s,
        step_cv=group.step_cv,
        pace_cv=scenario.crowd.pace_cv,
        step_tokens=manifest.inner.batch_sequences * manifest.context,
        part_bytes=_part_bytes(cost, method.mixing, group.count),
        state_bytes=cost.join_bytes,
        link=group.link.spec(),
        entry_s=H * group.step_s,
        refresh_s=scenario.crowd.refresh_s,
        lifetime_s=scenario.crowd.refresh_s * CARD_LIFETIME_S / REFRESH_S,
        churn_frac=scenario.churn.crash_per_hour / 3600 * H * group.step_s / group.count,
        exchange_s=round.exchange_s,
        progress_s=round.progress_s,
        quorum_frac=round.quorum_frac,
        grace_s=round.grace_s,
    )


def _part_bytes(cost: Estimate, mixing: str, peers: int) -> float:
    """Returns what a contribution weighs; of n members each moves 2 (n - 1) / n of it each way."""
    if mixing == "pairs":
        return cost.bytes_each_way
    return cost.bytes_each_way * peers / (2 * (peers - 1))


def _estimate(group: "Group", method: Method, num_params: int) -> Estimate:
    link = group.link
    workload = Workload(num_params=num_params, layers=layers_of(num_params), step_s=group.step_s)
    path = Link(
        up_bps=link.up_bps,
        down_bps=link.down_bps,
        rtt_s=4 * link.latency_s,
        loss_frac=1 - (1 - link.loss) ** 2,
    )
    return estimate(method, workload, path, group.count)


# ---- what cannot be


def _refuse_idle(scenario: "Scenario") -> None:
    for name, why in _IDLE.items():
        if name in scenario.model_fields_set:
            raise ConfigError(f"{name}: does nothing at level sizes, where {why}; leave it out")
    if len(scenario.groups) > 1:
        raise ConfigError("groups: at level sizes all peers are of one kind; write one group")
    group = scenario.groups[0]
    if group.joins_s:
        raise ConfigError(
            "groups[0].joins: at level sizes all come within the first interval; leave it out"
        )
    churn = scenario.churn
    if churn.leave_per_hour:
        raise ConfigError(
            "churn.leave_per_hour: at level sizes nobody leaves in order; write crash_per_hour"
        )
    if churn.join_per_hour != churn.crash_per_hour:
        raise ConfigError(
            "churn.join_per_hour: at level sizes as many come as go; write the same number as "
            f"crash_per_hour, {churn.crash_per_hour:g}"
        )


def _check_count(num_peers: int, manifest: Manifest) -> None:
    if not 2 <= num_peers <= MOST_PEERS:
        raise ConfigError(
            f"groups[0].count: at level sizes there are 2 to {MOST_PEERS:,} peers, not {num_peers}"
        )
    if manifest.method.mixing == "groups":
        raise ConfigError(
            "run.method.mixing: at level sizes peers mix in pairs or all together; write one of "
            "these, or leave level out"
        )
    if manifest.method.mixing == "all" and num_peers > manifest.limits.max_peers:
        raise ConfigError(
            f"groups[0].count: {num_peers:,} peers cannot average all together, at most "
            f"run.limits.max_peers ({manifest.limits.max_peers}) can; use a method with mixing "
            "pairs, such as noloco"
        )


def _check_schedule(method: Method) -> None:
    schedule = method.schedule
    if schedule.num_fragments > 1 or method.separate_embeddings:
        raise ConfigError(
            "run.method.schedule.fragments: at level sizes a peer exchanges everything at once; "
            "write fragments = 1 and separate_embeddings = false"
        )
    if schedule.overlap_steps:
        raise ConfigError(
            "run.method.schedule.overlap_steps: at level sizes an average lands as soon as it is "
            "there; write overlap_steps = 0"
        )
