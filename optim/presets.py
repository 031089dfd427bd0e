"""Presets: named points on the four axes of a method, as plain data.

Where a paper's constants are not what we recommend, docs/methods.md says so and why.

**Papers:** diloco: arXiv:2311.08105v3, Sec. 3.1 (outer 0.7 and 0.9; the paper has H = 500, we take
100, as NoLoCo's baseline does). streaming: arXiv:2501.18512v1, Sec. 3 (outer 0.4, tau 1, E3M0,
strided; alpha is not printed for the main runs). noloco: arXiv:2506.10911v1, Sec. 4 (0.5, 0.7,
every 50 steps; gamma is not printed, the authors' code has gamma = lr). eager: arXiv:2502.12996.
co2: arXiv:2401.16265. sparseloco: arXiv:2508.15706 (H 30, decay 0.95, lr 1, 64 of 4096 in 2 bits).
gossip-stream: ours.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "diloco": {
        "mixing": "all",
        "schedule": {"interval_steps": 100, "fragments": 1, "overlap_steps": 0},
        "codec": {"name": "fp32"},
        "outer": {"rule": "nesterov", "lr": 0.7, "momentum": 0.9},
    },
    "streaming": {
        "mixing": "all",
        "schedule": {
            "interval_steps": 100,
            "fragments": 3,
            "overlap_steps": 1,
            "pattern": "strided",
            "separate_embeddings": True,
            "merge_alpha": 0.5,
        },
        "codec": {"name": "e3m0"},
        "outer": {"rule": "nesterov", "lr": 0.4, "momentum": 0.9},
    },
    "noloco": {
        "mixing": "pairs",
        "schedule": {"interval_steps": 50, "fragments": 1, "overlap_steps": 0},
        "codec": {"name": "fp32"},
        "outer": {"rule": "noloco", "lr": 0.7, "momentum": 0.5, "gamma": 0.7},
    },
    "eager": {
        "mixing": "all",
        "schedule": {"interval_steps": 100, "fragments": 1, "overlap_steps": 100},
        "codec": {"name": "fp32"},
        "outer": {"rule": "eager", "lr": 0.4, "momentum": 0.9},
    },
    "co2": {
        "mixing": "all",
        "schedule": {"interval_steps": 100, "fragments": 1, "overlap_steps": 100},
        "codec": {"name": "fp32"},
        "outer": {"rule": "co2", "lr": 1.0, "momentum": 0.2, "gap": "norm", "keep": 1.0},
    },
    "sparseloco": {
        "mixing": "all",
        "schedule": {"interval_steps": 30, "fragments": 1, "overlap_steps": 0},
        "codec": {"name": "topk", "feedback": 0.95},
        "outer": {"rule": "plain", "lr": 1.0},
    },
    "gossip-stream": {
        "mixing": "pairs",
        "schedule": {
            "interval_steps": 50,
            "fragments": 3,
            "overlap_steps": 5,
            "pattern": "strided",
            "separate_embeddings": True,
        },
        "codec": {"name": "mod4"},
        "outer": {"rule": "noloco", "lr": 0.7, "momentum": 0.5, "gamma": 0.7},
    },
}
