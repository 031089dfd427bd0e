"""What must hold in every history of `benchmarks.chaos`, whatever has struck.

Safety: nothing that a peer contributed is in two of its averages, nothing of before a checkpoint is
applied again after it, rounds rise, and equal rounds have equal anchors unless somebody tells of a
fork. Liveness: nothing is waited for without end, nobody who lives is silent, and when all is calm
everybody is in one swarm, and lands.

Each check counts what it has looked at, since one that saw nothing has shown nothing. The checker
reads nothing but what `benchmarks.chaos_history` has read.
"""

from benchmarks.chaos_finding import Check, Finding
from benchmarks.chaos_history import History
from benchmarks.chaos_liveness import (
    nobody_ends_by_itself,
    nobody_is_silent,
    nothing_leaks,
    one_swarm_at_the_end,
    waits_end,
)
from benchmarks.chaos_plan import Plan
from benchmarks.chaos_safety import (
    contributed_once,
    nothing_again,
    one_anchor,
    rounds_rise,
    tokens_add_up,
)

CHECKS: dict[str, Check] = {
    "contributed once": contributed_once,
    "nothing again": nothing_again,
    "rounds rise": rounds_rise,
    "one anchor": one_anchor,
    "tokens add up": tokens_add_up,
    "waits end": waits_end,
    "nobody is silent": nobody_is_silent,
    "nobody ends by itself": nobody_ends_by_itself,
    "one swarm at the end": one_swarm_at_the_end,
    "nothing leaks": nothing_leaks,
}


def check_all(history: History, plan: Plan) -> dict[str, Finding]:
    """Returns what every check has found, by name."""
    return {name: check(history, plan) for name, check in CHECKS.items()}
