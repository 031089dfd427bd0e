"""Where a peer of a run with domains trains, and for how long.

A newcomer says that it comes, looks who else does, and takes the domain that `protocol.placement`
finds for it; or the one that its operator names. It stays until the domain has reached its budget,
or until it is drawn to go to a domain that has nobody. Its next life then begins in another one.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from peer.domains.capability import PROCESS_BYTES
from peer.domains.kept import KeptStates
from peer.experts.flops import flops_per_token
from peer.experts.memory import peer_bytes
from peer.method import check_method
from peer.presence import Presence
from peer.run_folder import MANIFEST, write_whole
from peer.status import PeerStatus
from peer.train.recipes import files_of, operator_globs, parts_of
from protocol.card import Card
from protocol.domains import domain_manifest, domain_named
from protocol.errors import ConfigError, RemoteError, TransportError
from protocol.manifest import Manifest
from protocol.placement import choice
from protocol.standings import Standing, standings

logger = logging.getLogger(__name__)

SETTLE_S = 2.0
"""Who comes waits so long for the cards of others who come: together they choose better."""
QUIET_S = 5.0
"""A domain is over so long after its last landing: the last contributions of others are in it."""
PATIENCE_S = 60.0
"""So long somebody who has made the last step waits for others who are about to."""
NEARLY_FRAC = 0.95
DOMAINS = "domains"


class Guide:
    """See the module docstring.

    Args:
        manifest: Of the run, with its domains.
        presence: Who is there.
        kept: The states that are here.
        status: Where to say how the domains stand.
        wanted: The domain that the operator named, until it is done; None leaves it to us.
        insists: Whether one that is done already is a mistake.
        may_read: Whether the operator lets the run train on files of this machine.
        memory_bytes, flops_per_s: What this machine can do; 0 is unknown.
    """

    def __init__(
        self,
        manifest: Manifest,
        presence: Presence,
        kept: KeptStates,
        status: PeerStatus,
        *,
        wanted: str | None,
        insists: bool = True,
        may_read: bool,
        memory_bytes: int,
        flops_per_s: int,
    ) -> None:
        self._manifest = manifest
        self._presence = presence
        self._kept = kept
        self._status = status
        self._memory_bytes = memory_bytes
        self._flops_per_s = flops_per_s
        self.domain = ""
        """Where we train; empty: nowhere."""
        self.is_going = False
        """Whether we leave this domain for another one: that is no goodbye to the swarm."""
        children = {d.name: domain_manifest(manifest, d.name) for d in manifest.domains}
        self._flops = {
            name: flops_per_token(child.transformer) * child.inner.batch_sequences * child.context
            for name, child in children.items()
        }
        self._needed_bytes = {
            name: int(peer_bytes(manifest, name)) + PROCESS_BYTES for name in children
        }
        if wanted is not None:
            domain_named(manifest, wanted)
        problems = {
            name: problem
            for name, child in children.items()
            if (problem := self._problem(child, may_read))
        }
        self._wanted = wanted
        self._insists = insists
        self._able = frozenset(children.keys() - problems.keys())
        self._unable = tuple(sorted(problems))
        if insists and (wanted in problems or not self._able):
            raise ConfigError(problems[wanted or next(iter(problems))])

    def dressed(self, card: Card) -> Card:
        """Returns our card with what concerns domains.

        Who goes from one domain to another says so instead of goodbye, for all that it keeps is
        still there, and it will be, too; only its wire is closed for some seconds.
        """
        if self.is_going and card.role == "left":
            card = replace(card, role="coming", wire_addresses=(), relays=())
            return replace(card, kept=self._kept.cards())
        return replace(
            card,
            domain=self.domain,
            memory_bytes=self._memory_bytes,
            flops_per_s=self._flops_per_s,
            kept=self._kept.cards(),
            stays=self._wanted is not None and self._wanted == self.domain,
            unable=self._unable,
        )

    async def choose(self, our_card: Callable[[], Card]) -> str:
        """Returns where we train now; an empty word when there is nothing to do for us.

        Args:
            our_card: Returns our card, which says that we come.

        Raises:
            ConfigError: the domain that the operator named has reached its budget.
        """
        self.domain = ""
        await self.announce(our_card())
        await asyncio.sleep(SETTLE_S)
        await self._presence.refresh_quietly()
        self.domain = self._presence.domain = self.best(our_card()) or ""
        self._insists = False  # it was open when we came
        if self.domain:
            await self.announce(our_card())
        self._note_standings(our_card())
        return self.domain

    def best(self, our_card: Card) -> str | None:
        """Returns where we should train, as far as we know now; None is nowhere."""
        cards = {**self._presence.cards, self._presence.our_id: self.dressed(our_card)}
        if self._wanted is not None:
            mine = {each.domain: each for each in standings(self._manifest, cards)}[self._wanted]
            if not mine.is_done:
                return self._wanted if mine.is_open else None
            if self._insists and not self.domain:
                raise ConfigError(
                    f"domain {self._wanted} has reached its budget of {mine.total_steps} steps; "
                    "leave --domain out to go where there is something to do"
                )
        return choice(
            self._manifest,
            cards,
            our_id=self._presence.our_id,
            able=self._able,
            flops=self._flops,
            needed_bytes=self._needed_bytes,
        )

    def is_over(self, our_card: Card, *, has_nothing_to_give: bool, quiet_s: float) -> bool:
        """Whether the domain in which we train has reached its budget, for all who are there.

        Args:
            our_card: Of now.
            has_nothing_to_give: All our work is in the anchor.
            quiet_s: So long nothing has landed.
        """
        total_steps = domain_named(self._manifest, self.domain).inner.total_steps
        is_done = self._status.is_done and self._status.step >= total_steps
        if not is_done or not has_nothing_to_give or quiet_s < QUIET_S:
            return False
        others = [self._presence.cards[peer] for peer in self._presence.members()]
        nearly = [card for card in others if NEARLY_FRAC * total_steps <= card.step < total_steps]
        return not nearly or quiet_s >= PATIENCE_S

    def standing(self, our_card: Card) -> Standing | None:
        """Returns how the domain stands in which we train; None if that is nowhere."""
        found = self._note_standings(our_card)
        return next((each for each in found if each.domain == self.domain), None)

    def child(self, folder: Path) -> tuple[Manifest, Path]:
        """Returns the manifest of the domain in which we train, and its folder, made if needed.

        Args:
            folder: The peer's.

        Raises:
            ConfigError: it cannot be written.
        """
        manifest = domain_manifest(self._manifest, self.domain)
        own = folder / DOMAINS / self.domain
        try:
            own.mkdir(parents=True, exist_ok=True)
            if not (own / MANIFEST).exists():
                write_whole(own / MANIFEST, manifest.to_bytes())
        except OSError as error:
            raise ConfigError(f"cannot write to {own}: {error.strerror}") from error
        return manifest, own

    def _note_standings(self, our_card: Card) -> tuple[Standing, ...]:
        cards = {**self._presence.cards, self._presence.our_id: self.dressed(our_card)}
        self._status.domain = self.domain
        self._status.standings = standings(self._manifest, cards)
        return self._status.standings

    def _problem(self, child: Manifest, may_read: bool) -> str:
        """Returns why we cannot train in a domain, as a sentence; empty if we can."""
        recipe, name = child.data.recipe, child.name.split()[-1]
        globs = operator_globs(recipe)
        if globs and not may_read:
            return (
                f"domain {name} would train on your files {globs[0]!r}, and the expert that others "
                "get may remember them; if you agree, add --allow-text"
            )
        needed_bytes = self._needed_bytes[name]
        if 0 < self._memory_bytes < needed_bytes:
            return (
                f"domain {name} needs about {needed_bytes / 1e9:.1f} GB of memory, and "
                f"{self._memory_bytes / 1e9:.1f} GB are free here"
            )
        try:
            check_method(child)
            for part in parts_of(recipe):
                files_of(part)
        except ConfigError as error:
            return f"domain {name}: {error}"
        return ""

    async def announce(self, card: Card) -> None:
        """Says that we come."""
        try:
            await self._presence.announce(self.dressed(replace(card, role="coming")))
        except (TransportError, RemoteError) as error:
            logger.debug("not announced: %s", error)
