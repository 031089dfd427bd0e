"""What a link can carry between two departures, and which of the run's codecs fits into that."""

from peer.mixing import Mixing
from peer.train import lines
from protocol.ladder import choose_codec
from protocol.manifest import Manifest

USED_FRAC = 0.7
"""Of the time between two departures; the rest is for agreeing, for latency and for bad minutes."""


class Budget:
    """See the module docstring.

    Args:
        mixing: Whose contributions they are.
        manifest: The run.
    """

    def __init__(self, mixing: Mixing, manifest: Manifest) -> None:
        method = manifest.method
        self._interval_steps = method.schedule.interval_steps
        # In a group a member sends its contribution, and then about as much of the average.
        self._num_sent = 1 if method.mixing == "pairs" else 2
        sizes = [mixing.contribution_bytes(f) for f in range(len(mixing.layout.fragments))]
        self._round_bytes = [sum(of_codec) for of_codec in zip(*sizes, strict=True)]
        self._first: tuple[int, float] | None = None
        self._step_s = 0.0

    def on_departed(self, departed: lines.Departed, *, now_s: float) -> None:
        """The trainer left a snapshot, which shows how fast it is."""
        if self._first is None or departed.step < self._first[0]:
            self._first = departed.step, now_s
            return
        step, at_s = self._first
        if departed.step - step >= self._interval_steps:
            self._step_s = (now_s - at_s) / (departed.step - step)
            self._first = departed.step, now_s

    def codec(self, up_bps: float) -> int:
        """Returns the codec with which all fragments get through in time, as far as is known."""
        if not self._step_s:
            return 0
        sent = [self._num_sent * num_bytes for num_bytes in self._round_bytes]
        budget_s = USED_FRAC * self._interval_steps * self._step_s
        return choose_codec(sent, rate_bps=up_bps, budget_s=budget_s)
