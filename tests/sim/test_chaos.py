"""Thousands of random swarms under random faults: safe always, live once the faults are over."""

import logging
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.sim import chaos

NUM_SEEDS = 2000
CHUNK = 20
KINDS = {
    *("crash", "vanish", "freeze", "slow", "halves", "bridge", "one-way", "clock", "storm"),
    *("join", "leave", "lose", "duplicate", "reorder", "corrupt", "loss", "held"),
}


def play_all(seeds: range) -> tuple[Counter[str], list[str]]:
    """Plays some seeds; returns the faults that fired, and how to replay those that failed."""
    torch.set_num_threads(1)
    logging.disable()
    fired: Counter[str] = Counter()
    failed = []
    for seed in seeds:
        try:
            fired += chaos.play(seed)
        except Exception as error:  # noqa: BLE001 - each failure is reported with its seed
            failed.append(f"python -m tests.sim.chaos {seed}  # {error!r:.300}")
    return fired, failed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_happens_the_swarm_is_safe_and_comes_back() -> None:
    chunks = [range(first, first + CHUNK) for first in range(0, NUM_SEEDS, CHUNK)]
    context = multiprocessing.get_context("spawn")
    fired: Counter[str] = Counter()
    failed: list[str] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for chunk_fired, chunk_failed in pool.map(play_all, chunks):
            fired += chunk_fired
            failed += chunk_failed
    assert not failed, "\n".join([f"{len(failed)} seeds failed; replay with", *failed])
    assert fired.keys() >= KINDS


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_equal_seeds_give_equal_runs_byte_for_byte(seed: int) -> None:
    def lines(seed: int) -> list[str]:
        case = chaos.case_of(seed)
        with chaos.Checked(case, seed) as swarm:
            for seat in case.seats:
                swarm.join(seat)
            chaos.schedule(case.faults, swarm, case.seats)
            swarm.run(40)
            return swarm.trace.lines()

    assert lines(seed) == lines(seed)
    assert lines(seed) != lines(seed + 100)


def test_hashes_and_addresses_of_a_process_change_nothing() -> None:
    def printed(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.sim.chaos", "3", "9"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert printed("1") == printed("2")


def test_a_checker_that_finds_nothing_would_be_worthless() -> None:
    """The ledger notices a step that is lost, and the bounds notice what piles up."""
    case = chaos.case_of(1)
    with chaos.Checked(case, 1) as swarm:
        for seat in case.seats:
            swarm.join(seat)
        swarm.run(30)
        chaos.assert_safe(swarm)
        ledger = next(iter(swarm.ledgers))
        ledger.peer.learner.theta[0] += 1.0  # type: ignore[attr-defined]
        with pytest.raises(AssertionError, match="not close"):
            ledger.assert_balanced(set(chaos.done_of(swarm, ledger.peer)))
        ledger.peer.driver._offers.update((bytes([n]), frozenset()) for n in range(100))
        with pytest.raises(AssertionError):
            chaos.assert_bounded(swarm)
