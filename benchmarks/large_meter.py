"""What a process holds and spends, in total and while a stage of an exchange is at work."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
BETWEEN = "between"
"""The stage in which none of the watched functions is at work: bytes on their way, and rest."""


@dataclass(slots=True)
class Stage:
    """What the calls of one function took; the peak is that of the whole process meanwhile."""

    calls: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


def resident_bytes() -> int:
    """Returns what of this process is in memory now."""
    return _status("VmRSS")


def available_bytes() -> int:
    """Returns what this machine could still give to programs."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("no MemAvailable in /proc/meminfo")


class Meter:
    """Watches functions that run one after the other, on whatever thread.

    The kernel keeps the peak of a process and lets it be set back, so nothing is sampled.

    Attributes:
        stages: By name, since the last `restart`.
    """

    def __init__(self) -> None:
        self.stages: defaultdict[str, Stage] = defaultdict(Stage)
        self.restart()

    def restart(self) -> None:
        """Forgets what was seen so far."""
        self.stages.clear()
        self._begin()

    def watch(self, owner: object, names: Iterable[str]) -> None:
        """Puts a watched function in the place of each of these methods of an object."""
        for name in names:
            setattr(owner, name, self._watched(name, getattr(owner, name)))

    def peak_bytes(self) -> int:
        """Returns the most that was resident since the last `restart`."""
        self._end(BETWEEN)
        return max(stage.peak_bytes for stage in self.stages.values())

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._end(BETWEEN)
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                stage = self.stages[name]
                stage.calls += 1
                stage.wall_s += time.perf_counter() - began_s
                stage.cpu_s += time.thread_time() - began_cpu_s
                self._end(name)

        return watched

    def _begin(self) -> None:
        _CLEAR.write_text("5")

    def _end(self, name: str) -> None:
        stage = self.stages[name]
        stage.peak_bytes = max(stage.peak_bytes, _status("VmHWM"))
        self._begin()


def _status(name: str) -> int:
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024
