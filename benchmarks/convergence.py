"""How near to data parallel does each method come, and at how many bytes?

    python -m benchmarks.convergence                                # the table of docs/results.md
    python -m benchmarks.convergence --tune diloco noloco           # the sweep behind it
    python -m benchmarks.convergence --methods data_parallel diloco --seeds 0 --steps 300

M replicas in one process train a byte-level transformer on the Python standard library's source,
each at the same number of tokens, by the very objects that run on the wire (`optim.swarm`). The
constants, and what they were chosen from, are in `benchmarks.convergence_methods`. Each finished
run is appended to a file, and runs that the file already holds are not repeated. Progress goes to
stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.convergence_methods import CHOSEN, SWEEPS, Setting
from benchmarks.machine import facts
from benchmarks.trial import Trial, run_trial
from peer.train.data import load_text

TUNING_SEED = 100
SHAPE = (
    "replicas",
    "steps",
    "batch_sequences",
    "dim",
    "layers",
    "heads",
    "ffn_dim",
    "context",
    "device",
)


def main() -> int:
    """Runs what is missing, and reports."""
    arguments = _arguments()
    shape = {name: value for name in SHAPE if (value := getattr(arguments, name)) is not None}
    before = facts()
    if arguments.tune is not None:
        names = arguments.tune or list(SWEEPS)
        trials = [
            _trial(name, setting, TUNING_SEED, shape) for name in names for setting in SWEEPS[name]
        ]
    else:
        names = arguments.methods or list(CHOSEN)
        trials = [
            _trial(name, CHOSEN[name], seed, shape) for seed in arguments.seeds for name in names
        ]
    results = _run(trials, arguments.runs, arguments.jobs)
    if arguments.tune is not None:
        report: Any = _sweep_table(results)
    else:
        labels = {
            trial.key: name
            for name, trial in zip(names * len(arguments.seeds), trials, strict=True)
        }
        report = _table(results, labels)
        if arguments.png:
            draw(results, labels, arguments.png)
    print(json.dumps({"benchmark": "convergence", "machine": before, "results": report}))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=list(CHOSEN), metavar="NAME")
    parser.add_argument("--tune", nargs="*", choices=list(SWEEPS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--runs", type=Path, default=Path("convergence.jsonl"))
    parser.add_argument("--png", type=Path)
    kinds = {field.name: field.type for field in fields(Trial)}
    for name in SHAPE:
        kind = str if kinds[name] in ("str", str) else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind)
    return parser.parse_args()


def _trial(name: str, setting: Setting, seed: int, shape: dict[str, Any]) -> Trial:
    return Trial(
        setting.preset or name,
        setting.settings,
        inner=setting.inner,
        lr=setting.lr,
        seed=seed,
        **shape,
    )


def _run(trials: list[Trial], path: Path, jobs: int) -> list[dict[str, Any]]:
    done = _read(path)
    missing = list({trial.key: trial for trial in trials if trial.key not in done}.values())
    print(f"{len(trials)} runs, {len(missing)} of them to make; {path}", file=sys.stderr)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_one, trial) for trial in missing]
        for number, future in enumerate(as_completed(futures), 1):
            result = future.result()
            done[result["key"]] = result
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{number}/{len(missing)} {_words(result)}", file=sys.stderr, flush=True)
    return [done[trial.key] for trial in trials]


def _one(trial: Trial) -> dict[str, Any]:
    torch.set_num_threads(1)
    return run_trial(trial, load_text("stdlib", 0.05))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {row["key"]: row for row in rows}


def _words(result: dict[str, Any]) -> str:
    trial = result["trial"]
    return (
        f"{trial['method']:13} seed {trial['seed']} {trial['inner']} {trial['lr']:g} "
        f"loss {result['loss']:.4f} (tuning text {result['tuning_loss']:.4f}) "
        f"{result['sent_bytes'] / 1e6:.2f} MB {result['took_s']:.0f} s {_settings(trial)}"
    )


def _settings(trial: dict[str, Any]) -> str:
    parts = [
        f"{name}={value}"
        for axis in trial["settings"].values()
        for name, value in (axis.items() if isinstance(axis, dict) else ())
    ]
    return " ".join(parts)


def _sweep_table(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [
        {
            "method": r["trial"]["method"],
            "inner": r["trial"]["inner"],
            "lr": r["trial"]["lr"],
            "settings": _settings(r["trial"]),
            "tuning_loss": round(r["tuning_loss"], 4),
        }
        for r in results
    ]
    rows.sort(key=lambda row: (row["method"], row["tuning_loss"]))
    print("| method | inner | rate | settings | loss on the tuning text |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    return rows


def _table(results: list[dict[str, Any]], labels: dict[str, str]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(labels[result["key"]], []).append(result)
    # Seed by seed, since all methods of a seed read the same text.
    base = {name: _by_seed(group) for name, group in groups.items()}
    rows = []
    for name, group in groups.items():
        losses = [r["loss"] for r in group]
        row: dict[str, Any] = {
            "method": name,
            "loss": round(mean(losses), 4),
            "range": f"{min(losses):.4f}-{max(losses):.4f}",
            "tuning_text_loss": round(mean(r["tuning_loss"] for r in group), 4),
        }
        for other in ("data_parallel", "diloco"):
            if other in base:
                gaps = [r["loss"] / base[other][r["trial"]["seed"]] - 1 for r in group]
                row[f"over_{other}_percent"] = round(100 * mean(gaps), 2)
        row["sent_MB"] = round(mean(r["sent_bytes"] for r in group) / 1e6, 3)
        if "data_parallel" in groups and row["sent_MB"]:
            row["times_fewer_bytes"] = round(
                groups["data_parallel"][0]["sent_bytes"] / 1e6 / row["sent_MB"], 1
            )
        row["bits_per_parameter_and_step"] = round(
            mean(8 * r["sent_bytes"] / r["parameters"] / r["trial"]["steps"] for r in group), 4
        )
        rows.append(row)
    names = list(max(rows, key=lambda row: len(row)))
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        print("| " + " | ".join(str(row.get(name, "")) for name in names) + " |")
    return rows


def _by_seed(group: list[dict[str, Any]]) -> dict[int, float]:
    return {r["trial"]["seed"]: r["loss"] for r in group}


def draw(results: list[dict[str, Any]], labels: dict[str, str], path: Path) -> None:
    """Writes a picture: loss against tokens, and against bytes sent, mean over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_tokens, by_bytes) = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    for name in dict.fromkeys(labels.values()):
        group = [r for r in results if labels[r["key"]] == name]
        points = [
            (steps, mean(r["curve"][i][1] for r in group), mean(r["curve"][i][2] for r in group))
            for i, (steps, _, _) in enumerate(group[0]["curve"])
        ]
        tokens = [s * group[0]["tokens"] / group[0]["trial"]["steps"] / 1e6 for s, _, _ in points]
        losses = [loss for _, _, loss in points]
        style = "--" if name in ("data_parallel", "alone") else "-"
        (line,) = by_tokens.plot(tokens, losses, style, label=name)
        if points[-1][1]:
            megabytes = [sent / 1e6 for _, sent, _ in points]
            by_bytes.plot(megabytes, losses, style, color=line.get_color())
    by_tokens.set(xlabel="million bytes of text, all replicas", ylabel="validation loss, nats/byte")
    by_bytes.set(xlabel="MB sent by one replica", xscale="log")
    lowest = min(r["curve"][-1][2] for r in results)
    by_tokens.set_ylim(lowest - 0.03, lowest + 0.6)
    by_tokens.legend(fontsize=8)
    for axis in (by_tokens, by_bytes):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
