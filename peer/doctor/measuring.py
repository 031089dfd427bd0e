"""What others are asked for: the run, pings, to dial us back, and bytes to measure the link."""

import asyncio
import time
from collections.abc import Mapping

from peer.doctor.door import Answers
from peer.net.probe import Probed
from peer.net.wire import GrpcWire, fetch_manifest
from protocol.card import Card
from protocol.errors import RunMismatch, ThinwireError
from protocol.identity import Identity, PeerId
from protocol.pb import thinwire_pb2 as pb
from protocol.ticket import Ticket

PING_S = 5.0
NUM_HELLOS, NUM_PINGED, NUM_DIALLERS, NUM_PROBED = 8, 16, 3, 2


def dialable(cards: Mapping[PeerId, Card]) -> list[PeerId]:
    """Returns who can be dialled, peers before bootstrap nodes."""
    found = [
        peer
        for peer, card in cards.items()
        if card.role != "left" and card.reach == "direct" and card.wire_addresses
    ]
    return sorted(found, key=lambda peer: cards[peer].role == "bootstrap")


async def heard(identity: Identity, ticket: Ticket, cards: Mapping[PeerId, Card]) -> Answers:
    """Says Hello to some of those who can be dialled, and returns what they answer."""
    refused: dict[PeerId, str] = {}
    unreached: dict[PeerId, str] = {}
    welcomed: dict[PeerId, tuple[bytes, bytes]] = {}

    async def ask(peer: PeerId) -> None:
        addresses = cards[peer].wire_addresses
        try:
            welcomed[peer] = await fetch_manifest(
                identity, peer, addresses, run_id=ticket.run_id, secret=ticket.secret
            )
        except RunMismatch as error:
            refused[peer] = str(error)
        except ThinwireError as error:
            unreached[peer] = str(error)

    await asyncio.gather(*map(ask, dialable(cards)[:NUM_HELLOS]))
    return Answers(manifests=tuple(welcomed.values()), refused=refused, unreached=unreached)


async def pinged(wire: GrpcWire, cards: Mapping[PeerId, Card]) -> tuple[list[float], int]:
    """Returns the round trips to those who answer [s], and how many were asked."""
    asked = [peer for peer, card in cards.items() if card.role != "left"][:NUM_PINGED]
    trips_s = await asyncio.gather(*(_ping(wire, peer) for peer in asked))
    return [trip_s for trip_s in trips_s if trip_s], len(asked)


async def _ping(wire: GrpcWire, peer: PeerId) -> float:
    """Returns a round trip to a peer that we are connected to; 0 if it does not answer."""
    try:
        await wire.ping(peer, wait_s=PING_S)  # which connects first
        began_s = time.perf_counter()
        await wire.ping(peer, wait_s=PING_S)
    except ThinwireError:
        return 0.0
    return time.perf_counter() - began_s


async def dialled_back(
    wire: GrpcWire, cards: Mapping[PeerId, Card]
) -> tuple[list[pb.DialBackReply], int]:
    """Returns the answers of those who tried to dial us, and how many were asked."""
    asked = dialable(cards)[:NUM_DIALLERS]
    replies = await asyncio.gather(*map(wire.reach.ask_one, asked))
    return [reply for reply in replies if reply is not None], len(asked)


async def probed(wire: GrpcWire, cards: Mapping[PeerId, Card]) -> tuple[list[Probed], str]:
    """Returns what probes have shown, one after the other, and why another one failed."""
    probes: list[Probed] = []
    refusal = ""
    for peer in dialable(cards)[:NUM_PROBED]:
        try:
            probes.append(await wire.probe(peer))
        except ThinwireError as error:
            refusal = str(error)
    return probes, refusal
