"""Noticing that we slept: the laptop's lid was closed, or our processes were stopped."""

import asyncio
import time
from collections.abc import Callable

BEAT_S = 1.0
NAP_S = 60.0
"""A beat that comes later than this much was held up by sleep."""


def awake_or_not_s() -> float:
    """Returns the time since the machine was started, sleep included where that is known."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


async def watch_for_naps(clock: Callable[[], float], on_slept: Callable[[float], None]) -> None:
    """Waits for ever, and says whenever we have slept.

    Args:
        clock: Seconds, sleep included.
        on_slept: Called with the seconds that we slept.
    """
    while True:
        due_s = clock() + BEAT_S
        await asyncio.sleep(BEAT_S)
        late_s = clock() - due_s
        if late_s > NAP_S:
            on_slept(late_s)
