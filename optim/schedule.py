"""The schedule: which fragment departs, and which is due to land, after which inner step.

At equal steps landings come before departures: with tau = H a fragment lands, then departs again.
Only with tau = 0 a fragment lands at the very step of its departure, hence after it.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Algorithm 2 and Sec. 2.2.
**Symbols:** `H` = interval_steps, `P` = num_fragments, `tau` = overlap_steps, `t_p` = offset of p.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Fragment p departs every H steps, at a step t with `(t - t_p) % H == 0`.

    Attributes:
        interval_steps: H, inner steps between two departures of the same fragment.
        num_fragments: P, at most H, so that no two fragments share a step.
        overlap_steps: tau, inner steps between a departure and its landing, from 0 to H: a fragment
            has landed when it departs again. Beyond H / P several fragments are under way at once.
        offsets: `t_p` of each fragment, distinct, from 0 to H - 1; None for `p * H // P`.

    Raises:
        ValueError: The numbers do not satisfy the above.
    """

    interval_steps: int
    num_fragments: int
    overlap_steps: int = 0
    offsets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        H, P, tau = self.interval_steps, self.num_fragments, self.overlap_steps
        if H < 1:
            raise ValueError(f"interval_steps must be at least 1, not {H}")
        if not 1 <= P <= H:
            raise ValueError(
                f"num_fragments must be between 1 and interval_steps ({H}), not {P}: "
                "each fragment departs at a step of its own"
            )
        if not 0 <= tau <= H:
            raise ValueError(
                f"overlap_steps must be between 0 and interval_steps ({H}), not {tau}: "
                "a fragment lands before it departs again"
            )
        if self.offsets is not None:
            _require_turns(self.offsets, H, P)

    def offset(self, fragment: int) -> int:
        """Return `t_p`, the fragment's turn within an interval."""
        if self.offsets is None:
            return fragment * self.interval_steps // self.num_fragments
        return self.offsets[fragment]

    def departures(self, step: int) -> tuple[int, ...]:
        """Return the fragments that depart after inner step `step`, one at most.

        The turn that a shifted fragment would have before step H is skipped (Sec. 2.2), so each
        delta spans at least H inner steps.

        Args:
            step: How many inner steps are done, the first one included.
        """
        H, P = self.interval_steps, self.num_fragments
        if step < H:
            return ()
        return tuple(p for p in range(P) if (step - self.offset(p)) % H == 0)  # Alg. 2

    def landings(self, step: int) -> tuple[int, ...]:
        """Return the fragments due to land after inner step `step`: they departed tau steps ago.

        Args:
            step: How many inner steps are done, the first one included.
        """
        return self.departures(step - self.overlap_steps)


def _require_turns(offsets: tuple[int, ...], H: int, P: int) -> None:
    if len(offsets) != P:
        raise ValueError(f"offsets must be one for each of the {P} fragments, not {len(offsets)}")
    owner: dict[int, int] = {}
    for p, offset in enumerate(offsets):
        if not 0 <= offset < H:
            raise ValueError(
                f"the offset of fragment {p} must be between 0 and interval_steps - 1 ({H - 1}), "
                f"not {offset}"
            )
        if offset in owner:
            raise ValueError(
                f"fragments {owner[offset]} and {p} both have offset {offset}: "
                "each fragment departs at a step of its own"
            )
        owner[offset] = p
