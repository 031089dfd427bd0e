"""Do experts of unlike size or length beat equal ones, and one dense model, at equal compute?

    python -m benchmarks.corpora                                # the text first, some 150 MB
    python -m benchmarks.experts --png docs/experts.png         # the tables of docs/results.md
    python -m benchmarks.experts --seeds 0 --steps 100          # a look, in minutes

HDEE (Gensyn 2025, arXiv:2502.19385) says: of ensembles of domain experts trained apart from each
other with the same total compute, on 20 of 21 texts the best is one whose harder domains got larger
models or more steps. Here a byte-level transformer for each of eight domains is trained in one
process with the objects of the product (model, batches, Muon, `divide`, posterior), in the arms of
`benchmarks.experts_arms`; each arm spends the same FLOPs. All share one rate, chosen on held-out
text of the equal arm, and one schedule, see `benchmarks.experts_training`. Judged is test text of
the eight domains and of four that nobody trained on, in windows of 128 bytes.

Difficulty is measured by probes: a third of the model, at a third and two of the steps, whose
compute is not counted, like HDEE's hand-made groups. Finished models and scores lie in `--runs` and
are not made again, so a run that was killed goes on. Progress goes to stderr; the last line of
stdout is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.corpora import DEFAULT_DIR
from benchmarks.corpora_sources import DOMAINS
from benchmarks.experts_arms import (
    DENSE_ARMS,
    EXPERT_ARMS,
    Scale,
    difficulties,
    flops_of,
    probes,
    trainings_of,
)
from benchmarks.experts_report import Arms, report
from benchmarks.experts_scores import bits, held_out_scores, score
from benchmarks.experts_texts import CONTEXT, Texts, load_texts
from benchmarks.experts_training import Training, train
from benchmarks.machine import facts
from protocol.models import ModelSpec

OWN = tuple(name for name, domain in DOMAINS.items() if not domain.is_unseen)
UNSEEN = tuple(name for name, domain in DOMAINS.items() if domain.is_unseen)
BASE = ModelSpec(dim=64, layers=2, heads=2, ffn_dim=176, context=CONTEXT)
PROBE_SEED = 100


def main() -> int:
    """Trains what is missing, and reports."""
    arguments = _arguments()
    before = facts()
    texts = load_texts(arguments.corpora, OWN, UNSEEN)
    folder = arguments.runs / texts.digest()
    folder.mkdir(parents=True, exist_ok=True)
    scale = Scale(BASE, arguments.steps, arguments.lr, OWN)
    with ProcessPoolExecutor(
        arguments.jobs,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(arguments.corpora, folder),
    ) as pool:
        crew = _Crew(pool)
        probing = probes(scale, PROBE_SEED)
        crew.probe([list(pair) for pair in probing.values()])
        difficulty = difficulties(
            {
                domain: [bits(held_out_scores(one, texts, folder)) for one in pair]
                for domain, pair in probing.items()
            }
        )
        _tell(f"difficulty: {json.dumps(difficulty)}")
        arms = _arms(scale, difficulty, arguments.seeds)
        _train_all(crew, arms, arguments.seeds)
    summary = report(arms, difficulty, texts, folder, OWN, UNSEEN, png=arguments.png)
    settings = {
        "base": BASE.model_dump(),
        "steps": arguments.steps,
        "lr": arguments.lr,
        "budget_flops": scale.budget_flops,
        "seeds": arguments.seeds,
    }
    print(json.dumps({"benchmark": "experts", "machine": before, "settings": settings, **summary}))
    return 0


def _arms(
    scale: Scale, difficulty: Mapping[str, Mapping[str, float]], seeds: Sequence[int]
) -> Arms:
    arms = {
        arm.name: {
            seed: trainings_of(arm, scale, difficulty, seed)
            for seed in (seeds[:1] if arm.is_for_one_seed else seeds)
        }
        for arm in (*EXPERT_ARMS, *DENSE_ARMS)
    }
    for name, by_seed in arms.items():
        trainings = by_seed[seeds[0]]
        share = flops_of(trainings) / scale.budget_flops
        each = ", ".join(f"{t.text} {t.spec.dim}x{t.spec.layers} {t.steps}" for t in trainings)
        _tell(f"{name}: {share:.3f} of the budget: {each}")
    return arms


def _train_all(crew: "_Crew", arms: Arms, seeds: Sequence[int]) -> None:
    """Trains seed by seed; what branches from a model waits for it, beside the next seed's."""
    waiting: list[list[Training]] = []
    for seed in (*seeds, None):
        trainings: list[Training] = []
        if seed is not None:
            trainings = [
                training for by_seed in arms.values() for training in by_seed.get(seed, [])
            ]
        starts = [training.start for training in trainings if training.start is not None]
        scratch = [training for training in trainings if training.start is None]
        crew.make([*waiting, *_courses([*starts, *scratch])])
        waiting = _courses([training for training in trainings if training.start is not None])
    crew.average([list(members) for by_seed in arms.values() for members in by_seed.values()])


def _courses(trainings: Sequence[Training]) -> list[list[Training]]:
    """Returns trainings that share their first steps together, the longest courses first."""
    courses: dict[tuple[object, ...], list[Training]] = {}
    for training in dict.fromkeys(trainings):
        courses.setdefault(training.course, []).append(training)
    return sorted(courses.values(), key=lambda course: -max(t.flops for t in course))


_texts: Texts
_folder: Path


def _start(corpora: Path, folder: Path) -> None:
    global _texts, _folder  # what a worker process keeps
    torch.set_num_threads(1)
    _texts, _folder = load_texts(corpora, OWN, UNSEEN), folder


def _train(course: list[Training]) -> None:
    train(course, _texts.train[course[0].text], _folder)


def _make(course: list[Training]) -> None:
    _train(course)
    for training in course:
        if training.is_decayed:
            score([training], _texts, _folder)


def _average(members: list[Training]) -> None:
    score(members, _texts, _folder)


class _Crew:
    """Processes that train, and what they tell."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._began_s = time.monotonic()

    def probe(self, courses: Sequence[list[Training]]) -> None:
        """Trains courses that are no part of an arm."""
        self._all(_train, courses)

    def make(self, courses: Sequence[list[Training]]) -> None:
        """Trains courses and scores what comes of them."""
        self._all(_make, courses)

    def average(self, teams: Sequence[list[Training]]) -> None:
        """Scores the average of experts that have one shape."""
        self._all(_average, [t for t in teams if len(t) > 1 and len({m.spec for m in t}) == 1])

    def _all(self, work: Callable[[list[Training]], None], jobs: Sequence[list[Training]]) -> None:
        futures: dict[Future[None], list[Training]] = {
            self._pool.submit(work, job): job for job in jobs
        }
        for number, future in enumerate(as_completed(futures), 1):
            future.result()
            first = futures[future][0]
            steps = "/".join(str(training.steps) for training in futures[future][:8])
            _tell(
                f"{time.monotonic() - self._began_s:5.0f} s {number}/{len(jobs)} {first.text} "
                f"seed {first.seed} {first.spec.dim}x{first.spec.layers} {steps} steps"
            )


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=420, help="of an expert in the equal arm")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--jobs", type=int, default=2, help="processes, one core each")
    parser.add_argument("--corpora", type=Path, default=DEFAULT_DIR)
    parser.add_argument("--runs", type=Path, default=Path("runs/experts"))
    parser.add_argument("--png", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
