"""The experiment with experts: equal compute, shared courses, and what is counted."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.experts_arms import (
    DENSE_ARMS,
    EXPERT_ARMS,
    Scale,
    difficulties,
    flops_of,
    trainings_of,
)
from benchmarks.experts_figures import best_of, change, over_domains, wins
from benchmarks.experts_scores import bits, judged
from benchmarks.experts_training import MIX, Training, parameters_of, train
from protocol.models import ModelSpec

TINY = ModelSpec(dim=16, layers=1, heads=2, ffn_dim=16, context=16)
DOMAINS = ("dictionary", "legal", "mathematics")
FOUND = {"dictionary": (3.0, 2.9), "legal": (2.5, 1.5), "mathematics": (4.0, 3.8)}
SCALE = Scale(ModelSpec(dim=64, layers=2, heads=2, ffn_dim=176), 600, 0.01, DOMAINS)


def text() -> np.ndarray:
    return np.random.default_rng(0).integers(97, 123, 4000).astype(np.uint8)


def test_a_training_is_the_same_along_a_shared_course_and_alone(tmp_path: Path) -> None:
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    shared.mkdir(), alone.mkdir()
    both = [Training(TINY, "x", 0, steps, 0.01) for steps in (30, 22)]
    train(both, text(), shared)
    for one in both:
        train([one], text(), alone)
        theta = parameters_of(one, alone)
        for name, tensor in parameters_of(one, shared).items():
            assert torch.equal(tensor, theta[name])


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    one = Training(TINY, "x", 0, 3, 0.01)
    train([one], text(), tmp_path)
    before = one.path(tmp_path).stat().st_mtime_ns
    train([one], text()[:0], tmp_path)  # it would complain about such a text
    assert one.path(tmp_path).stat().st_mtime_ns == before


def test_a_branch_goes_on_from_the_model_of_the_mix(tmp_path: Path) -> None:
    branch = Training(TINY, "x", 0, 1, 0.0, branch_steps=4)
    start = branch.start
    assert start is not None
    with pytest.raises(FileNotFoundError):
        train([branch], text(), tmp_path)
    train([Training(TINY, MIX, 0, 4, 0.0, is_decayed=False)], text(), tmp_path)
    train([branch], text(), tmp_path)
    theta = parameters_of(start, tmp_path)
    for name, tensor in parameters_of(branch, tmp_path).items():  # of rate zero, it stays there
        assert torch.equal(tensor, theta[name])


@pytest.mark.parametrize("arm", [*EXPERT_ARMS, *DENSE_ARMS], ids=lambda arm: arm.name)
def test_every_arm_spends_the_same_compute(arm: object) -> None:
    trainings = trainings_of(arm, SCALE, difficulties(FOUND), seed=1)
    assert 0.98 * SCALE.budget_flops <= flops_of(trainings) <= SCALE.budget_flops * (1 + 1e-9)


def test_the_hardest_domain_gets_most_by_level_and_the_steepest_by_slope() -> None:
    arms = {arm.name: trainings_of(arm, SCALE, difficulties(FOUND), 0) for arm in EXPERT_ARMS}
    by_name = {name: {t.text: t.flops for t in trainings} for name, trainings in arms.items()}
    for name in ("steps", "size", "both"):
        assert max(by_name[name], key=by_name[name].__getitem__) == "mathematics"
        assert min(by_name[name], key=by_name[name].__getitem__) == "legal"
    assert max(by_name["steps, slope"], key=by_name["steps, slope"].__getitem__) == "legal"


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_uniform_prior_costs_at_most_the_logarithm_of_the_experts(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    experts = [
        {f"{use}/x": -4 * torch.rand(3, 8, generator=generator) for use in ("test", "held_out")}
        for _ in range(count)
    ]
    found = judged(experts, "x")
    assert found["uniform"] <= found["best"] + math.log2(count) / 8 + 1e-9
    assert found["best"] == min(bits(expert["test/x"]) for expert in experts)


def test_the_prior_is_estimated_on_held_out_text_alone() -> None:
    good, bad = torch.full((5, 1), -0.1), torch.full((5, 1), -3.0)
    experts = [{"held_out/x": good, "test/x": bad}, {"held_out/x": bad, "test/x": good}]
    found = judged(experts, "x")  # windows of one byte: only the prior can choose
    assert found["top1"] == pytest.approx(3.0 / math.log(2))
    assert found["best"] == pytest.approx(0.1 / math.log(2))


ONE = {0: {"a": 2.0, "b": 3.0}, 1: {"a": 2.2, "b": 3.2}}
OTHER = {0: {"a": 2.1, "b": 2.9}, 1: {"a": 2.1, "b": 3.1}, 2: {"a": 9.0, "b": 9.0}}


def test_seeds_are_paired_and_those_that_one_lacks_left_out() -> None:
    assert wins(ONE, OTHER) == {"won": 0, "of": 2, "all_seeds": 0, "lost": ["a", "b"]}
    assert wins(OTHER, ONE) == {"won": 1, "of": 2, "all_seeds": 1, "lost": ["a"]}
    assert change(OTHER, ONE, "b") == pytest.approx((-0.1, -0.1, -0.1))


def test_the_best_arm_is_chosen_by_domain() -> None:
    other = {0: {"a": 3.0, "b": 1.0}, 1: {"a": 3.0, "b": 1.1}}
    assert best_of({"one": ONE, "other": other}) == {
        0: {"a": 2.0, "b": 1.0},
        1: {"a": 2.2, "b": 1.1},
    }


def test_a_range_is_that_of_the_seeds_means() -> None:
    assert over_domains(ONE, ["a", "b"]) == {"mean": 2.6, "least": 2.5, "greatest": 2.7}
