"""Our place in the swarm: the directory, our card in it, and what we know of the others."""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Sequence

from peer.ports import Directory
from protocol.card import TOPIC, Card, Kept, parse_card
from protocol.errors import RemoteError, TransportError
from protocol.identity import PeerId, parse_peer_id
from protocol.record import Record
from protocol.rooms import Rooms
from protocol.ticket import MAX_ADDRESSES, Address, Ticket

logger = logging.getLogger(__name__)

REFRESH_S = 5.0
CARD_LIFETIME_S = 30.0
GOODBYE_LIFETIME_S = 60.0
FORMER_S = 600.0
"""So long we can still reach somebody whom we do not see any more."""
EVERYWHERE = ("0.0.0.0", "::")
MAX_WIRE_ADDRESSES = 8


class Presence:
    """Keeps our card published and the others' cards at hand.

    Args:
        directory: Where cards are.
        our_id: Whose card is ours.
        rooms: Where to be in a swarm too large for everybody to know everybody; without them we
            know all whose cards are in the one topic that is everybody's.
    """

    def __init__(self, directory: Directory, our_id: PeerId, rooms: Rooms | None = None) -> None:
        self.directory = directory
        self.rooms = rooms
        """May be set later, when the run's method is known."""
        self.cards: dict[PeerId, Card] = {}
        """Of all others whom we know now."""
        self.our_id = our_id
        self.domain = ""
        """In which we train, in a run with domains: members are those who train there, too."""
        self.on_own: Callable[[Card], None] = lambda card: None
        """Called with each card of ours that is read, which another life of ours may have written;
        what it raises ends `run`."""
        self._former: dict[PeerId, tuple[Card, float]] = {}
        """Whom we knew, with the time when we lost sight of them."""
        self._refresh_now = asyncio.Event()
        directory.on_reunion = self.look_again

    def addresses(self, peer_id: PeerId) -> Sequence[str]:
        """Returns host:port candidates of a peer's wire, also of one whom we knew a while ago.

        Whoever leaves a room may be in the middle of an exchange with somebody who stays.
        """
        card = self._card(peer_id)
        return card.wire_addresses if card else ()

    def relays(self, peer_id: PeerId) -> Sequence[PeerId]:
        """Returns through whom a peer can be called, if it cannot be dialled."""
        card = self._card(peer_id)
        return card.relays if card else ()

    def knows(self, peer_id: PeerId) -> bool:
        """Whether we have the card of a peer that trains with us, or had it a while ago.

        Of one that comes, or comes from another domain, the card says nothing that helps.
        """
        card = self._card(peer_id)
        if card is None or card.role == "coming":
            return False
        return not self.domain or card.domain == self.domain

    def _card(self, peer_id: PeerId) -> Card | None:
        return self.cards.get(peer_id) or self._former.get(peer_id, (None, 0.0))[0]

    @property
    def reachable(self) -> frozenset[PeerId]:
        """All whose addresses we have."""
        return frozenset((*self.cards, *self._former))

    def members(self) -> tuple[PeerId, ...]:
        """Returns the other peers that train, sorted."""
        return self._in_role("peer")

    def holders(self) -> tuple[PeerId, ...]:
        """Returns the other peers that train no more, but have the model, sorted."""
        return self._in_role("holder")

    def left(self) -> tuple[PeerId, ...]:
        """Returns the other peers that said goodbye lately, sorted.

        Whoever went to another domain has done so, too. And as long as we see peers of other
        domains, we have not lost sight of the swarm: who is missing of ours is gone.
        """
        left = set(self._in_role("left"))
        if self.domain:
            elsewhere = [p for p, c in self.cards.items() if self.domain != c.domain]
            left.update(elsewhere)
            if any(self.cards[peer].role in ("peer", "holder") for peer in elsewhere):
                left.update(p for p, (c, _) in self._former.items() if c.domain == self.domain)
        return tuple(sorted(left))

    def progress(self) -> tuple[dict[PeerId, int], dict[PeerId, int]]:
        """Returns rounds and steps of all who can give us a state of what we train.

        Whoever trains elsewhere may have one on its disk; it counts if it is the newest.
        """
        rounds, steps = {}, {}
        for peer in (*self.members(), *self.holders()):
            rounds[peer], steps[peer] = self.cards[peer].round, self.cards[peer].step
        newest = max(rounds.values(), default=0)
        copies = self._copies()
        if copies and max(kept.round for kept in copies.values()) > newest:  # they lost their last
            newest = max(kept.round for kept in copies.values())
            copies = {peer: kept for peer, kept in copies.items() if kept.round == newest}
            rounds = {peer: kept.round for peer, kept in copies.items()}
            steps = {peer: kept.step for peer, kept in copies.items()}
        return {peer: round for peer, round in rounds.items() if round > 0}, steps

    def _copies(self) -> dict[PeerId, Kept]:
        """Returns the copies of our domain's state, of those who can give them now."""
        return {
            peer: kept
            for peer, card in self.cards.items()
            if self.domain and card.role != "left" and (card.wire_addresses or card.relays)
            for kept in card.kept
            if kept.domain == self.domain
        }

    def _in_role(self, role: str) -> tuple[PeerId, ...]:
        return tuple(
            sorted(
                peer
                for peer, card in self.cards.items()
                if card.role == role and (not self.domain or card.domain == self.domain)
            )
        )

    def look_again(self) -> None:
        """Makes `run` read the directory at once: somebody new was heard of."""
        self._refresh_now.set()

    async def refresh(self) -> None:
        """Reads the cards of all whom we know. A card that makes no sense is as good as none."""
        cards = {}
        for record in await self._read():
            try:
                card = parse_card(record.payload)
            except RemoteError as error:
                logger.debug("card of %s: %s", record.owner, error)
                continue
            if record.owner == self.our_id:
                self.on_own(card)
            else:
                cards[record.owner] = card
        self._remember(cards)
        self.cards = cards
        self.directory.meet(
            address
            for peer_id, card in cards.items()
            if card.reach == "direct"
            for address in entrances(peer_id, card)
        )

    def _remember(self, cards: dict[PeerId, Card]) -> None:
        now_s = asyncio.get_running_loop().time()
        lost = {peer: (card, now_s) for peer, card in self.cards.items() if card.role != "left"}
        both = self._former | lost
        self._former = {
            peer: (card, since_s)
            for peer, (card, since_s) in both.items()
            if peer not in cards and since_s > now_s - FORMER_S
        }

    async def _read(self) -> list[Record]:
        """Returns the records of all whom we know; of two from one owner the newer comes last."""
        if self.rooms is None:
            return await self.directory.read(TOPIC)
        found: list[Record] = []
        self.rooms.begin()
        while topics := self.rooms.to_read():
            answers = await asyncio.gather(*map(self.directory.read, topics))
            for topic, records in zip(topics, answers, strict=True):
                self.rooms.on_read(topic, [record.owner for record in records])
                found += records
        known = {*self.rooms.others(), self.our_id}
        found = [record for record in found if record.owner in known]
        return sorted(found, key=lambda record: record.expires_unix_s)

    async def refresh_quietly(self) -> None:
        """Reads all cards, if anybody can be asked now."""
        try:
            await self.refresh()
        except TransportError as error:
            logger.debug("%s", error)

    async def announce(self, card: Card) -> None:
        """Publishes our card where others look for it."""
        lifetime_s = GOODBYE_LIFETIME_S if card.role == "left" else CARD_LIFETIME_S
        payload = card.to_bytes()
        if self.rooms is None:
            await self.directory.publish(TOPIC, payload, lifetime_s=lifetime_s)
            return
        outcomes = await asyncio.gather(
            *(
                self.directory.publish(topic, payload, lifetime_s=lifetime_s)
                for topic in self.rooms.to_publish()
            ),
            return_exceptions=True,
        )
        for error in filter(None, outcomes):
            if not isinstance(error, TransportError):
                raise error
            logger.debug("%s", error)  # a crowd rushed in: reading the room shows us the next

    async def run(self, our_card: Callable[[], Card], on_refresh: Callable[[], None]) -> None:
        """Announces and refreshes for ever; a directory out of reach is only logged.

        A newcomer announces itself first, so that of two who come at once one sees the other.
        Later we read first: what we announce takes the place of another life's card.
        """
        is_reachable, has_come = True, False
        while True:
            is_new, has_come = not has_come, True
            try:
                if is_new:
                    await self.announce(our_card())
                await self.refresh()
                if not is_new:
                    await self.announce(our_card())
                is_reachable = True
            except (TransportError, RemoteError) as error:
                if is_reachable:
                    logger.info("the directory is out of reach: %s", error)
                is_reachable = False
            on_refresh()
            self._refresh_now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._refresh_now.wait()
                    await asyncio.sleep(0.5)  # strangers often come in numbers

    def ticket(self, ticket: Ticket) -> Ticket:
        """Returns a ticket for the same run that works when those in `ticket` have died.

        It lists us first, then the bootstrap nodes and the other peers that live, then those whom
        only `ticket` lists. A living peer's addresses in `ticket` stay: it may know better ones.
        """
        ours = [address_of(maddr) for maddr in self.directory.multiaddrs()]
        listed = [address for address in ticket.addresses if address.peer_id != self.our_id]
        nodes: list[Address] = []
        peers: list[Address] = []
        for peer_id, card in sorted(self.cards.items()):
            if card.role != "left":
                theirs = [address for address in listed if address.peer_id == peer_id]
                theirs += entrances(peer_id, card)
                (nodes if card.role == "bootstrap" else peers).extend(theirs)
        addresses = tuple(dict.fromkeys(ours + nodes + peers + listed))[:MAX_ADDRESSES]
        return Ticket(ticket.run_id, ticket.founder, addresses, ticket.secret)


def entrances(peer_id: PeerId, card: Card) -> list[Address]:
    """Returns where a peer says that the directory can be entered through it.

    Hosts are numbers: nobody's card shall make us ask for names, and each fits a ticket.
    """
    found = []
    for maddr in card.multiaddrs:
        with contextlib.suppress(ValueError, RemoteError):  # what they say of themselves
            found.append(address_of(maddr))
    return [address for address in found if address.peer_id == peer_id]


def wire_addresses(
    directory: Directory, *, listen_host: str, announce_host: str | None, port: int
) -> tuple[str, ...]:
    """Returns the host:port candidates at which others may find our wire.

    A host that listens everywhere has the addresses that its directory found for itself.
    """
    if announce_host or listen_host not in EVERYWHERE:
        return (f"{announce_host or listen_host}:{port}",)
    hosts = dict.fromkeys(address_of(maddr).host for maddr in directory.multiaddrs())
    ranked = sorted(hosts, key=lambda host: host.startswith("127."))
    return tuple(f"{host}:{port}" for host in ranked)[:MAX_WIRE_ADDRESSES]


def address_of(multiaddr: str) -> Address:
    """Returns the address that `/ip4/HOST/tcp/PORT/p2p/ID` spells.

    Raises:
        ValueError: it spells none.
        MalformedMessage: nobody has such an id.
    """
    _, _, host, _, port, _, peer_id = multiaddr.split("/")
    if not host.isascii() or "%" in host:  # a zone means something on its own machine only
        raise ValueError(f"{host[:64]!r} is no host")
    ipaddress.ip_address(host)
    is_number = port.isascii() and port.isdecimal() and len(port) <= 5
    if not is_number or not 0 < int(port) < 65536:
        raise ValueError(f"{port[:8]!r} is no port")
    return Address(host, int(port), parse_peer_id(peer_id))
