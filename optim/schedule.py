"""The schedule: which fragment departs after which inner step.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Algorithm 2 and Sec. 2.2.
**Symbols:** `H` = interval_steps, `P` = num_fragments, `tau` = overlap_steps, `t_p` = offset of p.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Fragment p departs every H steps, its turn shifted by `t_p = p * H // P`.

    Attributes:
        interval_steps: H, inner steps between two departures of the same fragment.
        num_fragments: P, at most H, so that no two fragments share a step.
        overlap_steps: tau, inner steps between a departure and its landing, below H, so that a
            fragment lands before it departs again.

    Raises:
        ValueError: The three numbers do not satisfy the above.
    """

    interval_steps: int
    num_fragments: int
    overlap_steps: int = 0

    def __post_init__(self) -> None:
        H, P, tau = self.interval_steps, self.num_fragments, self.overlap_steps
        if H < 1:
            raise ValueError(f"interval_steps must be at least 1, not {H}")
        if not 1 <= P <= H:
            raise ValueError(
                f"num_fragments must be between 1 and interval_steps ({H}), not {P}: "
                "each fragment departs at a step of its own"
            )
        if not 0 <= tau < H:
            raise ValueError(
                f"overlap_steps must be at least 0 and below interval_steps ({H}), not {tau}: "
                "a fragment lands before it departs again"
            )

    def departures(self, step: int) -> tuple[int, ...]:
        """Return the fragments that depart after inner step `step`.

        The turn that a shifted fragment would have before step H is skipped (Sec. 2.2), so each
        delta spans at least H inner steps.

        Args:
            step: How many inner steps are done, the first one included.
        """
        H, P = self.interval_steps, self.num_fragments
        if step < H:
            return ()
        return tuple(p for p in range(P) if (step - p * H // P) % H == 0)  # Alg. 2
