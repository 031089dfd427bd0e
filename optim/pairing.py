"""Random groups for a round, drawn alike by everybody who knows the seed.

**Paper:** Kolehmainen et al. 2025, NoLoCo, arXiv:2506.10911v1, Sec. 3.2 (groups of n, drawn anew at
every outer step; n = 2 in its experiments).
**Deviations:** The paper wants a number of replicas that n divides. Here groups are as equal as
can be and none is larger than n, so of pairs an odd replica out steps alone, and with n > 2 nobody
does (test_nobody_stays_alone_where_groups_are_larger_than_pairs).
"""

import numpy as np


def groups_of(
    num_replicas: int, size: int, *, seed: int, fragment: int, round: int
) -> list[tuple[int, ...]]:
    """Return groups of at most `size`, larger ones first; each replica is in one.

    Args:
        num_replicas: How many, at least 1.
        size: n, at least 1.
        seed: Of the run.
        fragment: Each fragment has groups of its own.
        round: And each round.
    """
    rng = np.random.Generator(np.random.PCG64([seed, fragment, round]))
    order = rng.permutation(num_replicas)
    groups = np.array_split(order, -(-num_replicas // size))
    return [tuple(sorted(int(replica) for replica in group)) for group in groups]


def pairs_of(num_replicas: int, *, seed: int, fragment: int, round: int) -> list[tuple[int, ...]]:
    """Return groups of two, and one of one if the number is odd; see `groups_of`."""
    return groups_of(num_replicas, 2, seed=seed, fragment=fragment, round=round)
