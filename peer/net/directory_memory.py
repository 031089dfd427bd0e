"""A directory in one process, for tests and simulations: same bytes, same rules, no network."""

from collections.abc import Callable, Iterable, Sequence

from peer.net.record_rules import RecordRules
from protocol.errors import RemoteError, TransportError
from protocol.identity import Identity, PeerId
from protocol.record import Record
from protocol.ticket import Address


class MemoryBoard:
    """What the peers of one run share. Believes nobody.

    Args:
        rules: the run's.
        clock: returns the time, in Unix seconds.
    """

    def __init__(self, rules: RecordRules, clock: Callable[[], float]) -> None:
        self.rules = rules
        self.clock = clock
        self._topics: dict[str, dict[str, tuple[bytes, float]]] = {}

    def store(self, topic: str, owner: str, data: bytes) -> bool:
        """Keeps a record if the rules allow it, and it is newer than the one that is there."""
        now_unix_s = self.clock()
        try:
            record = self.rules.parse(topic, owner, data, now_unix_s=now_unix_s)
        except RemoteError:
            return False
        records = self._topics.setdefault(topic, {})
        for dead in [
            o for o, (_, expires_unix_s) in records.items() if expires_unix_s <= now_unix_s
        ]:
            del records[dead]
        if owner not in records and len(records) >= self.rules.max_records:
            return False
        if owner in records and records[owner][1] >= record.expires_unix_s:
            return False
        records[owner] = (data, record.expires_unix_s)
        return True

    def items(self, topic: str) -> list[tuple[str, bytes]]:
        """Returns owners and bytes, dead ones too."""
        return [(owner, data) for owner, (data, _) in self._topics.get(topic, {}).items()]


class MemoryDirectory:
    """Implements `peer.ports.Directory` over a shared board."""

    def __init__(self, identity: Identity, board: MemoryBoard) -> None:
        self._identity = identity
        self._board = board
        self._own: dict[str, Record] = {}
        self._is_closed = False
        self.on_reunion: Callable[[], None] = lambda: None

    async def publish(self, topic: str, payload: bytes, *, lifetime_s: float) -> None:
        """Sets our own record under `topic`, until `lifetime_s` from now.

        Raises:
            LimitExceeded: the payload is too large, or would live too long.
            TransportError: the board does not take it.
        """
        self._check_open()
        record, data = self._board.rules.sign(
            self._identity,
            topic,
            payload,
            lifetime_s=lifetime_s,
            now_unix_s=self._board.clock(),
            previous=self._own.get(topic),
        )
        if not self._board.store(topic, record.owner, data):
            raise TransportError(f"nobody stored our record under {topic!r}")
        self._own[topic] = record

    async def read(self, topic: str) -> list[Record]:
        """Returns every valid, living record under `topic`, by owner; our own included."""
        self._check_open()
        rules = self._board.rules
        rules.check_topic(topic)
        found: dict[PeerId, Record] = {}
        for owner, data in self._board.items(topic):
            try:
                record = rules.parse(topic, owner, data, now_unix_s=self._board.clock())
            except RemoteError:
                continue
            found[record.owner] = record
        if own := found.get(self._identity.peer_id):  # perhaps of another life of ours
            self._own[topic] = own  # which the next one must outlive
        return [found[owner] for owner in sorted(found)]

    def meet(self, addresses: Iterable[Address]) -> None:
        """Does nothing: all meet at the board."""

    def multiaddrs(self) -> Sequence[str]:
        """Returns nothing: there is nowhere to enter."""
        return ()

    async def close(self) -> None:
        """Leaves the board."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise TransportError("the directory is closed")
