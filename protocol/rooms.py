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
_MAX_RANKS = 1 << 15


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
        self._found: dict[str, Collection[PeerId]] = {}
        """Who is in each room that was read in this refresh, until it is over."""
        self._others: frozenset[PeerId] = frozenset()

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
        """Takes note of who is in a room; ours among them or not.

        The collection must not change before the refresh is over.
        """
        self._found[topic] = owners
        for stair in self._stairs:
            stair.on_read(topic, owners)

    def others(self) -> frozenset[PeerId]:
        """Returns whom we know: the others in our rooms, as of the last refresh, which is over."""
        if self._found:
            topics = {topic for stair in self._stairs for topic in stair.to_know()}
            found = [self._found[topic] for topic in topics if topic in self._found]
            self._others = frozenset().union(*found) - {self._our_id}
            self._found.clear()
        return self._others

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

    __slots__ = ("_number", "_our_id", "_ranks", "_run_id", "rooms", "turn")

    def __init__(self, our_id: PeerId, run_id: RunId, number: int) -> None:
        self._our_id, self._run_id, self._number = our_id, run_id, number
        self._ranks = _ranks_of(run_id)
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

    def on_read(self, topic: str, owners: Collection[PeerId]) -> None:
        depth = next((at for at, room in enumerate(self.rooms) if room.topic == topic), None)
        if depth is None:
            return  # we have just moved up
        room = self.rooms[depth]
        room.num_others = len(owners) - (self._our_id in owners)
        if depth + 1 < len(self.rooms):
            room.num_sparse = room.num_sparse + 1 if room.num_others < SPARSE else 0
            if room.num_sparse >= len(self.rooms):
                del self.rooms[depth + 1 :]
            room.has_place = self._has_place(room, owners)
        elif room.num_others >= FULL and depth < MAX_DEPTH:
            room.num_sparse = 0
            room.has_place = self._has_place(room, owners)
            self.rooms.append(self._room(depth + 1))

    def _has_place(self, room: _Room, owners: Collection[PeerId]) -> bool:
        if room.num_others < PLACES:
            return True
        ranks, key = self._ranks, room.key
        ours = ranks[self._our_id] ^ key
        num_nearer = 0
        for owner in owners:
            if ranks[owner] ^ key < ours:
                num_nearer += 1
                if num_nearer == PLACES:
                    return False
        return True

    def _room(self, depth: int) -> _Room:
        path = _paths(self._run_id, self._our_id)[self._number]
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
    return _paths(run_id, peer_id)[int(stair)].startswith(path)


def rooms_of(peer_id: str, run_id: RunId) -> tuple[str, ...]:
    """Returns all rooms below the first that a peer may ever enter."""
    return tuple(
        _topic(stair, path[:depth])
        for stair, path in enumerate(_paths(run_id, peer_id))
        for depth in range(1, MAX_DEPTH + 1)
    )


def _topic(stair: int, path: str) -> str:
    return f"{TOPIC}/{stair}/{path}" if path else TOPIC


@lru_cache(maxsize=1 << 15)
def _paths(run_id: RunId, peer_id: str) -> tuple[str, ...]:
    """Returns a peer's way down each stair, in bits."""
    bits = f"{_digest(run_id, peer_id) >> 64:064b}"
    return tuple(bits[MAX_DEPTH * stair :][:MAX_DEPTH] for stair in range(STAIRS))


class _Ranks(dict[PeerId, int]):
    """By which peers are signposts, or not; each is drawn once, for peers meet again and again."""

    def __init__(self, run_id: RunId) -> None:
        super().__init__()
        self._run_id = run_id

    def __missing__(self, peer_id: PeerId) -> int:
        if len(self) >= _MAX_RANKS:
            self.clear()
        rank = self[peer_id] = _digest(self._run_id, peer_id) & _RANK
        return rank


@lru_cache(maxsize=4)
def _ranks_of(run_id: RunId) -> _Ranks:
    return _Ranks(run_id)


def _digest(run_id: RunId, name: str) -> int:
    data = f"thinwire rooms|{run_id}|{name}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")
