import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.outer.noloco import NoLoCo
from optim.pairing import groups_of, pairs_of

ROUNDS = st.integers(0, 2**40)
SEEDS = st.integers(0, 2**64 - 1)


@given(st.integers(1, 50), SEEDS, st.integers(0, 100), ROUNDS)
def test_n6_each_replica_is_in_one_group_and_all_draw_the_same(
    num_replicas: int, seed: int, fragment: int, round: int
) -> None:
    groups = pairs_of(num_replicas, seed=seed, fragment=fragment, round=round)
    assert sorted(m for group in groups for m in group) == list(range(num_replicas))
    assert sorted(map(len, groups)) == [1] * (num_replicas % 2) + [2] * (num_replicas // 2)
    assert groups == pairs_of(num_replicas, seed=seed, fragment=fragment, round=round)


def test_n6_pairs_are_those_that_other_versions_and_machines_draw() -> None:
    # numpy does not promise its permutations for ever, and who draws others finds no partner.
    assert pairs_of(7, seed=1, fragment=2, round=3) == [(2, 4), (1, 5), (3, 6), (0,)]
    assert pairs_of(4, seed=2**63, fragment=0, round=0) == [(2, 3), (0, 1)]


@pytest.mark.parametrize("changed", ["seed", "fragment", "round"])
def test_n6_pairs_differ_between_rounds_fragments_and_seeds(changed: str) -> None:
    at = {"seed": 0, "fragment": 0, "round": 0}
    draws = {tuple(pairs_of(16, **{**at, changed: i})) for i in range(50)}
    assert len(draws) == 50


def test_n6_every_pair_is_as_likely_and_so_is_staying_alone() -> None:
    M, rounds = 5, 5000
    seen = Counter(g for r in range(rounds) for g in pairs_of(M, seed=0, fragment=0, round=r))
    assert set(seen) == {*combinations(range(M), 2), *((m,) for m in range(M))}
    # Each pair and each lone replica in one round of five; the tolerance is six deviations.
    tolerance = 6 * (rounds * 0.2 * 0.8) ** 0.5
    assert all(abs(count - rounds / 5) < tolerance for count in seen.values())


def test_n7_a_replica_without_others_is_its_own_group() -> None:
    assert pairs_of(1, seed=0, fragment=0, round=0) == [(0,)]


# ---- groups of more


@given(st.integers(1, 50), st.integers(1, 12), SEEDS, st.integers(0, 100), ROUNDS)
def test_each_replica_is_in_one_group_and_groups_are_as_equal_as_can_be(
    num_replicas: int, size: int, seed: int, fragment: int, round: int
) -> None:
    groups = groups_of(num_replicas, size, seed=seed, fragment=fragment, round=round)
    assert sorted(m for group in groups for m in group) == list(range(num_replicas))
    assert len(groups) == math.ceil(num_replicas / size)
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(2, 200), st.integers(3, 20), SEEDS)
def test_nobody_stays_alone_where_groups_are_larger_than_pairs(
    num_replicas: int, size: int, seed: int
) -> None:
    groups = groups_of(num_replicas, size, seed=seed, fragment=0, round=0)
    assert min(map(len, groups)) >= 2


def test_a_group_of_everybody_and_groups_of_one() -> None:
    assert groups_of(5, 5, seed=0, fragment=0, round=0) == [(0, 1, 2, 3, 4)]
    alone = groups_of(5, 1, seed=0, fragment=0, round=0)
    assert sorted(alone) == [(0,), (1,), (2,), (3,), (4,)]


def test_every_group_of_three_is_as_likely() -> None:
    rounds = 4000
    seen = Counter(g for r in range(rounds) for g in groups_of(6, 3, seed=0, fragment=0, round=r))
    assert set(seen) == set(combinations(range(6), 3))
    tolerance = 6 * (rounds * 0.1 * 0.9) ** 0.5  # one of ten divisions has it
    assert all(abs(count - rounds / 10) < tolerance for count in seen.values())


def spectral_radius(alpha: float, gamma: float, size: int) -> float:
    """Return the growth of (E e^2, E e delta, E delta^2) for random groups; see noloco.py.

    A group's mean holds 1/n of one's own distance e and those of n - 1 independent others, so both
    E (e - mean)^2 and E e (e - mean) are c E e^2 with c = 1 - 1/n.
    """
    c, f64 = 1 - 1 / size, torch.float64
    delta_delta = torch.tensor([gamma**2 * c, -2 * alpha * gamma * c, alpha**2], dtype=f64)
    e_delta = torch.tensor([-gamma * c, alpha, 0.0], dtype=f64)
    e_e = torch.tensor([1.0, 0.0, 0.0], dtype=f64) + 2 * e_delta + delta_delta
    M = torch.stack((e_e, e_delta + delta_delta, delta_delta))
    return float(torch.linalg.eigvals(M).abs().max())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("size", [2, 3, 4, 8, 64])
def test_the_bound_on_gamma_grows_with_the_group_so_that_of_pairs_is_safe(
    alpha: float, size: int
) -> None:
    """Eq. (74) has another one, falling as n / (n - 1) does: it drops a covariance."""
    bound = 2 * (1 - alpha**2) / (1 - alpha + 2 * alpha / size)
    assert spectral_radius(alpha, bound, size) == pytest.approx(1.0, abs=1e-6)
    assert all(spectral_radius(alpha, f * bound, size) < 1 for f in (0.05, 0.5, 0.99))
    assert spectral_radius(alpha, 1.01 * bound, size) > 1
    of_pairs = 2 * (1 - alpha**2)
    assert bound >= of_pairs * (1 - 1e-12)
    NoLoCo(momentum=alpha, gamma=0.99 * of_pairs)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_in_larger_groups_the_spread_shrinks_faster_as_the_theory_says(size: int) -> None:
    rule, num, dim = NoLoCo(lr=0.7, momentum=0.5, gamma=0.7), 240, 50
    phi = torch.randn(num, dim, generator=torch.Generator().manual_seed(0)).double()
    state = {"momentum": torch.zeros(num * dim, dtype=torch.float64)}
    spreads = []
    for round in range(30):
        mean = phi.clone()
        for group in groups_of(num, size, seed=0, fragment=0, round=round):
            mean[list(group)] = phi[list(group)].mean(0)
        stepped, state = rule.step(phi.flatten(), mean.view(1, -1), state)
        phi = stepped.view(num, dim)
        spreads.append(float(phi.std(0).square().mean().sqrt()))
    measured = (spreads[-1] / spreads[9]) ** (1 / 20)
    assert measured == pytest.approx(math.sqrt(spectral_radius(0.5, 0.7, size)), abs=0.015)
