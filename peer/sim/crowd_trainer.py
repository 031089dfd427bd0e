"""A trainer that is only a pace: how many inner steps are done, and in which average they are."""

import math
from collections.abc import Callable

from peer.sim.crowd_tally import Tally


class CrowdTrainer:
    """Trains in intervals of H inner steps, all steps of an interval equally long.

    Args:
        interval_s: Returns how long the next interval takes.
        interval_steps: H.
        step_tokens: Of one inner step.
        tally: Where tokens are counted.

    Attributes:
        tokens: Trained, and in no average yet.
        has_snapshot: Whether a snapshot has departed that has not landed.
    """

    __slots__ = (
        "_began_s",
        "_interval_s",
        "_interval_steps",
        "_num_counted",
        "_step_s",
        "_step_tokens",
        "_tally",
        "has_snapshot",
        "tokens",
    )

    def __init__(
        self,
        interval_s: Callable[[], float],
        *,
        interval_steps: int,
        step_tokens: int,
        tally: Tally,
    ) -> None:
        self.tokens = 0
        self.has_snapshot = False
        self._interval_s = interval_s
        self._interval_steps = interval_steps
        self._step_tokens = step_tokens
        self._tally = tally
        self._began_s = 0.0
        self._step_s = 1.0
        self._num_counted = interval_steps

    def begin(self, now_s: float) -> float:
        """Begins the next interval; returns when it ends."""
        interval_s = self._interval_s()
        self._began_s, self._step_s = now_s, interval_s / self._interval_steps
        self._num_counted = 0
        return now_s + interval_s

    def end(self) -> None:
        """Counts the last steps of the interval; until the next begins, the trainer waits."""
        self._add(self._interval_steps)

    def count(self, now_s: float) -> None:
        """Counts the steps that are done by now."""
        num_done = int((now_s - self._began_s) / self._step_s)
        self._add(min(num_done, self._interval_steps))

    def step_end_s(self, now_s: float) -> float:
        """Returns when the step ends that is being made; now, if there is none."""
        num_done = math.ceil((now_s - self._began_s) / self._step_s)
        if num_done > self._interval_steps:
            return now_s
        return self._began_s + num_done * self._step_s

    def _add(self, num_done: int) -> None:
        tokens = (num_done - self._num_counted) * self._step_tokens
        if tokens > 0:
            self._num_counted = num_done
            self.tokens += tokens
            self._tally.trained_tokens += tokens
