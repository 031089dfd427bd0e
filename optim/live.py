"""A live model and its outer copies: what a replica does at a departure, and at a landing.

    depart   a fragment of the live parameters becomes a contribution; an ahead rule moves them
      contributions become an average, in one process or over a network: not our matter
    land     the average becomes the next anchor, and the live parameters follow

The model may be on any device. Anchors, outer states and all arithmetic are fp32 on the CPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optim.landing import blend, rebase
from optim.layout import Layout, flatten_into, layout_of, load_from, shapes_of
from optim.method import Method
from optim.outer.copy import Departure, OuterCopy
from optim.outer.rule import AheadRule


@dataclass(frozen=True, slots=True)
class Underway:
    """One replica's contribution on its way, and where the live parameters were when it left.

    Attributes:
        departure: The contribution.
        base: `[n]`, the live parameters at departure, the shift of an ahead rule included.
    """

    departure: Departure
    base: Tensor


class LiveModel:
    """A model that its owner trains, and the outer side of a method, a fragment at a time.

    Args:
        model: Its trainable parameters are read at departures and written at landings.
        method: The method.

    Attributes:
        layout: How the model is divided.
        copies: The outer copy of each fragment.

    Raises:
        ValueError: The model cannot be divided in this way, see `layout_of` and `shapes_of`.
    """

    def __init__(self, model: nn.Module, method: Method) -> None:
        self.model = model
        self.method = method
        self.layout: Layout = layout_of(
            shapes_of(model),
            num_fragments=method.schedule.num_fragments,
            pattern=method.pattern,
            separate_embeddings=method.separate_embeddings,
        )
        self.copies: list[OuterCopy] = [
            method.outer.first(self.theta(fragment))
            for fragment in range(len(self.layout.fragments))
        ]

    def theta(self, fragment: int) -> Tensor:
        """Return a fragment of the live parameters, a new `[n]`."""
        flat = torch.empty(self.layout.num_elements)
        flatten_into(flat, self.layout, self.model, fragment)
        return self._within(flat, fragment)

    def anchor(self) -> Tensor:
        """Return the anchor, a new `[num_elements]`: the outer parameters to evaluate."""
        return torch.cat([copy.anchor for copy in self.copies])

    def depart(self, fragment: int, *, share: float) -> Underway:
        """Return what departs. With an ahead rule the live parameters go on from elsewhere.

        Args:
            fragment: Which one; its last contribution has landed.
            share: The expected weight of this replica in the average, see `AheadRule.ahead`.
        """
        theta = self.theta(fragment)
        outer, copy = self.method.outer, self.copies[fragment]
        self.copies[fragment], departure = outer.depart(copy, theta, share=share)
        if departure.shift is not None:
            theta = self.copies[fragment].start
            self._load(fragment, theta)
        return Underway(departure, theta)

    def land(
        self, fragment: int, average: Tensor, underway: Underway | None, sent: Tensor | None = None
    ) -> None:
        """Take the next anchor, and let the live parameters follow.

        Args:
            fragment: Which one.
            average: `[lanes * n]`, the mean of the contributions.
            underway: This replica's own contribution to it; None if it has none, and then all that
                it trained stays on top of the new anchor.
            sent: `[lanes * n]`, that contribution as the others decoded it. For error feedback;
                without, it may be left out.
        """
        outer, alpha, old = self.method.outer, self.method.merge_alpha, self.copies[fragment]
        new = self.copies[fragment] = outer.land(old, average)
        theta = self.theta(fragment)
        if underway is None or isinstance(outer.rule, AheadRule):
            rebase(theta, new.start, old.start)
        elif alpha is None:
            rebase(theta, new.anchor, underway.base)
        else:
            blend(theta, new.anchor, underway.base, alpha)
        self._load(fragment, theta)
        if underway is not None and sent is not None:
            self.copies[fragment] = outer.deliver(new, underway.departure, sent)

    def _load(self, fragment: int, theta: Tensor) -> None:
        flat = torch.empty(self.layout.num_elements)
        self._within(flat, fragment).copy_(theta)
        load_from(flat, self.layout, self.model, fragment)

    def _within(self, flat: Tensor, fragment: int) -> Tensor:
        span = self.layout.fragments[fragment]
        return flat[span.start : span.stop]
