"""A rate, measured while something is being sent.

The estimate is a maximum over windows, as BBR's of the bottleneck's bandwidth (Cardwell et al., ACM
Queue 14(5), 2016): most of what disturbs a measurement (slow start, losses, somebody else's
download, a partner who is slow) makes it too small.

**Symbols:** a window is about WINDOW_S of *busy* time, in which at least one transfer was in
flight. Windows that end within `period_s` of the first one's end are one period, with their
greatest rate; with 0, each window is one. The i-th last period, i = 0, 1, .. NUM_PERIODS - 1, with
rate r_i gives the estimate max_i r_i (1 - DECAY)^i.

**Deviations:** windows are of busy time, not of round trips, so that a rate is still known after an
hour without transfers (`test_idle_time_changes_nothing`). Older periods weigh less, so that a
window that was too fast does not last (`test_a_window_that_was_too_fast_is_forgotten`). Periods are
of time on the clock, so that a slow partner who is served for a while does not make the whole link
slow (`test_a_slow_partner_does_not_make_the_whole_link_slow`).
"""

import math
from collections import deque

WINDOW_S = 1.0
SHORTEST_S = 0.1
"""The end of a transfer closes a window that is no shorter; the times of shorter ones add up."""

LEAST_BYTES = 64 * 1024
"""A window lasts until it has carried so much."""

MANY_BYTES = 4 << 20
"""So much closes a window in any case, or nothing would ever be known of a fast link."""
LEAST_S = 1e-3

NUM_PERIODS = 10
DECAY = 0.05


class RateMeter:
    """Measures one direction, of one partner or of all together. Times are arguments, in order.

    Args:
        remembered_bps: Counts as one period; 0 for none.
        period_s: How long windows count as one.
        skipped_bytes: So many at the beginning of a spell do not count: what is sent is taken by
            buffers at first, at their own rate.
        whole: Hears of each window, if this is one partner's: the link carried that much, whatever
            others did meanwhile.
    """

    def __init__(
        self,
        remembered_bps: float = 0.0,
        *,
        period_s: float = 0.0,
        skipped_bytes: int = 0,
        whole: "RateMeter | None" = None,
    ) -> None:
        self.skipped_bytes = skipped_bytes
        self.whole = whole
        self._period_s = period_s
        self._period_until_s = -math.inf
        self._to_skip_bytes = 0
        self._periods_bps = deque((remembered_bps,), maxlen=NUM_PERIODS)
        self._num_transfers = 0
        self._counted_until_s = 0.0
        self._busy_s = 0.0
        self._idle_s = 0.0
        self._num_bytes = 0

    @property
    def bps(self) -> float:
        """The estimate in bit/s; 0 while nothing is known."""
        newest_first = enumerate(reversed(self._periods_bps))
        return max(rate_bps * (1 - DECAY) ** age for age, rate_bps in newest_first)

    @property
    def is_busy(self) -> bool:
        """Whether a transfer is in flight."""
        return self._num_transfers > 0

    def began(self, now_s: float) -> None:
        """A transfer began: from now on bytes could flow."""
        self._pass(now_s)
        if not self.is_busy:
            self._to_skip_bytes = self.skipped_bytes
        self._num_transfers += 1

    def ended(self, now_s: float) -> None:
        """A transfer that began has ended, well or not."""
        self._pass(now_s)
        self._num_transfers -= 1
        if not self.is_busy:
            self._close(SHORTEST_S)

    def on_bytes(self, num_bytes: int, now_s: float) -> None:
        """So many bytes more have come, or gone, by now; without a transfer they do not count."""
        if self.is_busy:
            self._pass(now_s)
            skipped_bytes = min(num_bytes, self._to_skip_bytes)
            self._to_skip_bytes -= skipped_bytes
            self._num_bytes += num_bytes - skipped_bytes
            self._close(WINDOW_S)

    def idled(self, idle_s: float) -> None:
        """For so long, up to now, there was nothing to send; of no account if others were at it."""
        if self._num_transfers == 1:
            self._idle_s += idle_s

    def _pass(self, now_s: float) -> None:
        if self.is_busy:
            self._busy_s += max(0.0, now_s - self._counted_until_s - self._idle_s)
        self._counted_until_s, self._idle_s = now_s, 0.0

    def _close(self, least_s: float) -> None:
        is_long = self._busy_s >= least_s and self._num_bytes >= LEAST_BYTES
        if is_long or self._num_bytes >= MANY_BYTES:
            rate_bps = 8 * self._num_bytes / max(self._busy_s, LEAST_S)
            self._busy_s, self._num_bytes = 0.0, 0
            self._keep(rate_bps, self._counted_until_s)
            if self.whole is not None:
                self.whole._keep(rate_bps, self._counted_until_s)

    def _keep(self, rate_bps: float, now_s: float) -> None:
        if now_s < self._period_until_s:
            self._periods_bps[-1] = max(rate_bps, self._periods_bps[-1])
        else:
            self._periods_bps.append(rate_bps)
            self._period_until_s = now_s + self._period_s
