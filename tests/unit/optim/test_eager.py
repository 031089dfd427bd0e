import math

import pytest
import torch
from torch import Tensor

from optim.method import Method, method_named
from optim.outer.eager import Eager
from optim.swarm import LocalSwarm
from tests.unit.optim.toys import DIM, Gradient, Point, moves_by, points_of, shards, train

H = 5


def eager(*, tau: int = H, lr: float = 0.4, momentum: float = 0.9) -> Method:
    return method_named(
        "eager",
        schedule={"interval_steps": H, "overlap_steps": tau},
        outer={"lr": lr, "momentum": momentum, "own_share": 0.0},
    )


def swarm_of(k: int, method: Method) -> LocalSwarm:
    return LocalSwarm([Point() for _ in range(k)], method)


def papers_rounds(
    gradients: list[Gradient], *, rounds: int, eta: float, mu: float, inner_lr: float = 0.05
) -> list[list[Tensor]]:
    """Return all replicas' parameters at the start of each round, by the paper's own formula."""
    M = len(gradients)
    thetas = [torch.zeros(DIM) for _ in gradients]
    momenta = [torch.zeros(DIM) for _ in gradients]
    last = [torch.zeros(DIM) for _ in gradients]
    starts = []
    for _ in range(rounds):
        Deltas = []
        for theta, gradient in zip(thetas, gradients, strict=True):
            x = theta
            for _ in range(H):
                x = x - inner_lr * gradient(x)
            Deltas.append(theta - x)
        for m in range(M):
            others = sum((last[j] for j in range(M) if j != m), torch.zeros(DIM))
            Dtil = (Deltas[m] + others) / M
            momenta[m] = mu * momenta[m] + Dtil
            thetas[m] = thetas[m] - eta * (Dtil + mu * momenta[m])
        last = Deltas
        starts.append([theta.clone() for theta in thetas])
    return starts


@pytest.mark.parametrize("M", [1, 2, 3, 5])
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_eager_is_the_papers_rule(M: int, mu: float) -> None:
    gradients, rounds = shards(M), 12
    swarm = swarm_of(M, eager(momentum=mu))
    for expected in papers_rounds(gradients, rounds=rounds, eta=0.4, mu=mu):
        train(swarm, [moves_by(gradient) for gradient in gradients], H)
        torch.testing.assert_close(points_of(swarm), expected, rtol=1e-5, atol=1e-5)
        assert all(torch.equal(swarm.anchor(m), swarm.anchor(0)) for m in range(M))


def test_eager_is_the_papers_rule_to_the_last_digit_of_float64() -> None:
    # The rearrangement alone, for pseudo-gradients of any kind.
    M, eta, mu, T = 4, 0.4, 0.9, 30
    Delta_TMn = torch.randn(
        T, M, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    rule = Eager(eta, mu)
    zeros = torch.zeros(7, dtype=torch.float64)
    Theta, state, own = zeros, {"momentum": zeros}, [{"own_momentum": zeros} for _ in range(M)]
    thetas, momenta = [zeros] * M, [zeros] * M
    for t in range(T):
        last = Delta_TMn[t - 1] if t else torch.zeros_like(Delta_TMn[0])
        if t:
            Theta, state = rule.step(Theta, last.mean(0, keepdim=True), state)
        for m in range(M):
            Dtil = (Delta_TMn[t, m] + last.sum(0) - last[m]) / M
            momenta[m] = mu * momenta[m] + Dtil
            thetas[m] = thetas[m] - eta * (Dtil + mu * momenta[m])
            offset, own[m] = rule.ahead(Delta_TMn[t, m], own[m], share=1 / M)
            torch.testing.assert_close(Theta + offset, thetas[m], rtol=1e-11, atol=1e-11)


def test_with_sgd_outside_replicas_differ_by_their_share_of_their_deltas() -> None:
    M, eta, gradients = 3, 0.4, shards(3)
    swarm = swarm_of(M, eager(lr=eta, momentum=0))
    for _ in range(4):
        starts = points_of(swarm)
        inner = [moves_by(gradient) for gradient in gradients]
        train(swarm, inner, H - 1)
        for model, step in zip(swarm.models, inner, strict=True):
            step(model)
        Deltas = [start - end for start, end in zip(starts, points_of(swarm), strict=True)]
        swarm.step()
        thetas = points_of(swarm)
        for m in range(M):
            for j in range(M):
                expected = -(eta / M) * (Deltas[m] - Deltas[j])
                torch.testing.assert_close(thetas[m] - thetas[j], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [0, 1, 3, H])
def test_alone_it_is_diloco_however_long_the_average_takes(tau: int) -> None:
    (gradient,) = shards(1)
    one = swarm_of(1, eager(tau=tau))
    diloco = swarm_of(
        1,
        method_named("diloco", schedule={"interval_steps": H}, outer={"lr": 0.4, "momentum": 0.9}),
    )
    for _ in range(8 * H):
        train(one, [moves_by(gradient)], 1)
        train(diloco, [moves_by(gradient)], 1)
        torch.testing.assert_close(points_of(one), points_of(diloco), rtol=1e-5, atol=1e-5)


def test_an_average_that_lands_early_takes_the_place_of_the_offset() -> None:
    gradients, tau = shards(3), 2
    swarm = swarm_of(3, eager(tau=tau))
    inner = [moves_by(gradient) for gradient in gradients]
    train(swarm, inner, H)
    assert not torch.equal(points_of(swarm)[0], points_of(swarm)[1])  # each has its own offset
    swarm.step()  # nobody trains
    swarm.step()
    assert all(torch.equal(theta, swarm.anchor(0)) for theta in points_of(swarm))


def test_the_first_average_is_one_round_late() -> None:
    gradients = shards(2)
    swarm = swarm_of(2, eager())
    train(swarm, [moves_by(gradient) for gradient in gradients], 2 * H - 1)
    assert not swarm.anchor(0).any()
    train(swarm, [moves_by(gradient) for gradient in gradients], 1)
    assert swarm.anchor(0).all()


def test_a_larger_share_goes_farther_ahead() -> None:
    rule = Eager(0.4, 0.9)
    Delta = torch.ones(3)
    half, _ = rule.ahead(Delta, rule.init_own(3), share=0.5)
    quarter, _ = rule.ahead(Delta, rule.init_own(3), share=0.25)
    torch.testing.assert_close(half, 2 * quarter)
    torch.testing.assert_close(half, torch.full((3,), -0.4 * 0.5 * 1.9))


@pytest.mark.parametrize(
    ("lr", "momentum"), [(0.0, 0.9), (-1.0, 0.9), (math.nan, 0.9), (0.4, 1.0), (0.4, -0.1)]
)
def test_constants_out_of_range_are_refused(lr: float, momentum: float) -> None:
    with pytest.raises(ValueError, match=r"lr must be|momentum must be"):
        Eager(lr, momentum)


def test_an_own_share_of_one_mth_is_the_papers_and_moves_no_anchor() -> None:
    Delta, anchor = torch.tensor([1.0, -2.0, 0.5]), torch.zeros(3)
    paper, ours, half = Eager(0.7, 0.5), Eager(0.7, 0.5, 0.25), Eager(0.7, 0.5, 0.5)
    offset, _ = paper.ahead(Delta, paper.init_own(3), share=0.25)
    assert torch.equal(ours.ahead(Delta, ours.init_own(3), share=0.1)[0], offset)
    torch.testing.assert_close(half.ahead(Delta, half.init_own(3), share=0.25)[0], 2 * offset)
    landed = [rule.step(anchor, Delta.view(1, 3), rule.init_state(3))[0] for rule in (paper, half)]
    assert torch.equal(*landed)
    with pytest.raises(ValueError, match="own_share must be"):
        Eager(own_share=1.1)
