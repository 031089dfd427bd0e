"""How fast a peer catches up over a thin link, while its donors die.

    python -m benchmarks.rejoin [--down-mbps 50 --donors 4 --kill 2]

Real peers of `thinwire join`, each in a network namespace with its own link (`benchmarks.links`:
Linux, root, /dev/net/tun). The donors train until all are at the same round and hold it; then
one more joins with nothing but the ticket. When it has a fifth of the state, the first donor is
killed (SIGKILL), and at two fifths the second. The rate is that of the state's bytes, from the
beginning of its first fetch to the end of the last, over the rate of the newcomer's downlink, in
whole IP packets. A calm run without killing comes first. Ends with one JSON object.

Each block is checked on its way; that the anchor is the donors' own is checked in the end.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.links import Lab, Link, why_not
from benchmarks.machine import facts
from benchmarks.reality import BOOTSTRAP, EVENTS, RUN, say, wait_for
from bootstrap.found import found
from peer.demo.cast import Cast
from peer.run_folder import MANIFEST, TICKET
from peer.telemetry import read_events
from peer.train.model import layout_of_run
from protocol.manifest import parse_manifest

FAST = Link(up_bps=200e6, down_bps=200e6, delay_s=0.005)
NEWCOMER = "newcomer"
DONOR_FRACS = 0.2, 0.4
"""Of the state, when a donor dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured."""

    down_bps: float
    """Of the newcomer."""
    up_bps: float
    """Of each donor."""
    delay_s: float = 0.0075
    donors: int = 4
    kill: int = 2
    dim: int = 320
    layers: int = 6
    heads: int = 5
    ffn_dim: int = 896
    fragments: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """What run.toml would say."""
        model = {name: getattr(self, name) for name in ("dim", "layers", "heads", "ffn_dim")}
        return {
            "name": "rejoin",
            "model": model | {"context": 16},
            "inner": {"batch_sequences": 1},
            "method": {
                "preset": "diloco",
                "schedule": {"interval_steps": 4, "fragments": self.fragments},
                "codec": {"name": "int8"},
            },
            "limits": {"chunk_bytes": 64 * 1024},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of it."""

    killed: int
    """Donors that died before the last byte was here."""
    state_bytes: int
    took_s: float
    """From the first fetch to the end of the last."""
    rate_frac: float
    """Bits of state in that time, as a part of what the newcomer's downlink carries."""
    entered_s: float
    """From the start of the process to its first inner step."""
    dropped: tuple[str, ...]
    """Why donors were left out."""
    is_equal: bool
    """The newcomer's anchors have the digests of those that the donors landed."""


def measure(plan: Plan, folder: Path, *, kill: int) -> Outcome:
    """Lets donors train, and one more join."""
    found(plan.settings, folder / RUN)
    names = [f"donor-{number}" for number in range(1, plan.donors + 1)]
    thin = Link(up_bps=plan.down_bps, down_bps=plan.down_bps, delay_s=plan.delay_s)
    with Lab(dict.fromkeys((BOOTSTRAP, *names, NEWCOMER), FAST)) as lab, Cast(folder) as cast:
        serve_bootstrap(folder, lab, cast)
        for name in names:
            join(folder, name, lab, cast, "--max-steps", "8")
        steps = dict.fromkeys(names, 0)

        def are_through() -> bool:
            for name in names:
                reports = events(folder, name, "progress")
                steps[name] = reports[-1]["round"] if reports and reports[-1]["is_done"] else 0
            return len(set(steps.values())) == 1 and min(steps.values()) > 0

        wait_for(cast, "the donors", are_through, within_s=300.0)
        for name in names:
            lab.change(name, Link(up_bps=plan.up_bps, down_bps=100e6, delay_s=plan.delay_s))
        lab.change(NEWCOMER, thin)
        before_bytes, began_s = lab.traffic(NEWCOMER).received_bytes, time.monotonic()
        join(folder, NEWCOMER, lab, cast, "--max-steps", "40")
        manifest = parse_manifest((folder / RUN / MANIFEST).read_bytes())
        state_bytes = 8 * layout_of_run(manifest).num_elements  # anchor and momentum
        killed = 0

        def has_come() -> bool:
            nonlocal killed
            came = lab.traffic(NEWCOMER).received_bytes - before_bytes
            if killed < kill and came > DONOR_FRACS[killed] * state_bytes:
                victim = cast.actors[names[killed]]
                victim.fate = "killed"
                victim.kill()
                killed += 1
            return bool(events(folder, NEWCOMER, "joined"))

        wait_for(cast, "the newcomer", has_come, within_s=300.0)
        fetched = events(folder, NEWCOMER, "state_fetched")
        begins = events(folder, NEWCOMER, "state_fetch_begins")
        assert fetched, (
            f"nothing was fetched: {(folder / NEWCOMER / 'log.txt').read_text()[-2000:]}"
        )
        took_s = fetched[-1]["t_mono_s"] - begins[0]["t_mono_s"]
        total = sum(fetch["size_bytes"] - fetch["already_bytes"] for fetch in fetched)
        joined = events(folder, NEWCOMER, "joined")[0]
        landed = {landing["digest"] for landing in events(folder, names[-1], "landed")}
        cast.dismiss(list(cast.actors), within_s=20.0)
        return Outcome(
            killed=killed,
            state_bytes=total,
            took_s=round(took_s, 3),
            rate_frac=round(8 * total / took_s / plan.down_bps, 3),
            entered_s=round(joined["t_mono_s"] - began_s, 2),
            dropped=tuple(e["reason"] for e in events(folder, NEWCOMER, "donor_dropped")),
            is_equal={fetch["digest"] for fetch in fetched} <= landed,
        )


def serve_bootstrap(folder: Path, lab: Lab, cast: Cast) -> None:
    """Starts the bootstrap node, and waits for its ticket."""
    serve = (sys.executable, "-m", "thinwire", "bootstrap", str(folder / RUN))
    listen = ("--listen", lab.address(BOOTSTRAP))
    cast.start(BOOTSTRAP, lab.command(BOOTSTRAP, *serve, *listen))
    wait_for(cast, "the bootstrap node", (folder / RUN / TICKET).exists)


def join(folder: Path, name: str, lab: Lab, cast: Cast, *options: str) -> None:
    """Starts a peer on the host of its name."""
    command = (sys.executable, "-m", "thinwire", "join", str(folder / RUN / TICKET))
    where = ("--dir", str(folder / name), "--listen", lab.address(name))
    how = ("--device", "cpu", "--threads", "1", "--plain", "--evaluate-every", "1000")
    cast.start(name, lab.command(name, *command, *where, *how, *options))


def events(folder: Path, name: str, event: str) -> list[dict[str, Any]]:
    """Returns what a peer has reported of one kind."""
    path = folder / name / EVENTS
    return [e for e in read_events(path) if e["event"] == event] if path.exists() else []


def main() -> None:
    """Measures with and without killing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rejoin")
    parser.add_argument("--down-mbps", type=float, default=50.0)
    parser.add_argument("--up-mbps", type=float, default=40.0, help="of each donor")
    parser.add_argument("--donors", type=int, default=4)
    parser.add_argument("--kill", type=int, default=2)
    parser.add_argument("--fragments", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where logs and events stay")
    options = parser.parse_args()
    if not 0 <= options.kill <= len(DONOR_FRACS) or options.kill >= options.donors:
        parser.error(f"--kill is at most {len(DONOR_FRACS)}, and one donor has to stay")
    if reason := why_not():
        sys.exit(reason)
    plan = Plan(
        down_bps=options.down_mbps * 1e6,
        up_bps=options.up_mbps * 1e6,
        donors=options.donors,
        kill=options.kill,
        fragments=options.fragments,
    )
    outcomes = {}
    for what, kill in (("calm", 0), ("killed", plan.kill)):
        say(f"{what}: {plan.donors} donors, of which {kill} die")
        with tempfile.TemporaryDirectory(prefix="thinwire-") as temporary:
            folder = Path(temporary) if options.keep is None else options.keep / what
            folder.mkdir(parents=True, exist_ok=True)
            outcomes[what] = asdict(measure(plan, folder.resolve(), kill=kill))
        say(f"  {outcomes[what]}")
    result = {"benchmark": "rejoin", "machine": facts(), "plan": asdict(plan)}
    print(json.dumps(result | outcomes))


if __name__ == "__main__":
    main()
