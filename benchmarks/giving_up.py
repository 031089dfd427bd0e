"""How soon is a partner given up that stops in the middle of an exchange, and who notices?

    python -m benchmarks.giving_up [--preset noloco|diloco] [--peers 4] [--faults 16] [--kills 4]

Real peers on hosts of `benchmarks.links`. Again and again one of them is stopped, with its trainer,
while it is in an exchange: by SIGSTOP, which ends after `--freeze-s`, or by SIGKILL, after which a
newcomer takes its place. Progress goes to standard error, and one JSON object to standard output;
needs what `benchmarks.links` needs.

A fault is a hit if the victim's exchange had begun, and had neither landed nor failed, when the
signal came, and the same of at least one partner; both from their own events. Of each such partner,
from the signal on:

    given_up_s   until its transfer from the victim, or the exchange, failed
    ended_s      until the exchange had failed, or, of several peers, landed without the victim
    replaced_s   until the next one began

Partners that had already got what they needed, and landed, are counted in `landed_all_the_same`;
transfers that were given up since a peer seemed silent that was not stopped, in `false_alarms`.
When the next exchange begins depends on who is ready for one, too: `next_s` is the time from a
landing to the next beginning without a fault.

Trainers must not notice. An inner step is a real one that lasts `--step-s` (`benchmarks.paced`),
and each is written down as it ends. `steps` has the time between the ends of two steps, of all
trainers but the victim's, in the `--window-s` after each fault, and in as long a window before it,
which the fault before it is not in.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.links import Lab, Link, why_not
from benchmarks.machine import facts
from benchmarks.paced import STEPS, Role
from benchmarks.reality import (
    BOOTSTRAP,
    EVENTS,
    RUN,
    begin_training,
    dismissing,
    say,
    start_swarm,
    wait_for,
)
from bootstrap.found import found
from peer.demo.cast import Actor, Cast
from peer.telemetry import read_events
from protocol.errors import ThinwireError

LINK = Link(up_bps=20e6, down_bps=20e6, delay_s=0.005)
LOOK_S = 0.005
OPEN_S = 0.1, 0.6
"""A victim's exchange is at least so old: drawn from here."""
CALM_S = 6.0
"""Before each fault; the window without a fault lies in it."""
AIM_S = 60.0
SETTLE_S = 20.0
OPEN_EVENTS = ("exchange_begins", "exchange_failed", "landed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    preset: str
    peers: int
    faults: int
    kills: int
    freeze_s: float
    window_s: float
    step_s: float
    interval_steps: int
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """What run.toml would say."""
        return {
            "name": "giving-up",
            "seed": self.seed,
            "model": {"dim": 128, "layers": 4, "heads": 4, "ffn_dim": 352, "context": 16},
            "inner": {"batch_sequences": 1},
            "method": {
                "preset": self.preset,
                "schedule": {"interval_steps": self.interval_steps},
                "codec": {"name": "bf16"},
            },
        }


@dataclass(frozen=True, slots=True)
class Fault:
    """One peer that was stopped."""

    at_s: float
    signal: signal.Signals
    victim: str


class Watched:
    """One peer, seen through its events and its steps."""

    def __init__(self, actor: Actor, folder: Path) -> None:
        self.actor = actor
        self._folder = folder
        self._read_bytes = 0
        self._newest: dict[str, Any] = {}
        """Of the events that open or end an exchange."""

    def knows(self, num_others: int) -> bool:
        """Whether it has joined, and met so many."""
        return (self._folder / EVENTS).exists() and any(
            event["num_members"] == num_others for event in self.events("progress")
        )

    def open_for_s(self) -> float:
        """Returns how long it has been in its exchange; below zero if it is in none."""
        with (self._folder / EVENTS).open() as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind("\n") + 1]
        self._read_bytes += len(whole.encode())
        for event in map(json.loads, whole.splitlines()):
            if event["event"] in OPEN_EVENTS:
                self._newest = event
        is_open = self._newest.get("event") == "exchange_begins"
        return time.monotonic() - self._newest["t_mono_s"] if is_open else -1.0

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Returns the events of these names."""
        return [event for event in read_events(self._folder / EVENTS) if event["event"] in names]

    def exchange_at(self, time_s: float) -> dict[str, Any] | None:
        """Returns the beginning of the exchange that it was in then, if it was in one."""
        before = [e for e in self.events(*OPEN_EVENTS) if e["t_mono_s"] <= time_s]
        is_open = before and before[-1]["event"] == "exchange_begins"
        return before[-1] if is_open else None

    def step_gaps_s(self, start_s: float, stop_s: float) -> list[float]:
        """Returns the times between the ends of two steps, of those that ended in between."""
        path = self._folder / STEPS
        ends_s = [float(line) for line in path.read_text().splitlines()] if path.exists() else []
        pairs = pairwise(ends_s)
        return [later - end for end, later in pairs if start_s <= later <= stop_s]


# ---- the faults


class Stage:
    """A swarm, and what is done to it."""

    def __init__(self, options: Options, folder: Path, lab: Lab, cast: Cast) -> None:
        self.options = options
        self.folder = folder
        self.lab = lab
        self.cast = cast
        self.rng = random.Random(options.seed)
        self.peers: dict[str, Watched] = {}
        """All that there ever were."""
        self.faults: list[Fault] = []

    def play(self) -> None:
        """Starts the swarm and stops one peer after the other.

        Raises:
            ThinwireError: a process ended by itself, or something did not happen in time.
        """
        options = self.options
        names = [f"peer-{number}" for number in range(options.peers)]
        start_swarm(self.folder, names, self.lab, self.cast, step_s=options.step_s, stagger_s=0.1)
        for name in names:
            self.peers[name] = Watched(self.cast.actors[name], self.folder / name)
        self._wait_until_all_know()
        begin_training(self.folder)
        kinds = [signal.SIGKILL] * options.kills
        kinds += [signal.SIGSTOP] * (options.faults - options.kills)
        self.rng.shuffle(kinds)
        for number, kind in enumerate(kinds):
            self._settle()
            time.sleep(CALM_S)
            fault = self._strike(kind)
            self.faults.append(fault)
            say(f"{number + 1} of {len(kinds)}: {kind.name} to {fault.victim}")
            time.sleep(max(options.freeze_s, options.window_s))
            if kind is signal.SIGSTOP:
                os.killpg(self.peers[fault.victim].actor.pid, signal.SIGCONT)
            else:
                self._replace()

    @property
    def living(self) -> dict[str, Watched]:
        """Those that were not killed."""
        return {name: peer for name, peer in self.peers.items() if peer.actor.is_alive}

    def _strike(self, kind: signal.Signals) -> Fault:
        """Stops somebody who is in an exchange."""
        name = self.rng.choice(sorted(self.living))
        victim, age_s = self.peers[name], self.rng.uniform(*OPEN_S)
        give_up_at_s = time.monotonic() + AIM_S
        while victim.open_for_s() < age_s:
            if time.monotonic() > give_up_at_s:
                raise ThinwireError(f"{name} was in no exchange for {age_s:.1f} s")
            time.sleep(LOOK_S)
        if kind is signal.SIGKILL:
            victim.actor.fate = "killed"
        at_s = time.monotonic()
        os.killpg(victim.actor.pid, kind)
        return Fault(at_s, kind, name)

    def _replace(self) -> None:
        name = f"peer-{len(self.peers)}"
        role = Role(
            folder=str(self.folder / name),
            host=self.lab.address(name),
            step_s=self.options.step_s,
            starts_after_s=0.0,
        )
        actor = self.cast.start(name, self.lab.command(name, *role.command("--as-peer")))
        self.peers[name] = Watched(actor, self.folder / name)
        self._wait_until_all_know()

    def _wait_until_all_know(self) -> None:
        newest = list(self.peers.values())[-1]
        others = len(self.living) - 1
        wait_for(self.cast, "the peers", lambda: newest.knows(others))

    def _settle(self) -> None:
        """Waits until everybody has landed something from now on, but not for ever."""
        began_s = time.monotonic()
        while time.monotonic() < began_s + SETTLE_S:
            landed = [peer.events("landed") for peer in self.living.values()]
            if all(events and events[-1]["t_mono_s"] > began_s for events in landed):
                return
            time.sleep(0.2)


# ---- what became of them


def judged(stage: Stage) -> dict[str, Any]:
    """Returns the figures."""
    by_id = {peer.events("joined")[0]["peer_id"]: peer for peer in stage.peers.values()}
    window_s = stage.options.window_s
    figures: dict[str, list[float]] = {"given_up_s": [], "ended_s": [], "replaced_s": []}
    hits, landed, quiet, struck = 0, 0, [], []
    for fault in stage.faults:
        victim, at_s = stage.peers[fault.victim], fault.at_s
        victim_id = victim.events("joined")[0]["peer_id"]
        began = victim.exchange_at(at_s)
        partners = [by_id[peer_id] for peer_id in began["partners"]] if began else []
        hit = [p for p in partners if (e := p.exchange_at(at_s)) and began and _same(e, began)]
        hits += bool(hit)
        for partner in hit:
            assert began is not None
            outcome = _outcome(partner, victim_id, began["exchange_id"], at_s)
            landed += outcome.pop("landed", 0) > 0
            for name, value in outcome.items():
                figures[name].append(value)
        for peer in stage.peers.values():
            if peer is not victim:
                struck += peer.step_gaps_s(at_s, at_s + window_s)
                quiet += peer.step_gaps_s(at_s - window_s - 0.5, at_s - 0.5)
    return {
        "faults": len(stage.faults),
        "hits": hits,
        "landed_all_the_same": landed,
        "false_alarms": _num_false_alarms(stage, by_id),
        **{name: summary(values) for name, values in figures.items()},
        "next_s": summary(_next_s(stage)),
        "steps": {"after_a_fault": summary(struck), "without": summary(quiet)},
    }


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["exchange_id"] == other["exchange_id"])


def _outcome(partner: Watched, victim_id: str, exchange_id: str, at_s: float) -> dict[str, float]:
    """Returns what one partner did after a fault."""
    outcome: dict[str, float] = {}
    names = (*OPEN_EVENTS, "transfer_failed")
    for event in partner.events(*names):
        after_s = event["t_mono_s"] - at_s
        if after_s < 0:
            continue
        is_its = event.get("exchange_id") == exchange_id
        match event["event"]:
            case "transfer_failed" if event["src"] == victim_id and "ended_s" not in outcome:
                outcome.setdefault("given_up_s", after_s)
            case "exchange_failed" if is_its:
                outcome.setdefault("given_up_s", after_s)
                outcome["ended_s"] = after_s
            case "landed" if is_its:
                if "given_up_s" not in outcome:
                    return {"landed": 1.0}
                outcome["ended_s"] = after_s
            case "exchange_begins" if "ended_s" in outcome:
                outcome["replaced_s"] = after_s
                return outcome
    return outcome


def _num_false_alarms(stage: Stage, by_id: dict[str, Watched]) -> int:
    """Returns how often a transfer was given up because a peer that ran was thought silent."""
    long_s = stage.options.freeze_s + CALM_S
    count = 0
    for event in (e for peer in by_id.values() for e in peer.events("transfer_failed")):
        stopped = [
            fault
            for fault in stage.faults
            if stage.peers[fault.victim] is by_id.get(event["src"])
            and (fault.signal is signal.SIGKILL or event["t_mono_s"] < fault.at_s + long_s)
            and event["t_mono_s"] > fault.at_s
        ]
        count += "ping" in event["reason"] and not stopped
    return count


def _next_s(stage: Stage) -> list[float]:
    """Returns the times from a landing to the next beginning, in the calm before each fault."""
    found_s = []
    for peer in stage.peers.values():
        events = peer.events(*OPEN_EVENTS)
        for event, after in pairwise(events):
            is_calm = any(0 < f.at_s - event["t_mono_s"] < CALM_S for f in stage.faults)
            if is_calm and (event["event"], after["event"]) == ("landed", "exchange_begins"):
                found_s.append(after["t_mono_s"] - event["t_mono_s"])
    return found_s


def summary(values: Sequence[float]) -> dict[str, float]:
    """Returns how they are distributed."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)

    def at(frac: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(frac * len(ordered)))], 3)

    median = round(statistics.median(ordered), 3)
    return {"count": len(ordered), "p50": median, "p90": at(0.9), "p99": at(0.99), "max": at(1.0)}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="noloco")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--faults", type=int, default=16)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--freeze-s", type=float, default=6.0)
    parser.add_argument("--window-s", type=float, default=4.0)
    parser.add_argument("--step-s", type=float, default=0.15)
    parser.add_argument("--interval-steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = Options(**vars(parser.parse_args()))
    if reason := why_not():
        sys.exit(f"giving_up: cannot run here: {reason}")
    machine = facts()
    with tempfile.TemporaryDirectory(prefix="giving-up-") as name:
        folder = Path(name)
        found(options.settings, folder / RUN)
        hosts = [f"peer-{number}" for number in range(options.peers + options.kills)]
        with (
            Lab(dict.fromkeys((BOOTSTRAP, *hosts), LINK), seed=options.seed) as lab,
            Cast(folder) as cast,
            dismissing(cast),
        ):
            stage = Stage(options, folder, lab, cast)
            stage.play()
            time.sleep(CALM_S)
        result = judged(stage)
    print(json.dumps({"machine": machine, "preset": options.preset, **result}, indent=2))


if __name__ == "__main__":
    main()
