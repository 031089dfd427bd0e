"""The planner's answer to a volunteer: every preset, the best settings, and what else to know."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from peer.plan.advice import (
    LEAST_GAIN_FRAC,
    Case,
    Help,
    Plan,
    best_plan,
    helps,
    needed_settings,
    plan_for,
    plans,
)
from peer.plan.cost import LossCost
from peer.plan.estimate import blocking_frac
from peer.plan.figures import Study
from peer.plan.utilisation import Exchange, utilisation
from peer.units import format_bytes, format_count, format_duration, format_rate

CHINCHILLA = 20
"""Tokens a parameter, arXiv:2203.15556."""
FEW_ROUNDS = 100
"""Below, all that acts late costs more: docs/results.md, "Convergence"."""


@dataclass(frozen=True, slots=True)
class Answer:
    """See `answer`.

    Attributes:
        case: What was asked.
        presets: Presets as they are; the one asked for, or all that the case allows.
        best: The best settings found.
        helps: What would help, the most first: the best, or the preset asked for.
        sentences: What to know.
        studies: What the expected losses rest on.
    """

    case: Case
    presets: tuple[Plan, ...]
    best: Plan
    helps: tuple[Help, ...]
    sentences: tuple[str, ...]
    studies: tuple[Study, ...]

    def waiting_frac(self, plan: Plan) -> float:
        """Return the share of time that a trainer would train if it waited for the network."""
        case = self.case
        return blocking_frac(plan.method, case.workload, case.link, case.peers)


HOPELESS_STEPS = 5000
"""Between exchanges; the longest interval that anybody measured had 2000."""


def answer(
    case: Case, preset: str | None = None, *, tokens_per_step: float | None = None
) -> Answer:
    """Return what suits a case.

    Args:
        case: The case.
        preset: Only this one.
        tokens_per_step: Of one peer's inner step, to plan the length of a run.

    Raises:
        ValueError: The preset does not exist, or does not work in this case.
    """
    if preset is None:
        shown = tuple(plans(case))
        best = subject = best_plan(case)
        found = helps(case, best, best_plan)
    else:
        subject = plan_for(case, preset)
        shown, best = (subject,), best_plan(case, preset)
        found = helps(case, subject, lambda other: plan_for(other, preset))
    sentences = [_advised(best), _helped(subject, found, case)]
    sentences += _late_joiners(best)
    sentences += _many_rounds(case, best, tokens_per_step)
    sentences.append(_data_parallel(case, best))
    if best.loss.reasons:
        sentences.append(f"* Extrapolated: {', '.join(best.loss.reasons)}.")
    studies = tuple(dict.fromkeys(s for plan in (best, *shown) for s in plan.loss.studies))
    return Answer(case, shown, best, tuple(found), tuple(sentences), studies)


def as_data(found: Answer) -> dict[str, Any]:
    """Return an answer as JSON has it; null is "not known" or "without a bound"."""
    case = found.case
    return {
        "asked": {**asdict(case.workload), **asdict(case.link), "peers": case.peers},
        "presets": [_data_of(found, plan) for plan in found.presets],
        "best": {
            **_data_of(found, found.best),
            "settings": needed_settings(found.best, case.peers),
        },
        "helps": [
            {
                "change": help.change,
                "gain_frac": help.gain_frac,
                "preset": help.plan.preset,
                "overrides": help.plan.overrides,
                "interval_steps": help.plan.estimate.interval_steps,
                "loss": _loss_data(help.plan.loss),
            }
            for help in found.helps
        ],
        "sentences": list(found.sentences),
        "sources": {study.name: study.conditions for study in found.studies},
    }


def settings_in_words(plan: Plan) -> str:
    """Return what differs from the preset, or that nothing does."""
    words = []
    for settings in plan.overrides.values():
        words += [f"{name.replace('_', ' ')} {value}" for name, value in settings.items()]
    return ", ".join(words).replace("name ", "codec ") or "as it is"


def loss_in_words(loss: LossCost) -> str:
    """Return the range in per cent, widened to halves; a star if it is extrapolated."""
    low = math.floor(200 * loss.low_frac) / 2
    star = "*" if loss.reasons else ""
    if math.isinf(loss.high_frac):
        return f"{low:g} % or more{star}"
    return f"{low:g} to {math.ceil(200 * loss.high_frac) / 2:g} %{star}"


def _advised(best: Plan) -> str:
    planned = best.estimate
    if planned.interval_steps > HOPELESS_STEPS:
        return (
            f"Nothing suits this link: even with {best.preset} exchanges would come every "
            f"{planned.interval_steps:.0f} steps, and nobody measured what that costs."
        )
    words = f"Take {best.preset} ({settings_in_words(best)}): "
    if planned.suffices:
        words += f"the link is {100 * planned.busy_frac:.0f} % busy"
    else:
        words += (
            "nothing that was tried fits through this link as planned, and with it exchanges come "
            f"every {planned.interval_steps:.0f} steps instead of {planned.planned_steps}"
        )
    return f"{words}, and the loss is expected {loss_in_words(best.loss)} above data parallel's."


def _helped(plan: Plan, found: list[Help], case: Case) -> str:
    most = found[0]
    if most.gain_frac < LEAST_GAIN_FRAC:
        changes = ", ".join(help.change for help in found)
        return f"Nothing would help much: {changes} - none changes the expected loss."
    link = case.link
    amounts = {
        "twice the upload": f" ({format_rate(2 * link.up_bps)})",
        "twice the download": f" ({format_rate(2 * link.down_bps)})",
        "half the round trip": f" ({format_duration(link.rtt_s / 2)})",
    }
    change = most.change[0].upper() + most.change[1:] + amounts.get(most.change, "")
    after = most.plan
    which = f"{after.preset} would do, " if after.preset != plan.preset else ""
    return (
        f"{change} would help most: {which}an exchange every {after.estimate.interval_steps:.0f} "
        f"steps instead of {plan.estimate.interval_steps:.0f}, loss {loss_in_words(after.loss)} "
        f"instead of {loss_in_words(plan.loss)}."
    )


def _late_joiners(best: Plan) -> list[str]:
    planned = best.estimate
    words = (
        f"Who joins fetches {format_bytes(planned.join_bytes)} first, at least "
        f"{format_duration(planned.join_s)}"
    )
    if best.method.mixing == "all" and planned.join_s > planned.interval_s:
        words += (
            f", while a round takes {format_duration(planned.interval_s)}: late joiners may never "
            "catch up"
        )
    return [f"{words}."] if planned.join_s > 60 else []


def _many_rounds(case: Case, best: Plan, tokens_per_step: float | None) -> list[str]:
    if tokens_per_step is None:
        return []
    workload = case.workload
    steps = CHINCHILLA * workload.num_params / (case.peers * tokens_per_step)
    rounds = steps / best.estimate.interval_steps
    words = (
        f"{CHINCHILLA} tokens a parameter are {format_count(steps)} steps of each peer, "
        f"{format_duration(steps * workload.step_s)} and {rounds:.0f} rounds"
    )
    few = ": few, so expect the upper end of the loss, or more" if rounds < FEW_ROUNDS else ""
    return [f"{words}{few}."]


def _data_parallel(case: Case, best: Plan) -> str:
    frac = utilisation(
        case.workload, Exchange(), case.link.rate_bps(case.peers - 1), latency_s=case.link.rtt_s
    )
    return (
        f"Trainers do not wait: about {100 * (1 - best.estimate.trainer_frac):.1g} % of their time "
        f"goes to snapshots and landings. Data parallel in 16 bits would train {100 * frac:.2g} % "
        "of the time on this link."
    )


def _data_of(found: Answer, plan: Plan) -> dict[str, Any]:
    planned = plan.estimate
    return {
        "preset": plan.preset,
        "overrides": plan.overrides,
        "planned_steps": planned.planned_steps,
        "interval_steps": planned.interval_steps,
        "delay_steps": planned.delay_steps,
        "suffices": planned.suffices,
        "load_frac": planned.load_frac,
        "busy_frac": planned.busy_frac,
        "exchange_s": planned.exchange_s,
        "bytes_each_way": planned.bytes_each_way,
        "up_bytes_per_day": planned.bytes_per_day,
        "down_bytes_per_day": planned.bytes_per_day,
        "memory_bytes": {**planned.memory._asdict(), "total": planned.memory.total},
        "join_bytes": planned.join_bytes,
        "join_s": planned.join_s,
        "least_progress_s": planned.least_progress_s,
        "trainer_frac": planned.trainer_frac,
        "waiting_trainer_frac": found.waiting_frac(plan),
        "loss": _loss_data(plan.loss),
    }


def _loss_data(loss: LossCost) -> dict[str, Any]:
    return {
        "low_frac": loss.low_frac,
        "high_frac": loss.high_frac if math.isfinite(loss.high_frac) else None,
        "extrapolated": list(loss.reasons),
        "sources": [study.name for study in loss.studies],
    }
