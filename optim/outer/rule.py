"""The contract of an outer rule: what a replica sends, and what becomes of the average.

A rule keeps nothing: all that it remembers is in the states that it returns. Two kinds exist:

    OuterRule   anchors move at the landing of an average; the live parameters follow them
    AheadRule   in addition, the live parameters leave for the next round before the average of
                this one is known, and keep a part of their own work until then
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

State = dict[str, Tensor]
"""What a rule remembers between two rounds: vectors `[n]` by name, such as the momentum."""


class OuterRule(ABC):
    """Turns an anchor and an average of contributions into the next anchor.

    Called in this order: `init_state` once, then each round `outgoing` at departure and `step` at
    landing, both with the same anchor. The defaults are those of a rule with one momentum that
    sends pseudo-gradients.
    """

    __slots__ = ()

    @property
    def lanes(self) -> int:
        """How many vectors of length n one contribution holds."""
        return 1

    @property
    def sends_parameters(self) -> bool:
        """Whether a contribution holds parameters, which few bits would damage, not differences."""
        return False

    @property
    def is_elementwise(self) -> bool:
        """Whether `step` treats each element for itself: the step of a piece is that piece."""
        return True

    def init_state(self, num_elements: int) -> State:
        """Return the state before the first round, fp32, each vector `[num_elements]`."""
        return {"momentum": torch.zeros(num_elements)}

    def outgoing(self, anchor: Tensor, theta: Tensor) -> Tensor:
        """Return this replica's contribution, a new tensor `[lanes, n]`.

        By default it is `Theta - theta`, the pseudo-gradient. Element by element, whatever it is:
        of a piece of the two it is that piece.

        Args:
            anchor: `[n]`, the parameters that the inner steps set out from.
            theta: `[n]`, the live parameters after the inner steps.
        """
        return (anchor - theta).unsqueeze(0)

    @abstractmethod
    def step(
        self, anchor: Tensor, average: Tensor, state: State, *, round: int = 0
    ) -> tuple[Tensor, State]:
        """Return the next anchor `[n]` and state as new tensors; the inputs stay untouched.

        Args:
            anchor: `[n]`, the outer parameters.
            average: `[lanes, n]`, the weighted mean of the contributions heard.
            state: From `init_state` or the last `step`.
            round: How many steps were taken before this one.

        Raises:
            ValueError: `average` has another number of lanes.
        """


class AheadRule(OuterRule):
    """A rule whose replicas go on before they have heard the average: CO2, eager updates.

    At departure the live parameters move to `Theta + offset`, the offset being what they keep of
    their own work; the contribution is measured from the last such start. At landing the offset has
    served its time: its work is in the average. The live parameters move from the old anchor and
    offset to the new anchor, with the steps since on top. So anchors stay equal on all replicas,
    and only the offsets differ.
    """

    __slots__ = ()

    @abstractmethod
    def init_own(self, num_elements: int) -> State:
        """Return what a replica remembers of its own work, before the first round."""

    @abstractmethod
    def ahead(self, Delta: Tensor, own: State, *, share: float) -> tuple[Tensor, State]:
        """Return the offset `[n]` to go on with, and what is remembered, as new tensors.

        Args:
            Delta: `[n]`, this replica's own pseudo-gradient of the round that ends.
            own: From `init_own` or the last `ahead`.
            share: In (0, 1], the weight of this replica in the average, 1/M among equals.
        """


def require_rates(lr: float, momentum: float) -> None:
    """Check the two constants that all rules have.

    Raises:
        ValueError: lr is not positive, or momentum is not in [0, 1).
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, not {lr}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, not {momentum}")
