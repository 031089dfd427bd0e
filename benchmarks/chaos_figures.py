"""What a run of `benchmarks.chaos` achieved: steps, pauses and losses.

**Goodput** is inner steps per second in which a peer could make some, that is: from its first step
on, without what we took from it ourselves: the time it was frozen, and the time from our ending its
trainer to the first step of the next one. What else a fault did to it counts against it, and so
does the time in which a peer was gone that had ended by itself.

**Raw** is all steps made, divided by those that all peers but the spare ones could have made.

**Pause** is the time between the ends of two steps of one trainer, unless it was frozen in between;
without a network it is `step_s` and what the step's bookkeeping takes.
"""

import itertools
import json
import math
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.chaos_history import History, Span, covered_s, num_between, overlaps
from benchmarks.chaos_plan import Places, Plan
from optim.layout import Layout
from peer.train.data import load_text
from peer.train.evaluate import evaluate_flat
from peer.train.model import layout_of_run
from protocol.manifest import Manifest

EVALUATION_BYTES = 128 * 1024
CURVE_FROM = 0.4
"""Of the tokens of a run: from there on its loss is nearly straight in their logarithm."""
CURVE_POINTS = 12
LONGEST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Training:
    """How much was trained."""

    peer_s: float
    """Seconds in which peers could make steps, summed."""
    steps: int
    """Made in those seconds."""
    raw_steps: int
    """Made at any time of the measurement, also by spare peers."""
    away_s: float
    frozen_s: float
    tokens: int
    """Of all steps ever made, those before the measurement and those that a crash undid as well."""

    @property
    def steps_per_s(self) -> float:
        """Of one peer that could."""
        return self.steps / self.peer_s if self.peer_s else 0.0


def training_of(history: History, plan: Plan) -> Training:
    """Returns how much was trained within the measurement."""
    peer_s, steps, raw, away_s, frozen_s = 0.0, 0, 0, 0.0, 0.0
    for seat, runs in history.runs.items():
        if not runs:
            continue
        ends_s = [end_s for run in runs for end_s in run.ends_s]
        window = (max(history.begins_s, ends_s[0]), history.ends_s)
        if window[1] <= window[0]:
            continue
        away, frozen = history.away(seat), history.spans(seat, "freeze")
        lost = [*away, *frozen]
        peer_s += window[1] - window[0] - covered_s(window, lost)
        away_s += covered_s(window, away)
        frozen_s += covered_s(window, frozen)
        steps += sum(num_between(ends_s, part) for part in _without(window, lost))
        raw += num_between(ends_s, window)
    tokens = sum(len(run.ends_s) for runs in history.runs.values() for run in runs)
    return Training(peer_s, steps, raw, away_s, frozen_s, tokens * plan.step_tokens)


def pauses_of(history: History) -> dict[str, Any]:
    """Returns how long the trainers paused that were not frozen, and the longest of all."""
    pauses: list[tuple[float, str, float]] = []
    for seat, runs in history.runs.items():
        frozen = history.spans(seat, "freeze")
        for run in runs:
            for before_s, after_s in itertools.pairwise(run.ends_s):
                if before_s < history.begins_s or after_s > history.ends_s:
                    continue
                if not overlaps((before_s, after_s), frozen, margin_s=0.1):
                    pauses.append((after_s - before_s, seat, after_s))
    pauses.sort()
    if not pauses:
        return {"number": 0}
    lengths_s = [pause[0] for pause in pauses]
    return {
        "number": len(pauses),
        "median_s": round(statistics.median(lengths_s), 4),
        "p99_s": round(_quantile(lengths_s, 0.99), 4),
        "p99.9_s": round(_quantile(lengths_s, 0.999), 4),
        "longest": [
            {
                "s": round(length_s, 3),
                "seat": seat,
                "at_s": round(at_s - history.begins_s, 1),
                "meanwhile": _active(history, at_s),
            }
            for length_s, seat, at_s in reversed(pauses[-LONGEST_SHOWN:])
        ],
    }


def cpu_of(history: History) -> dict[str, float]:
    """Returns the cores in use: by the whole machine, and by our processes, by role."""
    samples = [s for s in history.growth if history.begins_s <= s["t_mono_s"] <= history.ends_s]
    if len(samples) < 2:
        return {}
    took_s = samples[-1]["t_mono_s"] - samples[0]["t_mono_s"]
    used: dict[str, float] = {}
    last: dict[int, float] = {}
    for number, sample in enumerate(samples):
        for process in sample["processes"]:
            # What is new began within these five seconds, unless it was there before the first.
            before_s = last.get(process["pid"], process["cpu_s"] if number == 0 else 0.0)
            role = process["role"]
            used[role] = used.get(role, 0.0) + max(0.0, process["cpu_s"] - before_s)
            last[process["pid"]] = process["cpu_s"]
    machine = (samples[-1]["busy_s"] - samples[0]["busy_s"]) / took_s
    cores = {role: round(cpu_s / took_s, 3) for role, cpu_s in sorted(used.items())}
    return {"machine": round(machine, 3), "ours": round(sum(cores.values()), 3)} | cores


class Judge:
    """Evaluates anchors that were kept of a run, on the validation text.

    Args:
        manifest: The run's.
        plan: The run's.
    """

    def __init__(self, manifest: Manifest, plan: Plan) -> None:
        torch.set_num_threads(1)  # more would only wait for each other, on so small a model
        self._manifest = manifest
        self._plan = plan
        self._layout: Layout = layout_of_run(manifest)
        data = manifest.data
        self._text = load_text(data.recipe, data.validation_frac).validation

    def final(self, places: Places) -> dict[str, float]:
        """Returns the bits per byte of each peer's last anchor, by seat."""
        paths = sorted(places.anchors.glob("final-*.safetensors"))
        return {path.stem.removeprefix("final-"): self._bits(path.stem, places) for path in paths}

    def at_tokens(self, history: History, places: Places, tokens: float) -> float | None:
        """Returns the loss that a run had when so many tokens were trained.

        By least squares, from what was kept on the way: the loss is nearly straight in the
        logarithm of the tokens, and one anchor alone is good by chance.

        Args:
            history: Of the run.
            places: Of the run.
            tokens: Of all peers together.
        """
        ends_s = sorted(t for runs in history.runs.values() for run in runs for t in run.ends_s)
        points: list[tuple[float, str]] = []
        for path in sorted(places.anchors.glob("*.json")):
            written_s = json.loads(path.read_text())["t_mono_s"]
            trained = num_between(ends_s, (0.0, written_s)) * self._plan.step_tokens
            if trained > CURVE_FROM * tokens:
                points.append((math.log(trained), path.stem))
        points = sorted(points)[:: max(1, len(points) // CURVE_POINTS)]
        if len(points) < 3:
            return None
        losses = [self._bits(name, places) for _, name in points]
        slope, start = statistics.linear_regression([x for x, _ in points], losses)
        return start + slope * math.log(tokens)

    def _bits(self, name: str, places: Places) -> float:
        tensors = load_file(places.anchors / f"{name}.safetensors")
        flat = torch.empty(self._layout.num_elements)
        for fragment, span in enumerate(self._layout.fragments):
            flat[span.start : span.stop] = tensors[f"anchor.{fragment}"]
        return evaluate_flat(flat, self._manifest, self._text, max_bytes=EVALUATION_BYTES)


def _without(window: Span, lost: list[Span]) -> list[Span]:
    """Returns the parts of a window that no other span covers."""
    parts: list[Span] = []
    reached = window[0]
    for start, stop in sorted(lost):
        if start > reached:
            parts.append((reached, min(start, window[1])))
        reached = max(reached, stop)
    if reached < window[1]:
        parts.append((reached, window[1]))
    return [part for part in parts if part[1] > part[0]]


def _active(history: History, at_s: float) -> list[str]:
    return [
        f"{strike.kind} {' '.join(strike.seats)}".strip()
        for strike in history.strikes
        if strike.began_s - 1 < at_s < strike.ended_s + 1
    ]


def _quantile(ordered: list[float], frac: float) -> float:
    return ordered[min(len(ordered) - 1, math.floor(frac * len(ordered)))]
