"""When a round's roster closes, and by whom: a pure decision with its reason; and what is in it."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.messages import Member, Ready, Roster
from protocol.shares import fair_shares


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterView:
    """What one ready peer knows of its round."""

    order: tuple[PeerId, ...]
    """All ready peers, ourselves included, in the order in which they may lead."""
    our_id: PeerId
    num_live: int
    """Live peers, ourselves included."""
    complete_since_s: float | None
    """Since when all live peers that can be reached are ready; None while one is missing."""
    quorum_since_s: float | None
    """Since when more than `quorum_frac` of the live peers are ready."""
    grace_s: float
    takeover_s: float


@dataclass(frozen=True, slots=True)
class RosterDecision:
    """Whether we close the roster now; if not, why not, and when to ask again."""

    close: bool
    reason: str
    wake_at_s: float | None = None


def decide_roster(view: RosterView, *, now_s: float) -> RosterDecision:
    """Returns whether to close the roster.

    It closes when all that can be reached are ready, or `grace_s` after a quorum was. The first
    in the order closes it; each later one waits `takeover_s` longer: the earlier may be dead.
    """
    if view.quorum_since_s is None:
        return RosterDecision(False, f"{len(view.order)} of {view.num_live} peers are ready")
    due_s = view.quorum_since_s + view.grace_s
    if view.complete_since_s is not None:
        # Not before the quorum, or a later one in the order would close in the leader's stead.
        due_s = min(due_s, max(view.complete_since_s, view.quorum_since_s))
    place = view.order.index(view.our_id)
    at_s = due_s + place * view.takeover_s
    if now_s >= at_s:
        return RosterDecision(True, "all are ready" if place == 0 else "the leader does not close")
    if now_s < due_s:
        missing = view.num_live - len(view.order)
        return RosterDecision(False, f"grace for {missing} late peers", at_s)
    return RosterDecision(False, f"{view.order[0]} should close", at_s)


def roster_of(ready: Mapping[PeerId, Ready], exchange_id: bytes) -> Roster:
    """Returns the roster of all these peers, who are at the same round and anchor.

    The parts accord with their upload rates; the codec is the cheapest that anybody needs.
    """
    peers = sorted(ready)
    notes = [ready[peer] for peer in peers]
    return Roster(
        notes[0].fragment,
        notes[0].round,
        exchange_id,
        tuple(Member(peer, note.tokens) for peer, note in zip(peers, notes, strict=True)),
        fair_shares([note.up_bps for note in notes]),
        max(note.codec for note in notes),
    )


def is_quorum(num: int, of: int, quorum_frac: float) -> bool:
    """Returns whether `num` peers are more than `quorum_frac` of `of`; one alone is its own."""
    return num > quorum_frac * of or num == of
