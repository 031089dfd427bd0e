"""Simulator against reality: the same small swarm under a virtual clock, and as real processes.

    python -m benchmarks.reality [SCENARIO ...] [--duration-s 120] [--keep FOLDER]

Each scenario is small enough for one machine and is described completely by a `Scenario`.
`measure_real` runs it on the real wire, in a laboratory of `benchmarks.links`, and
`benchmarks.virtuality` gives the same one to the simulator. Prints a table and one JSON object;
needs what `benchmarks.links` needs.

Nothing is simulated here but the links and the speed of the machines: peers are started from a
ticket, and find each other in the directory. An inner step is a real one that lasts `step_s`, since
so many trainers on so few cores would have no stable pace of their own. All peers start training
at a common instant, each a little after the one before, when every one has joined and knows the
others; that is where the measurement begins.
"""

import argparse
import contextlib
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.links import Lab, Link, Traffic, why_not
from benchmarks.machine import facts
from benchmarks.paced import BEGIN, Role
from bootstrap.found import found
from peer.demo.cast import Cast
from peer.run_folder import TICKET
from peer.telemetry import read_events
from protocol.errors import ThinwireError

BOOTSTRAP = "bootstrap"
RUN, EVENTS = "run", "events.jsonl"
"""The run's folder, and a peer's events."""
PATIENCE_S = 120.0
"""How long the bootstrap node may take, and then the joining."""
NOTICE_S = 0.5
"""So long before it begins are trainers told."""
LOOK_S = 0.1
LEAVE_S = 10.0

HOME = Link(up_bps=10e6, down_bps=10e6, delay_s=0.0075)
"""30 ms from peer to peer and back."""
UNEVEN = Link(up_bps=2e6, down_bps=20e6, delay_s=0.02)
"""80 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A swarm and its links; everything that a simulator has to know."""

    preset: str
    codec: str
    link: Link
    """Of every peer."""
    interval_steps: int = 40
    step_s: float = 0.15
    num_peers: int = 3
    stagger_s: float = 0.2
    """Each peer starts to train so long after the one before."""
    duration_s: float = 120.0
    """From the first peer's first step on."""
    congestion: str | None = "cubic"
    """TCP's congestion control; what most machines have."""
    dim: int = 96
    layers: int = 3
    heads: int = 3
    ffn_dim: int = 256
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What run.toml would say."""
        model = {name: getattr(self, name) for name in ("dim", "layers", "heads", "ffn_dim")}
        return {
            "name": "reality",
            "seed": self.seed,
            "model": model | {"context": 16},
            "inner": {"batch_sequences": 1},
            "method": {
                "preset": self.preset,
                "schedule": {"interval_steps": self.interval_steps},
                "codec": {"name": self.codec},
            },
        }


SCENARIOS = {
    "all": Scenario(preset="diloco", codec="fp32", link=HOME),
    "pairs": Scenario(preset="noloco", codec="fp32", link=HOME),
    "all-uneven": Scenario(preset="diloco", codec="int8", link=UNEVEN),
    "pairs-uneven": Scenario(preset="noloco", codec="bf16", link=UNEVEN),
}


@dataclass(frozen=True, slots=True)
class Bytes:
    """Both ways."""

    sent: int
    received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOutcome:
    """What one peer did between its first step and its first report after the end."""

    utilisation: float
    """Inner steps, as a part of those that `step_s` leaves room for. Between the first report of a
    step and the last one: reports are as old as each other, up to 0.3 s."""
    steps: int
    rounds: int
    exchanges_done: int
    exchanges_failed: int
    exchange_s: tuple[float, ...]
    """From the beginning of each exchange to its landing."""
    payload_bytes: Bytes
    """Blobs and notes, as the application counts them."""
    socket_bytes: Bytes | None = None
    """With TLS, framing, the directory and retransmissions, as the kernel counts them."""
    link_bytes: Bytes | None = None
    """Whole IP packets, as the link counts them."""
    longest_gap_s: float = 0.0
    """Between the ends of two steps."""

    @property
    def median_exchange_s(self) -> float | None:
        """Of exchanges that landed; None if none did."""
        return statistics.median(self.exchange_s) if self.exchange_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a scenario."""

    duration_s: float
    peers: tuple[PeerOutcome, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it, with the median of each peer's exchanges."""
        peers = [
            asdict(peer) | {"median_exchange_s": peer.median_exchange_s} for peer in self.peers
        ]
        return {"duration_s": self.duration_s, "peers": peers}


# ---- the measurement


def measure_real(scenario: Scenario, folder: Path) -> Outcome:
    """Runs a scenario on the real wire and returns what became of it.

    Args:
        scenario: What to run.
        folder: Empty; everything that the processes write goes there.

    Raises:
        ThinwireError: a process ended by itself, or was not there in time.
        OSError, subprocess.CalledProcessError: see `benchmarks.links.why_not`.
    """
    found(scenario.settings, folder / RUN)
    names = [f"peer-{number}" for number in range(1, scenario.num_peers + 1)]
    links = dict.fromkeys((BOOTSTRAP, *names), scenario.link)
    with (
        Lab(links, congestion=scenario.congestion, seed=scenario.seed) as lab,
        Cast(folder) as cast,
        dismissing(cast),
    ):
        start_swarm(folder, names, lab, cast, step_s=scenario.step_s, stagger_s=scenario.stagger_s)
        peers = [_Watched(name, folder / name, lab) for name in names]
        wait_for(cast, "the peers", lambda: all(peer.knows(len(names) - 1) for peer in peers))
        end_s = begin_training(folder) + scenario.duration_s
        for peer in peers:
            peer.begins()
        say(f"training for {scenario.duration_s:g} s")
        within_s = scenario.duration_s + PATIENCE_S
        wait_for(cast, "the end", lambda: _are_over(peers, end_s), within_s=within_s)
        outcomes = tuple(peer.outcome(scenario.step_s) for peer in peers)
    return Outcome(duration_s=scenario.duration_s, peers=outcomes)


def start_swarm(
    folder: Path, names: list[str], lab: Lab, cast: Cast, *, step_s: float, stagger_s: float
) -> None:
    """Starts the bootstrap node of the run that was founded in `folder / RUN`, and its peers.

    Args:
        folder: Of the measurement.
        names: Of the peers, and of their hosts.
        lab: Where the hosts are.
        cast: Where the processes belong to.
        step_s: How long an inner step lasts.
        stagger_s: Each peer starts to train so long after the one before.

    Raises:
        ThinwireError: the bootstrap node ended by itself, or was not there in time.
    """
    listen = ("--listen", lab.address(BOOTSTRAP))
    serve = (sys.executable, "-m", "thinwire", "bootstrap", str(folder / RUN), *listen)
    cast.start(BOOTSTRAP, lab.command(BOOTSTRAP, *serve))
    wait_for(cast, "the bootstrap node", (folder / RUN / TICKET).exists)
    for number, name in enumerate(names):
        role = Role(
            folder=str(folder / name),
            host=lab.address(name),
            step_s=step_s,
            starts_after_s=number * stagger_s,
        )
        cast.start(name, lab.command(name, *role.command("--as-peer")))


class _Watched:
    """One peer, seen through its events and its link."""

    def __init__(self, name: str, folder: Path, lab: Lab) -> None:
        self._name = name
        self._path = folder / EVENTS
        self._lab = lab
        self._ended: tuple[dict[str, Any], Traffic] | None = None

    def knows(self, num_others: int) -> bool:
        """Whether it has joined, and met so many."""
        return self._path.exists() and any(
            event["num_members"] == num_others for event in self._events("progress")
        )

    def begins(self) -> None:
        """From now on everything counts."""
        self._began = self._events("progress")[-1], self._lab.traffic(self._name)

    def look(self, end_s: float) -> bool:
        """Takes its first report after the end for the last one; returns whether it is there."""
        report = self._events("progress")[-1]
        if self._ended is None and report["t_mono_s"] >= end_s:
            self._ended = report, self._lab.traffic(self._name)
        return self._ended is not None

    def outcome(self, step_s: float) -> PeerOutcome:
        """Returns what it did from `begins` to its first report after the end."""
        assert self._ended is not None
        (before, link_before), (after, link_after) = self._began, self._ended
        first = next(report for report in self._events("progress") if report["step"] > 0)
        room = (after["t_mono_s"] - first["t_mono_s"]) / step_s

        def gained(name: str) -> int:
            return int(after[name] - before[name])

        def both_ways(prefix: str) -> Bytes:
            return Bytes(gained(f"{prefix}sent_bytes"), gained(f"{prefix}received_bytes"))

        return PeerOutcome(
            utilisation=round((after["step"] - first["step"]) / room, 4),
            steps=gained("step"),
            rounds=gained("round"),
            exchanges_done=gained("exchanges_done"),
            exchanges_failed=gained("exchanges_failed"),
            exchange_s=self._exchange_s(after["t_mono_s"]),
            payload_bytes=both_ways("payload_"),
            socket_bytes=both_ways("") if after["is_counted_by_kernel"] else None,
            link_bytes=Bytes(
                link_after.sent_bytes - link_before.sent_bytes,
                link_after.received_bytes - link_before.received_bytes,
            ),
            longest_gap_s=round(after["longest_gap_s"], 3),
        )

    def _exchange_s(self, end_s: float) -> tuple[float, ...]:
        began_s = {e["exchange_id"]: e["t_mono_s"] for e in self._events("exchange_begins")}
        return tuple(
            round(landed["t_mono_s"] - began_s[landed["exchange_id"]], 3)
            for landed in self._events("landed")
            if landed["exchange_id"] in began_s and landed["t_mono_s"] <= end_s
        )

    def _events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self._path) if event["event"] == name]


def begin_training(folder: Path) -> float:
    """Tells all trainers when to begin; returns that time."""
    begin_s = time.monotonic() + NOTICE_S
    (folder / f".{BEGIN}").write_text(repr(begin_s))
    (folder / f".{BEGIN}").rename(folder / BEGIN)
    return begin_s


def _are_over(peers: list[_Watched], end_s: float) -> bool:
    looks = [peer.look(end_s) for peer in peers]  # at every one, at its time
    return all(looks)


def wait_for(
    cast: Cast, what: str, is_here: Callable[[], bool], *, within_s: float = PATIENCE_S
) -> None:
    """Waits until something is there.

    Raises:
        ThinwireError: a process ended by itself meanwhile, or it was not there in time.
    """
    give_up_at_s = time.monotonic() + within_s
    while not is_here():
        cast.check()
        if time.monotonic() > give_up_at_s:
            raise ThinwireError(f"waited for {what} in vain, for {within_s:g} s")
        time.sleep(LOOK_S)


@contextlib.contextmanager
def dismissing(cast: Cast) -> Iterator[None]:
    """Lets all leave in order, even if we are interrupted: their daemons have files."""
    try:
        yield
    finally:
        cast.dismiss(list(cast.actors), within_s=LEAVE_S)


# ---- the command line


def comparison(name: str, real: Outcome, simulated: Outcome) -> str:
    """Returns one line a figure: real, simulated, and how far they are apart; sums of all peers."""
    lines = [f"{name}: real, simulated, simulated / real"]
    figures: dict[str, Callable[[PeerOutcome], float]] = {
        "utilisation": lambda peer: peer.utilisation / len(real.peers),
        "rounds": lambda peer: peer.rounds,
        "payload, bytes": lambda peer: peer.payload_bytes.sent,
        "sockets, bytes": lambda peer: peer.socket_bytes.sent if peer.socket_bytes else 0,
        "exchange, s": lambda peer: (peer.median_exchange_s or 0.0) / len(real.peers),
    }
    for what, figure in figures.items():
        ours, theirs = sum(map(figure, simulated.peers)), sum(map(figure, real.peers))
        lines.append(f"  {what:16}{theirs:12.5g}{ours:12.5g}{ours / theirs if theirs else 0:8.3f}")
    return "\n".join(lines)


def say(line: str) -> None:
    """Tells people how it goes."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Runs scenarios, on the real wire and in the simulator."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reality")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--duration-s", type=float, default=120.0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where logs and events stay")
    options = parser.parse_args()
    names = options.scenarios or list(SCENARIOS)
    if unknown := set(names) - SCENARIOS.keys():
        parser.error(f"there is no scenario {unknown.pop()}; choose from {', '.join(SCENARIOS)}")
    from benchmarks.virtuality import measure_simulated  # which takes its scenarios from here

    if reason := why_not():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everybody is dismissed
    result: dict[str, Any] = {"benchmark": "reality", "machine": facts(), "scenarios": []}
    for name in names:
        scenario = replace(SCENARIOS[name], duration_s=options.duration_s)
        say(f"{name}: founding the run, and joining it")
        with tempfile.TemporaryDirectory(prefix="thinwire-") as temporary:
            folder = Path(temporary) if options.keep is None else options.keep / name
            folder.mkdir(parents=True, exist_ok=options.keep is None)
            real = measure_real(scenario, folder.resolve())
        simulated = measure_simulated(scenario)
        say(comparison(name, real, simulated))
        result["scenarios"].append(
            {
                "name": name,
                "scenario": asdict(scenario),
                "real": real.to_json(),
                "simulated": simulated.to_json(),
            }
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
