"""Watches a swarm: asks its peers how they are every few seconds, and keeps a view of the whole."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from peer.presence import Presence
from peer.watch.assemble import view_of
from peer.watch.diary import Diary
from peer.watch.heard import Heard
from peer.watch.parameters import count_parameters
from peer.watch.view import SwarmView
from protocol.card import Card
from protocol.errors import NotAvailable, RemoteError, TransportError
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.report_codec import SignedReport

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
ANSWER_S = 4.0
"""A report is small, but its peer may have to be dialled, or be behind a slow link."""
MAX_ASKED = 32
"""At once."""
LOOK_S = 8.0
"""A look takes no longer, however many do not answer: what the others said grows old."""
SPARED_S = 15.0
"""So long a peer is left alone that gave no report."""
_ASKED_ROLES = ("peer", "holder", "coming")


class ReportSource(Protocol):
    """A wire, as far as an observer needs it."""

    async def report(self, peer_id: PeerId, *, wait_s: float) -> SignedReport:
        """Returns how a peer is; see `peer.net.wire.GrpcWire`."""


Own = Callable[[], tuple[Card, SignedReport | None]]
"""Returns our own card and report, if we watch the swarm that we are in; a node has no report."""


async def _nothing() -> None:
    """Somebody else reads the directory."""


class Observer:
    """See the module docstring.

    Args:
        manifest: The run's.
        presence: Whom to ask.
        wire: How.
        own: If we are in the swarm ourselves: nobody asks itself.
        refresh: Reads the directory, if nobody else does.
        clock: Unix time.
    """

    def __init__(
        self,
        manifest: Manifest,
        presence: Presence,
        wire: ReportSource,
        *,
        own: Own | None = None,
        refresh: Callable[[], Awaitable[None]] = _nothing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._manifest = manifest
        self._presence = presence
        self._wire = wire
        self._own = own
        self._refresh = refresh
        self._clock = clock
        self._heard: dict[PeerId, Heard] = {}
        self._spared_until_s: dict[PeerId, float] = {}
        self._diary = Diary()
        self._parameters: int | None = None
        self._view = self._assemble(presence.cards)

    @property
    def view(self) -> SwarmView:
        """The swarm when somebody last looked."""
        return self._view

    @property
    def signed(self) -> Mapping[PeerId, bytes]:
        """The reports as they came, so that others can check them, too."""
        return MappingProxyType({peer: each.signed.data for peer, each in self._heard.items()})

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            try:
                await self.look_once()
            except Exception as error:  # noqa: BLE001 - watching must not end what is watched
                logger.warning("cannot watch the swarm for now: %r", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look_once(self) -> None:
        """Asks all peers that we know once, and renews the view."""
        if self._parameters is None:
            self._parameters = await asyncio.to_thread(count_parameters, self._manifest)
        await self._refresh()
        now_s = self._clock()
        self._spared_until_s = {
            # Our clock may have been put back meanwhile.
            peer: until_s
            for peer, until_s in self._spared_until_s.items()
            if now_s < until_s <= now_s + SPARED_S
        }
        at_once = asyncio.Semaphore(MAX_ASKED)

        async def ask(peer: PeerId) -> None:
            async with at_once:
                await self._ask(peer)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S), asyncio.TaskGroup() as group:
                for peer in self._whom_to_ask():
                    group.create_task(ask(peer))
        cards = dict(self._presence.cards)
        if self._own is not None:
            card, signed = self._own()
            cards[self._presence.our_id] = card
            if signed is not None:
                self._heard[self._presence.our_id] = Heard(signed, self._clock())
        now_s = self._clock()
        self._heard = {peer: each for peer, each in self._heard.items() if each.is_of_use(now_s)}
        view = self._assemble(cards)
        self._diary.compare(view)
        self._view = replace(view, history=self._diary.points, events=self._diary.events)

    def _whom_to_ask(self) -> list[PeerId]:
        """Returns who is not spared; those who answered last time are the first."""
        asked = [
            peer
            for peer, card in self._presence.cards.items()
            if card.role in _ASKED_ROLES and peer not in self._spared_until_s
        ]
        random.shuffle(asked)  # else, of too many for one look, the same ones would always be left
        return sorted(asked, key=lambda peer: peer not in self._heard)

    async def _ask(self, peer: PeerId) -> None:
        try:
            signed = await self._wire.report(peer, wait_s=ANSWER_S)
        except (TransportError, RemoteError) as error:
            logger.debug("no report of %s: %s", peer, error)
            is_weather = isinstance(error, TransportError) and not isinstance(error, NotAvailable)
            spared_s = LOOK_EVERY_S if is_weather and peer in self._heard else SPARED_S
            self._spared_until_s[peer] = self._clock() + spared_s
        except Exception as error:  # noqa: BLE001 - one peer must not hide the others
            logger.warning("cannot ask %s how it is: %r", peer, error)
            self._spared_until_s[peer] = self._clock() + SPARED_S
        else:
            self._heard[peer] = Heard(signed, self._clock())

    def _assemble(self, cards: Mapping[PeerId, Card]) -> SwarmView:
        return view_of(
            self._manifest,
            cards,
            self._heard,
            now_unix_s=self._clock(),
            parameters=self._parameters or 0,
        )
