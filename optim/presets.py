"""Presets: named points on the four axes of a method, as plain data.

The shape of each is its paper's. Constants are the paper's, too, unless they did not hold up in
`benchmarks.convergence`; docs/methods.md names both.

**Papers:** diloco: arXiv:2311.08105v3, Sec. 3.1 (there 0.7, 0.9, H = 500). streaming:
arXiv:2501.18512v1, Sec. 3 (0.4, Nesterov, tau 1, E3M0, strided; alpha 0.5 in an ablation). noloco:
arXiv:2506.10911v1, Sec. 4 (0.5, 0.7, every 50 steps; gamma is not printed, the authors' code has
gamma = lr). eager: arXiv:2502.12996 (0.4, M = 2). co2: arXiv:2401.16265. sparseloco:
arXiv:2508.15706 (H 30, decay 0.95, lr 1, 64 of 4096 in 2 bits). gossip-stream: ours.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "diloco": {
        "mixing": "all",
        "schedule": {"interval_steps": 100, "fragments": 1, "overlap_steps": 0},
        "codec": {"name": "fp32"},
        "outer": {"rule": "nesterov", "lr": 0.7, "momentum": 0.6},
    },
    "streaming": {
        "mixing": "all",
        "schedule": {
            "interval_steps": 100,
            "fragments": 3,
            "overlap_steps": 1,
            "pattern": "strided",
            "separate_embeddings": True,
        },
        "codec": {"name": "int4"},
        "outer": {"rule": "nesterov", "lr": 0.7, "momentum": 0.6},
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
        "outer": {"rule": "eager", "lr": 0.7, "momentum": 0.4, "own_share": 0.5},
    },
    "co2": {
        "mixing": "all",
        "schedule": {"interval_steps": 100, "fragments": 1, "overlap_steps": 100},
        "codec": {"name": "fp32"},
        "outer": {"rule": "co2", "lr": 0.8, "momentum": 0.6, "gap": "norm", "keep": 0.5},
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
