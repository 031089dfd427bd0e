"""What the faults of `benchmarks.chaos` do to others: torchft's DiLoCo, hivemind's optimizer.

    pip install torchft             # hivemind is there already; what is missing is said
    python -m benchmarks.chaos_rivals torchft --peers 4 --minutes 3 --faults-per-hour 1200
    python -m benchmarks.chaos_rivals hivemind --timeouts documented
    python -m benchmarks.chaos_rivals torchft --orphaned    # the coordinator dies for good

The same schedule from the same seed, as far as a rival can run it: replicas are killed and started
again, stopped for up to a minute, and so is killed, and started again at its address, the one
process that all others were told of: torchft's lighthouse, hivemind's first node of the DHT. Faults
of links, disks and clocks are left out, and the result says how many. Replicas are processes on
loopback, with steps of the same length and as many of them between rounds.

Goodput and pauses are what `benchmarks.chaos_figures` says, against the rival's own calm run, which
comes first. Rounds are the replica's own account, each replica's counted; one alone averages with
nobody. Who ends by itself is started again two seconds later, which counts against it.

Progress goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.chaos_plan import Places, Plan
from benchmarks.chaos_rivals_crowd import Crowd
from benchmarks.chaos_rivals_figures import compare, report
from benchmarks.chaos_rivals_process import TIMEOUTS
from benchmarks.chaos_run import say
from benchmarks.chaos_schedule import Planned, draw
from benchmarks.machine import facts

KINDS = ("kill", "kill-trainer", "freeze", "kill-bootstrap")
"""Which a rival can run; its trainer is all of a replica, so there is no difference to `kill`."""


def run(options: argparse.Namespace, plan: Plan, folder: Path, planned: list[Planned]) -> Places:
    """Lets a rival train, and returns where everything about it is."""
    places = Places(folder)
    say(f"{options.rival}, {folder.name}: {plan.peers} replicas, {len(planned)} faults")
    with Crowd(options.rival, plan, places, TIMEOUTS[options.rival][options.timeouts]) as crowd:
        crowd.assemble()
        say(f"{folder.name}: all are up")
        crowd.measure(60 * options.minutes, planned)
    return places


def main() -> None:
    """Runs what the command line says, and reports."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nobody is left
    machine = facts()
    try:
        machine["packages"][options.rival] = importlib.metadata.version(options.rival)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{options.rival} is not installed: pip install {options.rival}")
    plan = Plan(peers=options.peers, seed=options.seed)
    duration_s = 60 * options.minutes
    drawn = draw(
        plan.seed,
        seats=len(plan.names),
        duration_s=duration_s,
        faults_per_hour=options.faults_per_hour,
    )
    schedules = {"calm": [], "storm": [fault for fault in drawn if fault.kind in KINDS]}
    if options.orphaned:
        death = Planned(0, duration_s / 3, "kill-bootstrap", math.inf, (), 0)
        schedules = {"orphaned": [death]}
    result: dict[str, Any] = {
        "benchmark": "chaos_rivals",
        "rival": options.rival,
        "machine": machine,
        "peers": plan.peers,
        "minutes": options.minutes,
        "seed": plan.seed,
        "timeouts": {options.timeouts: TIMEOUTS[options.rival][options.timeouts]},
    }
    if not options.orphaned:
        result["left_out"] = Counter(fault.kind for fault in drawn if fault.kind not in KINDS)
    with _kept(options.keep) as folder:
        for name, planned in schedules.items():
            result[name] = report(run(options, plan, folder / name, planned), plan)
            say(json.dumps(result[name]))
    if not options.orphaned:
        result |= compare(result["calm"], result["storm"])
    print(json.dumps(result))


@contextlib.contextmanager
def _kept(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="chaos-rivals-") as folder:
        yield Path(folder).resolve()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos_rivals")
    parser.add_argument("rival", choices=list(TIMEOUTS))
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=3.0, help="of each run")
    parser.add_argument("--faults-per-hour", type=float, default=1200.0, help="of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeouts", choices=("short", "documented"), default="short")
    parser.add_argument("--orphaned", action="store_true", help="only: the coordinator dies")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where logs stay; a new one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
