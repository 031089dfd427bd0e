"""Width: how many connections to use to one partner.

At a loss of 1 % a connection under cubic carries 2 Mbit/s whatever the link could do, and n of them
carry nearly n times as much; under BBR, or on a clean link, one is as good as many. So the width is
found by trying: doubled as long as that pays, left alone where it does not, and tried again, more
and more rarely, wider and narrower in turn.

Windows that count do not overlap: of several downloads one is listened to, and what began before a
change says nothing about the width after it.

**Symbols:** w the width, g(w) its goodput, the mean of JUDGED windows after SETTLING others. A
trial of 2 w is a success if g(2 w) >= GROWTH g(w), one of w / 2 if g(w / 2) >= KEPT g(w). A search
is a row of successes in one direction, ended by a failure or a bound. After search k = 0, 1, ..
comes a pause of min(FIRST_PAUSE_S 2^k, LONGEST_PAUSE_S), whatever came of it; only a cap of our own
that makes connections needless is acted on before.

As KEPT x GROWTH > 1, no link on which the goodput depends on the width alone leads in circles
(`test_it_never_goes_in_circles`), and on one that carries min(n c, b) the outcome is at least
b / GROWTH (`test_it_comes_near_the_best_in_few_windows`).
"""

import math
from collections import deque
from statistics import fmean

MOST = 16

SETTLING = 1
"""Windows after a change of width that say nothing yet."""

JUDGED = 2

GROWTH = 1.2
KEPT = 0.95

FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 960.0


class Width:
    """Chooses the number of connections to one partner from the goodput that they had.

    Args:
        most: Connections at most.
        first: With how many to begin.

    Attributes:
        wanted: How many connections to use now.
    """

    def __init__(self, most: int = MOST, *, first: int = 1) -> None:
        if most < 1:
            raise ValueError(f"at least one connection is needed, not {most}")
        self.wanted = self._settled = min(first, most)
        """`_settled` is what `wanted` goes back to when a trial fails."""
        self._most = most
        self._settled_bps = 0.0
        self._windows: deque[tuple[float, bool]] = deque(maxlen=SETTLING + JUDGED)
        """Goodput of the last windows at this width, and whether our cap was what limited it."""
        self._heard_until_s = -math.inf
        self._pause_s = FIRST_PAUSE_S
        self._next_search_s = -math.inf
        self._went_up = False
        """Whether the last search was for more connections."""
        self._needed_at_bps = 0.0
        """The goodput at which fewer connections were seen to carry less."""

    def on_window(
        self,
        goodput_bps: float,
        *,
        num_connections: int,
        began_s: float,
        now_s: float,
        is_capped: bool = False,
    ) -> int:
        """Returns how many connections to use from now on.

        Args:
            goodput_bps: Over about a second in which there always was something to send.
            num_connections: How many were in use; if other than wanted, the window says nothing.
            began_s: The beginning of the window; if another lasted longer, this one says nothing.
            now_s: The end of the window.
            is_capped: Whether our own cap was what limited it, so that more cannot help.
        """
        if num_connections != self.wanted or began_s < self._heard_until_s:
            return self.wanted
        self._heard_until_s = now_s
        self._windows.append((goodput_bps, is_capped))
        if len(self._windows) == SETTLING + JUDGED:
            judged = list(self._windows)[SETTLING:]
            judged_bps = fmean(goodput_bps for goodput_bps, _ in judged)
            is_capped = all(is_capped for _, is_capped in judged)
            if self.wanted == self._settled:
                self._settled_bps = judged_bps
                self._consider(now_s, is_capped=is_capped)
            else:
                self._judge(judged_bps, now_s, is_capped=is_capped)
        return self.wanted

    def _consider(self, now_s: float, *, is_capped: bool) -> None:
        """Begins a search if there is something to compare with, and it is time for one."""
        if self._settled_bps <= 0:
            return
        is_due = now_s >= self._next_search_s
        can_widen = self._settled < self._most and not is_capped
        can_narrow = self._settled > 1
        if is_due and can_widen and not (can_narrow and self._went_up):
            self._try(self._wider())
        elif can_narrow and (is_due or (is_capped and self._is_needless())):
            self._try(self._narrower())

    def _is_needless(self) -> bool:
        """Whether the goodput is far below the one that so many connections were chosen for."""
        return GROWTH * self._settled_bps < self._needed_at_bps

    def _judge(self, judged_bps: float, now_s: float, *, is_capped: bool) -> None:
        """Goes on with a search that succeeds, and ends one that does not."""
        is_up = self.wanted > self._settled
        is_success = judged_bps >= (GROWTH if is_up else KEPT) * self._settled_bps
        if is_success:
            self._settled, self._settled_bps = self.wanted, judged_bps
        if is_success == is_up:  # either way fewer were seen to carry less
            self._needed_at_bps = self._settled_bps
        following = self._wider() if is_up else self._narrower()
        if is_success and following != self._settled and not (is_up and is_capped):
            self._try(following)
            return
        self._try(self._settled)
        self._went_up = is_up
        self._next_search_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _try(self, width: int) -> None:
        self.wanted = width
        self._windows.clear()

    def _wider(self) -> int:
        return min(2 * self._settled, self._most)

    def _narrower(self) -> int:
        return (self._settled + 1) // 2
