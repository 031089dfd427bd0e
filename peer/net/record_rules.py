"""What every directory enforces, whoever stores the bytes: one set of rules for all of them."""

from collections import OrderedDict
from collections.abc import Iterable

from protocol.errors import LimitExceeded, LocalProtocolError, ThinwireError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.record import (
    CLOCK_SKEW_S,
    MAX_LIFETIME_S,
    Record,
    next_expiry,
    parse_record,
    sign_record,
)
from protocol.rooms import is_room, may_enter

TOPICS = ("peers", "rounds", "digests")
"""What a run publishes, unless a directory is told otherwise. All else is refused, but rooms."""


class RecordRules:
    """The rules of one run's directory.

    Args:
        run_id: whose records are accepted.
        topics: the only ones that exist, besides rooms.
        max_records: how many owners a topic may have.
    """

    def __init__(
        self, run_id: RunId, *, topics: Iterable[str] = TOPICS, max_records: int = 256
    ) -> None:
        self.run_id = run_id
        self.topics = tuple(topics)
        self.max_records = max_records
        # Records come again and again, in every reply; a signature costs a quarter millisecond.
        self._verified: OrderedDict[tuple[str, str, bytes], Record] = OrderedDict()

    def check_topic(self, topic: str) -> None:
        """Refuses topics that nobody would store.

        Raises:
            LocalProtocolError: there is no such topic.
        """
        if topic not in self.topics and not is_room(topic):
            raise LocalProtocolError(f"there is no topic {topic!r} in this directory")

    def sign(
        self,
        identity: Identity,
        topic: str,
        payload: bytes,
        *,
        lifetime_s: float,
        now_unix_s: float,
        previous: Record | None,
    ) -> tuple[Record, bytes]:
        """Returns our record, and the bytes to publish.

        Raises:
            LimitExceeded: too large, or to live too long.
            LocalProtocolError: there is no such topic, or it is a room of others.
        """
        self.check_topic(topic)
        if not self._may_own(topic, identity.peer_id):
            raise LocalProtocolError(f"the room {topic!r} is for others")
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise LimitExceeded(f"a record lives for at most {MAX_LIFETIME_S:g} s")
        expires_unix_s = next_expiry(
            lifetime_s,
            now_unix_s=now_unix_s,
            previous_unix_s=None if previous is None else previous.expires_unix_s,
        )
        record = Record(identity.peer_id, topic, payload, expires_unix_s)
        return record, sign_record(record, run_id=self.run_id, identity=identity)

    def parse(self, topic: str, owner: str, data: bytes, *, now_unix_s: float) -> Record:
        """Returns a living record that its owner published in this run.

        Raises:
            RemoteError: it is none.
        """
        key = (topic, owner, data)
        record = self._verified.get(key)
        if record is None:
            if not self._may_own(topic, owner):
                raise LimitExceeded("a record under an unknown topic, or in a room of others")
            record = parse_record(
                data, run_id=self.run_id, owner=owner, topic=topic, now_unix_s=now_unix_s
            )
            self._verified[key] = record
            if len(self._verified) > 2 * self.max_records * len(self.topics):
                self._verified.popitem(last=False)
        if record.expires_unix_s <= now_unix_s:
            raise LimitExceeded("an expired record")
        return record

    def is_storable(
        self, topic: str, owner: str, data: bytes, *, expires_unix_s: float, now_unix_s: float
    ) -> bool:
        """Whether a node may store or pass on these bytes.

        A record that has just expired passes: storage drops it anyway, and clocks differ, so it
        must not spoil an answer that has living records too.

        Args:
            topic: where it was found.
            owner: whose it is said to be.
            data: the record's bytes.
            expires_unix_s: what the node was told; it decides which of two records is kept, so it
                must be what the owner signed.
            now_unix_s: by our clock.
        """
        try:
            record = self.parse(topic, owner, data, now_unix_s=min(now_unix_s, expires_unix_s - 1))
        except ThinwireError:
            return False
        left_s = record.expires_unix_s - now_unix_s
        return record.expires_unix_s == expires_unix_s and left_s < MAX_LIFETIME_S + CLOCK_SKEW_S

    def _may_own(self, topic: str, owner: str) -> bool:
        return topic in self.topics or may_enter(topic, owner, self.run_id)
