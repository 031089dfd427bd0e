"""What stands in for a peer's parameters: one number, that takes NoLoCo's outer step.

**Paper:** Kolehmainen et al. 2025, NoLoCo, arXiv:2506.10911v1, Eq. (2), (3) with Delta = 0.
**Symbols:** `phi` = value, `delta` = its outer momentum, `alpha` = momentum, `gamma`.
**Deviations:** Both sides of a pair count equally, whatever tokens they bring.
"""


class CrowdValue:
    """See the module docstring.

    Args:
        momentum: alpha.
        gamma: The pull towards the pair's mean.
    """

    __slots__ = ("_alpha", "_gamma", "delta", "phi")

    def __init__(self, *, momentum: float, gamma: float) -> None:
        self.phi = 0.0
        self.delta = 0.0
        self._alpha = momentum
        self._gamma = gamma

    def step(self, mean: float) -> None:
        """Takes the outer step with the pair's mean of phi."""
        self.delta = self._alpha * self.delta - self._gamma * (self.phi - mean)  # Eq. (2)
        self.phi += self.delta  # Eq. (3)

    @property
    def rest(self) -> float:
        """Where phi would come to rest, left alone with its momentum.

        The two steps of a pair do not move the mean of this, at whatever times they are taken.
        """
        return self.phi + self.delta * self._alpha / (1 - self._alpha)
