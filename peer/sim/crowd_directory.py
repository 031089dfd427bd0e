"""The directory of a crowd: who has a living record under which topic, and nothing else of it.

A reading or a publishing takes no time here, and everybody sees what anybody published: what
matters of it for thousands of peers is how much of it there is.
"""

import math
from collections.abc import Collection

from protocol.identity import PeerId

MAX_RECORDS = 256
"""Of a topic: what the nodes of the DHT keep of it."""


class _Topic:
    __slots__ = ("expire_s", "oldest_s")

    def __init__(self) -> None:
        self.expire_s: dict[PeerId, float] = {}
        self.oldest_s = math.inf
        """No record expires before then."""

    def forget(self, now_s: float) -> None:
        """Drops what has expired."""
        living = {owner: at_s for owner, at_s in self.expire_s.items() if at_s > now_s}
        self.expire_s, self.oldest_s = living, min(living.values(), default=math.inf)


class CrowdDirectory:
    """See the module docstring."""

    __slots__ = ("_topics", "num_refused")

    def __init__(self) -> None:
        self.num_refused = 0
        """Records that a full topic did not take."""
        self._topics: dict[str, _Topic] = {}

    def publish(self, topic: str, owner: PeerId, *, expires_s: float, now_s: float) -> None:
        """Keeps a record until it expires, if there is room for it."""
        here = self._topics.get(topic)
        if here is None:
            here = self._topics[topic] = _Topic()
        if owner not in here.expire_s and len(here.expire_s) >= MAX_RECORDS:
            here.forget(now_s)
            if len(here.expire_s) >= MAX_RECORDS:
                self.num_refused += 1
                return
        here.expire_s[owner] = expires_s
        if expires_s < here.oldest_s:
            here.oldest_s = expires_s

    def read(self, topic: str, *, now_s: float) -> Collection[PeerId]:
        """Returns the owners of living records, in the order in which they came."""
        here = self._topics.get(topic)
        if here is None:
            return ()
        if here.oldest_s <= now_s:
            here.forget(now_s)
        return here.expire_s  # not its keys: Python makes sets of dictionaries much faster
