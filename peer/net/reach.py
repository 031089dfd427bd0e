"""Whether others can dial us, and how they reach us if not.

We ask a few of those who can be dialled to dial us. Who cannot be dialled listens at all whom it
knows and can dial (`listening`), so that they can call it (`switchboard`, `doors`), and says on its
card which of them pass calls on. Until somebody has tried, a peer counts as one that can be
dialled.
"""

import asyncio
import hashlib
import ipaddress
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from google.protobuf.message import DecodeError

from peer.net import frames
from peer.net.admission import Membership
from peer.net.config import DIAL_S, WireConfig
from peer.net.counters import ByteCounters
from peer.net.dial_back import MAX_ADDRESSES, MAX_REQUEST_BYTES, DialBack, parse_address
from peer.net.doors import Doors, Relays
from peer.net.link import CALL_ERRORS, Addresses, Link
from peer.net.listening import Listening
from peer.net.pace import Pace
from peer.net.switchboard import Switchboard
from protocol.card import MAX_RELAYS, Card, Reachability
from protocol.errors import MalformedMessage, ThinwireError, TransportError
from protocol.identity import Identity, PeerId
from protocol.pb import thinwire_pb2 as pb

logger = logging.getLogger(__name__)

DIAL_BACK = f"/{frames.SERVICE}/DialBack"
NUM_ASKED = 3
ASK_AGAIN_S = {"unknown": 15.0, "reverse": 300.0, "direct": 900.0}
MAX_HOSTS = 64
"""So many we listen at; each is one connection, which is there for our own calls too."""
SERVER = "server"
LONGEST_PLACE = 70
"""A socket's path has at most 104 bytes, on some systems."""


class Reach:
    """Everything by which a wire calls and is called without being dialled.

    Args:
        identity: Ours.
        config: The wire's.
        membership: Shown when we dial somebody back.
        link: Returns the wire's link to a peer.
        addresses: The wire's.
        counters: Where bytes count.
        up: The upload cap.
    """

    def __init__(
        self,
        identity: Identity,
        config: WireConfig,
        *,
        membership: Membership,
        link: Callable[[PeerId], Link],
        addresses: Addresses,
        counters: ByteCounters,
        up: Pace,
    ) -> None:
        self.relays_of: Relays = lambda peer: ()
        """Where others listen, by their cards; to be set by whoever reads cards."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when our card should say something else of how we are reached."""
        self._identity = identity
        self._config = config
        self._membership = membership
        self._counters = counters
        self._link = link
        # Only we can look into it.
        place = tempfile.gettempdir() if len(tempfile.gettempdir()) < LONGEST_PLACE else "/tmp"
        self._folder = Path(tempfile.mkdtemp(prefix="thinwire-", dir=place))
        self.switchboard = Switchboard(identity.peer_id, config, counters, up=up)
        self.doors = Doors(
            identity.peer_id,
            self._folder,
            switchboard=self.switchboard,
            link=link,
            addresses=addresses,
            relays=lambda peer: self.relays_of(peer),
        )
        self.listening = Listening(link, self.server_path, lambda: self.on_change())
        self.dial_back = DialBack(self._dial)
        self._verdict: Reachability | None = None
        self._ours: tuple[str, ...] = ()
        self._found: tuple[str, ...] = ()
        """Where others reach us, though we did not know of it."""
        self._failed: frozenset[str] = frozenset()
        self._dialable: tuple[PeerId, ...] = ()
        self._ask_at_s = 0.0
        self._asking: asyncio.Task[None] | None = None

    @property
    def server_path(self) -> Path:
        """The socket at which our server takes connections that come through tunnels."""
        return self._folder / SERVER

    @property
    def reachability(self) -> Reachability:
        """For our card."""
        return self._verdict or "direct"

    @property
    def relays(self) -> tuple[PeerId, ...]:
        """For our card: who can pass calls on to us."""
        return self.listening.hosts[:MAX_RELAYS]

    def listed(self, ours: Sequence[str]) -> tuple[str, ...]:
        """Returns which of these host:port to put on our card, and another that we were told of.

        Those at which others dialled in vain are left out.
        """
        listed = [address for address in dict.fromkeys(ours) if address not in self._failed]
        return (*listed[: MAX_ADDRESSES - len(self._found)], *self._found)

    def on_cards(self, cards: Mapping[PeerId, Card], ours: Sequence[str]) -> None:
        """Takes note of whom we know now, and does what is to be done.

        Args:
            cards: Of the others.
            ours: host:port candidates at which they may reach us.
        """
        if tuple(ours) != self._ours:
            self._ours, self._found, self._failed = tuple(ours), (), frozenset()
            self._ask_at_s = 0.0
        dialable = (
            peer
            for peer, card in cards.items()
            if card.reach == "direct" and card.wire_addresses and card.role != "left"
        )

        def rank(peer: PeerId) -> tuple[bool, bytes]:
            # Bootstrap nodes are there for this; of others not everybody takes the same ones.
            ours = hashlib.sha256(f"{self._identity.peer_id}{peer}".encode()).digest()
            return cards[peer].role != "bootstrap", ours

        self._dialable = tuple(sorted(dialable, key=rank))
        is_asking = self._asking is not None and not self._asking.done()
        if self._dialable and not is_asking and asyncio.get_running_loop().time() >= self._ask_at_s:
            self._asking = asyncio.create_task(self._ask())
        self._listen()

    async def ask_one(self, peer_id: PeerId) -> pb.DialBackReply | None:
        """Returns at which of our addresses a peer could dial us; None if it does not say."""
        addresses = list(self._ours[: MAX_ADDRESSES - 1])
        ports = {parsed[1] for parsed in map(parse_address, addresses) if parsed is not None}
        if not _is_loopback(self._config.listen_host):
            addresses += [f"0.0.0.0:{port}" for port in sorted(ports)[:1]]
        request = pb.DialBack(addresses=addresses).SerializeToString()
        try:
            if len(request) > MAX_REQUEST_BYTES:
                raise TransportError("our addresses are too long")
            link = self._link(peer_id)
            channel = await link.channel()
            if link.way != "direct":
                raise TransportError(f"reached {link.way}, it cannot tell")
            wait_s = 3 * DIAL_S
            try:
                data = await channel.unary_unary(DIAL_BACK)(request, timeout=wait_s)
            except CALL_ERRORS as error:
                raise await link.on_failure(channel, error, wait_s=wait_s) from None
            reply = _parse_reply(data)
        except ThinwireError as error:
            logger.debug("%s does not say whether it can dial us: %s", peer_id, error)
            return None
        return None if reply.refusal else reply

    async def forget(self, peer_id: PeerId) -> None:
        """Closes the ways to a peer."""
        await self.doors.forget(peer_id)

    async def close(self) -> None:
        """Ends all tunnels."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self.listening.close()
        await self.doors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self) -> None:
        hosts = self._dialable[:MAX_HOSTS] if self.reachability == "reverse" else ()
        self.listening.listen_at(hosts)

    async def _ask(self) -> None:
        asked = random.sample(self._dialable, min(NUM_ASKED, len(self._dialable)))
        replies = await asyncio.gather(*(self.ask_one(peer) for peer in asked))
        answers = [reply for reply in replies if reply is not None]
        before = self._verdict
        if answers:
            reached = {address for reply in answers for address in reply.reached}
            self._verdict = verdict(answers)
            self._found = tuple(_agreed(map(self._new_address, answers)))
            self._failed = frozenset(_agreed(reply.failed for reply in answers)) - reached
        if self._verdict != before:
            logger.info("others can reach us: %s", self._verdict)
            self.on_change()
        again_s = ASK_AGAIN_S[self._verdict if answers and self._verdict else "unknown"]
        now_s = asyncio.get_running_loop().time()
        self._ask_at_s = now_s + again_s * random.uniform(0.8, 1.2)
        self._listen()

    async def _dial(self, peer_id: PeerId, address: str) -> None:
        """Says Hello at an address, over a connection of its own."""
        link = Link(
            self._identity,
            peer_id,
            membership=self._membership,
            addresses=lambda _: (address,),
            counters=self._counters,
            software=self._config.software,
        )
        try:
            await link.hello(address)
        finally:
            await link.close()

    def _new_address(self, reply: pb.DialBackReply) -> Sequence[str]:
        """Returns the first address that we did not know of: in the open, at our port.

        There is at most one in an honest reply: where the question came from.
        """
        ports = {other[1] for other in map(parse_address, self._ours) if other is not None}
        for address in reply.reached:
            parsed = parse_address(address)
            is_new = parsed is not None and parsed[0].is_global and parsed[1] in ports
            if is_new and address not in self._ours:
                return (address,)
        return ()


def verdict(answers: Sequence[pb.DialBackReply]) -> Reachability:
    """Returns what most of those who were asked found: one neighbour is not the world."""
    num_reached = sum(bool(reply.reached) for reply in answers)
    return "direct" if 2 * num_reached > len(answers) else "reverse"


def _agreed(named: Iterable[Iterable[str]]) -> list[str]:
    """Returns the addresses that two answers name, or the only one."""
    answers = [set(addresses) for addresses in named]
    votes = Counter(chain.from_iterable(answers))
    return [address for address, num in votes.items() if num >= min(2, len(answers))]


def _parse_reply(data: bytes) -> pb.DialBackReply:
    reply = pb.DialBackReply()
    try:
        if len(data) > 2 * MAX_REQUEST_BYTES:
            raise DecodeError
        reply.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage("not an answer") from None
    return reply


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
