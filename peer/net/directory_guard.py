"""What keeps strangers from harming a DHT node of ours: checks for records, a bound for storage.

Both use hivemind's own extension points: a validator, and a storage that the node is given. A node
stores and passes on only records of our run, under known topics, signed by their owners, within
limits of size, life and number. Who may own a record is not limited: identities cost nothing.
"""

import logging
import warnings

import msgpack  # type: ignore[import-untyped]

from peer.net.record_rules import RecordRules
from protocol.manifest import RunId
from protocol.record import MAX_RECORD_BYTES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing hivemind uses what torch and others deprecate
    from hivemind.dht.routing import DHTID
    from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase
    from hivemind.utils.logging import use_hivemind_log_handler
    from hivemind.utils.timed_storage import get_dht_time

# hivemind renames a level of everybody's log, and brings a handler of its own. Its warnings are
# about single messages of strangers, so only what would stop us gets through.
logging.addLevelName(logging.WARNING, "WARNING")
use_hivemind_log_handler("nowhere")
logging.getLogger("hivemind").setLevel(logging.CRITICAL)


class RecordValidator(RecordValidatorBase):  # type: ignore[misc]  # hivemind is untyped
    """Lets only records of our run's peers in, each under its owner's name."""

    def __init__(self, rules: RecordRules) -> None:
        self._rules = rules
        self._topics = {
            DHTID.generate(record_key(rules.run_id, topic)).to_bytes(): topic
            for topic in rules.topics
        }

    def validate(self, record: DHTRecord) -> bool:
        """Whether a record may be stored, or taken from an answer. Never raises."""
        topic = self._topics.get(record.key)
        owner, data = _unpacked(record.subkey, 128), _unpacked(record.value, MAX_RECORD_BYTES)
        if topic is None or not isinstance(owner, str) or not isinstance(data, bytes):
            return False
        return self._rules.is_storable(
            topic,
            owner,
            data,
            expires_unix_s=record.expiration_time,
            now_unix_s=get_dht_time(),
        )


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]  # hivemind is untyped
    """A node's storage that takes no more than so many owners a topic."""

    def __init__(self, max_records: int) -> None:
        super().__init__()
        self._max_records = max_records

    def store_subkey(self, key: DHTID, subkey: object, value: bytes, expiration: float) -> bool:
        """Adds or replaces one owner's record."""
        present = self.get(key)
        is_new = present is None or subkey not in present.value
        if is_new and present is not None and len(present.value) >= self._max_records:
            return False
        return bool(super().store_subkey(key, subkey, value, expiration))

    def trim(self) -> None:
        """Drops the newcomers of topics that grew too large."""
        for _, entry in list(self.items()):
            if isinstance(entry.value, DictionaryDHTValue):
                for subkey in list(entry.value.data)[self._max_records :]:
                    del entry.value[subkey]


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
