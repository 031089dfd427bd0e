"""Where a simulated peer's time went: to inner steps at its own pace, or lost, and to what."""

CAUSES = ("entering", "frozen", "slow", "waiting", "leaving", "dead")
"""Of lost time: until the first step began; the processes were stopped; steps took longer than this
machine's own; something else held up the trainer, which should never happen; the last step, cut
off by leaving in order; and from a crash until now."""


class Ledger:
    """Keeps account of one peer's steps.

    Args:
        began_at_s: When the peer was started.
    """

    def __init__(self, began_at_s: float) -> None:
        self.began_at_s = began_at_s
        self.num_steps = 0
        """Finished ones."""
        self._own_s = 0.0
        """Of finished steps: what they take on this machine when nothing happens."""
        self._slow_s = 0.0
        self._late_s = 0.0
        self._first_at_s: float | None = None
        self._step = (0.0, 0.0, 0.0)

    def begin_step(self, now_s: float, own_s: float, takes_s: float) -> None:
        """The step before is done, and the next one begins.

        Args:
            now_s: The time.
            own_s: What the next one takes on this machine when nothing happens.
            takes_s: What it will take.
        """
        if self._first_at_s is None:
            self._first_at_s = now_s
        else:
            at_s, last_own_s, took_s = self._step
            self.num_steps += 1
            self._own_s += last_own_s
            self._slow_s += took_s - last_own_s
            self._late_s += now_s - at_s - took_s
        self._step = (now_s, own_s, takes_s)

    def account(
        self, now_s: float, *, ended_at_s: float | None, is_dead: bool, frozen_s: float
    ) -> tuple[float, dict[str, float]]:
        """Returns the seconds at work, and those lost by cause: together all since the start.

        Args:
            now_s: The time.
            ended_at_s: When it left or died; None while it lives.
            is_dead: It did not leave, it died; that time is lost. Who left has no more time.
            frozen_s: So long it was stopped in all.
        """
        end_s = now_s if ended_at_s is None else ended_at_s
        lost_s = dict.fromkeys(CAUSES, 0.0)
        if is_dead:
            lost_s["dead"] = now_s - end_s
        if self._first_at_s is None:
            lost_s["entering"] = end_s - self.began_at_s
            return 0.0, lost_s
        lost_s["entering"] = self._first_at_s - self.began_at_s
        busy_s, slow_s, late_s = self._own_s, self._slow_s, self._late_s
        at_s, own_s, takes_s = self._step
        if ended_at_s is not None and not is_dead:
            lost_s["leaving"] = end_s - at_s
        else:
            worked_s = min(end_s - at_s, takes_s)
            late_s += end_s - at_s - worked_s
            busy_s += worked_s * own_s / takes_s
            slow_s += worked_s * (1 - own_s / takes_s)
        lost_s["slow"] = slow_s
        late_s = max(late_s, 0.0)  # a sum of differences may end a little below
        lost_s["frozen"] = min(late_s, frozen_s)
        lost_s["waiting"] = late_s - lost_s["frozen"]
        return busy_s, lost_s
