"""Presets: named points on the four axes of a method, as plain data.

**Papers:** diloco: arXiv:2311.08105v3, Sec. 3.1 (outer 0.7 and 0.9; the paper has H = 500, we take
100, as NoLoCo's baseline does). noloco: arXiv:2506.10911v1, Sec. 4 (0.5, 0.7, every 50 steps; gamma
is not printed, the authors' code has gamma = lr).
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "diloco": {
        "mixing": "all",
        "schedule": {"interval_steps": 100, "fragments": 1, "overlap_steps": 0},
        "codec": {"name": "fp32"},
        "outer": {"rule": "nesterov", "lr": 0.7, "momentum": 0.9},
    },
    "noloco": {
        "mixing": "pairs",
        "schedule": {"interval_steps": 50, "fragments": 1, "overlap_steps": 0},
        "codec": {"name": "fp32"},
        "outer": {"rule": "noloco", "lr": 0.7, "momentum": 0.5, "gamma": 0.7},
    },
}
