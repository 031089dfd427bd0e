"""What keeps a node of the directory alive and among others; nobody else needs to think of it.

Theory of operation
-------------------
Three tasks work in the background for as long as the directory is open.

    tend    When the libp2p daemon has died, or answers no more, another one takes its place, with
            the same identity and, if it can, the same port. Until then there is no node.
    meet    Every few seconds we try addresses of whom we do not know as a node now: all that we
            were told, and a few of those that the address book remembers, again and again, for
            ever. So two halves of a run that were split, or that began apart, become one as soon
            as any link between them works. Whoever meets a new node meets its neighbours at once.
    watch   When many nodes are new, `on_reunion` is called, on both sides: now everybody should
            publish and read at once.
"""

import asyncio
import contextlib
import itertools
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from peer.net.address_book import AddressBook
from peer.net.directory_guard import BoundedStorage
from peer.net.directory_node import DirectoryNode
from peer.net.p2pd import P2pd
from peer.net.record_rules import RecordRules
from peer.net.swarm_clock import SwarmClock
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.record import CLOCK_SKEW_S
from protocol.ticket import Address

logger = logging.getLogger(__name__)

MEET_EVERY_S = 8.0
"""Give or take a quarter, so that not all ask at once."""
HURRY_S = 1.0
"""So often while nobody has answered yet."""
NUM_NEWEST, NUM_IN_TURN = 2, 3
"""Of the book, tried at once: some of the newest, in which whom we just lost are, and the next."""
NEWEST = 8
NUM_AT_START = 24
NUM_ASKED_FOR_TIME = 3
GROWTH_FRAC = 0.1
"""More new nodes than that are a reunion; in a large swarm a few always come and go."""
LOOK_AFTER_EVERY_S = 5.0
SILENT_TIMES = 2
"""So often in a row the daemon does not answer: once may be us who were stopped."""
LONGEST_PAUSE_S = 30.0


class Upkeep:
    """See the module docstring.

    Args:
        identity: Of the node.
        rules: For what it stores.
        listen: Host, port, and the host to announce, as `HivemindDirectory.start` has them.
        last_port: Where others may look for us; tried first if any port will do.
        bootstrap: Where to enter, tried each time.
        is_entrance: Whether we need nobody's answer.
        book: Where to enter besides, and where whom we meet is remembered.
        clock: The node's time.
        on_notice: Told what the user should know, in a line.
    """

    def __init__(
        self,
        identity: Identity,
        rules: RecordRules,
        *,
        listen: tuple[str, int, str | None],
        last_port: int = 0,
        bootstrap: Sequence[Address],
        is_entrance: bool,
        book: AddressBook,
        clock: SwarmClock,
        on_notice: Callable[[str], None],
    ) -> None:
        self.node: DirectoryNode | None = None
        """None while there is no daemon."""
        self.multiaddrs: tuple[str, ...] = ()
        """Where others can enter through us."""
        self.has_joined = is_entrance or not bootstrap
        """Whether anybody has ever answered, if anybody must."""
        self.on_reunion: Callable[[], None] = lambda: None
        self.book = book
        self._identity = identity
        self._rules = rules
        self._listen = listen
        self._bootstrap = bootstrap
        self._clock = clock
        self._on_notice = on_notice
        self._storage = BoundedStorage(rules, identity.peer_id)
        self._ending: DirectoryNode | None = None
        self._port = last_port
        self._background: list[asyncio.Task[None]] = []
        self._in_turn: deque[Address] = deque()
        self._has_said_time = False

    async def begin(self) -> None:
        """Starts a node, enters, and goes on in the background.

        Raises:
            ConfigError: cannot listen there.
        """
        await self._open_first()
        await self._enter()
        works = self._tend, self._meet_for_ever, self._watch_growth
        self._background = [asyncio.create_task(for_ever(work)) for work in works]

    async def close(self) -> None:
        """Ends everything."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        nodes = [node for node in (self.node, self._ending) if node is not None]
        self.node = self._ending = None
        for node in nodes:
            await node.close()
        self.book.save()

    # ---- our node and its daemon

    async def _open_first(self) -> None:
        port = self._listen[1]
        if not port and self._port:
            with contextlib.suppress(ConfigError):  # somebody else has it now
                await self._open(self._port)
                return
        await self._open(port)

    async def _open(self, port: int) -> None:
        listen_host, _, announce_host = self._listen
        daemon = await P2pd.start(
            self._identity,
            listen_host=listen_host,
            listen_port=port,
            announce_host=announce_host,
        )
        self.node = await DirectoryNode.start(
            daemon,
            self._identity.peer_id,
            self._rules,
            storage=self._storage,
            cache=BoundedStorage(self._rules, self._identity.peer_id),
            clock=self._clock,
        )
        self._port = daemon.port
        self.multiaddrs = tuple(f"{maddr}/p2p/{self._identity.peer_id}" for maddr in daemon.maddrs)

    async def _tend(self) -> None:
        while True:
            if self.node is None:  # what was to replace the last one failed in a new way
                await self._reopen()
            node = self.node
            assert node is not None
            reason = await _end_of(node)
            self.node, self._ending = None, node
            with contextlib.suppress(Exception):  # what is left of it is of no more use
                await node.close()
            self._ending = None
            await self._reopen()
            logger.warning(
                "the libp2p daemon %s; another one listens on port %d", reason, self._port
            )
            try:
                await self._enter()
            except Exception as error:  # noqa: BLE001 - boundary: hivemind may raise anything
                logger.debug("entering again: %r", error)
            self.on_reunion()

    async def _reopen(self) -> None:
        for pause_s in _pauses():
            for port in (self._port, 0):
                try:
                    await self._open(port)
                except Exception as error:  # noqa: BLE001 - boundary: hivemind may raise anything
                    logger.debug("starting the libp2p daemon: %r", error)
                else:
                    return
            await asyncio.sleep(pause_s)

    # ---- meeting others

    async def _enter(self) -> None:
        entrances = (*self._bootstrap, *self.book.addresses[:NUM_AT_START])
        if not entrances:
            return
        await self._try(dict.fromkeys(entrances))
        if self.node is not None:
            await self.node.ping_some(2 * NUM_ASKED_FOR_TIME)
        self._check_time()
        if not self.has_joined:
            known = len(self._bootstrap)
            nobody = "the known address does not answer"
            if known != 1:
                nobody = f"none of {known} known addresses answers"
            logger.warning("%s; trying on in the background", nobody)

    async def _meet_for_ever(self) -> None:
        while True:
            pause_s = MEET_EVERY_S * random.uniform(0.75, 1.25) if self.has_joined else HURRY_S
            await asyncio.sleep(pause_s)
            try:
                await self._try(self._next_addresses())
                if self.node is not None:
                    await self.node.ping_some(NUM_ASKED_FOR_TIME)
            except Exception as error:  # noqa: BLE001 - boundary: hivemind may raise anything
                logger.debug("meeting others: %r", error)
            self._check_time()
            self.book.save()

    def _next_addresses(self) -> Iterable[Address]:
        """Returns which addresses of whom we do not know as a node are next."""
        known = self.node.neighbours if self.node is not None else frozenset()
        lost = [address for address in self.book.addresses if address.peer_id not in known]
        some = random.sample(lost[:NEWEST], min(NUM_NEWEST, len(lost)))
        for _ in range(NUM_IN_TURN):
            if not self._in_turn:
                self._in_turn.extend(lost)
            if self._in_turn:
                some.append(self._in_turn.popleft())
        listed = [address for address in self._bootstrap if address.peer_id not in known]
        return dict.fromkeys(address for address in listed + some if address.peer_id not in known)

    async def _try(self, addresses: Iterable[Address]) -> None:
        """Contacts whoever is at these addresses; whoever is new shows us its neighbours."""
        node = self.node
        if node is None:
            return
        known, tried = node.neighbours, list(addresses)
        answers = await asyncio.gather(*map(node.contact, tried))
        met = [address for address, answered in zip(tried, answers, strict=True) if answered]
        self.book.add(met, have_answered=True)
        if any(address.peer_id not in known for address in met) or (met and not self.has_joined):
            await node.mingle()
        if met and not self.has_joined:
            self.has_joined = True
            logger.info("the directory is joined")

    async def _watch_growth(self) -> None:
        known: frozenset[PeerId] = frozenset()
        while True:
            await asyncio.sleep(HURRY_S)
            now = self.node.neighbours if self.node is not None else known
            self.has_joined = self.has_joined or bool(now)
            if len(now - known) > GROWTH_FRAC * len(now):
                self.on_reunion()
            known = now

    def _check_time(self) -> None:
        error_s = self._clock.error_s
        if abs(error_s) > CLOCK_SKEW_S and not self._has_said_time:
            self._has_said_time = True
            self._on_notice(
                f"this machine's clock is {abs(error_s):.0f} s "
                f"{'ahead of' if error_s > 0 else 'behind'} the others'; set it when you can"
            )


async def _end_of(node: DirectoryNode) -> str:
    """Returns how a node's daemon ended, when it has, or is of no more use."""
    ended = asyncio.create_task(node.daemon.wait())
    try:
        silent = 0
        while silent < SILENT_TIMES:
            done, _ = await asyncio.wait({ended}, timeout=0.0 if silent else LOOK_AFTER_EVERY_S)
            if done:
                return f"ended with code {ended.result()}"
            silent = 0 if await node.is_alive() else silent + 1
        return "does not answer"
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


async def for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Does endless work; begins it again when it ends all the same, and says so."""
    for pause_s in _pauses():
        try:
            await work()
        except Exception:
            logger.exception("the directory's upkeep failed, and goes on")
        await asyncio.sleep(pause_s)


def _pauses() -> Iterable[float]:
    return itertools.chain((1.0, 2.0, 4.0, 8.0), itertools.repeat(LONGEST_PAUSE_S))
