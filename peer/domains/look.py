"""A look at a run from outside, by somebody who has its ticket and takes no part in it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peer.config import PeerConfig
from peer.entry import find_run
from peer.net.directory_hivemind import HivemindDirectory
from peer.presence import Presence
from protocol.card import Card
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest
from protocol.standings import Standing, standings
from protocol.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen."""

    manifest: Manifest
    cards: Mapping[PeerId, Card]
    """Of all whom a stranger meets; in a swarm of more than some dozens these are not all."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How the domains stand; none in a run without domains."""
        return standings(self.manifest, self.cards)


async def look(ticket: Ticket, *, wait_s: float) -> Look:
    """Returns how a run is now. Nobody sees us: no card is ours, and nothing is written.

    Args:
        ticket: With the secret, if the run is by invitation.
        wait_s: So long somebody who knows the run is looked for.

    Raises:
        ConfigError: nobody could tell us.
    """
    nobody = Identity(secrets.token_bytes(32))
    directory = await HivemindDirectory.start(nobody, ticket.run_id, bootstrap=ticket.addresses)
    try:
        presence = Presence(directory, nobody.peer_id)
        config = PeerConfig(ticket=ticket, directory=Path(), wait_s=wait_s)
        run = await find_run(nobody, config, presence)
        return Look(run.manifest, presence.cards)
    finally:
        await directory.close()
