"""Crash points: a swarm that is cut at any boundary of an exchange is left with whole states."""

import logging
import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

import pytest
import torch
from torch import Tensor

from peer.mixing import Mixing
from peer.sim.task import ToyLearner
from protocol.machine import Fetch
from tests.sim import cuts
from tests.sim.boundaries import Boundary, Cut, Kind
from tests.sim.cuts import SCENES

CHUNK = 25
CROSSED = {
    *("note leaves", "note arrives", "chunk leaves", "chunk arrives"),
    *("fetch of part begins", "fetch of part ends", "fetch of average ends", "fetch of state ends"),
    *("effect Send", "effect Offer", "effect Fetch", "effect Reduce", "effect Land"),
    *("effect CatchUp", "job begins, Moves.offer", "job ends, Moves.offer"),
    *("job begins, Moves.land", "job ends, Moves.land", "Departed from the trainer"),
    *("Land to the trainer", "Landed from the trainer", "Depart to the trainer"),
}
"""What is in the scenes at any rate; whatever else happens at a boundary is cut there, too."""


def cuts_of(name: str) -> list[Cut]:
    """Returns a cut at each boundary of a scene; by turns of the one end, the other, and both."""
    return [
        Cut(name, number, boundary, boundary.kinds[number % len(boundary.kinds)])
        for number, boundary in enumerate(cuts.boundaries_of(name))
    ]


def play_all(given: list[Cut]) -> tuple[Counter[str], list[str]]:
    """Plays some cuts; returns what was seen, and how to replay those that failed."""
    torch.set_num_threads(1)
    logging.disable()
    seen: Counter[str] = Counter()
    failed = []
    for cut in given:
        try:
            seen += cuts.play(cut)
        except Exception as error:  # noqa: BLE001 - each failure is reported with its cut
            where = f"python -m tests.sim.cuts {cut.scene} {cut.number} {cut.kind}"
            failed.append(f"{where}  # {cut.boundary.what}: {error!r:.300}")
    return seen, failed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_is_cut_is_applied_or_not_and_never_half() -> None:
    by_scene = {name: cuts_of(name) for name in SCENES}
    every = list(chain(*by_scene.values()))
    assert len(every) >= 500
    assert all(len(by_scene[name]) >= 60 for name in SCENES)
    kinds = Counter(cut.kind for cut in every)
    assert min(kinds[kind] for kind in ("src", "dst", "apart")) >= 150
    assert {cut.boundary.what for cut in every} >= CROSSED
    chunks = [every[first : first + CHUNK] for first in range(0, len(every), CHUNK)]
    seen: Counter[str] = Counter()
    failed: list[str] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for chunk_seen, chunk_failed in pool.map(play_all, chunks):
            seen += chunk_seen
            failed += chunk_failed
    assert not failed, "\n".join([f"{len(failed)} of {len(every)} cuts failed; replay", *failed])
    assert seen["cuts"] == len(every)
    assert seen["partial averages"]  # somebody broke off in the middle of its contribution


@pytest.mark.parametrize("name", SCENES)
def test_a_blade_that_never_cuts_changes_nothing(name: str) -> None:
    def lines(*, is_hooked: bool) -> list[str]:
        with cuts.stage_of(SCENES[name], None, is_hooked=is_hooked) as (swarm, _, _):
            swarm.run(SCENES[name].until_s + 3.0)
            return swarm.trace.lines()

    plain = lines(is_hooked=False)
    assert plain == lines(is_hooked=True)
    assert sum('"landed"' in line for line in plain) >= 3


@pytest.mark.parametrize("kind", ["src", "dst", "apart"])
def test_a_run_is_cut_exactly_where_it_is_to_be_cut(kind: Kind) -> None:
    scene, boundaries = SCENES["eager"], cuts.boundaries_of("eager")
    number = next(n for n, b in enumerate(boundaries) if b.what == "chunk arrives")
    with cuts.stage_of(scene, Cut("eager", number, boundaries[number], kind)) as (swarm, blade, _):
        swarm.run(scene.until_s)
        assert blade.crossed == boundaries[: number + 1]
        src, dst = boundaries[number].src, boundaries[number].dst
        assert swarm.peers[src].host.is_dead == (kind == "src")
        assert dst
        assert swarm.peers[dst].host.is_dead == (kind == "dst")
        assert swarm.network.is_open(src, dst) == (kind != "apart")
    with (
        cuts.stage_of(scene, Cut("eager", 3, Boundary("elsewhere", src, dst), kind)) as (other, *_),
        pytest.raises(AssertionError, match="elsewhere"),
    ):
        other.run(scene.until_s)


# ---- checkers that find nothing would be worthless


def a_cut(name: str, what: str) -> Cut:
    """Returns a death of the sender at the last boundary of a kind."""
    found = [cut for cut in cuts_of(name) if cut.boundary.what == what]
    return found[-1]._replace(kind="src")


@pytest.mark.parametrize("name", ["all", "pairs"])
def test_an_anchor_that_moves_without_the_live_parameters_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = a_cut(name, "fetch of part begins")
    land = ToyLearner.land

    def half(
        learner: ToyLearner, fragment: int, anchor: Tensor, base: Tensor, **how: float
    ) -> None:
        if learner.step < 9:  # later ones are whole again
            land(learner, fragment, anchor, base, **how)

    monkeypatch.setattr(ToyLearner, "land", half)
    with pytest.raises(AssertionError, match="not close"):
        cuts.play(cut)


@pytest.mark.parametrize("name", ["all", "pairs", "groups"])
def test_a_contribution_that_counts_twice_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = a_cut(name, "fetch of part begins")
    collect = Mixing.collect

    def twice(mixing: Mixing, effect: Fetch, grain: int, frame: bytes | memoryview) -> None:
        collect(mixing, effect, grain, frame)
        bench = mixing.open(effect.ref.fragment, effect.ref.exchange_id, effect.terms)
        bench.heard[effect.src].discard(grain)
        collect(mixing, effect, grain, frame)

    monkeypatch.setattr(Mixing, "collect", twice)
    with pytest.raises(AssertionError, match="is no mean of what was offered"):
        cuts.play(cut)
