"""The watchdog: looks once a second at what this peer waits for, and says what takes long.

It ends nothing: a wait ends by its own deadline, a trainer by itself. What it says goes to the
event log; what should not be is a warning, too:

    waiting, waited   a wait longer than `SHOWN_S`, again at growing intervals, and its end
    overdue           a wait past its own deadline: a mistake of ours, that we want to hear of
    loop_lag          the event loop stood still: a process that was stopped, a machine that is too
                      busy, or work of ours in the wrong thread
    trainer_silent    the trainer has told no progress for many times its usual step, and is not at
                      an evaluation or a save

When the loop itself was late, nothing else is late by that: whatever was due meanwhile has until
the next beat.
"""

import asyncio
import logging
from dataclasses import dataclass

from peer.status import PeerStatus
from peer.telemetry import EventLog
from peer.trainer_port import BETWEEN_STEPS
from peer.waits import SHOWN_S, Wait

logger = logging.getLogger(__name__)

BEAT_S = 1.0
LAG_S = 0.25
MAX_AGAIN_S = 300.0
"""A wait is told again after so long at the latest."""
SILENT_STEPS = 20
"""A trainer may be silent for so many steps, of the length that they usually have,"""
MIN_SILENT_S = 10.0
"""and at any rate for so long."""


@dataclass(slots=True)
class _Told:
    """What was said of one wait."""

    again_at_s: float
    overdue_since_s: float | None = None
    """The deadline that was reported; one that moves on may be missed again."""


class Watchdog:
    """See the module docstring.

    Args:
        status: Whose waits and trainer; gets the longest lag. The trainer has not begun yet.
        events: Where to say it.
    """

    def __init__(self, status: PeerStatus, events: EventLog) -> None:
        self._status = status
        self._events = events
        status.progressed_s = None  # a former life's trainer is silent for good
        self._told: dict[Wait, _Told] = {}
        self._heard_s: float | None = None
        """The `progressed_s` of the last beat,"""
        self._silent_at_s = 0.0
        """and when a silence since then is told next."""

    async def run(self) -> None:
        """Watches until it is cancelled; a mistake of its own does not end the peer."""
        now_s = self._status.waits.now_s
        try:
            while True:
                due_s = now_s() + BEAT_S
                await asyncio.sleep(BEAT_S)
                self._beat(now_s(), late_s=now_s() - due_s)
        except Exception:
            logger.exception("the watchdog has ended")

    def _beat(self, now_s: float, *, late_s: float) -> None:
        is_late = late_s > LAG_S
        if is_late:
            self._status.longest_lag_s = max(self._status.longest_lag_s, late_s)
            self._events.write("loop_lag", late_s=round(late_s, 3))
        self._watch_waits(now_s, is_excused=is_late)
        if not is_late:
            self._watch_trainer(now_s)

    def _watch_waits(self, now_s: float, *, is_excused: bool) -> None:
        for wait in [wait for wait in self._told if wait.ended_s is not None]:
            del self._told[wait]
            self._events.write("waited", **_end_of(wait.facts(now_s)))
        for wait in self._status.waits.now(longer_than_s=SHOWN_S):
            told = self._told.setdefault(wait, _Told(again_at_s=now_s))
            if now_s >= told.again_at_s:
                self._events.write("waiting", **wait.facts(now_s))
                told.again_at_s = now_s + min(now_s - wait.since_s, MAX_AGAIN_S)
            is_overdue = wait.is_overdue(now_s) and not is_excused
            if is_overdue and told.overdue_since_s != wait.deadline_s:
                told.overdue_since_s = wait.deadline_s
                self._tell_overdue(wait, now_s)

    def _tell_overdue(self, wait: Wait, now_s: float) -> None:
        facts = wait.facts(now_s)
        self._events.write("overdue", **facts)
        logger.warning(
            "waiting for %s for %.0f s, and it should have ended %.0f s ago",
            wait.name,
            facts["waited_s"],
            -facts["left_s"],
        )

    def _watch_trainer(self, now_s: float) -> None:
        status = self._status
        since_s = status.progressed_s
        if since_s is None or status.is_done:
            return
        patience_s = max(MIN_SILENT_S, SILENT_STEPS * status.step_s)
        if since_s != self._heard_s:
            self._heard_s, self._silent_at_s = since_s, since_s + patience_s
        if not BETWEEN_STEPS.isdisjoint(status.waits.ages()):  # it makes no steps meanwhile
            self._silent_at_s = max(self._silent_at_s, now_s + patience_s)
        if now_s < self._silent_at_s:
            return
        silent_s = now_s - since_s
        self._silent_at_s = now_s + silent_s
        self._events.write(
            "trainer_silent",
            silent_s=round(silent_s, 3),
            step_s=round(status.step_s, 6),
            step=status.step,
            waits=[wait.name for wait in status.waits.longest()],
        )
        logger.warning(
            "the trainer has told nothing for %.0f s; its steps usually take %.2g s",
            silent_s,
            status.step_s,
        )


def _end_of(facts: dict[str, object]) -> dict[str, object]:
    """What is still to say of a wait that is over."""
    return {
        key: facts[key] for key in ("what", "which", "whom", "num_whom", "fragment", "waited_s")
    }
