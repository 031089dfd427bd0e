"""A visit to a run by somebody who has its ticket and takes no part in it: nobody sees us.

Our identity is drawn for the visit, no card is ours, and what we listen at is on loopback only.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from peer.config import PeerConfig
from peer.entry import find_run
from peer.net.config import WireConfig
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.wire import GrpcWire
from peer.ports import Source
from peer.presence import Presence
from peer.watch.observer import Observer
from protocol.card import Card
from protocol.errors import NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import Manifest
from protocol.messages import Note
from protocol.standings import Standing, standings
from protocol.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Visit:
    """What is there to be used while it lasts."""

    manifest: Manifest
    signature: bytes
    """The founder's, of the manifest."""
    presence: Presence
    wire: GrpcWire
    observer: Observer
    """Has not looked yet: `await visit.observer.look_once()`."""

    @property
    def cards(self) -> Mapping[PeerId, Card]:
        """Of all whom a stranger meets; in a swarm of more than some dozens these are not all."""
        return self.presence.cards

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How the domains stand; none in a run without domains."""
        return standings(self.manifest, self.cards)


@contextlib.asynccontextmanager
async def visiting(ticket: Ticket, *, wait_s: float) -> AsyncIterator[Visit]:
    """Enters a run as nobody, and leaves it at the end of the block.

    Args:
        ticket: With the secret, if the run is by invitation.
        wait_s: So long somebody who knows the run is looked for.

    Raises:
        ConfigError: nobody could tell us.
    """
    nobody = Identity(secrets.token_bytes(32))
    async with contextlib.AsyncExitStack() as stack:
        directory = await HivemindDirectory.start(nobody, ticket.run_id, bootstrap=ticket.addresses)
        stack.push_async_callback(directory.close)
        presence = Presence(directory, nobody.peer_id)
        config = PeerConfig(ticket=ticket, directory=Path(), wait_s=wait_s)
        run = await find_run(nobody, config, presence)
        limits = run.manifest.limits
        wire_config = WireConfig(
            run_id=run.manifest.run_id,
            manifest_bytes=run.manifest.to_bytes(),
            manifest_signature=run.signature,
            secret=ticket.secret,
            chunk_bytes=limits.chunk_bytes,
            max_message_bytes=limits.max_message_bytes,
            progress_s=run.manifest.round.progress_s,
            max_streams_per_peer=limits.max_streams_per_peer,
            num_fragments=run.manifest.method.schedule.fragments,
            max_peers=limits.max_peers,
            relay_bps=0,
        )
        wire = await GrpcWire.start(
            nobody, wire_config, inbox=_NoInbox(), addresses=presence.addresses
        )
        stack.push_async_callback(wire.close)
        wire.reach.relays_of = presence.relays
        met: set[PeerId] = set()

        async def refresh() -> None:
            await presence.refresh_quietly()
            for peer in met - presence.reachable:
                await wire.forget(peer)
            met.clear()
            met.update(presence.reachable)

        observer = Observer(run.manifest, presence, wire, refresh=refresh)
        yield Visit(run.manifest, run.signature, presence, wire, observer)


class _NoInbox:
    """A visitor takes part in nothing, and has nothing to give."""

    def on_note(self, src: PeerId, note: Note) -> None:
        """Ignored."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns nothing, ever.

        Raises:
            NotAvailable: always.
        """
        raise NotAvailable("this is a visitor: it holds no model")
