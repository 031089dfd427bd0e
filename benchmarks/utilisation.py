"""How thin may a link be until exchanges cost training time, or do not keep up?

    python -m benchmarks.utilisation --png utilisation.png      # all presets, under 40 minutes
    python -m benchmarks.utilisation --quick                    # under 5

Real peers (`benchmarks.utilisation_swarm`) train on links that become thinner and thinner, with
loss and delay. A link's capacity is given in bits per parameter and inner step, `rate * step_s /
parameters`, since that is what a method needs, whatever the model and the machine. Utilisation is
inner steps per second over those with the network off. Our trainer never waits, so beside it stands
whether the exchanges keep up: rounds done over rounds due, of which one is done if the fragment
landed before it departed again. A link *holds* with a utilisation of 99 % and 95 % of the rounds.

Each preset has its own schedule. H inner steps last `--interval-s` here, and minutes in a real run,
so round trips and small messages weigh more. The grid is tried from above down to the first
capacity that does not keep up, and `--bisections` narrow down what is between. Progress goes to
stderr, then a table; the last line of stdout is one JSON object. Needs what `benchmarks.links`
needs.
"""

import argparse
import json
import math
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.links import why_not
from benchmarks.machine import facts
from benchmarks.utilisation_swarm import Cell, Plan, swarm
from optim.presets import PRESETS

GRID = (1.0, 0.3, 0.1, 0.05, 0.03)
"""Bits per parameter and inner step."""
QUICK_GRID = (0.3, 0.1, 0.03)
WIDER = (3.0, 10.0)
"""For what does not keep up even at the grid's widest."""
STEP_DOWN = 2.0
"""Below the grid."""
ROUND_TRIPS_S = (0.02, 0.1)
QUICK = ("streaming", "gossip-stream", "diloco")
PUBLISHED = {
    "Streaming DiLoCo, FP4, 1B": (0.20, 0.30),
    "Streaming DiLoCo, FP4, 10B": (0.11, 0.14),
    "Streaming DiLoCo, FP4, 100B": (0.054, 0.069),
    "DiLoCo, 1B": (2.3, 8.7),
    "data parallel, 1B": (22.0, 57.0),
}
"""For a utilisation of 95 and of 99 %, simulated: arXiv:2501.18512v1, Table 4."""


@dataclass(frozen=True, slots=True)
class Job:
    """One preset with one delay: what one swarm is for."""

    plan: Plan
    round_trip_s: float
    grid: tuple[float, ...]
    bisections: int


def search(
    keeps_up: Callable[[float], bool], grid: Iterable[float], *, bisections: int
) -> float | None:
    """Returns the smallest capacity at which training keeps up, as far as it was tried.

    Args:
        keeps_up: Tries one; true above some capacity and false below.
        grid: Tried from above down to the first that does not; goes on below it if all do.
        bisections: So many more tries.
    """
    enough: float | None = None
    too_thin: float | None = None
    for capacity in sorted(grid, reverse=True):
        if not keeps_up(capacity):
            too_thin = capacity
            break
        enough = capacity
    if enough is None:
        for capacity in WIDER:
            if keeps_up(capacity):
                enough = capacity
                break
            too_thin = capacity
    if enough is None:
        return None
    for _ in range(bisections):
        middle = math.sqrt(enough * too_thin) if too_thin else enough / STEP_DOWN
        if keeps_up(middle):
            enough = middle
        else:
            too_thin = middle
    return enough


def run(job: Job) -> list[Cell]:
    """Returns what became of a swarm on each link that was tried, the widest first."""
    cells: list[Cell] = []

    def keeps_up(capacity: float) -> bool:
        cell = team.measure(capacity, job.round_trip_s)
        cells.append(cell)
        say(f"{job.plan.preset:13} {words(cell)}")
        return cell.keeps_up

    with (
        tempfile.TemporaryDirectory(prefix="thinwire-") as folder,
        swarm(job.plan, Path(folder).resolve()) as team,
    ):
        search(keeps_up, job.grid, bisections=job.bisections)
        alone_per_s = team.steps_per_s_alone()
    cells.sort(key=lambda cell: -cell.capacity)
    return [replace(cell, utilisation=cell.steps_per_s / alone_per_s) for cell in cells]


def words(cell: Cell) -> str:
    """Returns a cell as people read it."""
    landing = "none landed" if cell.landing_frac is None else f"landing {cell.landing_frac:.2f}"
    utilisation = f"utilisation {cell.utilisation:.3f}, " if cell.utilisation else ""
    return (
        f"{1e3 * cell.round_trip_s:3.0f} ms, {cell.capacity:6.3f} bits ({cell.rate_bps / 1e6:.2f} "
        f"Mbit/s): {utilisation}rounds {cell.rounds_done}/{cell.rounds_due}, {landing} of the "
        f"interval, sent {cell.sent_bits:.4f} bits, waited {cell.waited_s:.2f} s"
    )


def row_of(job: Job, cells: list[Cell]) -> dict[str, Any]:
    """Returns what one swarm has shown."""
    enough = [cell for cell in cells if cell.holds]
    return {
        "preset": job.plan.preset,
        "round_trip_s": job.round_trip_s,
        "loss": job.plan.loss_frac,
        "congestion": job.plan.congestion,
        "holds_from": min((cell.capacity for cell in enough), default=None),
        "cells": [cell.to_json() for cell in cells],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns one line for each preset and delay."""
    lines = [
        "| preset | round trip | holds from | utilisation there | landing / interval | bits sent |"
        " least utilisation at any capacity |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        least = min(cell["utilisation"] for cell in row["cells"])
        start = f"| {row['preset']} | {1e3 * row['round_trip_s']:.0f} ms |"
        at = next((c for c in row["cells"] if c["capacity"] == row["holds_from"]), None)
        if at is None:
            lines.append(f"{start} none of those tried | | | | {least:.3f} |")
            continue
        figures = f"{at['capacity']:.3f} | {at['utilisation']:.3f} | {at['landing_frac']:.2f}"
        lines.append(f"{start} {figures} | {at['sent_bits']:.4f} | {least:.3f} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes a picture: what each preset needs beside what is published, and what it gets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (needs, gets) = pyplot.subplots(1, 2, figsize=(13, 5.5))
    names = list(dict.fromkeys(row["preset"] for row in rows))
    labels = [*PUBLISHED, *names]
    for place, (low, high) in enumerate(PUBLISHED.values()):
        needs.plot([low, high], [place] * 2, color="0.6", linewidth=6, solid_capstyle="butt")
    markers = dict(zip(sorted({row["round_trip_s"] for row in rows}), "o^svD", strict=False))
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    for row in rows:
        marker, color = markers[row["round_trip_s"]], colors[row["preset"]]
        if row["holds_from"] is not None:
            place = labels.index(row["preset"])
            needs.plot(row["holds_from"], place, marker, color=color, markersize=8)
        capacities = [cell["capacity"] for cell in row["cells"]]
        for name, style in (("utilisation", ":"), ("done_frac", "-")):
            fracs = [cell[name] for cell in row["cells"]]
            gets.plot(capacities, fracs, style, marker=marker, color=color, markersize=5)
    for round_trip_s, marker in markers.items():
        needs.plot([], [], marker, color="0.3", label=f"ours, {1e3 * round_trip_s:.0f} ms")
    needs.plot([], [], color="0.6", linewidth=6, label="published, 95 to 99 % (simulated)")
    needs.set_yticks(range(len(labels)), labels)
    needs.invert_yaxis()
    needs.set(xscale="log", xlabel="bits per parameter and inner step that a link must carry")
    for name in names:
        gets.plot([], [], color=colors[name], label=name)
    gets.plot([], [], "-", color="0.3", label="rounds done of those due")
    gets.plot([], [], ":", color="0.3", label="utilisation")
    gets.set(xscale="log", ylim=(0, 1.05), xlabel="capacity, bits per parameter and inner step")
    for axis in (needs, gets):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def say(line: str) -> None:
    """Tells people how it goes."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Tries all links, and reports."""
    options = _options()
    if reason := why_not(options.congestion):
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = facts()
    jobs = [
        Job(_plan(name, options), round_trip_s, tuple(options.grid), options.bisections)
        for name in options.presets
        for round_trip_s in options.round_trips_s
    ]
    # Processes of their own, since the actors of a swarm end with the main thread that began them.
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        outcomes = pool.map(run, jobs, chunksize=1)
    rows = [row_of(job, cells) for job, cells in zip(jobs, outcomes, strict=True)]
    for job, cells in zip(jobs, outcomes, strict=True):
        for cell in cells:
            say(f"{job.plan.preset:13} {words(cell)}{', holds' if cell.holds else ''}")
    say(table(rows))
    if options.png:
        draw(rows, options.png)
    result = {
        "benchmark": "utilisation",
        "machine": machine,
        "plan": asdict(jobs[0].plan) | {"preset": None},
        "rows": rows,
        "published": PUBLISHED,
    }
    print(json.dumps(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.utilisation")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), metavar="NAME")
    parser.add_argument("--grid", nargs="+", type=float, metavar="BITS")
    parser.add_argument("--round-trips-s", nargs="+", type=float)
    parser.add_argument("--bisections", type=int)
    parser.add_argument("--intervals", type=int, help="of which departures are judged")
    parser.add_argument("--interval-s", type=float, default=Plan(preset="diloco").interval_s)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--congestion", default="cubic", help="TCP's; what most machines have")
    parser.add_argument("--jobs", type=int, default=2, help="swarms at a time, one core each")
    parser.add_argument("--quick", action="store_true", help="three presets, three capacities")
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    is_quick = options.quick
    defaults = {
        "presets": list(QUICK if is_quick else PRESETS),
        "grid": QUICK_GRID if is_quick else GRID,
        "round_trips_s": ROUND_TRIPS_S[:1] if is_quick else ROUND_TRIPS_S,
        "bisections": 0 if is_quick else 2,
        "intervals": 2 if is_quick else 4,
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _plan(preset: str, options: argparse.Namespace) -> Plan:
    return Plan(
        preset=preset,
        peers=options.peers,
        interval_s=options.interval_s,
        intervals=options.intervals,
        congestion=options.congestion,
        loss_frac=options.loss,
    )


if __name__ == "__main__":
    main()
