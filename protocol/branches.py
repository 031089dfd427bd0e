"""Two anchors of one run that are not the same: which of them counts, and how much.

The stated rule. Each side has the tokens of the landings that the other side lacks.

    neither has any     equal histories: the later round counts, else the larger camp, else
                          the larger digest
    one side has none   it is merely behind, and takes the other's anchor over
    both have some      the weights of both are averaged, weighted by those tokens

with two exceptions, in which a side's tokens count as none. A single peer that is one landing apart
from a larger camp landed an exchange that the others gave up, and made anew from the same
contributions. And a side with less than `LEAST_FRAC` of the tokens is not worth it that everybody
fetches its state. Who takes over, or averages, keeps its own work since its anchor on top.

The rule is the same from both ends, and an average is taken in the same order and precision by
both, so two camps that look at the same two anchors arrive at the same one.
"""

from dataclasses import dataclass

from protocol.lineage import Lineage

LEAST_FRAC = 0.05
_KEEP, _TAKE = (1.0, 0.0), (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One side.

    Attributes:
        round, digest: Of its anchor.
        lineage: Behind it.
        camp: How many peers are known to be there.
    """

    round: int
    digest: bytes
    lineage: Lineage
    camp: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done.

    Attributes:
        weights: Of our anchor and of theirs in the next one.
        round: Of the next anchor; ours, if nothing changes at all.
    """

    weights: tuple[float, float]
    round: int

    @property
    def keeps(self) -> bool:
        """Whether ours stays, though perhaps at a later round."""
        return not self.weights[1]


def judge(ours: Branch, theirs: Branch) -> Verdict:
    """Returns what the side of `ours` has to do when it sees `theirs`."""
    if (ours.round, ours.digest) == (theirs.round, theirs.digest):
        return Verdict(_KEEP, ours.round)
    our_tokens, their_tokens = _tokens(ours, theirs), _tokens(theirs, ours)
    total = our_tokens + their_tokens
    if not total:
        is_theirs = _rank(theirs) > _rank(ours)
        return Verdict(_TAKE, theirs.round) if is_theirs else Verdict(_KEEP, ours.round)
    if our_tokens <= LEAST_FRAC * total:
        return Verdict(_TAKE, _ahead(theirs.round, ours.round))
    if their_tokens <= LEAST_FRAC * total:
        return Verdict(_KEEP, _ahead(ours.round, theirs.round))
    return Verdict((our_tokens / total, their_tokens / total), max(ours.round, theirs.round) + 1)


def lineage_after(ours: Branch, theirs: Branch, verdict: Verdict) -> Lineage:
    """Returns what is behind the anchor that the verdict leads to, but for its own landing.

    A side that was taken for nothing is not in it.
    """
    if all(verdict.weights):
        return ours.lineage.united(theirs.lineage)
    return ours.lineage if verdict.keeps else theirs.lineage


def _ahead(winner: int, other: int) -> int:
    """Returns the winner's round; it must not be behind, or nobody would follow."""
    return winner if winner >= other else other + 1


def _tokens(side: Branch, other: Branch) -> int:
    """Returns what counts of a side's tokens."""
    beyond = side.lineage.beyond(other.lineage)
    is_lone = side.camp == 1 and other.camp > 1
    return 0 if is_lone and len(beyond) == 1 else sum(beyond.values())


def _rank(side: Branch) -> tuple[int, int, bytes]:
    return side.round, side.camp, side.digest
