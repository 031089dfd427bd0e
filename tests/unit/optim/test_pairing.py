from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.pairing import pairs_of

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
