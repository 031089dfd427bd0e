"""Who trains in which domain, and who keeps its state: all with the same cards find the same.

Nobody is asked and nobody commands. A peer stays where it trains while that domain is open. Those
who train nowhere are placed one by one, the fastest first, where most is left to compute for each
who is there; what is nearly done needs nobody else. A domain that would then have nobody is rescued
by one peer from the most crowded one.
"""

from collections.abc import Mapping

from protocol.card import Card
from protocol.identity import PeerId
from protocol.lottery import duty_order
from protocol.manifest import Manifest
from protocol.standings import Standing, standings

LATE_FRAC = 0.1
"""With less than this part of its budget left, a domain that has peers needs no more of them."""
FEW_PEERS = 3
"""Below it, a domain's state is kept elsewhere, too."""


def choice(
    manifest: Manifest,
    cards: Mapping[PeerId, Card],
    *,
    our_id: PeerId,
    able: frozenset[str],
    flops: Mapping[str, float],
    needed_bytes: Mapping[str, int],
) -> str | None:
    """Returns the domain where we should train now; None when none is open for us.

    Args:
        manifest: The run's.
        cards: Of all peers, our own included.
        our_id: Who we are. Whoever asks wants to train, whatever role its card says.
        able: The domains that we can train in. Of the others, we know what their cards say.
        flops: Of one step of each domain, as all peers count them.
        needed_bytes: The memory that training in each domain takes.
    """
    placing = _Placing(
        manifest, cards, our_id=our_id, able=able, flops=flops, needed_bytes=needed_bytes
    )
    placing.place()
    placing.rescue()
    return placing.place_of(our_id)


def keepers(
    standing: Standing, manifest: Manifest, cards: Mapping[PeerId, Card], *, copies: int = 2
) -> tuple[PeerId, ...]:
    """Returns who should keep a copy of a domain's state, though they train elsewhere.

    They are drawn, and stay the same while the peers do. A domain with many peers needs none
    before it is done.
    """
    if len(standing.peers) >= FEW_PEERS and not standing.is_done:
        return ()
    elsewhere = (
        peer
        for peer, card in cards.items()
        if card.role in ("peer", "holder") and peer not in standing.peers
    )
    order = duty_order(elsewhere, run_id=manifest.run_id, duty=f"keep {standing.domain}")
    return order[:copies]


class _Placing:
    """Peers on their places, as they will be; see the module docstring."""

    def __init__(
        self,
        manifest: Manifest,
        cards: Mapping[PeerId, Card],
        *,
        our_id: PeerId,
        able: frozenset[str],
        flops: Mapping[str, float],
        needed_bytes: Mapping[str, int],
    ) -> None:
        self._run_id = manifest.run_id
        self._cards, self._our_id = cards, our_id
        self._able, self._needed_bytes = able, needed_bytes
        self._willing = {
            peer
            for peer, card in cards.items()
            if card.role in ("peer", "coming") or peer == our_id
        }
        open_domains = [standing for standing in standings(manifest, cards) if standing.is_open]
        self._left_flops = {
            standing.domain: standing.remaining_steps * flops[standing.domain]
            for standing in open_domains
        }
        self._late = {
            standing.domain
            for standing in open_domains
            if standing.remaining_steps < LATE_FRAC * standing.total_steps
        }
        self._there = {standing.domain: set(standing.peers) for standing in open_domains}
        for domain in self._there.keys() - able:
            self._there[domain].discard(our_id)

    def place(self) -> None:
        """Gives those who train in no open domain one each, if any fits."""
        homeless = self._willing.difference(*self._there.values())
        order = duty_order(homeless, run_id=self._run_id, duty="choose")
        for peer in sorted(order, key=lambda peer: -self._cards[peer].flops_per_s):
            fitting = [
                domain
                for domain, there in self._there.items()
                if self._fits(peer, domain) and not (there and domain in self._late)
            ]
            if fitting:
                self._there[max(fitting, key=self._need)].add(peer)

    def rescue(self) -> None:
        """Moves one peer into each domain that has nobody, but no domain's last one."""
        for domain in sorted(self._there, key=lambda domain: -self._left_flops[domain]):
            if not self._there[domain]:
                self._rescue(domain)

    def place_of(self, peer: PeerId) -> str | None:
        """Returns the open domain of a peer."""
        return next((domain for domain, there in self._there.items() if peer in there), None)

    def _rescue(self, domain: str) -> None:
        crowds = [there & self._willing for there in self._there.values()]
        movers = {
            peer: (-len(crowd), not self._keeps(peer, domain))  # who keeps its state fetches less
            for crowd in crowds
            if len(crowd) > 1
            for peer in crowd
            if self._fits(peer, domain) and not self._cards[peer].stays
        }
        order = duty_order(movers, run_id=self._run_id, duty=f"rescue {domain}")
        if order:
            mover = min(order, key=movers.__getitem__)
            for there in self._there.values():
                there.discard(mover)
            self._there[domain].add(mover)

    def _need(self, domain: str) -> tuple[bool, float]:
        num_there = len(self._there[domain])
        return not num_there, self._left_flops[domain] / (1 + num_there)

    def _fits(self, peer: PeerId, domain: str) -> bool:
        if peer == self._our_id:
            return domain in self._able
        if domain in self._cards[peer].unable:
            return False
        memory_bytes = self._cards[peer].memory_bytes
        return not memory_bytes or memory_bytes >= self._needed_bytes[domain]

    def _keeps(self, peer: PeerId, domain: str) -> bool:
        return any(kept.domain == domain for kept in self._cards[peer].kept)
