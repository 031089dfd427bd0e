"""Fetching the states of domains in which we do not train.

A domain with few peers would lose its expert with them, so some who train elsewhere keep a copy of
its state, drawn anew when peers come and go (`protocol.placement.keepers`). What is final is copied
likewise; and who has nothing to train any more fetches all experts, for that is what they are for.
"""

import asyncio
import logging
import statistics
from collections import Counter
from collections.abc import Callable

from torch import Tensor

from peer.catch_up import CatchingUp
from peer.domains.kept import DomainState, FragmentState, KeptStates
from peer.domains.sizes import DomainSizes
from peer.entry import fetch_fragments
from peer.ports import Wire
from peer.presence import Presence
from peer.telemetry import EventLog
from peer.waits import Waits
from protocol.card import Card, Kept
from protocol.domains import domain_manifest, domain_named
from protocol.errors import ConfigError, MalformedMessage
from protocol.identity import PeerId
from protocol.lottery import donor_order
from protocol.manifest import Manifest
from protocol.placement import keepers
from protocol.standings import Standing, is_last, standings
from protocol.state_index import StateIndex

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""So often we look whether there is something to fetch."""


class Copying:
    """See the module docstring.

    Args:
        manifest: Of the run.
        kept: Where copies go.
        presence: Who is there.
        wire: The way to them.
        events, waits: Where to report.
        our_card: Returns our card of now.
    """

    def __init__(
        self,
        manifest: Manifest,
        kept: KeptStates,
        presence: Presence,
        wire: Wire,
        *,
        events: EventLog,
        waits: Waits,
        our_card: Callable[[], Card],
    ) -> None:
        self._manifest = manifest
        self._kept = kept
        self._presence = presence
        self._wire = wire
        self._events = events
        self._waits = waits
        self._our_card = our_card
        self._copied_at_s: dict[str, float] = {}
        """When each was asked for last, or came."""
        self._took_s: dict[str, float] = {}
        self._num_failures: Counter[str] = Counter()
        self.wants_all = False
        """Whether every expert that is done is to be here."""

    async def run(self) -> None:
        """Copies what is to be copied, one domain after the other, for ever."""
        while True:
            for standing in self._standings():
                name = standing.domain
                if self._is_due(standing):
                    is_here = await self.fetch(standing)
                    self._num_failures[name] = 0 if is_here else self._num_failures[name] + 1
            self._kept.expire(_now_s())
            await asyncio.sleep(LOOK_S)

    async def fetch(self, standing: Standing) -> bool:
        """Fetches a domain's newest state from whoever has it; returns whether it is here now."""
        name = standing.domain
        donors, steps, is_final = self._donors(standing)
        if not donors:
            return False
        began_s = _now_s()
        try:
            return await self._fetch(name, donors, steps, is_final=is_final)
        finally:  # what takes long comes seldom: the link is for exchanges
            self._copied_at_s[name] = _now_s()
            self._took_s[name] = _now_s() - began_s

    async def _fetch(
        self, name: str, donors: dict[PeerId, int], steps: dict[PeerId, int], *, is_final: bool
    ) -> bool:
        child = domain_manifest(self._manifest, name)
        sizes = DomainSizes(child)
        catching_up = CatchingUp(
            sizes, self._wire, progress_s=child.round.progress_s, events=self._events, domain=name
        )
        found: dict[int, FragmentState] = {}

        async def take(fragment: int, vectors: list[Tensor], index: StateIndex) -> None:
            if not await asyncio.to_thread(_are_finite, vectors):
                raise MalformedMessage("a state that is not finite")
            found[fragment] = FragmentState(
                index.round, index.anchor_digest, index.lineage, vectors
            )

        order = donor_order(self._presence.our_id, donors, run_id=child.run_id, slack_frac=0.0)
        fragments = range(child.method.schedule.fragments)
        try:
            self._kept.require_room(sum(map(sizes.state_bytes, fragments)))
        except ConfigError as error:
            logger.warning("the state of %s is not fetched: %s", name, error)
            return False
        with self._waits.on(
            "a domain's state", which=name, until="it is here", progress=catching_up.progress
        ):
            missing = await fetch_fragments(
                order, fragments, catching_up, take, is_common=sizes.is_common
            )
        if missing:
            return False
        # No single donor says how far the domain is.
        step = min(statistics.median_low(steps[peer] for peer in order), child.inner.total_steps)
        state = DomainState(step, is_final, [found[each] for each in fragments])
        try:
            await self._kept.keep(name, state)
        except ConfigError as error:
            logger.warning("the state of %s was not kept: %s", name, error)
            return False
        self._events.write(
            "domain_copied",
            of=name,
            round=state.round,
            step=state.step,
            is_final=is_final,
            donors=list(order),
        )
        return True

    def _standings(self) -> tuple[Standing, ...]:
        cards = {**self._presence.cards, self._presence.our_id: self._our_card()}
        return standings(self._manifest, cards)

    def _is_due(self, standing: Standing) -> bool:
        name = standing.domain
        is_own = name == self._presence.domain
        if self._kept.is_final(name) or (is_own and not standing.is_done):
            return False
        cards = {**self._presence.cards, self._presence.our_id: self._our_card()}
        is_ours = self._presence.our_id in keepers(standing, self._manifest, cards)
        every_s = max(self._manifest.experts.copy_every_s, self._took_s.get(name, 0.0))
        pause_s = every_s
        if standing.is_done:
            is_ours |= is_own  # before we go, we want to see that it is done
            is_ours |= self.wants_all and domain_named(self._manifest, name).is_expert
            pause_s = min(every_s, LOOK_S * 2 ** min(self._num_failures[name], 8))
        elif standing.step <= self._kept.step(name):
            return False
        return is_ours and _now_s() >= self._copied_at_s.get(name, float("-inf")) + pause_s

    def _donors(self, standing: Standing) -> tuple[dict[PeerId, int], dict[PeerId, int], bool]:
        """Returns rounds and steps of those who have the newest, and whether that is final."""
        rounds, steps = {}, {}
        domain = domain_named(self._manifest, standing.domain)
        for peer, kept in self._copies(standing.domain).items():
            if is_last(kept, domain):
                rounds[peer], steps[peer] = kept.round, kept.step
        if rounds or standing.is_done:
            return rounds, steps, True
        here = max((k.round for k in self._kept.cards() if k.domain == domain.name), default=0)
        for peer, card in self._presence.cards.items():
            is_there = card.domain == standing.domain and card.role in ("peer", "holder")
            if is_there and card.round > here:
                rounds[peer], steps[peer] = card.round, card.step
        if not standing.peers:  # then other copies are all that there is of it
            for peer, kept in self._copies(standing.domain).items():
                if kept.round > here:
                    rounds[peer], steps[peer] = kept.round, kept.step
        return rounds, steps, False

    def _copies(self, domain: str) -> dict[PeerId, Kept]:
        return {
            peer: kept
            for peer, card in self._presence.cards.items()
            if card.role != "left" and (card.wire_addresses or card.relays)
            for kept in card.kept
            if kept.domain == domain
        }


def _are_finite(vectors: list[Tensor]) -> bool:
    return all(bool(vector.isfinite().all()) for vector in vectors)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
