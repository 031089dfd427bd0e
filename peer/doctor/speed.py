"""What the link carries, and what the run's method makes of that."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from peer.doctor.finding import Finding, Verdict
from peer.method import method_of_run
from peer.net.probe import Probed
from peer.plan.advice import Case, best_plan
from peer.plan.answer import settings_in_words
from peer.plan.estimate import Estimate, Link, estimate, layers_of
from peer.plan.utilisation import Workload
from peer.train.model import layout_of_run
from peer.units import format_bytes, format_duration, format_rate
from protocol.manifest import Manifest

FAR_S = 0.5
"""Beyond, an exchange's messages alone take seconds."""
WELL_USED_FRAC = 0.9
LEAST_TRIP_S = 1e-4
MOST_BPS = 1e9
"""Beyond, so short a probe says nothing."""
CAPPED_FRAC = 0.8
"""A rate of so much of our cap is limited by it."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of this machine's link; 0 where nobody knows."""

    up_bps: float = 0.0
    down_bps: float = 0.0
    trip_s: float = 0.0

    @classmethod
    def of(cls, trips_s: Sequence[float], probed: Sequence[Probed]) -> "Speed":
        """Returns what was measured: the best rates, and the middle round trip."""
        return cls(
            max((each.up_bps for each in probed), default=0.0),
            max((each.down_bps for each in probed), default=0.0),
            median(trips_s) if trips_s else 0.0,
        )


def trips(trips_s: Sequence[float], num_asked: int) -> Iterator[Finding]:
    """How far the others are.

    Args:
        trips_s: Round trips to those who answered.
        num_asked: How many were asked.
    """
    subject = "round trip"
    if not num_asked:
        return
    if not trips_s:
        yield Finding(subject, "unknown", f"none of {num_asked} answered a ping")
        return
    middle_s = median(trips_s)
    found = f"median {format_duration(middle_s)}"
    if len(trips_s) > 1:
        nearest, farthest = map(format_duration, (min(trips_s), max(trips_s)))
        found += f", {nearest} to {farthest}, {len(trips_s)} of {num_asked}"
    if middle_s <= FAR_S:
        yield Finding(subject, "good", found)
    else:
        why = "exchanges have three round trips that no byte fills, or a busy link delays all"
        fix = "--up: a cap a fifth below what the link carries keeps its queue short"
        yield Finding(subject, "poor", found, why, fix)


def rates(probed: Sequence[Probed], refusal: str, *, up_cap_bps: float) -> Iterator[Finding]:
    """What probes have shown.

    Args:
        probed: The probes that went well.
        refusal: Why another one did not.
        up_cap_bps: Our own cap, or infinity.
    """
    for name, seen in (
        ("up", [each.up_bps for each in probed if each.up_bps]),
        ("down", [each.down_bps for each in probed if each.down_bps]),
    ):
        if not seen:
            reason = f": {refusal}" if refusal else ""
            yield Finding(f"bandwidth {name}", "unknown", f"nobody could be asked{reason}")
            continue
        is_capped = name == "up" and max(seen) > CAPPED_FRAC * up_cap_bps
        of_cap = f" (by --up {format_rate(up_cap_bps)})" if is_capped else ""
        rate = format_rate(max(seen)) if max(seen) < MOST_BPS else f"over {format_rate(MOST_BPS)}"
        yield Finding(f"bandwidth {name}", "good", f"{rate}, with one peer{of_cap}")


def utilisation(
    manifest: Manifest, speed: Speed, *, peers: int, step_s: float, is_capped: bool
) -> Iterator[Finding]:
    """What the run's method makes of this link, by the planner.

    Args:
        manifest: Without domains.
        speed: The link's.
        peers: How many there would be, we among them.
        step_s: Of an inner step; 0 if nobody knows.
        is_capped: Whether it is our own `--up` that bounds the link.
    """
    subject = "utilisation"
    if not (speed.up_bps and speed.down_bps and step_s):
        missing = "how fast the link is" if step_s else "how long a step takes: give --step-s 80ms"
        yield Finding(subject, "unknown", f"nobody knows {missing}")
        return
    num_params = layout_of_run(manifest).num_elements
    workload = Workload(num_params=num_params, layers=_layers(manifest), step_s=step_s)
    link = Link(up_bps=speed.up_bps, down_bps=speed.down_bps, rtt_s=max(LEAST_TRIP_S, speed.trip_s))
    case = Case(workload, link, max(2, peers))
    try:
        planned = estimate(method_of_run(manifest), workload, link, case.peers)
    except ValueError as error:
        yield Finding(subject, "unknown", f"the planner cannot tell: {error}")
        return
    hourly = format_bytes(planned.bytes_per_day / 24)
    exchanges = f"exchanges every {planned.interval_steps:.0f} steps"
    if not planned.suffices:
        exchanges += f" instead of {planned.planned_steps}"
    found = (
        f"{planned.trainer_frac:.0%} with steps of {format_duration(step_s)}; {exchanges}; "
        f"{hourly} an hour each way"
    )
    is_well = planned.suffices and planned.trainer_frac >= WELL_USED_FRAC
    verdict: Verdict = "good" if is_well else "poor"
    if is_well:
        yield Finding(subject, verdict, found)
        return
    why, fix = _advice(case, planned, is_capped=is_capped)
    yield Finding(subject, verdict, found, why, fix)


def _advice(case: Case, planned: Estimate, *, is_capped: bool) -> tuple[str, str]:
    link, workload = case.link, case.workload
    command = (
        f"thinwire plan --params {workload.num_params:.0f} --step-s {workload.step_s:.3g} "
        f"--up {link.up_bps:.3g} --down {link.down_bps:.3g} --rtt {link.rtt_s:.3g} "
        f"--peers {case.peers}"
    )
    if planned.suffices:
        why = "landings take a large part of such short steps; larger batches would make up for it"
        return why, command
    needed_bps = planned.load_frac * min(link.up_bps, link.down_bps)
    why = (
        f"the run's method needs {format_rate(needed_bps)} each way here, or it averages less often"
    )
    if is_capped and math.isfinite(needed_bps):
        letters = format_rate(1.1 * needed_bps).removesuffix("bit/s").replace(" ", "")
        return f"{why}; --up keeps it below", f"--up {letters}"
    try:
        best = best_plan(case)
    except ValueError:
        return why, command
    if best.estimate.suffices:
        why += f"; {best.preset} ({settings_in_words(best)}) would do, if its founder takes it"
    return why, command


def _layers(manifest: Manifest) -> int:
    layers = getattr(manifest.model, "layers", 0)
    return layers or layers_of(layout_of_run(manifest).num_elements)
