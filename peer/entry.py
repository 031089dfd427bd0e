"""Entering a swarm with nothing but a ticket: find the run, and take its state from a peer."""

import asyncio
import logging

from peer.blobs import StateSink
from peer.config import PeerConfig
from peer.method import check_method
from peer.mixing import Mixing
from peer.net.wire import fetch_manifest
from peer.ports import Wire
from peer.presence import Presence
from peer.run_folder import Run
from protocol.errors import ConfigError, RemoteError, RunMismatch, TransportError
from protocol.identity import Identity, PeerId
from protocol.lottery import donor_order
from protocol.machine import BlobRef
from protocol.manifest import Manifest, verify_manifest

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 0.3
SLACK_FRAC = 0.1
"""Without a common anchor, rounds differ from peer to peer and mean little."""


async def find_run(identity: Identity, config: PeerConfig, presence: Presence) -> Run:
    """Returns the run that the ticket promises, asking whoever is in the directory.

    Raises:
        ConfigError: nobody could tell us within `config.wait_s`.
    """
    ticket, loop = config.ticket, asyncio.get_running_loop()
    deadline_s = loop.time() + config.wait_s
    problem = "nobody is in the directory"
    while loop.time() < deadline_s:
        await presence.refresh_quietly()
        for peer_id, card in presence.cards.items():
            try:
                data, signature = await fetch_manifest(
                    identity,
                    peer_id,
                    card.wire_addresses,
                    run_id=ticket.run_id,
                    secret=ticket.secret,
                )
                manifest = verify_manifest(
                    data, signature, run_id=ticket.run_id, founder=ticket.founder
                )
                return Run(manifest, signature)
            except RunMismatch as error:  # asking again would not help
                raise ConfigError(str(error)) from None
            except (RemoteError, TransportError) as error:
                problem = f"{peer_id}: {error}"
        await asyncio.sleep(ASK_AGAIN_S)
    raise ConfigError(
        f"nobody at {places(config)} could tell us about the run within {config.wait_s:g} s "
        f"({problem}); is the bootstrap node or another peer running, and can this machine reach "
        "it? A newer ticket may help"
    )


def check_run(run: Run, config: PeerConfig) -> None:
    """Refuses a run that this machine cannot or should not join.

    Raises:
        ConfigError: says why.
    """
    recipe = run.manifest.data.recipe
    if recipe.startswith("text:") and not config.allow_text_recipe:
        raise ConfigError(
            f"this run would train on your files {recipe.removeprefix('text:')!r}, and the model "
            "that others get may remember them; if you agree, add --allow-text"
        )
    check_method(run.manifest)


async def fetch_state(
    mixing: Mixing, wire: Wire, presence: Presence, manifest: Manifest, *, wait_s: float
) -> tuple[PeerId | None, int]:
    """Takes anchors, outer state and rounds from one of the peers that are farthest.

    Returns:
        The donor, and the step of the run that it is at; or None and 0 when nobody has come farther
        than the initial anchor, or nobody could give it within `wait_s`: then the exchange will
        tell us that we are behind, and we catch up.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    slack_frac = SLACK_FRAC if manifest.method.mixing != "all" else 0.0
    while True:
        cards = presence.cards
        rounds = {
            peer: cards[peer].round
            for peer in (*presence.members(), *presence.holders())
            if cards[peer].round > 0
        }
        donors = donor_order(presence.our_id, rounds, run_id=manifest.run_id, slack_frac=slack_frac)
        for donor in donors:
            if await _fetch_from(donor, mixing, wire):
                return donor, cards[donor].step
        if not donors or loop.time() >= deadline_s:
            return None, 0
        await asyncio.sleep(ASK_AGAIN_S)
        await presence.refresh_quietly()


async def _fetch_from(donor: PeerId, mixing: Mixing, wire: Wire) -> bool:
    try:
        for fragment in range(len(mixing.outer)):
            sink = StateSink(mixing.state_lengths(fragment))
            await wire.fetch(donor, BlobRef("state", fragment), sink)
            # Hashing a large model takes seconds in which others must be answered.
            await asyncio.to_thread(mixing.load_state_blob, fragment, sink.whole(), sink.round)
    except (RemoteError, TransportError) as error:
        logger.warning("%s could not give us the model: %s", donor, error)
        return False
    return True


def places(config: PeerConfig) -> str:
    """Returns where the ticket's peers should be, for people."""
    return ", ".join(f"{address.host}:{address.port}" for address in config.ticket.addresses)
