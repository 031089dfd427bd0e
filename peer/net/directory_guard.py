"""What keeps strangers from harming a DHT node of ours: checks for records, a bound for storage.

Both use hivemind's own extension points: a validator, and a storage that the node is given. A node
stores and passes on only records of our run, under known topics or in their owners' rooms, signed
by their owners, within limits of size, life and number. Who may own a record is not limited:
identities cost nothing.
"""

import logging
import warnings
from collections import OrderedDict

import msgpack  # type: ignore[import-untyped]

from peer.net.record_rules import RecordRules
from peer.net.swarm_clock import SwarmClock
from protocol.identity import PeerId
from protocol.manifest import RunId
from protocol.record import MAX_RECORD_BYTES
from protocol.rooms import rooms_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing hivemind uses what torch and others deprecate
    from hivemind.dht.routing import DHTID
    from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase
    from hivemind.utils.logging import use_hivemind_log_handler

# hivemind renames a level of everybody's log, and brings a handler of its own. Its warnings are
# about single messages of strangers, so only what would stop us gets through.
logging.addLevelName(logging.WARNING, "WARNING")
use_hivemind_log_handler("nowhere")
logging.getLogger("hivemind").setLevel(logging.CRITICAL)


MAX_TOPICS = 64
"""A node keeps no more. It need not: there is one room for five peers, and five nodes keep each."""
MAX_TOPICS_PER_OWNER = 16
"""Of these. A peer of ten thousand publishes in five or six, and one node keeps few of them."""
MAX_REMEMBERED_KEYS = 1024


class RecordValidator(RecordValidatorBase):  # type: ignore[misc]  # hivemind is untyped
    """Lets only records of our run's peers in, each under its owner's name."""

    def __init__(self, rules: RecordRules, clock: SwarmClock) -> None:
        self._rules = rules
        self._clock = clock
        self._topics = {node_key(rules.run_id, topic).to_bytes(): topic for topic in rules.topics}
        self._rooms: OrderedDict[bytes, str] = OrderedDict()
        """By key; those that were found last."""

    def validate(self, record: DHTRecord) -> bool:
        """Whether a record may be stored, or taken from an answer. Never raises."""
        owner, data = _unpacked(record.subkey, 128), _unpacked(record.value, MAX_RECORD_BYTES)
        if not isinstance(owner, str) or not isinstance(data, bytes):
            return False
        topic = self._topics.get(record.key) or self._room(record.key, owner)
        return topic is not None and self._rules.is_storable(
            topic,
            owner,
            data,
            expires_unix_s=record.expiration_time,
            now_unix_s=self._clock.now_unix_s(),
        )

    def _room(self, key: bytes, owner: str) -> str | None:
        """Returns the room behind a key: keys are hashes, but an owner has only a few rooms."""
        room = self._rooms.get(key)
        if room is None:
            run_id = self._rules.run_id
            rooms = (r for r in rooms_of(owner, run_id) if node_key(run_id, r).to_bytes() == key)
            room = next(rooms, None)
            if room is not None:
                self._rooms[key] = room
                if len(self._rooms) > MAX_REMEMBERED_KEYS:
                    self._rooms.popitem(last=False)
        return room


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]  # hivemind is untyped
    """A node's storage that keeps so many topics, and so many owners a topic, and no more.

    The run's own topics and the rooms on our own way always have a place. Of the others, those stay
    that have the most owners, and of these those that are nearest to our node: where one identity
    alone publishes, somebody may just be filling nodes. And no owner is in many of them.

    Args:
        rules: The run's.
        our_id: Whose node it is.
    """

    def __init__(self, rules: RecordRules, our_id: PeerId) -> None:
        super().__init__()
        self._max_records = rules.max_records
        self._home = DHTID.generate(our_id)
        ours = (*rules.topics, *rooms_of(our_id, rules.run_id))
        self._lasting = frozenset(node_key(rules.run_id, topic) for topic in ours)

    def store_subkey(self, key: DHTID, subkey: object, value: bytes, expiration: float) -> bool:
        """Adds or replaces one owner's record."""
        present = self.get(key)
        is_new = present is None or subkey not in present.value
        if is_new and present is not None and len(present.value) >= self._max_records:
            return False
        if is_new and key not in self._lasting:
            if present is None and not self._make_room(key):
                return False
            self._leave_others(subkey)
        return bool(super().store_subkey(key, subkey, value, expiration))

    def _make_room(self, key: DHTID) -> bool:
        """Drops a topic if there are too many; returns whether there is a place for this one."""
        if len(self) < MAX_TOPICS:
            return True
        worth = {key: (1, -self._home.xor_distance(key))}
        for other, entry in self.items():
            if other not in self._lasting:
                worth[other] = (len(entry.value), -self._home.xor_distance(other))
        least = min(worth, key=worth.__getitem__)
        if least != key:
            del self[least]
        return bool(least != key)

    def _leave_others(self, owner: object) -> None:
        """Drops an owner's oldest record if it is in too many topics."""
        kept = [
            entry.value
            for key, entry in self.items()
            if key not in self._lasting and owner in entry.value
        ]
        if len(kept) >= MAX_TOPICS_PER_OWNER:
            oldest = min(kept, key=lambda value: value.get(owner).expiration_time)
            del oldest[owner]

    def trim(self) -> None:
        """Drops the newcomers of topics that grew too large."""
        for _, entry in list(self.items()):
            if isinstance(entry.value, DictionaryDHTValue):
                for subkey in list(entry.value.data)[self._max_records :]:
                    del entry.value[subkey]


def node_key(run_id: RunId, topic: str) -> DHTID:
    """Returns where a topic's records are among the DHT's nodes: a hash of its key."""
    return DHTID.generate(record_key(run_id, topic))


def record_key(run_id: RunId, topic: str) -> str:
    """Returns the DHT's key of a topic."""
    return f"thinwire/{run_id}/{topic}"


def _unpacked(raw: bytes, max_bytes: int) -> object:
    """Returns the string or bytes that hivemind packed, None for anything else."""
    if len(raw) > max_bytes + 8:
        return None
    try:
        return msgpack.unpackb(raw, raw=False)
    except (ValueError, msgpack.UnpackException):
        return None
