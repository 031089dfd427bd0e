"""Whom a peer of a crowd knows: the product's rooms, over the crowd's directory.

As in `peer.presence`, there are no rooms where everybody has to know everybody, and a refresh comes
early when somebody has spoken whom we do not know.
"""

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from peer.sim.crowd_tally import Tally
from protocol.card import TOPIC
from protocol.identity import PeerId
from protocol.rooms import Rooms

if TYPE_CHECKING:
    from peer.sim.crowd import Crowd

LOOK_AGAIN_S = 0.5


class CrowdMember:
    """See the module docstring.

    Args:
        crowd: Where we are.
        our_id: Who we are.
        tally: Where readings and publishings are counted.
        on_change: Called when others are known than before.

    Attributes:
        known: The others, as of the last refresh.
    """

    __slots__ = ("_crowd", "_on_change", "_our_id", "_refresh_at_s", "_rooms", "_tally", "known")

    def __init__(
        self, crowd: "Crowd", our_id: PeerId, *, tally: Tally, on_change: Callable[[], None]
    ) -> None:
        self.known: frozenset[PeerId] = frozenset()
        self._crowd = crowd
        self._our_id = our_id
        self._rooms = Rooms(our_id, crowd.run_id) if crowd.spec.mixing == "pairs" else None
        self._tally = tally
        self._on_change = on_change
        self._refresh_at_s = math.inf

    def refresh(self) -> None:
        """Reads our rooms, and publishes our record there; from then on again and again."""
        crowd, rooms, before = self._crowd, self._rooms, self.known
        now_s = crowd.clock.now_s
        self._tally.refreshes += 1
        if rooms is None:
            self.known = frozenset(self._read(TOPIC, now_s)) - {self._our_id}
        else:
            rooms.begin()
            while topics := rooms.to_read():
                for topic in topics:
                    rooms.on_read(topic, self._read(topic, now_s))
            self.known = rooms.others()
        expires_s = now_s + crowd.spec.lifetime_s
        for topic in (TOPIC,) if rooms is None else rooms.to_publish():
            self._tally.topics_published += 1
            crowd.directory.publish(topic, self._our_id, expires_s=expires_s, now_s=now_s)
        if self.known != before:
            self._on_change()
        self._refresh_at(now_s + crowd.spec.refresh_s)

    def look_again(self) -> None:
        """Refreshes soon: somebody new was heard of."""
        soon_s = self._crowd.clock.now_s + LOOK_AGAIN_S
        if soon_s < self._refresh_at_s:
            self._refresh_at(soon_s)

    def leave(self) -> None:
        """Refreshes no more."""
        self._refresh_at_s = math.inf

    def _refresh_at(self, time_s: float) -> None:
        self._refresh_at_s = time_s
        self._crowd.clock.at(time_s, self._on_time)

    def _on_time(self) -> None:
        if self._crowd.clock.now_s >= self._refresh_at_s:
            self.refresh()

    def _read(self, topic: str, now_s: float) -> Collection[PeerId]:
        owners = self._crowd.directory.read(topic, now_s=now_s)
        self._tally.topics_read += 1
        self._tally.records_read += len(owners)
        return owners
