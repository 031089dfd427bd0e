"""One replica's outer copy of one fragment, from departure to landing.

    depart   the live parameters become a contribution                       (rule, feedback)
      the contribution is encoded, sent, averaged with others': not our matter
    deliver  our contribution is in an average that others use, too          (feedback)
    lose     it is not, and never will be
    land     the average becomes the next anchor                             (rule)

A contribution is in the average that lands next, or it is lost before; only then another departs.
Nothing is changed in place: each call returns the next copy, so a reader on another thread always
holds a whole one. Live parameters are the caller's; `optim.landing` says how they follow. With an
ahead rule it is `start` that they follow.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optim.codec.feedback import ErrorFeedback
from optim.outer.rule import AheadRule, OuterRule, State

AHEAD, RESIDUAL = "ahead", "residual"
_PIECE = 1 << 16
"""Elements of an outer step at a time: they fit into a cache."""


@dataclass(frozen=True, slots=True)
class OuterCopy:
    """What a replica knows of a fragment beside the live parameters.

    Attributes:
        anchor: `[n]` fp32.
        state: The rule's, vectors `[n]`. With the anchor it is all that a newcomer needs.
        own: What concerns this replica alone, vectors `[n]`: the offset of an ahead rule, the
            residual of error feedback.
        round: Landings so far.
    """

    anchor: Tensor
    state: State
    own: State
    round: int = 0

    @property
    def start(self) -> Tensor:
        """Where the live parameters set out from, `[n]`: the anchor, plus any offset."""
        return self.anchor + self.own[AHEAD] if AHEAD in self.own else self.anchor


@dataclass(frozen=True, slots=True)
class Departure:
    """A contribution on its way.

    Attributes:
        contribution: `[lanes * n]` fp32, what is to be encoded; empty if `Outer.contribution` is to
            make it piece by piece.
        shift: `[n]`, to be added to the live parameters now; None but for ahead rules.
        before: `own` as it was, to return to if the contribution is lost.
    """

    contribution: Tensor
    shift: Tensor | None
    before: State


@dataclass(frozen=True, slots=True)
class Outer:
    """The outer side of a method: a rule, with or without error feedback.

    Attributes:
        rule: The outer rule.
        feedback: Decay of the residual, in (0, 1]; None sends each pseudo-gradient for itself.

    Raises:
        ValueError: the decay is out of its range, or the rule's contributions are not
            pseudo-gradients, of which alone a rest can be sent later.
    """

    rule: OuterRule
    feedback: float | None = None

    def __post_init__(self) -> None:
        if self.feedback is None:
            return
        if not 0 < self.feedback <= 1:
            raise ValueError(f"feedback must be above 0 and at most 1, not {self.feedback}")
        if self.rule.sends_parameters:
            raise ValueError(
                "error feedback makes up for what a codec left out of a pseudo-gradient, but this "
                "rule sends parameters; leave feedback out"
            )

    def first(self, anchor: Tensor) -> OuterCopy:
        """Return the copy before the first round; the anchor `[n]` is kept, not copied."""
        n = anchor.numel()
        own: State = {}
        if isinstance(self.rule, AheadRule):
            own |= {AHEAD: torch.zeros(n)} | self.rule.init_own(n)
        if self.feedback is not None:
            own[RESIDUAL] = torch.zeros(n)
        return OuterCopy(anchor, self.rule.init_state(n), own)

    def depart(
        self, copy: OuterCopy, theta: Tensor, *, share: float = 1.0, piecewise: bool = False
    ) -> tuple[OuterCopy, Departure]:
        """Return the copy after the departure, and what departs.

        Args:
            copy: The copy.
            theta: `[n]`, the live parameters.
            share: The expected weight of this replica in the average, see `AheadRule.ahead`.
            piecewise: Leave the contribution out if it can be made piece by piece.
        """
        if piecewise and self.feedback is None and not isinstance(self.rule, AheadRule):
            return copy, Departure(torch.empty(0), None, copy.own)
        outgoing = self.rule.outgoing(copy.start, theta)
        own, shift = copy.own, None
        if isinstance(self.rule, AheadRule):
            rest = {name: x for name, x in own.items() if name not in (AHEAD, RESIDUAL)}
            offset, rest = self.rule.ahead(outgoing[0], rest, share=share)
            shift = copy.anchor + offset - theta
            own = {**own, **rest, AHEAD: offset}
        contribution = outgoing.reshape(-1)
        if self.feedback is not None:
            owed = ErrorFeedback(own[RESIDUAL], self.feedback)
            contribution = owed.compensate(contribution)
        return replace(copy, own=own), Departure(contribution, shift, copy.own)

    def contribution(
        self, copy: OuterCopy, theta: Tensor, departure: Departure, start: int, stop: int
    ) -> Tensor:
        """Return the elements from `start` to `stop` of what departs, `[stop - start]`.

        Args:
            copy: The copy as it was before the departure.
            theta: `[n]`, the live parameters that departed, unchanged.
            departure: What `depart` returned.
            start: In `[0, lanes * n]`.
            stop: Not after `lanes * n`.
        """
        if departure.contribution.numel():
            return departure.contribution[start:stop]
        n, pieces = len(theta), []
        for lane in range(start // n, -(-stop // n)):
            piece = slice(max(start - lane * n, 0), min(stop - lane * n, n))
            pieces.append(self.rule.outgoing(copy.anchor[piece], theta[piece])[lane])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def deliver(self, copy: OuterCopy, departure: Departure, sent: Tensor) -> OuterCopy:
        """Return the copy whose residual is what the codec did not bring over.

        Args:
            copy: The copy.
            departure: Whose contribution the others have used.
            sent: `[lanes * n]`, the contribution as they decoded it.
        """
        if self.feedback is None:
            return copy
        owed = ErrorFeedback(copy.own[RESIDUAL], self.feedback)
        owed = owed.deliver(departure.contribution, sent)
        return replace(copy, own={**copy.own, RESIDUAL: owed.residual})

    def lose(self, copy: OuterCopy, departure: Departure) -> tuple[OuterCopy, Tensor | None]:
        """Return the copy as if nothing had departed, and a shift `[n]` for the live parameters.

        Without an ahead rule there is nothing to do: the live parameters still hold what was lost,
        and the residual was not touched. With one, they get it back.
        """
        if departure.shift is None:
            return copy, None
        return replace(copy, own=departure.before), -departure.shift

    def land(
        self,
        copy: OuterCopy,
        average: Tensor,
        *,
        piecewise: bool = False,
        empty: Callable[[int], Tensor] = torch.empty,
    ) -> OuterCopy:
        """Return the copy at the next anchor.

        Args:
            copy: The copy.
            average: `[lanes * n]`, the mean of the contributions.
            piecewise: Step piece by piece if the rule allows it, with small temporaries; the next
                anchor then takes the place of `average`.
            empty: Returns memory for a vector of so many elements.
        """
        if piecewise and self.rule.is_elementwise and self.rule.lanes == 1:
            anchor, state = self._in_pieces(copy, average, empty)
        else:
            lanes = average.view(self.rule.lanes, -1)
            anchor, state = self.rule.step(copy.anchor, lanes, copy.state, round=copy.round)
        own = copy.own
        if AHEAD in own:  # what it stood for is in the anchor now
            own = {**own, AHEAD: torch.zeros_like(anchor)}
        return OuterCopy(anchor, state, own, copy.round + 1)

    def _in_pieces(
        self, copy: OuterCopy, average: Tensor, empty: Callable[[int], Tensor]
    ) -> tuple[Tensor, State]:
        """Return the rule's step; mutates `average`, which becomes the anchor."""
        state = {name: empty(len(vector)) for name, vector in copy.state.items()}
        for start in range(0, len(average), _PIECE):
            piece = slice(start, start + _PIECE)
            before = {name: vector[piece] for name, vector in copy.state.items()}
            lanes = average[piece].unsqueeze(0)
            anchor, after = self.rule.step(copy.anchor[piece], lanes, before, round=copy.round)
            average[piece] = anchor
            for name, vector in after.items():
                state[name][piece] = vector
        return average, state
