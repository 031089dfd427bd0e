"""What does a peer's round cost in a crowd of ten, and in one of ten thousand?

    python -m benchmarks.crowd                                    # 10 to 10,000 peers, 100 rounds
    python -m benchmarks.crowd --peers 1000 --rounds 20 --churn 0.05

Exchange machines and rooms are the product's, on one core and under a virtual clock; see
`peer.sim.crowd` for what is real. The crowd enters within a round and has three more to settle
before anything is counted. Figures are means over peers and rounds: of a peer, not of a pair. Ends
with one JSON object.
"""

import argparse
import json
import math
import resource
import time
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import facts
from peer.sim.crowd import Crowd, CrowdSpec
from peer.sim.crowd_tally import Tally

SETTLING_ROUNDS = 3
COLUMNS = {
    "peers": ("peers", "{:,}"),
    "wall s": ("wall_s", "{:.1f}"),
    "CPU s": ("cpu_s", "{:.1f}"),
    "CPU us/round": ("peer_round_us", "{:.0f}"),
    "events": ("events", "{:.1f}"),
    "notes": ("notes", "{:.1f}"),
    "note kB": ("note_kb", "{:.1f}"),
    "bulk MB": ("bulk_mb", "{:.2f}"),
    "refreshes": ("refreshes", "{:.2f}"),
    "topics read": ("topics_read", "{:.1f}"),
    "records read": ("records_read", "{:.0f}"),
    "published": ("topics_published", "{:.1f}"),
    "known": ("known", "{:.1f}"),
    "exchanges": ("done", "{:.3f}"),
    "alone %": ("alone_percent", "{:.2f}"),
    "failed %": ("failed_percent", "{:.2f}"),
    "to the dead": ("notes_to_dead", "{:.2f}"),
    "spread x": ("spread_factor", "{:.3f}"),
}
"""Heading, key of the result, and format."""


def measure(spec: CrowdSpec, *, rounds: int, seed: int) -> dict[str, Any]:
    """Returns what the rounds of one crowd cost, a peer and a round."""
    crowd = Crowd(spec, seed=seed)
    crowd.run(spec.entry_s + SETTLING_ROUNDS * spec.interval_s)
    before, spread, num_events = crowd.total(), crowd.spread(), crowd.clock.num_events
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    crowd.run(crowd.clock.now_s + rounds * spec.interval_s)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    total = crowd.total()
    did = {f.name: getattr(total, f.name) - getattr(before, f.name) for f in fields(Tally)}
    peer_rounds = did["intervals"]
    mean = {name: count / peer_rounds for name, count in did.items()}
    outer_steps = did["done"] / spec.num_peers
    return {
        "peers": spec.num_peers,
        "peer_rounds": peer_rounds,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peer_round_us": 1e6 * cpu_s / peer_rounds,
        "events": (crowd.clock.num_events - num_events) / peer_rounds,
        **mean,
        "note_kb": mean["note_bytes"] / 1e3,
        "bulk_mb": mean["bulk_bytes"] / 1e6,
        "known": sum(peer.num_known for peer in crowd.peers.values()) / len(crowd.peers),
        "alone_percent": 100 * mean["alone"],
        "failed_percent": 100 * did["failed"] / max(1, did["begun"]),
        "records_refused": crowd.directory.num_refused,
        "spread": crowd.spread(),
        "spread_factor": math.exp(math.log(crowd.spread() / spread) / outer_steps),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "digest": crowd.digest(),
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """Returns the results for people, a crowd a column."""
    table = Table(title="a peer and a round")
    table.add_column("")
    for _ in results:
        table.add_column(justify="right")
    for heading, (key, form) in COLUMNS.items():
        table.add_row(heading, *(form.format(result[key]) for result in results))
    return table


def main() -> None:
    """Measures crowds of several sizes, prints a table and one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd")
    parser.add_argument("--peers", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--churn", type=float, default=0.01, help="part that dies in a round")
    parser.add_argument("--interval-steps", type=int, default=50, help="of 1 s each")
    parser.add_argument("--refreshes", type=float, default=2.0, help="of the membership, a round")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    specs = [
        CrowdSpec(
            num_peers=num_peers,
            interval_steps=options.interval_steps,
            entry_s=options.interval_steps,
            refresh_s=options.interval_steps / options.refreshes,
            lifetime_s=3 * options.interval_steps / options.refreshes,
            churn_frac=options.churn,
        )
        for num_peers in options.peers
    ]
    machine = facts()
    results = [measure(spec, rounds=options.rounds, seed=options.seed) for spec in specs]
    Console(width=100).print(table_of(results))
    result = {
        "benchmark": "crowd",
        "machine": machine,
        "load_after": facts()["load_before"],
        "rounds": options.rounds,
        "spec": asdict(specs[-1]),
        "crowds": results,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
