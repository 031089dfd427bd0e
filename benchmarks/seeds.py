"""Does the swarm beat a replica that trains alone, and with how few bytes? Demos for some seeds.

    python -m benchmarks.seeds --methods diloco noloco --seeds 0 1 2

Each run is a whole `thinwire demo`, with its accidents. Progress goes to stderr, one JSON object to
stdout at the end. Exits non-zero when a run did not do what the README says.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import facts

KEPT = (
    "method",
    "seed",
    "steps",
    "parameters",
    "start_bits_per_byte",
    "middle_bits_per_byte",
    "end_bits_per_byte",
    "worst_bits_per_byte",
    "alone_bits_per_byte",
    "sent_bytes_mean",
    "sent_bytes_max",
    "data_parallel_bytes",
    "times_fewer_bytes",
    "waited_s",
    "overhead_s",
    "took_s",
)


def main() -> int:
    """Runs the demos one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["diloco", "noloco"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    machine = facts()
    runs = [demo(method, seed) for method in options.methods for seed in options.seeds]
    json.dump({"benchmark": "seeds", "machine": machine, "runs": runs}, sys.stdout, indent=1)
    print()
    return int(any(run["exit_code"] for run in runs))


def demo(method: str, seed: int) -> dict[str, Any]:
    """Runs one demo, and returns its exit code and the figures of its report."""
    with tempfile.TemporaryDirectory(prefix="thinwire-seeds-") as folder:
        command = [sys.executable, "-m", "thinwire", "demo", "--method", method]
        command += ["--seed", str(seed), "--dir", folder]
        code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        path = Path(folder) / "report.json"
        report = json.loads(path.read_text()) if path.exists() else {}
    run = {"exit_code": code} | {key: report.get(key) for key in KEPT}
    print(json.dumps(run), file=sys.stderr, flush=True)
    return run


if __name__ == "__main__":
    sys.exit(main())
