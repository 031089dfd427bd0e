"""NoLoCo's identities N1-N7; N6, who is paired with whom, is in test_pairing."""

import math

import pytest
import torch
from torch import Tensor

from optim.outer.noloco import NoLoCo

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def random_pairs(num_replicas: int, generator: torch.Generator) -> Tensor:
    """Return partner[i] for each replica i; with an odd number, one is its own partner."""
    order = torch.randperm(num_replicas, generator=generator)
    partner = torch.arange(num_replicas)
    a, b = order[0 : num_replicas - 1 : 2], order[1::2]
    partner[a], partner[b] = b, a
    return partner


class Swarm:
    """N replicas with d parameters each, stepped as one long vector: the rule is elementwise."""

    def __init__(self, rule: NoLoCo, phi_ND: Tensor) -> None:
        self.rule, self.phi_ND = rule, phi_ND
        self.state = {"momentum": torch.zeros_like(phi_ND).flatten()}

    def round(self, Delta_ND: Tensor, partner_N: Tensor) -> None:
        phi = self.phi_ND.flatten()
        sent = self.rule.outgoing(phi, phi + Delta_ND.flatten())
        sent_LND = sent.view(self.rule.lanes, *self.phi_ND.shape)
        average_LND = (sent_LND + sent_LND[:, partner_N]) / 2
        phi, self.state = self.rule.step(phi, average_LND.flatten(1), self.state)
        self.phi_ND = phi.view_as(self.phi_ND)

    def spread(self) -> float:
        return float(self.phi_ND.std(dim=0).square().mean().sqrt())


@pytest.mark.parametrize("gamma", [0.7, 0.4], ids=["one lane", "two lanes"])
def test_n1_everyone_in_one_group_is_heavy_ball_diloco(gamma: float) -> None:
    eta, mu = 0.7, 0.5
    rule = NoLoCo(lr=eta, momentum=mu, gamma=gamma)
    phi = Theta = randn(8)
    state, v = {"momentum": torch.zeros(8, dtype=F64)}, torch.zeros(8, dtype=F64)
    for t in range(20):
        thetas = phi + randn(5, 8, seed=t)
        Delta = (Theta - thetas).mean(0)  # DiLoCo's sign: old minus new
        v = mu * v - eta * Delta  # form (HB)
        Theta = Theta + v
        average = torch.stack([rule.outgoing(phi, theta) for theta in thetas]).mean(0)
        phi, state = rule.step(phi, average, state)
        torch.testing.assert_close(phi, Theta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7, 1.2])
def test_n2_the_global_mean_follows_heavy_ball_diloco(gamma: float) -> None:
    swarm = Swarm(NoLoCo(lr=0.7, momentum=0.5, gamma=gamma), randn(8, 5))
    generator = torch.Generator().manual_seed(1)
    mean, v = swarm.phi_ND.mean(0), torch.zeros(5, dtype=F64)
    for t in range(30):
        Delta_ND = randn(8, 5, seed=t)
        v = 0.5 * v + 0.7 * Delta_ND.mean(0)
        mean = mean + v
        swarm.round(Delta_ND, random_pairs(8, generator))
        torch.testing.assert_close(swarm.phi_ND.mean(0), mean, rtol=1e-13, atol=1e-13)


def test_n2_holds_with_an_odd_replica_that_steps_alone() -> None:
    # Alone it is its own group: its pull is zero, so the pulls of all still cancel.
    swarm = Swarm(NoLoCo(gamma=0.4), randn(7, 5))
    generator = torch.Generator().manual_seed(2)
    mean, v = swarm.phi_ND.mean(0), torch.zeros(5, dtype=F64)
    for t in range(30):
        Delta_ND = randn(7, 5, seed=t)
        v = 0.5 * v + 0.7 * Delta_ND.mean(0)
        mean = mean + v
        swarm.round(Delta_ND, random_pairs(7, generator))
        torch.testing.assert_close(swarm.phi_ND.mean(0), mean, rtol=1e-13, atol=1e-13)


def test_n3_without_momentum_and_all_constants_one_it_is_gossip_averaging() -> None:
    rule = NoLoCo(lr=1.0, momentum=0.0, gamma=1.0)
    phi, theta, theirs = randn(3, 6)
    average = ((theta + theirs) / 2).unsqueeze(0)
    phi_new, _ = rule.step(phi, average, {"momentum": torch.zeros(6, dtype=F64)})
    torch.testing.assert_close(phi_new, (theta + theirs) / 2)


def test_n4_one_lane_of_theta_equals_two_lanes() -> None:
    alpha, beta = 0.5, 0.7
    one = NoLoCo(lr=beta, momentum=alpha, gamma=beta)
    two = NoLoCo(lr=beta, momentum=alpha, gamma=beta + 1e-14)
    assert (one.lanes, two.lanes) == (1, 2)
    phi, phi_theirs, theta, theta_theirs, delta_old = randn(5, 9)
    state = {"momentum": delta_old}

    def landed(rule: NoLoCo) -> tuple[Tensor, Tensor]:
        average = (rule.outgoing(phi, theta) + rule.outgoing(phi_theirs, theta_theirs)) / 2
        phi_new, state_new = rule.step(phi, average, state)
        return phi_new, state_new["momentum"]

    expected = (1 - beta) * phi + beta * (theta + theta_theirs) / 2 + alpha * delta_old
    torch.testing.assert_close(landed(one)[0], expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(landed(one), landed(two), rtol=1e-12, atol=1e-12)


def growth_per_round(rule: NoLoCo, *, num_replicas: int = 64, rounds: int = 60) -> float:
    swarm = Swarm(rule, randn(num_replicas, 200))
    generator = torch.Generator().manual_seed(3)
    spreads = []
    for _ in range(rounds):
        swarm.round(
            torch.zeros(num_replicas, 200, dtype=F64), random_pairs(num_replicas, generator)
        )
        spreads.append(swarm.spread())
    return float((spreads[-1] / spreads[9]) ** (1 / (rounds - 10)))  # after the first transient


@pytest.mark.parametrize(
    ("momentum", "gamma", "expected"),
    [
        (0.0, 1.0, 0.695),
        (0.5, 0.1, 0.893),
        (0.5, 0.3, 0.787),
        (0.5, 0.5, 0.805),
        (0.5, 0.7, 0.834),
        (0.5, 1.0, 0.885),
        (0.5, 1.4, 0.971),
        (0.9, 0.1, 0.962),
        (0.9, 0.3, 0.987),
    ],
)
def test_n5_without_gradients_the_spread_shrinks_by_the_known_factor(
    momentum: float, gamma: float, expected: float
) -> None:
    measured = growth_per_round(NoLoCo(momentum=momentum, gamma=gamma))
    assert measured == pytest.approx(expected, abs=0.015)


def test_n5_without_gamma_the_spread_is_a_random_walk() -> None:
    swarm = Swarm(NoLoCo(momentum=0.0, gamma=0.0), torch.zeros(64, 50, dtype=F64))
    generator = torch.Generator().manual_seed(4)
    spreads = {}
    for t in range(1, 401):
        swarm.round(randn(64, 50, seed=t), random_pairs(64, generator))
        spreads[t] = swarm.spread()
    assert spreads[400] / spreads[100] == pytest.approx(2.0, rel=0.1)  # like the square root of t


def test_n7_alone_it_is_lookahead_with_momentum_and_gamma_has_no_say() -> None:
    alpha, beta = 0.5, 0.7
    phi, theta, delta_old = randn(3, 6)
    delta = alpha * delta_old + beta * (theta - phi)
    for gamma in (beta, 0.0, 0.3, 1.4):
        rule = NoLoCo(lr=beta, momentum=alpha, gamma=gamma)
        phi_new, state = rule.step(phi, rule.outgoing(phi, theta), {"momentum": delta_old})
        torch.testing.assert_close(state["momentum"], delta)
        torch.testing.assert_close(phi_new, phi + delta)


def spectral_radius(alpha: float, gamma: float) -> float:
    """Return the growth of (E e^2, E e delta, E delta^2) for random pairs, see noloco.py."""
    # delta' = alpha delta - gamma (e - e_partner) / 2 and e' = e + delta', replicas independent.
    delta_delta = [gamma**2 / 2, -alpha * gamma, alpha**2]
    e_delta = [-gamma / 2, alpha, 0.0]
    M = torch.tensor(
        [
            [1 + 2 * e_delta[0] + delta_delta[0], 2 * alpha + delta_delta[1], delta_delta[2]],
            [e_delta[0] + delta_delta[0], alpha + delta_delta[1], delta_delta[2]],
            delta_delta,
        ],
        dtype=F64,
    )
    return float(torch.linalg.eigvals(M).abs().max())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 0.9])
def test_the_bound_on_gamma_is_where_the_spread_stops_shrinking(alpha: float) -> None:
    bound = 2 * (1 - alpha**2)
    assert spectral_radius(alpha, bound) == pytest.approx(1.0, abs=1e-7)
    assert all(spectral_radius(alpha, f * bound) < 1 for f in (0.05, 0.5, 0.99))
    assert spectral_radius(alpha, 1.01 * bound) > 1
    NoLoCo(momentum=alpha, gamma=0.99 * bound)
    with pytest.raises(ValueError, match="drive each other apart"):
        NoLoCo(momentum=alpha, gamma=bound)


def test_the_theory_agrees_with_a_simulated_swarm() -> None:
    measured = growth_per_round(NoLoCo(momentum=0.5, gamma=0.7), num_replicas=256)
    assert measured == pytest.approx(math.sqrt(spectral_radius(0.5, 0.7)), abs=0.005)


def test_dilocos_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"below 2 \(1 - momentum\^2\) = 0\.38"):
        NoLoCo(momentum=0.9)


@pytest.mark.parametrize(
    ("lr", "momentum", "gamma"),
    [(0.0, 0.5, 0.7), (0.7, 1.0, 0.1), (0.7, -0.1, 0.7), (0.7, 0.5, -0.1), (0.7, 0.5, math.nan)],
)
def test_constants_out_of_range_are_refused(lr: float, momentum: float, gamma: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        NoLoCo(lr, momentum, gamma)


@pytest.mark.parametrize("gamma", [0.7, 0.3])
def test_inputs_stay_untouched_and_contributions_alias_nothing(gamma: float) -> None:
    rule = NoLoCo(gamma=gamma)
    anchor, theta, state = torch.ones(4), torch.full((4,), 2.0), rule.init_state(4)
    sent = rule.outgoing(anchor, theta)
    assert sent.shape == (rule.lanes, 4)
    before = sent.clone()
    rule.step(anchor, sent, state)
    assert torch.equal(sent, before)
    assert anchor.tolist() == [1] * 4
    assert state["momentum"].tolist() == [0] * 4
    theta.zero_()  # training goes on while the contribution travels
    anchor.zero_()
    assert torch.equal(sent, before)
