"""What `benchmarks.chaos` puts into the processes of a peer: a wall clock that jumps, and a pace.

Python imports a module of this name at its start if there is one on PYTHONPATH; the product knows
nothing of it. Two things are changed, as environment variables say:

    CHAOS_CLOCK     a file that holds by how many seconds this peer's wall clock is wrong; it is
                    read again every 0.1 s. `time.time`, `time.time_ns` and `datetime.now` show it.
                    Clocks in compiled code do not: that of BoringSSL, of the log in gRPC, of p2pd.
    CHAOS_STEP_S    of a trainer: every inner step lasts so long, as if the accelerator were one of
                    its own, and nobody takes the core from it while it computes.
    CHAOS_STEPS     where a trainer notes each inner step: process id, monotonic time, step.
"""

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import Tensor

_LOOK_S = 0.1


def shift_clock(path: Path) -> None:
    """Makes this process's wall clock wrong by what the file says."""
    right, monotonic = time.time, time.monotonic
    right_ns, right_datetime = time.time_ns, datetime.datetime
    offset_s, looked_s = 0.0, float("-inf")

    def offset() -> float:
        nonlocal offset_s, looked_s
        if (now_s := monotonic()) - looked_s > _LOOK_S:
            looked_s = now_s
            with contextlib.suppress(OSError, ValueError):  # it is being replaced
                offset_s = float(path.read_text())
        return offset_s

    class Wrong(right_datetime):  # type: ignore[misc, valid-type]
        __slots__ = ()  # of the size that compiled modules expect

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            wrong: Self = cls.fromtimestamp(time.time(), tz)
            return wrong

    time.time = lambda: right() + offset()
    time.time_ns = lambda: right_ns() + round(offset() * 1e9)
    datetime.datetime = Wrong  # type: ignore[misc]


def keep_pace(step_s: float, steps: Path) -> None:
    """Makes every inner step of this process last so long, and notes it."""
    from peer.train.replica import Replica

    as_it_is: Callable[[Replica], Tensor] = Replica.train_step
    file = steps.open("a", buffering=1)
    pid = os.getpid()
    is_first = True

    def train_step(self: Replica) -> "Tensor":
        nonlocal is_first
        if is_first:  # not before: starting is nobody's training
            is_first = False
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        ends_s = time.monotonic() + step_s
        loss = as_it_is(self)
        time.sleep(max(0.0, ends_s - time.monotonic()))
        file.write(f"{pid} {time.monotonic():.4f} {self.step}\n")
        return loss

    Replica.train_step = train_step  # type: ignore[method-assign]


if _clock := os.environ.get("CHAOS_CLOCK"):
    shift_clock(Path(_clock))
if (_step_s := os.environ.get("CHAOS_STEP_S")) and "peer.train.worker" in sys.orig_argv:
    keep_pace(float(_step_s), Path(os.environ["CHAOS_STEPS"]))
