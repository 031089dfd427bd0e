"""What does an exchange cost a peer whose model has a billion parameters?

    python -m benchmarks.large                                          # 1B in 24 fragments
    python -m benchmarks.large --parameters 50M --fragments 6
    python -m benchmarks.large --preset gossip-stream

Two processes on loopback are two peers: wire, driver, machines, mathematics and the trainer's port
are the product's; the trainer process is played (`benchmarks.large_trainer`). Weights are random
and nothing is learnt. Fragments are exchanged in turn, so many at a time.

Memory is the peak of a process less what was resident before, in multiples of the largest
fragment's fp32 size; the model (anchors and outer state) and the snapshots, which lie in memory
shared with the trainer, were there before. *Kept* is what stays afterwards. At the end all anchors
must be equal on both sides, where the method says so. Ends with one JSON object.
"""

import argparse
import json
import select
import subprocess
import sys
from dataclasses import asdict
from typing import IO, Any

from benchmarks.large_end import Setup
from benchmarks.large_meter import available_bytes
from benchmarks.machine import facts
from peer.units import format_bytes, format_count, parse_count

OUTER_VECTORS = 2
"""Anchor and momentum."""
BARE_BYTES = 450e6
"""Of a process: Python, torch and compiled kernels."""
IN_FLIGHT, STAND_IN, LANDED = 4.5, 2.0, 0.3
"""What a fragment in flight, the stand-in, and an exchange that may be replayed need at most, in
fragments."""
MARGIN_BYTES = 1e9
"""Left to others."""


class Process:
    """One end, and the lines to it."""

    def __init__(self, setup: Setup) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.large_end", json.dumps(asdict(setup))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, name: str, **arguments: Any) -> None:
        """Sends a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()

    @property
    def lines(self) -> IO[str]:
        """Where it answers."""
        assert self._process.stdout is not None
        return self._process.stdout

    def answer(self) -> dict[str, Any]:
        """Returns the answer to the last command, or to the start."""
        line = self.lines.readline()
        if not line:
            raise SystemExit(f"one of the two processes ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Ends it, however it is."""
        self._process.kill()
        self._process.wait()


def both(ends: list[Process], name: str, **arguments: Any) -> list[dict[str, Any]]:
    """Gives the same command to both, and returns their answers."""
    for end in ends:
        end.tell(name, **arguments)
    return answers(ends)


def answers(ends: list[Process]) -> list[dict[str, Any]]:
    """Returns what both answer; without the one the other would wait for ever."""
    found: dict[int, dict[str, Any]] = {}
    while missing := [number for number in range(len(ends)) if number not in found]:
        readable, _, _ = select.select([ends[number].lines for number in missing], [], [])
        for number in missing:
            if ends[number].lines in readable:
                found[number] = ends[number].answer()
    return [found[number] for number in range(len(ends))]


def require_room(options: argparse.Namespace, parameters: int) -> None:
    """Refuses what would not fit into this machine's memory.

    Raises:
        SystemExit: it would not.
    """
    num_exchanges = options.exchanges * options.rounds * len(options.in_flight)
    besides = STAND_IN + IN_FLIGHT * max(options.in_flight)
    besides += LANDED * min(num_exchanges, 1.5 * options.fragments)
    fragment_bytes = 4 * parameters / (options.fragments - 1)
    each_bytes = BARE_BYTES + 4 * OUTER_VECTORS * parameters + besides * fragment_bytes
    needed, found = 2 * each_bytes + MARGIN_BYTES, available_bytes()
    if needed > found:
        raise SystemExit(
            f"two peers need {format_bytes(needed)} of memory, {format_bytes(found)} are free: "
            "take fewer --parameters, or fewer --in-flight"
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns all figures of a run of two."""
    parameters = int(parse_count(options.parameters))
    require_room(options, parameters)
    setups = [
        Setup(
            ours=ours,
            parameters=parameters,
            fragments=options.fragments,
            preset=options.preset,
            most_in_flight=max(options.in_flight),
        )
        for ours in range(2)
    ]
    ends: list[Process] = []
    try:
        starts = []
        for setup in setups:  # one after the other: a start takes more than what stays
            ends.append(Process(setup))
            starts.append(ends[-1].answer())
            log(f"started: {starts[-1]}")
        ends[0].tell("meet", port=starts[1]["port"])
        ends[1].tell("meet", port=starts[0]["port"])
        rests = answers(ends)
        log(f"before the first exchange: {[format_bytes(rest['rest_bytes']) for rest in rests]}")
        phases, turn = [], 0
        for in_flight in options.in_flight:
            for _ in range(options.rounds):
                turns = range(turn, turn + options.exchanges)
                fragments = [number % options.fragments for number in turns]
                turn += options.exchanges
                phases.append(both(ends, "exchange", fragments=fragments, in_flight=in_flight))
                log(f"{in_flight} in flight: {json.dumps(phases[-1][0])}")
        state = None
        if options.preset != "gossip-stream":  # a pair's anchors are its own
            ends[1].tell("fetch_state", fragment=0)
            state = ends[1].answer()
            log(f"a state: {state}")
        lasts = both(ends, "end")
    finally:
        for end in ends:
            end.end()
    are_equal = lasts[0]["digests"] == lasts[1]["digests"]
    if options.preset == "streaming" and not are_equal:
        raise SystemExit("the two have other anchors")
    return {
        "benchmark": "large",
        "machine": options.machine,
        "preset": options.preset,
        "parameters": starts[0]["parameters"],
        "fragments": options.fragments,
        "largest_fragment_bytes": starts[0]["fragment_bytes"],
        "starts": starts,
        "rests": rests,
        "phases": phases,
        "state": state,
        "digest_s": lasts[0]["digest_s"],
        "rounds": lasts[0]["rounds"],
        "anchors_are_equal": are_equal,
    }


def table(result: dict[str, Any]) -> str:
    """Returns the main figures, as Markdown; of the two ends the larger."""
    rows = ["| in flight | s | wall s | CPU s | sent MB | peak | kept |", "|---" * 7 + "|"]
    names = ("seconds", "wall_s", "cpu_s", "sent_mb", "peak", "kept")
    for phase in result["phases"]:
        worst = [max(end[name] for end in phase) for name in names]
        rows.append(f"| {phase[0]['in_flight']} | " + " | ".join(f"{x:.2f}" for x in worst) + " |")
    return "\n".join(rows)


def log(text: str) -> None:
    """Writes progress for people."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parameters", default="1B")
    parser.add_argument("--fragments", type=int, default=24)
    parser.add_argument("--preset", choices=("streaming", "gossip-stream"), default="streaming")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1, help="for each number in flight")
    parser.add_argument("--exchanges", type=int, help="of a round; one a fragment if not given")
    options = parser.parse_args()
    options.exchanges = options.exchanges or options.fragments
    options.machine = facts()
    log(f"{format_count(parse_count(options.parameters))} parameters, {options.preset}")
    result = measure(options)
    log(table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
