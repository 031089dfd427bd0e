"""Rooms: each of ten thousand peers knows some fifty others, and nobody knows them all.

Theory of operation
-------------------
A room is a topic of the directory. At depth 0 it is everybody's topic, "peers"; at depth d it is
"peers/<stair>/<path>", for those whose hash begins with these d bits. There are two stairs, with
independent hashes. A peer goes down each of them until it finds a room that is not full, and those
whom it meets in these two are whom it knows. So each stair cuts the swarm into cliques, and two
independent cuts make one well connected graph: what two average spreads through the whole swarm.
A small swarm has one room, in which everybody knows everybody.

Signposts. A full room belongs to those PLACES of all below it whose hashes are nearest to its own:
they keep their records there, so that a newcomer sees that it is full. At each refresh a peer looks
at the room where it is, and at one of those above it, in turn; there it takes a place or gives it
up. So it reads and publishes a handful of topics, however many peers there are: a peer is a
signpost in fewer than two rooms of a stair on the average.

    down    FULL others are in our room: one deeper, and on at once if that is full, too.
    both    A room above us is not full: newcomers stay there, so we look at it in every refresh,
            and they and we know each other. All below it take a place, for there is one for each.
    up      It was SPARSE for a whole turn, in which all below it have looked at it: back there.

The thresholds are a quarter apart, so a swarm whose size wavers about one of them stays where it
is. Whoever is LONELY, mostly because it came first, knows those in the room above, too.

A crash costs nothing: records expire, and each rule is about what is there now, not about how it
came to be.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from protocol.card import TOPIC
from protocol.identity import PeerId
from protocol.manifest import RunId

STAIRS = 2
MAX_DEPTH = 20
FULL = 32
PLACES = 40
SPARSE = 24
LONELY = 8

_STAIR_NAMES = tuple(map(str, range(STAIRS)))
_RANK = (1 << 64) - 1


class Rooms:
    """Where one peer is, and what it reads and publishes.

    A refresh is this, and then `others` are known, and our record belongs into `to_publish`:

        rooms.begin()
        while topics := rooms.to_read():
            for topic in topics:
                rooms.on_read(topic, owners of the records that are there)

    Args:
        our_id: Whose rooms these are.
        run_id: Of the run; its hashes have nothing to do with other runs'.
    """

    def __init__(self, our_id: PeerId, run_id: RunId) -> None:
        self._our_id = our_id
        self._stairs = tuple(_Stair(our_id, run_id, stair) for stair in range(STAIRS))
        self._found: dict[str, frozenset[PeerId]] = {}
        """The others in each room that was read in this refresh."""

    def begin(self) -> None:
        """Begins a refresh: what was read is forgotten, and the next rooms have their turn."""
        self._found.clear()
        for stair in self._stairs:
            stair.turn += 1

    def to_read(self) -> tuple[str, ...]:
        """Returns the topics that are still to be read; with none left, the refresh is over."""
        topics = {topic: None for stair in self._stairs for topic in stair.to_read()}
        return tuple(topic for topic in topics if topic not in self._found)

    def on_read(self, topic: str, owners: Collection[PeerId]) -> None:
        """Takes note of who is in a room; ours among them or not."""
        others = frozenset(owners)
        if self._our_id in others:
            others -= {self._our_id}
        self._found[topic] = others
        for stair in self._stairs:
            stair.on_read(topic, others)

    def others(self) -> frozenset[PeerId]:
        """Returns whom we know: the others in our rooms, as of this refresh."""
        topics = {topic for stair in self._stairs for topic in stair.to_know()}
        return frozenset().union(*(self._found.get(topic, ()) for topic in topics))

    def to_publish(self) -> tuple[str, ...]:
        """Returns the topics under which our record belongs."""
        return tuple({topic: None for stair in self._stairs for topic in stair.to_publish()})

    @property
    def depths(self) -> tuple[int, ...]:
        """How deep we are in each stair."""
        return tuple(len(stair.rooms) - 1 for stair in self._stairs)


@dataclass(slots=True)
class _Room:
    topic: str
    key: int
    """Signposts are those whose hashes are nearest to it."""
    num_others: int = 0
    """When it was last read."""
    has_place: bool = True
    num_sparse: int = 0
    """How often in a row it was found sparse, from below."""


class _Stair:
    """The rooms from the top down to the one where we are, in one stair."""

    __slots__ = ("_number", "_our_id", "_run_id", "rooms", "turn")

    def __init__(self, our_id: PeerId, run_id: RunId, number: int) -> None:
        self._our_id, self._run_id, self._number = our_id, run_id, number
        self.rooms = [self._room(0)]
        self.turn = 0

    def to_read(self) -> Iterator[str]:
        yield from self.to_know()
        if len(self.rooms) > 1:
            yield self.rooms[self.turn % (len(self.rooms) - 1)].topic

    def to_know(self) -> Iterator[str]:
        *above, ours = self.rooms
        yield ours.topic
        for room in above:
            if room.num_others < FULL:
                yield room.topic
        if above and ours.num_others < LONELY:
            yield above[-1].topic

    def to_publish(self) -> Iterator[str]:
        for room in self.rooms:
            if room.has_place:
                yield room.topic

    def on_read(self, topic: str, others: frozenset[PeerId]) -> None:
        topics = [room.topic for room in self.rooms]
        if topic not in topics:
            return  # we have just moved up
        depth = topics.index(topic)
        room = self.rooms[depth]
        room.num_others = len(others)
        if depth + 1 < len(self.rooms):
            room.num_sparse = room.num_sparse + 1 if len(others) < SPARSE else 0
            if room.num_sparse >= len(self.rooms):
                del self.rooms[depth + 1 :]
            room.has_place = self._has_place(room, others)
        elif len(others) >= FULL and depth < MAX_DEPTH:
            room.num_sparse = 0
            room.has_place = self._has_place(room, others)
            self.rooms.append(self._room(depth + 1))

    def _has_place(self, room: _Room, others: frozenset[PeerId]) -> bool:
        if len(others) < PLACES:
            return True
        run_id, key = self._run_id, room.key
        ours = _hashes(run_id, self._our_id).rank ^ key
        return sum(_hashes(run_id, other).rank ^ key < ours for other in others) < PLACES

    def _room(self, depth: int) -> _Room:
        path = _hashes(self._run_id, self._our_id).paths[self._number]
        topic = _topic(self._number, path[:depth])
        return _Room(topic, _digest(self._run_id, topic) & _RANK)


def is_room(topic: str) -> bool:
    """Whether this is how a room below the first is called."""
    name, _, rest = topic.partition("/")
    stair, _, path = rest.partition("/")
    return (
        name == TOPIC
        and stair in _STAIR_NAMES
        and 0 < len(path) <= MAX_DEPTH
        and not path.strip("01")
    )


def may_enter(topic: str, peer_id: str, run_id: RunId) -> bool:
    """Whether a room below the first is on this peer's way: nobody may sit in others' rooms."""
    if not is_room(topic):
        return False
    _, stair, path = topic.split("/")
    return _hashes(run_id, peer_id).paths[int(stair)].startswith(path)


def rooms_of(peer_id: str, run_id: RunId) -> tuple[str, ...]:
    """Returns all rooms below the first that a peer may ever enter."""
    return tuple(
        _topic(stair, path[:depth])
        for stair, path in enumerate(_hashes(run_id, peer_id).paths)
        for depth in range(1, MAX_DEPTH + 1)
    )


def _topic(stair: int, path: str) -> str:
    return f"{TOPIC}/{stair}/{path}" if path else TOPIC


class _Hashes(NamedTuple):
    paths: tuple[str, ...]
    """Down each stair, in bits."""
    rank: int
    """By which a peer is a signpost, or not."""


@lru_cache(maxsize=1 << 15)
def _hashes(run_id: RunId, peer_id: str) -> _Hashes:
    digest = _digest(run_id, peer_id)
    bits = f"{digest >> 64:064b}"
    paths = tuple(bits[MAX_DEPTH * stair :][:MAX_DEPTH] for stair in range(STAIRS))
    return _Hashes(paths, digest & _RANK)


def _digest(run_id: RunId, name: str) -> int:
    data = f"thinwire rooms|{run_id}|{name}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")
