"""Does training go on, whatever dies, freezes, lies about the time, or comes back?

    python -m benchmarks.chaos --peers 8 --minutes 10 --faults-per-hour 1200
    python -m benchmarks.chaos --calm --minutes 2          # no faults: the reference alone
    python -m benchmarks.chaos --soak --minutes 30         # few faults: does anything grow?
    python -m benchmarks.chaos --exodus                    # see `benchmarks.chaos_exodus`

Real peers train a tiny model, each on a host of its own behind a home link, with inner steps that
last as long as they are told to: so a peer that is gone gives nobody a processor. Faults drawn from
a seed strike them (`benchmarks.chaos_schedule`), each is known by what was seen of it
(`benchmarks.chaos_play`), and when all is over a checker reads what everybody has written
(`benchmarks.chaos_check`). As a rule there are two runs of the same length and seed, one calm and
one not, and what is reported is one against the other (`benchmarks.chaos_figures`).

**Loss** is compared at equal tokens: the calm run's, at the number of tokens that all trainers of
the other one have trained in all, whatever became of them. By then the faulty run has taken longer,
which is what goodput says.

Progress goes to stderr; the last line of stdout is one JSON object, and the exit code is 0 if every
check held. It needs what `benchmarks.links` needs; without that, peers are on loopback, faults of
links are left out, and so are figures of the machine's own cores from what they mean.
"""

import argparse
import contextlib
import json
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import chaos_exodus
from benchmarks.chaos_check import check_all
from benchmarks.chaos_disk import have_mounts_of_our_own
from benchmarks.chaos_figures import Judge, cpu_of, pauses_of, training_of
from benchmarks.chaos_finding import Finding
from benchmarks.chaos_growth import growth_of, report_of, table
from benchmarks.chaos_history import History, read_history
from benchmarks.chaos_plan import Places, Plan
from benchmarks.chaos_run import say, staged
from benchmarks.chaos_schedule import CALM_S, draw
from benchmarks.chaos_swarm import swarm_of
from benchmarks.links import why_not
from benchmarks.machine import facts
from optim.presets import PRESETS
from peer.run_folder import MANIFEST
from protocol.manifest import Manifest, parse_manifest

ONLY = {
    "calm": "only the reference, without faults",
    "storm": "only the faults, without a reference",
    "soak": "few faults or none, and long: does anything grow?",
    "exodus": "nodes and half of the peers die at once, ten come at once",
}
"""Options after which there is but one run."""


def run(plan: Plan, folder: Path, options: argparse.Namespace, *, is_calm: bool) -> Places:
    """Runs a swarm and returns where everything about it is."""
    places = Places(folder)
    duration_s = 60 * options.minutes
    planned = draw(
        plan.seed,
        seats=len(plan.names),
        duration_s=duration_s,
        faults_per_hour=0.0 if is_calm else options.faults_per_hour,
        has_lab=options.has_lab,
    )
    words = "calm" if is_calm else f"{len(planned)} faults"
    say(f"{folder.name}: {plan.peers} peers, {plan.method}, {duration_s:g} s, {words}")
    with (
        swarm_of(plan, places, has_lab=options.has_lab, has_disks=options.has_disks) as swarm,
        staged(swarm) as stage,
    ):
        stage.assemble()
        say(f"{folder.name}: all are up")
        stage.measure(duration_s, planned)
    return places


def exodus(plan: Plan, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs the exodus, and reports."""
    places = Places(folder)
    say(f"exodus: {plan.peers} peers, {plan.method}")
    with (
        swarm_of(plan, places, has_lab=options.has_lab, has_disks=options.has_disks) as swarm,
        staged(swarm) as stage,
    ):
        stage.assemble()
        say("exodus: all are up")
        chaos_exodus.play(swarm, stage, after_s=60 * options.minutes)
    history = read_history(places)
    result = chaos_exodus.figures(history, plan) | report(history, plan)
    del result["training"], result["faults"]  # half of the peers are gone for good
    return result


def report(history: History, plan: Plan) -> dict[str, Any]:
    """Returns what one run has shown by itself."""
    findings = check_all(history, plan)
    training = training_of(history, plan)
    growths = growth_of(history)
    say(table(growths))
    for name, finding in findings.items():
        say(f"{'holds' if not finding.violations else 'BROKEN':7}{name}: {finding.checked} checked")
        for violation in finding.violations[:20]:
            say(f"       {violation}")
    return {
        "training": asdict(training) | {"steps_per_peer_s": round(training.steps_per_s, 4)},
        "pauses": pauses_of(history),
        "exchanges": _exchanges(history),
        "faults": faults_of(history),
        "seconds": _seconds(history),
        "checks": {name: _to_json(finding) for name, finding in findings.items()},
        "holds": not any(finding.violations for finding in findings.values()),
        "growth": report_of(growths),
        "cores": cpu_of(history),
    }


def faults_of(history: History) -> dict[str, dict[str, int]]:
    """Returns by kind how many faults there were, and of how many it was seen."""
    struck = Counter(strike.kind for strike in history.strikes)
    fired = Counter(strike.kind for strike in history.strikes if strike.has_fired)
    waited = Counter(line["kind"] for line in history.told("not_fired"))
    return {
        kind: {"struck": struck[kind], "fired": fired[kind], "had no chance": waited[kind]}
        for kind in sorted(struck | waited)
    }


def compare(calm: Places, storm: Places, plan: Plan) -> dict[str, Any]:
    """Returns what the faults cost."""
    before, after = read_history(calm), read_history(storm)
    calm_training, storm_training = training_of(before, plan), training_of(after, plan)
    judges = {places: Judge(manifest_of(places), plan) for places in (calm, storm)}
    finals = judges[storm].final(storm)
    base = [bits for seat, bits in finals.items() if seat in plan.names[: plan.peers]]
    reference = judges[calm].at_tokens(before, calm, storm_training.tokens)
    on_line = judges[storm].at_tokens(after, storm, storm_training.tokens)
    calm_finals = list(judges[calm].final(calm).values())
    mean = sum(base) / len(base) if base else None
    calm_per_s = calm_training.steps_per_s
    return {
        "goodput_ratio": round(storm_training.steps_per_s / calm_per_s, 4),
        "raw_ratio": round(storm_training.raw_steps / calm_training.raw_steps, 4),
        "loss_ratio": round(mean / reference, 4) if mean and reference else None,
        "loss_ratio_on_the_line": round(on_line / reference, 4) if on_line and reference else None,
        "loss_bits_per_byte": {
            "calm_at_equal_tokens": reference,
            "calm_final_mean": sum(calm_finals) / len(calm_finals) if calm_finals else None,
            "storm_final_mean": mean,
            "storm_on_the_line": on_line,
            "storm_finals": finals,
        },
        "tokens": {"calm": calm_training.tokens, "storm": storm_training.tokens},
    }


def manifest_of(places: Places) -> Manifest:
    """Returns the manifest of a run."""
    return parse_manifest((places.run / MANIFEST).read_bytes())


def main() -> None:
    """Runs what the command line says, and reports."""
    options = _options()
    machine = facts()
    left_out = _prepare(options)
    plan = Plan(method=options.method, peers=options.peers, seed=options.seed)
    if options.only == "exodus":
        plan = replace(plan, spares=chaos_exodus.NEWCOMERS)
    result: dict[str, Any] = {"benchmark": "chaos", "machine": machine, "left_out": left_out}
    result |= {"plan": asdict(plan), "minutes": options.minutes}
    result |= {"faults_per_hour": options.faults_per_hour}
    with _kept(options.keep) as folder:
        places: dict[str, Places] = {}
        for name in (options.only,) if options.only else ("calm", "storm"):
            if name == "exodus":
                result[name] = exodus(plan, folder / name, options)
            else:
                places[name] = run(plan, folder / name, options, is_calm=name == "calm")
                result[name] = report(read_history(places[name]), plan)
        if len(places) == 2:
            result |= compare(places["calm"], places["storm"], plan)
    print(json.dumps(result))
    reports = [result[name] for name in ("calm", "storm", "soak", "exodus") if name in result]
    grows = options.only == "soak" and result["soak"]["growth"]["complaints"]
    sys.exit(0 if all(one["holds"] for one in reports) and not grows else 1)


def _prepare(options: argparse.Namespace) -> list[str]:
    """Finds out what this machine can do; returns what is left out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everybody is dismissed
    no_lab = "as you wish" if options.loopback else why_not("cubic")
    no_mounts = have_mounts_of_our_own()
    options.has_lab, options.has_disks = no_lab is None, no_mounts is None
    left_out = []
    if no_lab:
        left_out.append(f"{no_lab}: peers are on loopback, and there are no faults of links")
    if no_mounts:
        left_out.append(f"{no_mounts}: instead of a full disk, files that may not grow")
    for line in left_out:
        say(line)
    return left_out


@contextlib.contextmanager
def _kept(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="thinwire-chaos-") as folder:
        yield Path(folder).resolve()


def _exchanges(history: History) -> dict[str, int]:
    names = [
        *("exchange_begins", "landed", "exchange_failed", "caught_up", "catching_up_failed"),
        *("anchor_differs", "transfer_failed", "note_lost", "checkpoint", "loop_lag"),
    ]
    counts = Counter(event["event"] for events in history.events.values() for event in events)
    others = {name: number for name, number in counts.items() if "merg" in name}
    return {name: counts[name] for name in names} | others


def _seconds(history: History) -> dict[str, Any]:
    """Returns how long peers took to come up, and to leave."""
    took_s = {
        name: sorted(line["took_s"] for line in history.told(event))
        for name, event in (("to come up", "up"), ("to leave", "gone"))
    }
    return {
        name: {"number": len(each), "median_s": statistics.median(each), "max_s": each[-1]}
        for name, each in took_s.items()
        if each
    }


def _to_json(finding: Finding) -> dict[str, Any]:
    return {
        "holds": not finding.violations,
        "checked": finding.checked,
        "violations": finding.violations[:20],
        "num_violations": len(finding.violations),
    } | finding.facts


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each run")
    parser.add_argument("--faults-per-hour", type=float, help="1200, and 0 with --soak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=list(PRESETS), default="diloco")
    what = parser.add_mutually_exclusive_group()
    for name, words in ONLY.items():
        what.add_argument(f"--{name}", dest="only", action="store_const", const=name, help=words)
    parser.add_argument("--loopback", action="store_true", help="as if there could be no hosts")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where logs and events stay")
    options = parser.parse_args()
    if options.faults_per_hour is None:
        options.faults_per_hour = 0.0 if options.only == "soak" else 1200.0
    if options.peers < 4:
        parser.error("--peers: at least 4, so that half of them is a swarm")
    if 60 * options.minutes <= CALM_S:
        parser.error(f"--minutes: more than {CALM_S:g} s, which are calm")
    return options


if __name__ == "__main__":
    main()
