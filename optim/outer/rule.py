"""The contract of an outer rule: what a replica sends, and what becomes of the average.

A rule is elementwise and keeps nothing: all that it remembers is in the state that it returns. So
it may be applied to a fragment, to a share of one, or to the whole vector, with the same bits.
"""

from typing import Protocol

from torch import Tensor

State = dict[str, Tensor]
"""What a rule remembers between two rounds: vectors `[n]` by name, such as the momentum."""


class OuterRule(Protocol):
    """Turns an anchor and an average of contributions into the next anchor.

    Called in this order: `init_state` once, then each round `outgoing` at departure and `step` at
    landing, both with the same anchor.
    """

    @property
    def lanes(self) -> int:
        """How many vectors of length n one contribution holds."""
        ...

    def init_state(self, num_elements: int) -> State:
        """Return the state before the first round, fp32, each vector `[num_elements]`."""
        ...

    def outgoing(self, anchor: Tensor, theta: Tensor) -> Tensor:
        """Return this replica's contribution, a new tensor `[lanes, n]`.

        Args:
            anchor: `[n]`, the outer parameters.
            theta: `[n]`, the live parameters after the inner steps.
        """
        ...

    def step(self, anchor: Tensor, average: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the next anchor `[n]` and state as new tensors; the inputs stay untouched.

        Args:
            anchor: `[n]`, the outer parameters.
            average: `[lanes, n]`, the weighted mean of the contributions heard.
            state: From `init_state` or the last `step`.

        Raises:
            ValueError: `average` has another number of lanes.
        """
        ...
