"""How each domain of a run stands, as the cards of its peers tell."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from protocol.card import Card, Kept
from protocol.domains import domain_named
from protocol.identity import PeerId
from protocol.manifest import DomainSpec, Manifest


@dataclass(frozen=True, slots=True)
class Standing:
    """One domain: who is there, how far it is, and what it waits for."""

    domain: str
    peers: tuple[PeerId, ...]
    """Who trains there now, or has just ended; sorted."""
    step: int
    """The farthest that anybody there, or any kept state, has come."""
    total_steps: int
    """The domain's budget."""
    is_done: bool
    """Somebody keeps its final state."""
    waits_for: str
    """The domain that it branches from, while that is not done and this one has not begun."""
    copies: int
    """How many peers keep a state of it."""
    copy_step: int
    """Of the newest kept state; 0 if there is none."""

    @property
    def is_open(self) -> bool:
        """Whether anybody could train there now."""
        return not self.is_done and not self.waits_for

    @property
    def remaining_steps(self) -> int:
        """What is left of its budget."""
        return 0 if self.is_done else max(0, self.total_steps - self.step)

    @property
    def words(self) -> str:
        """What goes on there, for people."""
        if self.is_done:
            return "done"
        if self.waits_for:
            return f"waits for {self.waits_for}"
        return "training" if self.peers else "waiting for a peer"


def standings(manifest: Manifest, cards: Mapping[PeerId, Card]) -> tuple[Standing, ...]:
    """Returns how the domains of a run stand, in the manifest's order.

    Domains that only strangers' cards know are nobody's, and whoever said goodbye takes along what
    it kept.

    Args:
        manifest: The run's.
        cards: Of all peers, ourselves included.
    """
    found: dict[str, Standing] = {}
    for domain in manifest.domains:
        seed = found.get(domain.branch_from)
        found[domain.name] = _standing(domain, cards, seed)
    return tuple(_done_with(each, manifest, found) for each in found.values())


def _done_with(each: Standing, manifest: Manifest, found: Mapping[str, Standing]) -> Standing:
    """A seed from which all have branched is of no more use, should its last state be lost."""
    branches = [found[d.name] for d in manifest.domains if d.branch_from == each.domain]
    have_begun = branches and all(branch.copies or branch.step for branch in branches)
    is_expert = domain_named(manifest, each.domain).is_expert
    return replace(each, is_done=True) if have_begun and not is_expert else each


def _standing(domain: DomainSpec, cards: Mapping[PeerId, Card], seed: Standing | None) -> Standing:
    total_steps = domain.inner.total_steps
    peers = sorted(
        peer
        for peer, card in cards.items()
        if is_there(card, domain.name)
        and (card.role != "holder" or card.step >= total_steps)  # else it was told to stop early
    )
    kept = {
        peer: states
        for peer, card in cards.items()
        if card.role != "left"
        and (states := [state for state in card.kept if state.domain == domain.name])
    }
    copy_step = max((state.step for states in kept.values() for state in states), default=0)
    step = max([copy_step, *(cards[peer].step for peer in peers)])
    # A domain that has begun needs its seed no more, should all who kept that be gone.
    has_begun = bool(kept) or step > 0
    return Standing(
        domain=domain.name,
        peers=tuple(peers),
        step=min(step, total_steps),
        total_steps=total_steps,
        is_done=any(is_last(state, domain) for states in kept.values() for state in states),
        waits_for=seed.domain if seed and not seed.is_done and not has_begun else "",
        copies=len(kept),
        copy_step=min(copy_step, total_steps),
    )


def is_last(state: Kept, domain: DomainSpec) -> bool:
    """Whether a kept state is said to be the domain's last, and can be."""
    return state.is_final and state.step >= domain.inner.total_steps


def is_there(card: Card, domain: str) -> bool:
    """Returns whether a card is that of a peer in this domain."""
    return card.domain == domain and card.role in ("peer", "coming", "holder")
