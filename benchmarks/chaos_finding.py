"""What a check of `benchmarks.chaos_check` has seen in a history."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos_history import Event, History
from benchmarks.chaos_plan import Plan

AFTER_FORK = ("anchor_differs", "caught_up", "merged")
"""What a peer says that finds its anchor to be another one than others'."""


@dataclass(slots=True)
class Finding:
    """What a check has seen.

    Attributes:
        checked: How many things it has looked at.
        violations: Of what must hold, one sentence each.
        facts: What else it has counted.
    """

    checked: int = 0
    violations: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def against(self, seat: str, at_s: float, words: str) -> None:
        """Notes a violation."""
        self.violations.append(f"{seat} at {at_s:.1f} s: {words}")


Check = Callable[[History, Plan], Finding]


def since_begin_s(history: History, event: Event) -> float:
    """Returns when something was, from the beginning of the measurement on."""
    return float(event["t_mono_s"] - history.begins_s)
