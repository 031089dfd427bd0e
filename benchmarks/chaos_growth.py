"""Does anything grow while a peer lives? Descriptors, threads and memory of each process.

Every five seconds of a run `benchmarks.chaos_run` writes down what each process holds. Here the
medians of the first and of the last third of a process's life are compared; the start, in which
everything grows, counts for neither. A third of a minute tells little of memory: a verdict on it is
given for those that lived for at least ten minutes.
"""

import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.chaos_history import History

START_S = 20.0
SHORTEST_S = 60.0
"""Who lived for less is not looked at."""
LONG_S = 600.0
"""Who lived for so long has a memory that can be judged."""
MAX_MORE = {"fds": 4, "threads": 2}
"""A connection more or less, or a thread of a pool, is no growth."""
MAX_RSS_FRAC = 0.05


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one process, from the first third of its life to the last."""

    seat: str
    role: str
    lived_s: float
    fds: tuple[float, float]
    threads: tuple[float, float]
    rss_mib: tuple[float, float]

    @property
    def rss_frac(self) -> float:
        """Growth of the resident memory, as a part of what it was."""
        before, after = self.rss_mib
        return after / before - 1

    @property
    def complaints(self) -> list[str]:
        """What grows that should not."""
        found = [
            f"{name} {before:g} -> {after:g}"
            for name, (before, after) in (("fds", self.fds), ("threads", self.threads))
            if after - before > MAX_MORE[name]
        ]
        if self.lived_s >= LONG_S and self.rss_frac > MAX_RSS_FRAC:
            found.append(f"rss {self.rss_mib[0]:.0f} -> {self.rss_mib[1]:.0f} MiB")
        return [f"{self.seat}, {self.role}: {complaint}" for complaint in found]


def growth_of(history: History) -> list[Growth]:
    """Returns the growth of each process that lived for a minute, the longest lives first."""
    seen: dict[tuple[str, str, int], list[tuple[float, dict[str, Any]]]] = defaultdict(list)
    for sample in history.growth:
        for process in sample["processes"]:
            key = process["seat"], process["role"], process["pid"]
            seen[key].append((sample["t_mono_s"], process))
    found: list[Growth] = []
    for (seat, role, _), samples in seen.items():
        began_s = samples[0][0]
        ups_s = [e["t_mono_s"] for e in history.told("up") if e["seat"] == seat]
        up_s = min((t for t in ups_s if t >= began_s), default=began_s)
        from_s = max(up_s + START_S, history.begins_s)
        grown = [process for at_s, process in samples if at_s >= from_s]
        lived_s = samples[-1][0] - began_s
        third = len(grown) // 3
        if lived_s < SHORTEST_S or not third:
            continue

        def ends(
            name: str, own: list[dict[str, Any]] = grown, n: int = third
        ) -> tuple[float, float]:
            values = [process[name] for process in own]
            return float(statistics.median(values[:n])), float(statistics.median(values[-n:]))

        rss = ends("rss_bytes")
        mib = round(rss[0] / (1 << 20), 1), round(rss[1] / (1 << 20), 1)
        found.append(Growth(seat, role, round(lived_s), ends("fds"), ends("threads"), mib))
    return sorted(found, key=lambda growth: -growth.lived_s)


def report_of(growths: list[Growth]) -> dict[str, Any]:
    """Returns the verdict, and by role how much the processes grew that lived longest."""
    roles: dict[str, Any] = {}
    for role in ("wire", "trainer", "daemon"):
        own = [growth for growth in growths if growth.role == role]
        if own:
            roles[role] = {
                "processes": len(own),
                "longest_s": own[0].lived_s,
                "max_more_fds": max(growth.fds[1] - growth.fds[0] for growth in own),
                "max_more_threads": max(growth.threads[1] - growth.threads[0] for growth in own),
                "median_rss_frac": round(statistics.median(g.rss_frac for g in own), 4),
                "max_rss_frac": round(max(growth.rss_frac for growth in own), 4),
            }
    complaints = [complaint for growth in growths for complaint in growth.complaints]
    return {"roles": roles, "complaints": complaints}


def table(growths: list[Growth]) -> str:
    """Returns one line a process."""
    lines = ["| peer | process | lived, s | fds | threads | rss, MiB | growth |", "|---" * 7 + "|"]
    for growth in growths:
        fields = asdict(growth)
        pairs = [
            f"{a:g} -> {b:g}" for a, b in (fields["fds"], fields["threads"], fields["rss_mib"])
        ]
        head = f"| {growth.seat} | {growth.role} | {growth.lived_s:g} | "
        lines.append(f"{head}{' | '.join(pairs)} | {growth.rss_frac:+.1%} |")
    return "\n".join(lines)
