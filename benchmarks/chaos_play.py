"""What a fault of `benchmarks.chaos` is: it strikes, lasts, ends, and says by what it is known.

A fault is a generator: it yields for how long it has nothing to do, and returns its evidence. What
a fault was meant to do counts for nothing; `fired` is what was seen: the process is gone, its state
is T, packets were dropped, TCP took what was altered, a write found no space.
"""

from collections.abc import Callable, Generator
from typing import Any

from benchmarks.chaos_schedule import Planned
from benchmarks.chaos_seat import Seat
from benchmarks.chaos_swarm import Swarm

Evidence = dict[str, Any]
Play = Generator[float, None, Evidence]
Fault = Callable[[Swarm, Planned, list[Seat]], Play]

SETTLE_S = 0.3
"""After a signal, until we look whether it worked."""
