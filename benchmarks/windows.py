"""Windows of a measurement: the trainer's steps, who used the cores, and what follows from it."""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.machine import busy_cpu_s, cpu_s_of
from peer.train.lines import Departed, Progress

MIN_STEPS = 3
INTERVALS = (50, 100, 500)
"""H of the presets, and of the DiLoCo paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One stretch of time."""

    is_with: bool
    """Whether exchanges were in flight."""
    wall_s: float
    steps: int
    """In reports that lie within the window as a whole."""
    elapsed_s: float
    """Of these steps, on the trainer's clock."""
    between_steps_s: float
    """Of which for snapshots and landings."""
    exchange_s: Sequence[float]
    """Each exchange that ended in the window."""
    landings: int
    cpu_s: Mapping[str, float]
    """Used in the window, by process; `others` is the rest of the machine. As a thread, the wire
    counts as trainer."""

    @property
    def step_s(self) -> float:
        """An inner step, with everything that took time."""
        return self.elapsed_s / self.steps

    @property
    def step_cpu_s(self) -> float:
        """The trainer's CPU time for an inner step; waiting for a core does not count."""
        return self.step_s * self.cpu_s["trainer"] / self.wall_s

    def to_json(self) -> dict[str, Any]:
        """Returns the window for the list of all windows."""
        return {
            "is_with": self.is_with,
            "steps": self.steps,
            "step_ms": round(self.step_s * 1e3, 3),
            "between_steps_ms": round(self.between_steps_s / self.steps * 1e3, 3),
            "exchanges": len(self.exchange_s),
            "landings": self.landings,
            "cpu_per_s": {name: round(s / self.wall_s, 3) for name, s in self.cpu_s.items()},
        }


@dataclass(slots=True)
class Log:
    """What is counted all the time; a window is the difference of two moments."""

    pids: dict[str, int] = field(default_factory=dict)
    """The processes whose CPU time counts, by name."""
    reports: list[Progress] = field(default_factory=list)
    exchange_s: list[float] = field(default_factory=list)
    landings: int = 0
    has_departed: asyncio.Event = field(default_factory=asyncio.Event)
    """There was a first snapshot."""
    _has_news: asyncio.Event = field(default_factory=asyncio.Event)

    def on_news(self, news: Progress | Departed) -> None:
        """Keeps the trainer's reports; whether a snapshot is there, `TrainerPort` knows."""
        if isinstance(news, Progress):
            self.reports.append(news)
            self._has_news.set()
        else:
            self.has_departed.set()

    async def window(self, *, is_with: bool, window_s: float) -> Window:
        """Watches for `window_s`, or longer until there are `MIN_STEPS` whole steps."""
        began_s, cpu_before = time.monotonic(), self._cpu_s()
        at_report, at_exchange, landings = len(self.reports), len(self.exchange_s), self.landings
        await asyncio.sleep(window_s)
        while self._steps_since(at_report) < MIN_STEPS:
            self._has_news.clear()
            await self._has_news.wait()
        wall_s = time.monotonic() - began_s
        cpu_s = {name: s - cpu_before[name] for name, s in self._cpu_s().items()}
        reports = self.reports[at_report:]  # the first one only says where the second begins
        return Window(
            is_with=is_with,
            wall_s=wall_s,
            steps=self._steps_since(at_report),
            elapsed_s=sum((b.tokens - a.tokens) / b.tokens_per_s for a, b in pairwise(reports)),
            between_steps_s=reports[-1].overhead_s - reports[0].overhead_s,
            exchange_s=tuple(self.exchange_s[at_exchange:]),
            landings=self.landings - landings,
            cpu_s=cpu_s,
        )

    def _steps_since(self, at_report: int) -> int:
        reports = self.reports[at_report:]
        return reports[-1].step - reports[0].step if reports else 0

    def _cpu_s(self) -> dict[str, float]:
        used = {name: cpu_s_of(pid) for name, pid in self.pids.items()}
        return used | {"others": busy_cpu_s() - sum(used.values())}


def summary_of(windows: list[Window]) -> dict[str, Any]:
    """Returns what the windows say, and the windows."""
    step_s = statistics.median(w.step_s for w in windows if not w.is_with)
    with_step_s = statistics.median(w.step_s for w in windows if w.is_with)
    loaded = [w for w in windows if w.is_with]
    exchange_s = [s for w in loaded for s in w.exchange_s]
    median_s, cost_s = statistics.median(exchange_s), cost_s_of(windows)
    landings = sum(w.landings for w in loaded)
    between_s = sum(w.between_steps_s for w in loaded) / max(1, landings)
    return {
        "ratio": _spread(ratios_of(windows, lambda w: w.step_s)),
        "cpu_ratio": _spread(ratios_of(windows, lambda w: w.step_cpu_s)),
        "step_ms": {"without": round(step_s * 1e3, 3), "with": round(with_step_s * 1e3, 3)},
        "exchange": {
            "median_ms": round(median_s * 1e3, 3),
            "per_s": round(len(exchange_s) / sum(w.wall_s for w in loaded), 3),
            "per_window": round(len(exchange_s) / len(loaded), 1),
            "landings_per_window": round(landings / len(loaded), 1),
            "snapshot_and_landing_ms": round(between_s * 1e3, 3),
            "cpu_ms": {
                name: round(sum(w.cpu_s[name] for w in loaded) / len(exchange_s) * 1e3, 2)
                for name in windows[0].cpu_s
                if name in ("wire", "partner")
            },
            "costs_training_ms": round(cost_s * 1e3, 3),
        },
        "at_interval": [
            {
                "interval_steps": interval,
                "in_flight_frac": round(min(1.0, median_s / (interval * step_s)), 6),
                "predicted_slowdown_frac": round(cost_s / (interval * step_s), 6),
            }
            for interval in INTERVALS
        ],
        "windows": [window.to_json() for window in windows],
    }


def ratios_of(windows: Sequence[Window], value: Callable[[Window], float]) -> list[float]:
    """Returns the value with, divided by that without, for each two neighbouring windows."""
    ratios = []
    for first, second in zip(windows[::2], windows[1::2], strict=True):
        with_, without = (first, second) if first.is_with else (second, first)
        ratios.append(value(with_) / value(without))
    return ratios


def cost_s_of(windows: Sequence[Window]) -> float:
    """Returns how much training time one exchange costs: its share of the slowdown, its landing.

    Fewer landings than exchanges fit into a window; in a run each exchange has one.
    """
    without_s = statistics.median(w.step_s for w in windows if not w.is_with)
    costs = []
    for w in windows:
        if w.is_with:
            lost_s = w.elapsed_s - w.between_steps_s - w.steps * without_s
            exchanges = len(w.exchange_s) * w.elapsed_s / w.wall_s
            costs.append(lost_s / exchanges + w.between_steps_s / max(1, w.landings))
    return statistics.median(costs)


def _spread(ratios: list[float]) -> dict[str, Any]:
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "median": round(median, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "iqr": round(high - low, 4),
        "pairs": [round(ratio, 4) for ratio in ratios],
    }
