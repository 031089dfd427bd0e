"""What lies on the table for one exchange of one fragment, from its offer to its landing.

    own       our contribution, encoded: a row of grains for each part
    average   one vector; our part of it is where the others' grains are averaged, as they come in,
              the other parts are where their reducers' averages are decoded
    shared    the averages as all apply them, encoded: kept for those who come late

Grains are made by one thread and served by another. Whoever sees a frame in its place may use it;
nothing in a place ever changes.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optim.codec.distance import Distance
from optim.codec.grains import Grains
from optim.merge import WeightedMean
from optim.outer.copy import Departure, OuterCopy
from protocol.identity import PeerId
from protocol.terms import Terms


class GrainsMade:
    """The frames of one part, as far as they are made.

    Attributes:
        grains: How they follow each other.
        frames: One for each grain, None as long as it is not there.
        is_withdrawn: No more will be made.
    """

    __slots__ = ("frames", "grains", "is_withdrawn")

    def __init__(self, grains: Grains) -> None:
        self.grains = grains
        self.frames: list[bytes | None] = [None] * len(grains)
        self.is_withdrawn = False

    def missing(self) -> list[int]:
        """Returns the grains that are not there."""
        return [grain for grain, frame in enumerate(self.frames) if frame is None]

    def withdraw(self) -> None:
        """Tells whoever waits for more that there will be none."""
        self.is_withdrawn = True


@dataclass(slots=True)
class Bench:
    """See the module docstring.

    Attributes:
        terms: Of the exchange.
        average: `[lanes * m]`, of which the parts that are there make sense.
        theta: `[m]`, the snapshot behind our offer; it is the trainer's again once we land.
        departure: Of our contribution; None if we have none in this exchange.
        copy: The outer copy from which it departed; None once it is encoded.
        own, shared: By part.
        heard: Of each member, the grains of our part that are in the average.
        distance: How far we were from all that was heard, if that is a question.
        is_reduced: What was heard of our part is averaged with our own.
        has_landed: Nothing is taken in any more.
        landed_round: Where that led to.
    """

    terms: Terms
    average: Tensor
    theta: Tensor | None = None
    departure: Departure | None = None
    copy: OuterCopy | None = None
    own: dict[int, GrainsMade] = field(default_factory=dict)
    shared: dict[int, GrainsMade] = field(default_factory=dict)
    heard: defaultdict[PeerId, set[int]] = field(default_factory=lambda: defaultdict(set))
    distance: Distance = field(default_factory=Distance)
    is_reduced: bool = False
    has_landed: bool = False
    landed_round: int = 0
    _means: dict[tuple[int, int], WeightedMean] = field(default_factory=dict)

    def mean(self, start: int, stop: int) -> WeightedMean:
        """Returns the mean of what was heard of these elements; it lies in the average."""
        mean = self._means.get((start, stop))
        if mean is None:
            place = self.average[start:stop]
            mean = self._means[start, stop] = WeightedMean.in_place(place)
        return mean

    @property
    def shared_bytes(self) -> int:
        """What the encoded averages weigh."""
        return sum(made.grains.size_bytes for made in self.shared.values())

    def take_average(self) -> Tensor:
        """Returns the whole average, and lets go of it."""
        average, self.average = self.average, torch.empty(0)
        self._means.clear()
        return average

    def withdraw(self) -> None:
        """Frees what was offered; nobody gets it any more."""
        for made in list(self.own.values()):  # the mathematics may be adding to it
            made.withdraw()
        self.own = {}

    def close(self) -> None:
        """Frees everything."""
        self.withdraw()
        for made in list(self.shared.values()):
            made.withdraw()
