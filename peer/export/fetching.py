"""The newest model of a swarm, fetched by somebody who takes no part in it."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from peer.catch_up import CatchingUp
from peer.domains.sizes import DomainSizes
from peer.entry import ASK_AGAIN_S, fetch_fragments
from peer.export.snapshot import Snapshot, require_domain, snapshot_of, typical_step
from peer.mixing import digest_of
from peer.ports import Wire
from peer.presence import Presence
from protocol.domains import domain_manifest
from protocol.errors import ConfigError, MalformedMessage
from protocol.identity import PeerId
from protocol.lineage import Lineage
from protocol.lottery import donor_order
from protocol.manifest import Manifest
from protocol.state_index import StateIndex

logger = logging.getLogger(__name__)

SHOW_S = 0.3

OnProgress = Callable[[int, int], None]
"""Told how many bytes have come, and of how many."""


class Fetching:
    """Fetches one model.

    Args:
        run: The run's manifest.
        domain: Whose model, in a run with domains.
        presence: Who is there.
        wire: The way to them.

    Attributes:
        manifest: Of the swarm that trains it.

    Raises:
        ConfigError: a domain has to be named.
    """

    def __init__(self, run: Manifest, domain: str, presence: Presence, wire: Wire) -> None:
        require_domain(run, domain)
        self._run, self._domain = run, domain
        self._presence = presence
        presence.domain = domain
        self.manifest = domain_manifest(run, domain) if domain else run
        self._sizes = DomainSizes(self.manifest)
        self._catching_up = CatchingUp(
            self._sizes,
            wire,
            progress_s=self.manifest.round.progress_s,
            events=_Log(),
            domain=domain,
        )
        self._num_fragments = self.manifest.method.schedule.fragments
        self._found: dict[int, tuple[Tensor, int, Lineage]] = {}
        """By fragment, anchor, round and lineage."""

    def progress(self) -> tuple[int, int]:
        """Returns how many bytes have come, and of how many."""
        under_way_bytes, _ = self._catching_up.progress()
        here_bytes = sum(map(self._sizes.state_bytes, self._found))
        total_bytes = sum(map(self._sizes.state_bytes, range(self._num_fragments)))
        return here_bytes + under_way_bytes, total_bytes

    async def run(
        self, *, wait_s: float, files: Path | None = None, on_progress: OnProgress
    ) -> Snapshot:
        """Returns the model.

        Args:
            wait_s: So long somebody who has it is looked for.
            files: Where the run's files are.
            on_progress: Told now and then how much has come.

        Raises:
            ConfigError: nobody has it, or could give it.
        """
        showing = asyncio.create_task(self._show(on_progress))
        try:
            steps = await self._fetch(wait_s)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        found = [self._found.pop(fragment) for fragment in range(self._num_fragments)]
        return await asyncio.to_thread(
            snapshot_of,
            *(self._run, self._domain, [anchor for anchor, _, _ in found]),
            rounds=[round for _, round, _ in found],
            step=typical_step(steps),
            lineages=[lineage for _, _, lineage in found],
            files=files,
        )

    async def _fetch(self, wait_s: float) -> list[int]:
        """Fetches all fragments; returns the steps that the donors say they are at."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        while True:
            rounds, steps = self._presence.progress()
            order = donor_order(
                self._presence.our_id, rounds, run_id=self.manifest.run_id, slack_frac=0.0
            )
            # Elsewhere each peer has anchors of its own: all fragments are to be of one.
            groups = [order] if self._sizes.is_common else [(donor,) for donor in order]
            for donors in filter(None, groups):
                if await self._fetch_from(donors):
                    return [steps[donor] for donor in donors]
            if loop.time() >= deadline_s or self._is_too_early:
                raise ConfigError(self._nobody(wait_s))
            await asyncio.sleep(ASK_AGAIN_S)
            await self._presence.refresh_quietly()

    async def _fetch_from(self, donors: tuple[PeerId, ...]) -> bool:
        if not self._sizes.is_common:
            self._found.clear()
        todo = [each for each in range(self._num_fragments) if each not in self._found]
        missing = await fetch_fragments(
            donors, todo, self._catching_up, self._take, is_common=self._sizes.is_common
        )
        return not missing

    async def _take(self, fragment: int, vectors: list[Tensor], index: StateIndex) -> None:
        anchor = vectors[0]
        if not await asyncio.to_thread(lambda: bool(anchor.isfinite().all())):
            raise MalformedMessage("an anchor that is not finite")
        digest = await asyncio.to_thread(digest_of, anchor)
        if self._sizes.is_common and digest != index.anchor_digest:
            raise MalformedMessage("an anchor whose digest is not the one in its index")
        self._found[fragment] = anchor, index.round, index.lineage

    @property
    def _members(self) -> tuple[PeerId, ...]:
        return (*self._presence.members(), *self._presence.holders())

    @property
    def _is_too_early(self) -> bool:
        """Whether peers are there, and none has anything that was agreed on: that takes a round."""
        members = self._members
        return bool(members) and not any(self._presence.cards[peer].round for peer in members)

    def _nobody(self, wait_s: float) -> str:
        members = self._members
        which = f"domain {self._domain}" if self._domain else "the run"
        if not members:
            return (
                f"nobody who has the model of {which} is there; with a peer's folder: "
                "thinwire export DIR"
            )
        if self._is_too_early:
            return f"{which} has had no round yet, so there is nothing to export; try again later"
        return (
            f"none of {len(members)} peers gave us the model of {which} within {wait_s:g} s; "
            "try again, or with a longer --wait"
        )

    async def _show(self, on_progress: OnProgress) -> None:
        while True:
            on_progress(*self.progress())
            await asyncio.sleep(SHOW_S)


class _Log:
    """Where a visitor's events go."""

    def write(self, event: str, **fields: Any) -> None:
        """Logs one event."""
        logger.info("%s %s", event.replace("_", " "), fields)
