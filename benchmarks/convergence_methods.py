"""Each method's constants for `benchmarks.convergence`, and the sweep that they were chosen from.

A setting is (inner optimizer, its peak rate, what is laid over the preset). The sweep runs on a
seed of its own and is judged on text that the final figures do not use.
"""

from dataclasses import dataclass, field
from typing import Any

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """One line of a sweep; by default the preset as it is, with H = 30.

    Attributes:
        lr: Peak rate of the inner optimizer.
        settings: Laid over the preset.
        inner: Name of the inner optimizer.
        preset: The preset, if it is not the method's name.
    """

    lr: float
    settings: Settings = field(default_factory=dict)
    inner: str = "muon"
    preset: str = ""


def _at(lr: float, H: int = 30, *, inner: str = "muon", preset: str = "", **axes: Any) -> Setting:
    schedule = {"interval_steps": H, **axes.pop("schedule", {})}
    return Setting(lr, {"schedule": schedule, **axes}, inner, preset)


CHOSEN: dict[str, Setting] = {
    "data_parallel": Setting(0.012),
    "alone": Setting(0.012),
    "diloco": _at(0.008, outer={"lr": 0.6, "momentum": 0.6}),
    "streaming": _at(0.012, outer={"lr": 0.6, "momentum": 0.6}),
    "eager": _at(
        0.008,
        schedule={"overlap_steps": 30},
        outer={"lr": 0.7, "momentum": 0.4, "own_share": 0.5},
    ),
    "co2": _at(
        0.012,
        schedule={"overlap_steps": 30},
        outer={"lr": 0.8, "momentum": 0.6, "gap": "norm", "keep": 0.5},
    ),
    "noloco": _at(0.008, outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.7}),
    "gossip-stream": _at(
        0.012,
        schedule={"overlap_steps": 1},
        outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.7},
    ),
    "sparseloco": _at(
        0.012, codec={"name": "topk", "feedback": 0.95, "kept": 512}, outer={"lr": 1.3}
    ),
}
"""What the figures are measured with."""

SWEEPS: dict[str, list[Setting]] = {
    "data_parallel": [
        Setting(0.012),
        Setting(0.016),
        Setting(0.008, inner="adamw"),
        Setting(0.008),
    ],
    "diloco": [
        _at(0.012, outer={"lr": 0.7, "momentum": 0.6}),
        _at(0.016, outer={"lr": 0.7, "momentum": 0.6}),
        _at(0.012, outer={"lr": 0.6, "momentum": 0.6}),
        _at(0.008, inner="adamw", outer={"lr": 0.7, "momentum": 0.6}),
        _at(0.008, outer={"lr": 0.6, "momentum": 0.6}),
        _at(0.012, outer={"lr": 0.5, "momentum": 0.6}),
    ],
    "streaming": [
        _at(
            0.012,
            schedule={"fragments": 3, "overlap_steps": 1, "merge_alpha": None},
            codec={"name": "int4"},
            outer={"lr": 0.7, "momentum": 0.6},
        ),
        _at(
            0.012,
            schedule={"fragments": 3, "overlap_steps": 1, "merge_alpha": 0.0},
            codec={"name": "fp32"},
            outer={"lr": 0.7, "momentum": 0.6},
        ),
        _at(
            0.012,
            schedule={"fragments": 3, "overlap_steps": 1, "merge_alpha": 0.0},
            codec={"name": "int4"},
            outer={"lr": 0.7, "momentum": 0.6},
        ),
        _at(
            0.012,
            schedule={"fragments": 3, "overlap_steps": 1, "merge_alpha": None},
            codec={"name": "e3m0"},
            outer={"lr": 0.7, "momentum": 0.6},
        ),
        _at(
            0.012,
            schedule={"fragments": 3, "overlap_steps": 1, "merge_alpha": None},
            codec={"name": "int4"},
            outer={"lr": 0.6, "momentum": 0.6},
        ),
        _at(
            0.012,
            schedule={"fragments": 3, "overlap_steps": 5, "merge_alpha": None},
            codec={"name": "int4"},
            outer={"lr": 0.6, "momentum": 0.6},
        ),
        _at(
            0.012,
            schedule={"fragments": 3, "overlap_steps": 1, "merge_alpha": None},
            codec={"name": "int4"},
            outer={"lr": 0.5, "momentum": 0.6},
        ),
        _at(
            0.008,
            schedule={"fragments": 3, "overlap_steps": 1, "merge_alpha": None},
            codec={"name": "int4"},
            outer={"lr": 0.6, "momentum": 0.6},
        ),
    ],
    "noloco": [
        _at(0.012, outer={"lr": 0.7, "momentum": 0.6, "gamma": 0.7}),
        _at(0.012, outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.9}),
        _at(0.012, outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.4}),
        _at(0.012, outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.7}),
        _at(0.008, outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.7}),
    ],
    "gossip-stream": [
        _at(0.012, schedule={"overlap_steps": 1}, outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.7}),
        _at(0.012, schedule={"overlap_steps": 1}, outer={"lr": 0.7, "momentum": 0.6, "gamma": 0.7}),
        _at(0.008, schedule={"overlap_steps": 1}, outer={"lr": 0.7, "momentum": 0.5, "gamma": 0.7}),
    ],
    "eager": [
        _at(
            0.02,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.4, "momentum": 0.75, "own_share": 0.0},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.5, "momentum": 0.8, "own_share": 0.0},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.7, "momentum": 0.3, "own_share": 0.0},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 1.0, "momentum": 0.3, "own_share": 0.0},
        ),
        _at(
            0.008,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.7, "momentum": 0.4, "own_share": 0.5},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.7, "momentum": 0.3, "own_share": 0.5},
        ),
        _at(
            0.008,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.6, "momentum": 0.5, "own_share": 0.4},
        ),
    ],
    "co2": [
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.7, "momentum": 0.5, "gap": "none", "keep": 1.0},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.7, "momentum": 0.5, "gap": "none", "keep": 0.5},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.7, "momentum": 0.5, "gap": "none", "keep": 0.25},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.6, "momentum": 0.6, "gap": "none", "keep": 0.5},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.5, "momentum": 0.6, "gap": "none", "keep": 0.6},
        ),
        _at(
            0.012,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.8, "momentum": 0.6, "gap": "norm", "keep": 0.5},
        ),
        _at(
            0.008,
            schedule={"overlap_steps": 30},
            outer={"lr": 0.8, "momentum": 0.6, "gap": "norm", "keep": 0.5},
        ),
    ],
    "sparseloco": [
        _at(0.012, codec={"name": "topk", "feedback": 0.95, "kept": 512}, outer={"lr": 1.0}),
        _at(0.012, codec={"name": "topk", "feedback": 0.95, "kept": 512}, outer={"lr": 1.3}),
        _at(0.012, codec={"name": "topk", "feedback": 1.0, "kept": 512}, outer={"lr": 1.0}),
        _at(
            0.012,
            codec={"name": "topk", "feedback": 0.95, "kept": 512},
            outer={"rule": "nesterov", "lr": 0.7, "momentum": 0.5},
        ),
        _at(0.008, codec={"name": "topk", "feedback": 0.95, "kept": 512}, outer={"lr": 1.3}),
    ],
}
"""What was tried, in the order in which it was; H = 30 throughout."""
