"""A swarm is cut in two for five minutes: how far do the halves drift, and how soon is that over?

    python -m benchmarks.split                                      # the table of docs/results.md
    python -m benchmarks.split --methods noloco --split-s 60 --seeds 0 1 --png split.png

Eight simulated peers (`peer.sim`) train a small language model on text, once cut into halves for a
while, and once not: equal seeds, equal text. The inner rate stays as it is after the warm-up, or
its decay would bring the replicas together by itself.

**Spread** is the largest distance between two replicas' live parameters, over the norm of the mean
of all. Between two landings it grows, so its level is the median, over four rounds, of each round's
largest: before the split, and at the end. The split is over when the spread is not above 1.5 times
the level before it any more, from then to the end. The goal is 2 log2(n) rounds: landings of a peer
since the healing, a fragment, as the mean of all peers. Since the level sinks while a model is
young, the same is told for 1.5 times the level at the end of the swarm that was never cut. With
mixing `all` anchors should be one again, too: at equal rounds equal, from then to the end.

Ends with one JSON object.
"""

import argparse
import json
import math
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import facts
from peer.method import method_of_run, warm
from peer.settings import method_settings
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.scenario import FOUNDER
from peer.sim.swarm import SimSwarm
from peer.sim.task import TextTask
from protocol.manifest import Manifest, manifest_from

METHODS: dict[str, dict[str, Any]] = {
    "diloco": {"preset": "diloco"},
    "noloco": {"preset": "noloco"},
    "gossip-stream": {"preset": "gossip-stream"},
    "groups": {"preset": "noloco", "mixing": "groups", "group_size": 3},
}
LINK = LinkSpec(up_bps=20e6, down_bps=100e6, latency_s=0.02, latency_cv=0.3)
LEVEL_ROUNDS = 4
"""Before the split, over which its level is taken."""
ALLOWED = 1.5
LOOK_S = 1.5
LOSS_EVERY = 10
"""Looks."""
LOSS_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One swarm."""

    method: str
    is_split: bool
    seed: int = 0
    peers: int = 8
    interval_steps: int = 20
    step_s: float = 0.75
    before_s: float = 180.0
    split_s: float = 300.0
    after_s: float = 180.0

    @property
    def interval_s(self) -> float:
        """Of a round."""
        return self.interval_steps * self.step_s

    @property
    def heals_s(self) -> float:
        """When the halves find one another again."""
        return self.before_s + self.split_s

    @property
    def goal_rounds(self) -> float:
        """In which it should be over."""
        return 2 * math.log2(self.peers)

    def manifest(self) -> Manifest:
        """Returns the run."""
        settings = METHODS[self.method]
        schedule = {"interval_steps": self.interval_steps}
        return manifest_from(
            {
                "founder": FOUNDER,
                "seed": self.seed,
                "model": {"dim": 64, "layers": 2, "heads": 4, "ffn_dim": 176, "context": 64},
                "inner": {"final_lr_frac": 1.0, "batch_sequences": 4},
                "method": method_settings({**settings, "schedule": schedule}),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The swarm at one moment."""

    t_s: float
    spread: float
    """Of live parameters; see the module docstring."""
    anchor_spread: float
    """The same of the anchors."""
    is_one: bool
    """Whether all whose rounds are equal have equal anchors, and nobody is farther behind."""
    landed: tuple[float, ...]
    """Of each peer so far, a fragment."""
    losses: tuple[float, ...]
    """Of each peer's anchor on the validation text, in bits per byte; empty at most looks."""


def run_trial(trial: Trial) -> dict[str, Any]:
    """Returns a trial, what was seen, and what it came to."""
    torch.set_num_threads(1)  # sums must not depend on how many cores there are
    began_s = time.perf_counter()
    manifest = trial.manifest()
    warm(method_of_run(manifest).codec)
    looks: list[Look] = []
    with SimSwarm(TextTask(manifest), seed=trial.seed) as swarm:
        peers = [
            swarm.join(Seat(link=LINK, step_s=trial.step_s, step_cv=0.1))
            for _ in range(trial.peers)
        ]
        if trial.is_split:
            left = {peer.peer_id for peer in peers[: trial.peers // 2]}
            paths = [
                (a, b) for a, b in product(swarm.peers, repeat=2) if (a in left) != (b in left)
            ]
            swarm.clock.at(
                trial.before_s, lambda: swarm.clock.after(trial.split_s, swarm.network.cut(paths))
            )
        for number in range(1, round((trial.heals_s + trial.after_s) / LOOK_S) + 1):
            swarm.run(number * LOOK_S)
            looks.append(_look(swarm, peers, has_losses=number % LOSS_EVERY == 0))
        held = swarm.network.fired["held"]
        failed = sum(peer.status.exchanges_failed for peer in peers)
    return {
        "trial": asdict(trial),
        "held": held,
        "exchanges_failed": failed,
        "wall_s": round(time.perf_counter() - began_s, 1),
        **judge(trial, looks, is_common=manifest.method.mixing == "all"),
        "looks": [asdict(look) for look in looks],
    }


def _look(swarm: SimSwarm, peers: list[SimPeer], *, has_losses: bool) -> Look:
    replicas = torch.empty(len(peers), swarm.task.layout.num_elements)
    for row, peer in zip(replicas, peers, strict=True):
        peer.learner.snapshot(row)
    anchors = torch.stack(
        [torch.cat([outer.anchor for outer in peer.mixing.outer]) for peer in peers]
    )
    fragments = len(swarm.task.layout.fragments)
    is_one = True
    for outers in zip(*(peer.mixing.outer for peer in peers), strict=True):
        rounds = {outer.round for outer in outers}
        digests = {(outer.round, outer.digest) for outer in outers}
        is_one = is_one and len(digests) == len(rounds) and max(rounds) - min(rounds) <= 1
    return Look(
        t_s=swarm.clock.now_s,
        spread=spread_of(replicas),
        anchor_spread=spread_of(anchors),
        is_one=is_one,
        landed=tuple(peer.status.exchanges_done / fragments for peer in peers),
        losses=_losses(peers, anchors) if has_losses else (),
    )


def _losses(peers: list[SimPeer], anchors: torch.Tensor) -> tuple[float, ...]:
    known: dict[bytes, float] = {}
    for peer, anchor in zip(peers, anchors, strict=True):
        key = anchor.numpy().tobytes()
        if key not in known:
            known[key] = peer.learner.evaluate(anchor, max_bytes=LOSS_BYTES)
    return tuple(known[anchor.numpy().tobytes()] for anchor in anchors)


def spread_of(vectors: torch.Tensor) -> float:
    """Returns the largest distance between two of `[peers, n]`, over the norm of their mean."""
    return float(torch.pdist(vectors.double()).max() / vectors.double().mean(0).norm())


# ---- what it came to


def judge(trial: Trial, looks: list[Look], *, is_common: bool) -> dict[str, Any]:
    """Returns levels, and how long after the healing all was as before, in seconds and rounds."""
    level = level_of(trial, looks)
    split = [look for look in looks if trial.before_s < look.t_s <= trial.heals_s]
    late = [look for look in looks if look.t_s > trial.heals_s]
    last = [look for look in late if look.t_s > looks[-1].t_s - LEVEL_ROUNDS * trial.interval_s]
    losses = [look.losses for look in last if look.losses]
    before = [look.losses for look in split if look.losses]
    half = trial.peers // 2
    return {
        "level": level,
        "split_level": max(look.spread for look in split),
        "last_level": _median_peak(trial, last),
        "anchor_level": max(look.anchor_spread for look in looks if look.t_s <= trial.before_s),
        "anchor_split_level": max(look.anchor_spread for look in split),
        "goal_rounds": trial.goal_rounds,
        "over": since(trial, looks, [look.spread <= ALLOWED * level for look in looks]),
        "one_anchor": since(trial, looks, [look.is_one for look in looks]) if is_common else None,
        "halves_loss": [statistics.fmean(before[-1][:half]), statistics.fmean(before[-1][half:])],
        "loss": statistics.fmean(statistics.fmean(each) for each in losses),
    }


def level_of(trial: Trial, looks: list[Look]) -> float:
    """Returns the spread before the split; see the module docstring."""
    since_s = trial.before_s - LEVEL_ROUNDS * trial.interval_s
    return _median_peak(trial, [look for look in looks if since_s < look.t_s <= trial.before_s])


def _median_peak(trial: Trial, looks: list[Look]) -> float:
    peaks: dict[int, float] = {}
    for look in looks:
        number = int((look.t_s - looks[0].t_s) / trial.interval_s)
        peaks[number] = max(peaks.get(number, 0.0), look.spread)
    return statistics.median(peaks.values())


def since(trial: Trial, looks: list[Look], is_well: list[bool]) -> dict[str, float] | None:
    """Returns how long after the healing all is well for good; None if it is not."""
    if not is_well[-1]:
        return None
    healed = max(index for index, look in enumerate(looks) if look.t_s <= trial.heals_s)
    last = max((index for index, well in enumerate(is_well) if not well), default=-1)
    first = looks[max(last + 1, healed)]
    rounds = [now - then for now, then in zip(first.landed, looks[healed].landed, strict=True)]
    return {
        "after_s": first.t_s - looks[healed].t_s,
        "rounds": statistics.fmean(rounds),
        "rounds_most": max(rounds),
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """Returns the results for people, those of a method and a seed in a row."""
    table = Table(title="cut in two, and healed")
    headings = (
        *("method", "seed", "spread before %", "split %", "in the end %", "uncut %"),
        *("over after", "rounds", "stricter", "goal", "one anchor after"),
        *("halves' losses", "loss in the end", "uncut"),
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for cut, uncut in pairs_of(results):
        over, strict, one = cut["over"], cut["over_uncut"], cut["one_anchor"]
        table.add_row(
            cut["trial"]["method"],
            str(cut["trial"]["seed"]),
            *(f"{100 * cut[key]:.1f}" for key in ("level", "split_level", "last_level")),
            f"{100 * uncut['last_level']:.1f}",
            f"{over['after_s']:.0f} s" if over else "never",
            f"{over['rounds']:.1f}" if over else "-",
            f"{strict['rounds']:.1f}" if strict else "never",
            f"{cut['goal_rounds']:.0f}",
            f"{one['after_s']:.0f} s, {one['rounds']:.1f}" if one else "-",
            " ".join(f"{loss:.3f}" for loss in cut["halves_loss"]),
            f"{cut['loss']:.3f}",
            f"{uncut['loss']:.3f}",
        )
    return table


def compare(cut: dict[str, Any], uncut: dict[str, Any]) -> None:
    """Adds when the spread is back at the level of the swarm that was not cut."""
    trial, looks = Trial(**cut["trial"]), [Look(**look) for look in cut["looks"]]
    allowed = ALLOWED * uncut["last_level"]
    cut["over_uncut"] = since(trial, looks, [look.spread <= allowed for look in looks])


def pairs_of(results: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns each swarm that was cut, with the same one that was not."""
    uncut = {
        (r["trial"]["method"], r["trial"]["seed"]): r for r in results if not r["trial"]["is_split"]
    }
    return [
        (r, uncut[r["trial"]["method"], r["trial"]["seed"]])
        for r in results
        if r["trial"]["is_split"]
    ]


def main() -> None:
    """Measures each method with and without a split, prints a table and one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.split")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--before-s", type=float, default=180.0)
    parser.add_argument("--split-s", type=float, default=300.0)
    parser.add_argument("--after-s", type=float, default=180.0)
    parser.add_argument("--jobs", type=int, default=2, help="swarms at a time, one core each")
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    machine = facts()
    trials = [
        Trial(
            method=method,
            is_split=is_split,
            seed=seed,
            peers=options.peers,
            before_s=options.before_s,
            split_s=options.split_s,
            after_s=options.after_s,
        )
        for seed, method, is_split in product(options.seeds, options.methods, (True, False))
    ]
    results = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for trial, result in zip(trials, pool.map(run_trial, trials), strict=True):
            results.append(result)
            print(trial, f"{result['wall_s']} s", file=sys.stderr, flush=True)
    for cut, uncut in pairs_of(results):
        compare(cut, uncut)
    Console(width=150).print(table_of(results))
    if options.png:
        from benchmarks.split_picture import draw

        draw(pairs_of(results), options.png)
    print(json.dumps({"benchmark": "split", "machine": machine, "results": results}))


if __name__ == "__main__":
    main()
