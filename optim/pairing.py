"""Random pairs for a round, drawn alike by everybody who knows the seed.

**Paper:** Kolehmainen et al. 2025, NoLoCo, arXiv:2506.10911v1, Sec. 3.2 (groups of n = 2, drawn
anew at every outer step).
**Deviations:** An odd replica out steps alone; the paper wants a divisible number.
"""

import numpy as np


def pairs_of(num_replicas: int, *, seed: int, fragment: int, round: int) -> list[tuple[int, ...]]:
    """Return groups of two, and one of one if the number is odd; each replica is in one.

    Args:
        num_replicas: How many, at least 1.
        seed: Of the run.
        fragment: Each fragment has pairs of its own.
        round: And each round.
    """
    rng = np.random.Generator(np.random.PCG64([seed, fragment, round]))
    order = [int(replica) for replica in rng.permutation(num_replicas)]
    return [tuple(sorted(order[i : i + 2])) for i in range(0, num_replicas, 2)]
