"""What does one exchange of 25M parameters cost two processes, and what does it cost elsewhere?

    python -m benchmarks.exchange [--rounds 12] [--only thinwire gloo] [--huge-pages]
    pip install torchft                                    # a rival that is not our dependency

thinwire with 4 bits, authenticated and encrypted, beside bare Gloo in fp32, torchft's DiLoCo and
hivemind's averager; each docstring of `benchmarks.exchange_*` says what is in one exchange of
theirs. Who is not installed is left out. Every system lives in two processes of its own from the
beginning to the end, and idles while others are measured. They take turns, A B C D A B C D; the
first round is not counted. All communicate over loopback, with one thread for mathematics.

    wall      from a common moment, at which both ends begin, until both are done
    cpu       CPU time of both ends with all the processes that they started
    wire      what TCP sockets sent, both ways together, as the kernel counts it
    standing  what both ends hold between exchanges beside libraries and the model itself, fp32
    peak      the most that they hold during one

Ratios are between neighbours, each exchange to that of `gloo pair` in the same round. Progress and
a table go to standard error, and one JSON object to standard output. Linux only.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.exchange_process import SETTLE_S, Memory, Reins
from benchmarks.exchange_thinwire import num_elements
from benchmarks.machine import facts
from peer.net.sockets import SocketMeter

SYSTEMS = ("thinwire", "gloo", "torchft", "hivemind")
SECURED = ("thinwire", "hivemind")
"""Whose bytes are encrypted, to peers whose identity is proven."""
BASE = "gloo pair"
AHEAD_S = 0.02
"""How long before its beginning an exchange is ordered: time to wake up."""
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One exchange; figures are of both ends together."""

    wall_s: float
    cpu_s: float
    wire_bytes: int
    standing_bytes: int
    peak_bytes: int


class Contender:
    """Two processes of one system in one of its modes. Made by `contender`."""

    def __init__(self, name: str, ends: Sequence[Reins]) -> None:
        self.name = name
        self._ends = ends
        self._pids = [pid for end in ends for pid in end.pids]
        self._meter = SocketMeter(self._pids)
        self._bare_bytes = sum(end.bare_bytes for end in ends)

    def exchange(self) -> Sample:
        """Lets both ends exchange once."""
        self._all(prepare=True)
        held = [Memory.of(pid) for pid in self._pids]
        for pid in self._pids:
            Memory.reset_peak(pid)
        cpu_s, (sent_bytes, _) = self._cpu_s(), self._meter.sample()
        at_s = time.monotonic() + AHEAD_S
        ended_s = max(answer["ended_s"] for answer in self._all(at_s=at_s))
        time.sleep(SETTLE_S)
        grown = (
            Memory.of(pid).peak_bytes - before.resident_bytes
            for pid, before in zip(self._pids, held, strict=True)
        )
        standing_bytes = sum(memory.standing_bytes for memory in held) - self._bare_bytes
        return Sample(
            wall_s=ended_s - at_s,
            cpu_s=self._cpu_s() - cpu_s,
            wire_bytes=self._meter.sample()[0] - sent_bytes,
            standing_bytes=standing_bytes,
            peak_bytes=standing_bytes + sum(grown),
        )

    def report(self) -> dict[str, Any]:
        """Returns what the ends tell of themselves."""
        reports = self._all(report=True)
        told: dict[str, Any] = {}
        if "digest" in reports[0]:
            told["ends_agree"] = reports[0]["digest"] == reports[1]["digest"]
        if "cpu_ms" in reports[0]:
            told["cpu_ms_by_stage"] = [report["cpu_ms"] for report in reports]
        return told

    def _all(self, **command: Any) -> list[dict[str, Any]]:
        for end in self._ends:
            end.order(**command)
        return [end.answer() for end in self._ends]

    def _cpu_s(self) -> float:
        return sum(end.cpu_s() for end in self._ends)


@contextmanager
def contender(system: str, mode: str, elements: int) -> Iterator[Contender]:
    """Yields two ends that are connected."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-"))
        ends = []
        for rank in range(2):
            end = Reins(_module(system), mode, Path(folder), rank, elements)
            stack.callback(end.close)
            ends.append(end)
        for end in ends:
            end.await_ready()
        yield Contender(f"{system} {mode}", ends)


def modes_of(system: str) -> tuple[str, ...]:
    """Returns a system's modes, or none if it is not installed."""
    try:
        modes: tuple[str, ...] = importlib.import_module(_module(system)).MODES
    except ImportError as error:
        say(f"{system} is left out: {error}")
        return ()
    return modes


def measure(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Sample]]:
    """Returns the samples of all rounds but the first, by contender."""
    samples: dict[str, list[Sample]] = {each.name: [] for each in contenders}
    for number in range(rounds):
        line = []
        for each in contenders:
            sample = each.exchange()
            line.append(f"{each.name} {sample.wall_s * 1e3:.0f}")
            if number:
                samples[each.name].append(sample)
        say(f"round {number}: {', '.join(line)} ms")
    return samples


def summary_of(samples: Sequence[Sample], base: Sequence[Sample] | None) -> dict[str, Any]:
    """Returns one contender's figures."""
    summary = {
        "wall_ms": spread(sample.wall_s * 1e3 for sample in samples),
        "cpu_ms": spread(sample.cpu_s * 1e3 for sample in samples),
        "wire_mb": spread(sample.wire_bytes / MB for sample in samples),
        "standing_mb": spread(sample.standing_bytes / MB for sample in samples),
        "peak_mb": spread(sample.peak_bytes / MB for sample in samples),
    }
    if base is not None:
        both = list(zip(samples, base, strict=True))
        summary["wall_ratio"] = spread(ours.wall_s / theirs.wall_s for ours, theirs in both)
        summary["cpu_ratio"] = spread(ours.cpu_s / theirs.cpu_s for ours, theirs in both)
    return summary


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Returns median, quartiles, and the least, which a busy machine spoils last."""
    known = sorted(values)
    low, median, high = statistics.quantiles(known, n=4, method="inclusive")
    return {
        "median": round(median, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "least": round(known[0], 3),
    }


COLUMNS = (
    ("wall ms", "wall_ms", 0),
    ("to gloo pair", "wall_ratio", 2),
    ("cpu ms", "cpu_ms", 0),
    ("to gloo pair", "cpu_ratio", 2),
    ("wire MB", "wire_mb", 1),
    ("standing MB", "standing_mb", 0),
    ("peak MB", "peak_mb", 0),
)


def table_of(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields a table for people, medians with quartiles."""
    yield "| | secured | " + " | ".join(title for title, _, _ in COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for name, result in results.items():
        cells = [name, "yes" if name.split()[0] in SECURED else "no"]
        for _, key, digits in COLUMNS:
            if key not in result:
                cells.append("")
                continue
            low, high = result[key]["quartiles"]
            cell = f"{result[key]['median']:.{digits}f}"
            if key.startswith(("wall", "cpu")):
                cell += f" [{low:.{digits}f}, {high:.{digits}f}]"
            cells.append(cell)
        yield "| " + " | ".join(cells) + " |"


def say(line: str) -> None:
    """Tells people how it goes."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exchange",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=12, help="at least 3; one is not counted")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument(
        "--huge-pages",
        action="store_true",
        help="let torch ask for huge pages, in all systems (THP_MEM_ALLOC_ENABLE=1)",
    )
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds: at least 3")
    if options.huge_pages:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # for the processes that we start
    machine, elements = facts(), num_elements()
    with ExitStack() as stack:
        contenders = []
        for system in options.only:
            for mode in modes_of(system):
                say(f"starting {system} {mode}")
                contenders.append(stack.enter_context(contender(system, mode, elements)))
        samples = measure(contenders, options.rounds)
        told = {each.name: each.report() for each in contenders}
    base = samples.get(BASE)
    results = {name: summary_of(mine, base) | told[name] for name, mine in samples.items()}
    for line in table_of(results):
        say(line)
    print(
        json.dumps(
            {
                "benchmark": "exchange",
                "machine": machine,
                "num_elements": elements,
                "rounds": options.rounds - 1,
                "huge_pages": options.huge_pages,
                "load_after": [round(load, 2) for load in os.getloadavg()],
                "results": results,
                "samples": {name: [asdict(s) for s in mine] for name, mine in samples.items()},
            }
        )
    )


def _module(system: str) -> str:
    return f"benchmarks.exchange_{system}"


if __name__ == "__main__":
    main()
