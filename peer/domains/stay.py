"""One life of a peer in a run with domains: where it trains, what it keeps, and when it goes on.

The life ends in order when its domain has reached its budget, when somebody else has its final
state, or when another domain needs this peer more; the next life begins where it is needed then.
Where there is nothing to train, a life consists of fetching the experts and giving them to others.
"""

import asyncio
import contextlib
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from peer.config import PeerConfig
from peer.domains.branching import branched_anchors
from peer.domains.capability import flops_per_s, free_memory_bytes
from peer.domains.copying import Copying
from peer.domains.desk import Desk
from peer.domains.guide import Guide
from peer.domains.kept import DomainState, KeptStates, state_of
from peer.driver import Driver
from peer.life import GOODBYE_S
from peer.mixing import Mixing, OuterState
from peer.ports import Wire
from peer.presence import Presence
from peer.status import PeerStatus
from peer.telemetry import EventLog
from peer.train.model import layout_of_run
from peer.train.replica import choose_device
from protocol.card import Card, Kept
from protocol.domains import domain_manifest, domain_named
from protocol.errors import ConfigError, TransportError
from protocol.manifest import Manifest
from protocol.standings import standings

logger = logging.getLogger(__name__)

LOOK_S = 1.0
SURE_S = 7.0
"""A need elsewhere must last longer than it takes to read all cards again."""
COPY_S = 60.0
"""So long those are waited for who keep a copy of our domain and cannot be called just now."""
FAR_ROUNDS = 3
"""By so many rounds a checkpoint may be behind what others have, where anchors are not common."""


class Stay:
    """See the module docstring.

    Args:
        manifest: Of the run, with its domains.
        guide: Knows where to go.
        kept: States that are here.
        presence, status, events: Of this life.

    Attributes:
        goes_on: Whether another life is to begin after this one.
        has_finished: Whether the domain reached its budget here.
    """

    def __init__(
        self,
        manifest: Manifest,
        guide: Guide,
        kept: KeptStates,
        presence: Presence,
        *,
        status: PeerStatus,
        events: EventLog,
    ) -> None:
        self.guide = guide
        self.goes_on = self.has_finished = False
        self._manifest = manifest
        self._kept = kept
        self._presence = presence
        self._status = status
        self._events = events
        self._copying: Copying | None = None
        self._contributions, self._landed_s = 0, 0.0
        self._seems_since_s: float | None = None

    @classmethod
    async def begin(
        cls,
        manifest: Manifest,
        config: PeerConfig,
        presence: Presence,
        our_card: Callable[[], Card],
        *,
        status: PeerStatus,
        events: EventLog,
    ) -> "Stay":
        """Returns a stay in the domain that needs us, or that the operator named.

        Raises:
            ConfigError: this machine can train in none, or not in that one.
        """
        kept = KeptStates(config.directory, manifest)
        speed = await asyncio.to_thread(flops_per_s, choose_device(config.device))
        guide = await asyncio.to_thread(  # it looks for the text, which may be many files
            Guide,
            *(manifest, presence, kept, status),
            wanted=config.domain,
            insists=config.insists_on_domain,
            may_read=config.allow_text_recipe,
            memory_bytes=free_memory_bytes(),
            flops_per_s=speed,
        )
        await guide.choose(our_card)
        return cls(manifest, guide, kept, presence, status=status, events=events)

    @property
    def domain(self) -> str:
        """Where we train; empty: nowhere."""
        return self.guide.domain

    def child(self, folder: Path) -> tuple[Manifest, Path]:
        """Returns the manifest of the domain's sub-swarm, and its folder; see `Guide.child`."""
        return self.guide.child(folder)

    def desk(self, driver: Driver | None) -> Desk:
        """Returns what answers others."""
        return Desk(self.domain, driver, self._kept)

    def is_behind(self, step: int) -> bool:
        """Whether a checkpoint of this step is of less use than what others have.

        If nobody is there, a copy of the state may be farther. And where anchors are not common,
        who comes back with an old one would pull the others half the way to it.
        """
        if members := self._presence.members():
            schedule = self._child_manifest().method.schedule
            theirs = statistics.median_low(self._presence.cards[peer].step for peer in members)
            return not self._is_common and theirs > step + FAR_ROUNDS * schedule.interval_steps
        return max([self._kept.step(self.domain), *(k.step for k in self._copies())]) > step

    def _copies(self) -> list[Kept]:
        """Returns all copies of our domain's state, also of those who cannot give them now."""
        cards = [card for card in self._presence.cards.values() if card.role != "left"]
        return [kept for card in cards for kept in card.kept if kept.domain == self.domain]

    def _child_manifest(self) -> Manifest:
        return domain_manifest(self._manifest, self.domain)

    @property
    def _is_common(self) -> bool:
        return self._child_manifest().method.mixing == "all"

    def follow(self, wire: Wire, our_card: Callable[[], Card]) -> None:
        """Takes the wire over, for copies."""
        self._copying = Copying(
            self._manifest,
            self._kept,
            self._presence,
            wire,
            events=self._events,
            waits=self._status.waits,
            our_card=lambda: self.guide.dressed(our_card()),
        )

    async def keep_coming(self, our_card: Callable[[], Card]) -> None:
        """Stays in the directory while the trainer loads; ends by being cancelled."""
        await self._presence.run(
            lambda: self.guide.dressed(replace(our_card(), role="coming")), lambda: None
        )

    async def prepare(self, mixing: Mixing) -> int:
        """Lets a new member begin at our own copy of the domain, or at the seed's last anchor.

        Returns:
            The step of that copy; 0 if there is none.
        """
        await self._presence.refresh_quietly()  # loading took a while
        await self._until_copies_can_be_had(mixing)
        seed = domain_named(self._manifest, self.domain).branch_from
        has_begun = any(map(mixing.round_of, range(len(mixing.outer))))
        if (copy := await self._copy()) is not None:
            await asyncio.to_thread(_load, copy, mixing)
            logger.info("going on from our copy of %s, of step %d", self.domain, copy.step)
            return copy.step
        if seed and not has_begun and not self._has_begun():
            state = await self._seed(seed)
            theirs = layout_of_run(domain_manifest(self._manifest, seed))
            for fragment, anchor in enumerate(branched_anchors(state, theirs, mixing.layout)):
                first = mixing.outer[fragment].copy
                mixing.load_state(fragment, anchor, first.state, first.own, 0)
            self._events.write("branched", of=seed, step=state.step)
        return 0

    async def _until_copies_can_be_had(self, mixing: Mixing) -> None:
        """Waits while all who have what this domain came to are between two lives."""
        here = max(self._kept.step(self.domain), *map(mixing.round_of, range(len(mixing.outer))))
        with self._status.waits.on("who keeps a copy", which=self.domain, within_s=COPY_S):
            deadline_s = asyncio.get_running_loop().time() + COPY_S
            while not (here or self._has_begun()) and any(k.round for k in self._copies()):
                if asyncio.get_running_loop().time() >= deadline_s:
                    logger.warning("nobody could give us a copy of %s", self.domain)
                    return
                await asyncio.sleep(LOOK_S)
                await self._presence.refresh_quietly()

    async def train(self, our_card: Callable[[], Card], driver: Driver) -> None:
        """Copies what is to be copied, and returns when this life is to end."""
        self._landed_s = asyncio.get_running_loop().time()
        self._contributions = self._status.contributions
        await self._until(lambda: self._ends(our_card(), driver))

    async def idle(self, our_card: Callable[[], Card], on_refresh: Callable[[], None]) -> None:
        """Fetches all experts and gives them to others, and returns when there is work."""
        self._of_all.wants_all = True
        presence = self._presence
        present = asyncio.create_task(
            presence.run(lambda: self.guide.dressed(our_card()), on_refresh)
        )
        waiting = asyncio.create_task(self._until(lambda: self._has_work(our_card())))
        try:
            await asyncio.wait((present, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.result() if waiting.done() else present.result()
        finally:
            for task in (present, waiting):
                task.cancel()
            await asyncio.gather(present, waiting, return_exceptions=True)
            with contextlib.suppress(TransportError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    goodbye = replace(our_card(), role="left")
                    await presence.announce(self.guide.dressed(goodbye))

    async def keep_final(self, outer: Sequence[OuterState]) -> None:
        """Keeps the last state of the domain.

        Raises:
            ConfigError: it is not finite, or cannot be written. Then we do not go on.
        """
        total_steps = domain_named(self._manifest, self.domain).inner.total_steps
        state = state_of(outer, step=total_steps, is_final=True)
        try:
            if not all(bool(each.anchor.isfinite().all()) for each in outer):
                raise ConfigError("training has diverged: its values are not finite")
            await self._kept.keep(self.domain, state)
        except ConfigError as error:
            self.goes_on = self.guide.is_going = False
            raise ConfigError(f"the expert of {self.domain} was not kept: {error}") from None
        self._events.write("domain_done", step=total_steps, round=state.round)

    async def _until(self, is_time: Callable[[], bool]) -> None:
        """Copies what is to be copied until it is time for another life."""
        copying = asyncio.create_task(self._of_all.run())
        try:
            while not copying.done():
                await asyncio.sleep(LOOK_S)
                if is_time():
                    self.goes_on = self.guide.is_going = True
                    return
            copying.result()
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)

    def _ends(self, card: Card, driver: Driver) -> bool:
        standing = self.guide.standing(card)
        has_nothing_to_give = driver.has_nothing_to_give
        if self.guide.is_over(
            card, has_nothing_to_give=has_nothing_to_give, quiet_s=self._quiet_s()
        ):
            self.has_finished = True
            return True
        total_steps = domain_named(self._manifest, self.domain).inner.total_steps
        if self._status.is_done and self._status.step < total_steps:
            return False  # --max-steps: it stays, and answers the others
        if standing is not None and standing.is_done:
            if not self._kept.is_final(self.domain):  # anybody can say so: first we want to see it
                return False
            self._status.notices.append(f"domain {self.domain} has reached its budget elsewhere")
            return True
        best = self.guide.best(card)
        if not self._is_sure(best not in (self.domain, None)):
            return False
        self._status.notices.append(f"going from {self.domain} to {best}, which has nobody")
        self._events.write("domain_left", to=best)
        return True

    def _has_work(self, card: Card) -> bool:
        self.guide.standing(card)
        self._status.phase = self._idle_words()
        return self._is_sure(self.guide.best(card) is not None)

    def _is_sure(self, seems_so: bool) -> bool:
        """Whether it has seemed so, without a break, for longer than cards are old."""
        now_s = asyncio.get_running_loop().time()
        if not seems_so:
            self._seems_since_s = None
        elif self._seems_since_s is None:
            self._seems_since_s = now_s
        return self._seems_since_s is not None and now_s >= self._seems_since_s + SURE_S

    def _idle_words(self) -> str:
        experts = [domain.name for domain in self._manifest.domains if domain.is_expert]
        here = sum(self._kept.is_final(name) for name in experts)
        is_all_done = all(standing.is_done for standing in self._status.standings)
        why = "every domain has reached its budget" if is_all_done else "no domain needs this peer"
        return f"{why}; {here} of {len(experts)} experts are here, for others too"

    def _quiet_s(self) -> float:
        now_s = asyncio.get_running_loop().time()
        if self._status.contributions != self._contributions:  # what others still land is theirs
            self._contributions, self._landed_s = self._status.contributions, now_s
        return now_s - self._landed_s

    def _has_begun(self) -> bool:
        return bool(self._presence.progress()[0])

    async def _copy(self) -> DomainState | None:
        if not self._kept.step(self.domain) or (self._has_begun() and not self._is_common):
            return None  # where anchors are not common, those who are there know better
        try:
            return await self._kept.load(self.domain)
        except ConfigError as error:
            self._status.notices.append(f"our copy of {self.domain} is of no use: {error}")
            return None

    async def _seed(self, name: str) -> DomainState:
        self._status.phase = f"waiting for the last state of {name}, from which it branches"
        while True:
            if not self._kept.is_final(name):
                found = {s.domain: s for s in standings(self._manifest, self._presence.cards)}
                await self._of_all.fetch(found[name])
            if self._kept.is_final(name):
                with contextlib.suppress(ConfigError):  # it is damaged, and others have one
                    return await self._kept.load(name)
            await asyncio.sleep(LOOK_S)
            await self._presence.refresh_quietly()

    @property
    def _of_all(self) -> Copying:
        assert self._copying is not None, "follow() comes first"
        return self._copying


def _load(copy: DomainState, mixing: Mixing) -> None:
    """Takes over what is farther than what is here."""
    for fragment, each in enumerate(copy.fragments):
        if each.round > mixing.round_of(fragment):
            mixing.load_state_blob(fragment, list(each.vectors), each.round, lineage=each.lineage)
