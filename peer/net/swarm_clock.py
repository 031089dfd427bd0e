"""The swarm's time: what most nodes' clocks say, carried on by a clock that nobody sets.

Records expire at a time that all must agree on, but machines' clocks are wrong, and jump. So the
wall clock is read once, at the start; from then on time passes as a steady clock counts it. What
others' clocks say are votes: each is what that node read off its *own* wall clock at its start,
never what it made of others' votes, so errors do not go round. The median of all votes and our own
is the swarm's time. A minority, liars or broken, cannot move it.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from statistics import median_high

from protocol.identity import PeerId

MAX_VOTES = 16
VOTE_LIFE_S = 600.0
STEP_S = 1.0
"""Time is set only if it is wrong by more: answers take their time, and records live for many."""
LONGEST_TRIP_S = 2.0
"""What took longer says too little."""


def steady_s() -> float:
    """Returns the seconds of a clock that is never set, and runs while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux; elsewhere the monotonic clock does that, or stops
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class SwarmClock:
    """See the module docstring.

    Args:
        wall: Returns Unix seconds; read once, now.
        steady: Returns seconds that only ever pass.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady_s
    ) -> None:
        self.steady_s = steady
        self._own_offset_s = wall() - steady()
        self._offset_s = self._own_offset_s
        self._votes: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()
        """Each node's offset from our steady clock, and when we learnt it; the newest last."""

    def now_unix_s(self) -> float:
        """Returns the swarm's time."""
        return self.steady_s() + self._offset_s

    def own_unix_s(self) -> float:
        """Returns the time by our own clock: our vote."""
        return self.steady_s() + self._own_offset_s

    @property
    def error_s(self) -> float:
        """How far our own clock is ahead of the swarm's time."""
        return self._own_offset_s - self._offset_s

    def learn(self, peer: PeerId, their_unix_s: float, *, asked_s: float) -> bool:
        """Takes a node's vote; returns whether that has set the swarm's time.

        Of two votes the later one counts: nobody can know who is right, but so the two agree.

        Args:
            peer: Who answered.
            their_unix_s: By their own clock, when they answered.
            asked_s: By our steady clock.
        """
        now_s = self.steady_s()
        if not (math.isfinite(their_unix_s) and 0 <= now_s - asked_s <= LONGEST_TRIP_S):
            return False
        self._votes.pop(peer, None)
        self._votes[peer] = their_unix_s - (asked_s + now_s) / 2, now_s
        while len(self._votes) > MAX_VOTES or self._oldest_vote_s() < now_s - VOTE_LIFE_S:
            self._votes.popitem(last=False)
        offset_s = median_high([self._own_offset_s, *(vote for vote, _ in self._votes.values())])
        if abs(offset_s - self._offset_s) <= STEP_S:
            return False
        self._offset_s = offset_s
        return True

    def _oldest_vote_s(self) -> float:
        return next(iter(self._votes.values()))[1]
