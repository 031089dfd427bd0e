"""The directory over hivemind's DHT: signed records, in the hands of strangers.

What keeps our node of it alive, and among the others, is in `directory_upkeep`.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from peer.net.address_book import AddressBook
from peer.net.directory_node import OPERATION_S, DirectoryNode
from peer.net.directory_upkeep import Upkeep
from peer.net.record_rules import TOPICS, RecordRules
from peer.net.swarm_clock import SwarmClock
from peer.waits import Waits
from protocol.errors import RemoteError, TransportError
from protocol.identity import Identity, PeerId
from protocol.manifest import RunId
from protocol.record import Record
from protocol.ticket import Address

logger = logging.getLogger(__name__)


class HivemindDirectory:
    """Implements `peer.ports.Directory`. Make it with `start`.

    Attributes:
        clock: By which records expire.
        on_reunion: Called when many nodes are new.
        waits: Where its waits are listed.
    """

    def __init__(
        self, identity: Identity, rules: RecordRules, upkeep: Upkeep, clock: SwarmClock
    ) -> None:
        self.clock = clock
        self.on_reunion: Callable[[], None] = lambda: None
        self.waits = Waits()
        self._identity = identity
        self._rules = rules
        self._upkeep = upkeep
        upkeep.on_reunion = lambda: self.on_reunion()
        self._own: dict[str, Record] = {}
        self._is_closed = False

    @classmethod
    async def start(
        cls,
        identity: Identity,
        run_id: RunId,
        *,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        last_port: int = 0,
        announce_host: str | None = None,
        bootstrap: Sequence[Address] = (),
        is_entrance: bool = False,
        book: AddressBook | None = None,
        max_records: int = 256,
        topics: Sequence[str] = TOPICS,
        clock: SwarmClock | None = None,
        on_notice: Callable[[str], None] = logger.warning,
    ) -> "HivemindDirectory":
        """Returns a directory that listens, and has tried to meet others.

        Call it in a thread that lives as long as the directory shall.

        Args:
            identity: signs our records, and is our libp2p identity.
            run_id: whose records are stored and read.
            listen_host: an IP address; "0.0.0.0" for all.
            listen_port: 0 for `last_port` if it is free, else any.
            last_port: where those who met us before will look for us.
            announce_host: the IP address that others reach us at, if it is another one.
            bootstrap: where to enter. They are tried again in the background, so none of them needs
                to answer now; but until anybody does, nothing can be read.
            is_entrance: others come to us, so we need nobody's answer; as without `bootstrap`.
            book: where to enter besides, and where those whom we meet are remembered.
            max_records: how many owners a topic may have.
            topics: the only ones that exist, besides rooms.
            clock: by which records expire.
            on_notice: told what the user should know, in a line.

        Raises:
            ConfigError: cannot listen there.
        """
        rules = RecordRules(run_id, topics=topics, max_records=max_records)
        clock, book = clock or SwarmClock(), book or AddressBook()
        upkeep = Upkeep(
            identity,
            rules,
            listen=(listen_host, listen_port, announce_host),
            last_port=last_port,
            bootstrap=[a for a in bootstrap if a.peer_id != identity.peer_id],
            is_entrance=is_entrance,
            book=book,
            clock=clock,
            on_notice=on_notice,
        )
        if book.problem:
            on_notice(book.problem)
        try:
            await upkeep.begin()
        except BaseException:
            await upkeep.close()
            raise
        return cls(identity, rules, upkeep, clock)

    @property
    def daemon_pid(self) -> int:
        """The process whose sockets are ours too; 0 while there is none."""
        node = self._upkeep.node
        return node.daemon.pid if node is not None else 0

    async def publish(self, topic: str, payload: bytes, *, lifetime_s: float) -> None:
        """Sets our own record under `topic`, until `lifetime_s` from now.

        It is not renewed: publish again before it expires.

        Raises:
            LimitExceeded: the payload is too large, or would live too long.
            TransportError: nobody could store it; try again later.
        """
        node = self._open_node()
        record, data = self._rules.sign(
            self._identity,
            topic,
            payload,
            lifetime_s=lifetime_s,
            now_unix_s=self.clock.now_unix_s(),
            previous=self._own.get(topic),
        )
        self._own[topic] = record
        with self.waits.on("the directory", f"to store under {topic}", within_s=OPERATION_S):
            is_stored = await node.store(record, data)
        self._check_contact(node)
        if not is_stored:
            raise TransportError(f"nobody stored our record under {topic!r}")

    async def read(self, topic: str) -> list[Record]:
        """Returns every valid, living record under `topic`, by owner; our own included.

        Raises:
            TransportError: nobody could be asked.
        """
        node = self._open_node()
        self._rules.check_topic(topic)
        self._check_contact(node)
        with self.waits.on("the directory", f"to read {topic}", within_s=OPERATION_S):
            records = self._valid(topic, await node.find(topic))
        return [records[owner] for owner in sorted(records)]

    def meet(self, addresses: Iterable[Address]) -> None:
        """Remembers at which addresses others were said to be just now, the surest last."""
        book = self._upkeep.book
        book.add(a for a in addresses if a.peer_id != self._identity.peer_id)
        book.save()

    def multiaddrs(self) -> Sequence[str]:
        """Returns libp2p addresses at which others can enter the directory through us."""
        return self._upkeep.multiaddrs

    async def close(self) -> None:
        """Leaves; afterwards no process or socket of ours is left."""
        self._is_closed = True
        await self._upkeep.close()

    def _valid(self, topic: str, values: dict[object, object]) -> dict[PeerId, Record]:
        records: dict[PeerId, Record] = {}
        now_unix_s = self.clock.now_unix_s()
        for owner, data in values.items():
            if isinstance(owner, str) and isinstance(data, bytes):
                with contextlib.suppress(RemoteError):
                    record = self._rules.parse(topic, owner, data, now_unix_s=now_unix_s)
                    records[record.owner] = record
        ours = self._our_own(topic, records)
        both = ours | records | ours
        return dict(itertools.islice(both.items(), self._rules.max_records))

    def _our_own(self, topic: str, records: Mapping[PeerId, Record]) -> dict[PeerId, Record]:
        ours, our_id = self._own.get(topic), self._identity.peer_id
        found = records.get(our_id)
        if found and (ours is None or found.expires_unix_s > ours.expires_unix_s):
            ours = self._own[topic] = found  # of another life of ours; our next must outlive it
        is_alive = ours is not None and ours.expires_unix_s > self.clock.now_unix_s()
        return {our_id: ours} if ours is not None and is_alive else {}

    def _open_node(self) -> DirectoryNode:
        if self._is_closed:
            raise TransportError("the directory is closed")
        node = self._upkeep.node
        if node is None:
            raise TransportError("the directory's daemon is being started again")
        return node

    def _check_contact(self, node: DirectoryNode) -> None:
        if not self._upkeep.has_joined and not node.neighbours:
            raise TransportError("no peer of the directory has answered yet")
