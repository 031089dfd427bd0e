"""CO2's identities C1-C8; C6, that nothing in flight aliases the live, is in test_outer_copy."""

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.floats import Fp32
from optim.method import Method
from optim.outer.co2 import CO2, GAPS, Gap, elementwise_gap, norm_gap
from optim.outer.copy import Outer
from optim.schedule import Schedule
from optim.swarm import LocalSwarm
from tests.unit.optim.toys import (
    DIM,
    Gradient,
    Point,
    inner_sgd,
    moves_by,
    points_of,
    shards,
    train,
)

H = 5
FOUR = st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4)


def swarm_of(k: int, rule: CO2, *, tau: int) -> LocalSwarm:
    method = Method("all", Schedule(H, 1, tau), Fp32(), Outer(rule))
    return LocalSwarm([Point() for _ in range(k)], method)


def starts_of(swarm: LocalSwarm, gradients: list[Gradient], rounds: int) -> list[list[Tensor]]:
    """Return all replicas' parameters at the start of each round after the first."""
    starts = []
    for _ in range(rounds):
        train(swarm, [moves_by(gradient) for gradient in gradients], H)
        starts.append(points_of(swarm))
    return starts


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_c1_without_delay_gap_and_clip_it_is_slowmo(keep: float) -> None:
    alpha, beta, gradients = 0.8, 0.5, shards(3)
    swarm = swarm_of(3, CO2(alpha, beta, gap="none", keep=keep), tau=0)
    x, u = torch.zeros(DIM), torch.zeros(DIM)
    for starts in starts_of(swarm, gradients, 8):
        mean = torch.stack([inner_sgd(x, gradient, H) for gradient in gradients]).mean(0)
        u = beta * u + (x - mean)  # SlowMo, with the inner rate in u
        x = x - alpha * u
        torch.testing.assert_close(starts, [x] * 3, rtol=1e-5, atol=1e-5)


def test_c2_without_momentum_it_is_local_sgd() -> None:
    gradients, x = shards(3), torch.zeros(DIM)
    swarm = swarm_of(3, CO2(1.0, 0.0, gap="none"), tau=0)
    for starts in starts_of(swarm, gradients, 8):
        x = torch.stack([inner_sgd(x, gradient, H) for gradient in gradients]).mean(0)
        torch.testing.assert_close(starts, [x] * 3, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tau", [0, 1, 3, H])
def test_c3_alone_without_momentum_it_changes_nothing(tau: int) -> None:
    (gradient,) = shards(1)
    swarm = swarm_of(1, CO2(1.0, 0.0, gap="none", keep=1.0), tau=tau)
    for t in range(1, 6 * H):
        train(swarm, [moves_by(gradient)], 1)
        expected = inner_sgd(torch.zeros(DIM), gradient, t)
        torch.testing.assert_close(points_of(swarm)[0], expected, rtol=1e-5, atol=1e-5)


@given(phi=st.floats(0.01, 10), values=st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_c4_every_element_of_the_momentum_stays_within_the_clip(
    phi: float, values: list[float]
) -> None:
    rule = CO2(momentum=0.6, clip=phi, gap="none")
    free, anchor = CO2(momentum=0.6, gap="none"), torch.zeros(2)
    state, state_free = rule.init_state(2), free.init_state(2)
    for value in values:
        average = torch.tensor([[value, -value]])
        old = anchor
        anchor, state = rule.step(anchor, average, state)
        _, state_free = free.step(anchor, average, state_free)
        assert state["momentum"].abs().max() <= torch.tensor(phi)
        torch.testing.assert_close(anchor, old - state["momentum"])
    if state_free["momentum"].abs().max() > 10 * phi * len(values):
        assert not torch.equal(state["momentum"], state_free["momentum"])


def test_c4_the_clip_really_changes_the_momentum() -> None:
    average = torch.tensor([[5.0, -5.0, 0.25]])
    rule = CO2(clip=1.0, gap="none")
    anchor, state = rule.step(torch.zeros(3), average, rule.init_state(3))
    assert state["momentum"].tolist() == [1.0, -1.0, 0.25]
    assert anchor.tolist() == [-1.0, 1.0, -0.25]


@given(moved=FOUR, Delta=FOUR)
@example(moved=[0.0] * 4, Delta=[2.0**-149] * 4)  # the smallest numbers that fp32 has
@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS)
def test_c5_the_penalty_is_at_least_one_and_one_where_nothing_moved(
    gap: Gap, moved: list[float], Delta: list[float]
) -> None:
    assert (gap(torch.tensor(moved), torch.tensor(Delta)) >= 1).all()
    assert (gap(torch.zeros(4), torch.tensor(Delta)) == 1).all()
    assert (gap(torch.tensor(moved), torch.zeros(4)) == 1).all()


def test_c5_twice_the_penalty_is_half_the_contribution() -> None:
    Delta, m = torch.tensor([[4.0, -2.0]]), {"momentum": torch.tensor([1.0, 1.0])}
    beta = 0.5

    def momentum_after(Lambda: float) -> Tensor:
        rule = CO2(momentum=beta, gap=lambda moved, Delta: torch.tensor(Lambda))
        return rule.step(torch.zeros(2), Delta, m)[1]["momentum"]

    once, twice = momentum_after(1.5), momentum_after(3.0)
    torch.testing.assert_close(twice - beta, (once - beta) / 2)


def test_c5_the_penalty_is_told_how_far_the_last_landing_moved_the_anchor() -> None:
    told = []

    def gap(moved: Tensor, Delta: Tensor) -> Tensor:
        told.append(moved)
        return torch.ones(())

    rule, alpha = CO2(0.5, 0.6, gap=gap), 0.5
    anchor, state = torch.zeros(3), rule.init_state(3)
    anchors = [anchor]
    for t in range(4):
        average = torch.randn(1, 3, generator=torch.Generator().manual_seed(t))
        anchor, state = rule.step(anchor, average, state)
        anchors.append(anchor)
    assert alpha == rule.lr
    assert not told[0].any()
    for t in range(1, 4):
        torch.testing.assert_close(told[t], anchors[t - 1] - anchors[t])


def test_c5_the_norms_penalty_is_one_plus_their_ratio() -> None:
    moved, Delta = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert norm_gap(moved, Delta).item() == 3.5
    # The yardstick sqrt(2) becomes the power of two that is next to it in ratio.
    assert elementwise_gap(moved, Delta).tolist() in ([4.0, 5.0], [2.5, 3.0])


def test_c5_the_last_bits_of_a_norm_do_not_reach_the_anchor() -> None:
    moved, Delta = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(norm_gap(moved, Delta), norm_gap(moved[order], Delta[order]))


def constantly(slope: Tensor) -> Gradient:
    return lambda x: slope


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_c7_whenever_an_average_lands_the_anchors_are_the_same(gap: str, keep: float) -> None:
    # The gradients, not the anchors, would differ: they are taken where the live parameters are.
    slopes = [torch.tensor([1.0, -2, 3, 0.5, 0, 8]), torch.tensor([2.0, 2, -1, 1.5, 4, 0])]
    rule, anchors = CO2(0.5, 0.5, gap=gap, keep=keep), []
    for tau in (0, 1, H - 1, H):
        swarm = swarm_of(2, rule, tau=tau)
        inner = [moves_by(constantly(slope), lr=0.25) for slope in slopes]
        train(swarm, inner, 6 * H)
        swarm.finish()
        anchors.append(swarm.anchor(0))
    assert anchors[0].any()
    for anchor in anchors:
        torch.testing.assert_close(anchor, anchors[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_c8_in_the_first_round_the_anchor_stays_and_keep_decides_what_is_live(keep: float) -> None:
    gradients = shards(2)
    swarm = swarm_of(2, CO2(0.8, 0.5, gap="norm", keep=keep), tau=H)
    (starts,) = starts_of(swarm, gradients, 1)
    ends = [inner_sgd(torch.zeros(DIM), gradient, H) for gradient in gradients]
    assert not swarm.anchor(0).any()
    torch.testing.assert_close(starts, [keep * end for end in ends])
    starts_of(swarm, gradients, 1)  # the first average lands, and as nothing moved before, in full
    torch.testing.assert_close(swarm.anchor(0), 0.8 * torch.stack(ends).mean(0))


@pytest.mark.parametrize("gap", ["none", "norm"])
def test_without_keep_it_is_the_literal_reading(gap: str) -> None:
    alpha, beta, phi, gradients = 0.8, 0.5, 0.03, shards(3)
    swarm = swarm_of(3, CO2(alpha, beta, clip=phi, gap=gap, keep=0.0), tau=H)
    x, x_before = torch.zeros(DIM), torch.zeros(DIM)
    m, xbar_before = torch.zeros(DIM), torch.zeros(DIM)  # the first round sends nobody anywhere
    was_clipped = False
    for starts in starts_of(swarm, gradients, 10):
        xbar = torch.stack([inner_sgd(x, gradient, H) for gradient in gradients]).mean(0)
        Delta = x_before - xbar_before
        Lambda = 1.0
        if gap == "norm" and Delta.any():
            Lambda = 1 + round(float((x - x_before).norm() / Delta.norm()) * 256) / 256
        m = beta * m + Delta / Lambda
        was_clipped |= bool((m.abs() > phi).any())
        m = m.clamp(-phi, phi)
        x_before, xbar_before, x = x, xbar, x - alpha * m
        tolerance = 1e-5 if gap == "none" else 1e-3  # a step of the penalty may fall otherwise
        torch.testing.assert_close(starts, [x] * 3, rtol=tolerance, atol=tolerance)
    assert was_clipped


def test_kept_work_is_live_until_its_average_lands() -> None:
    gradients = shards(3)
    swarm = swarm_of(3, CO2(1.0, 0.0, gap="none", keep=1.0), tau=2)
    inner = [moves_by(gradient) for gradient in gradients]
    train(swarm, inner, H)
    ends = [inner_sgd(torch.zeros(DIM), gradient, H) for gradient in gradients]
    torch.testing.assert_close(points_of(swarm), ends)
    swarm.step()  # nobody trains
    swarm.step()
    torch.testing.assert_close(points_of(swarm), [torch.stack(ends).mean(0)] * 3)


@pytest.mark.parametrize(
    ("constants", "sentence"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": math.nan}, "clip must be positive"),
        ({"gap": "gap-aware"}, "there is no gap 'gap-aware'; choose one of none, norm, elem"),
        ({"keep": 1.1}, "keep must be between 0 and 1"),
        ({"keep": math.nan}, "keep must be between 0 and 1"),
    ],
)
def test_constants_out_of_range_are_refused(constants: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CO2(**constants)
