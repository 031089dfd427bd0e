"""Swarms of rooms over a directory that is a dict, refreshing in turns or all at once."""

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import PeerId
from protocol.manifest import RunId
from protocol.rooms import FULL, MAX_DEPTH, PLACES, Rooms, is_room, may_enter, rooms_of

RUN_ID = RunId("ab" * 32)
LIFETIME = 6
"""Of a record, in refreshes."""
MAX_RECORDS = 256
"""More owners a topic does not take."""


class Swarm:
    """Peers come and go; a refresh is one of every peer's, in random order.

    Args:
        at_once: All read before the first publishes, as after a power cut.
    """

    def __init__(self, num_peers: int, *, at_once: bool = False, seed: int = 0) -> None:
        self.peers: dict[PeerId, Rooms] = {}
        self.views: dict[PeerId, frozenset[PeerId]] = {}
        self.num_reads: dict[PeerId, int] = {}
        self.num_records: dict[PeerId, int] = {}
        self._at_once = at_once
        self._rng = random.Random(seed)
        self._expiries: dict[str, dict[PeerId, int]] = {}
        self._now = 0
        self._num_joined = 0
        self.join(num_peers)

    def join(self, count: int) -> None:
        for _ in range(count):
            peer = PeerId(f"peer{self._num_joined}")
            self.peers[peer] = Rooms(peer, RUN_ID)
            self._num_joined += 1

    def crash(self, count: int) -> None:
        for peer in self._rng.sample(list(self.peers), count):
            del self.peers[peer]

    def refresh(self, times: int = 1) -> None:
        for _ in range(times):
            self._now += 1
            order = self._rng.sample(list(self.peers), len(self.peers))
            for peer in order:
                self._read(peer)
                if not self._at_once:
                    self._publish(peer)
            for peer in order if self._at_once else ():
                self._publish(peer)

    def owners(self, topic: str) -> list[PeerId]:
        records = self._expiries.get(topic, {})
        return [owner for owner, expiry in records.items() if expiry > self._now]

    def known(self, peer: PeerId) -> set[PeerId]:
        """Whom a peer knows that lives."""
        return self.views[peer] & self.peers.keys()

    def _read(self, peer: PeerId) -> None:
        rooms, num_reads, num_records = self.peers[peer], 0, 0
        rooms.begin()
        while topics := rooms.to_read():
            for topic in topics:
                owners = self.owners(topic)
                rooms.on_read(topic, owners)
                num_reads, num_records = num_reads + 1, num_records + len(owners)
        self.views[peer] = rooms.others()
        self.num_reads[peer], self.num_records[peer] = num_reads, num_records

    def _publish(self, peer: PeerId) -> None:
        for topic in self.peers[peer].to_publish():
            if peer in (owners := self.owners(topic)) or len(owners) < MAX_RECORDS:
                self._expiries.setdefault(topic, {})[peer] = self._now + LIFETIME


def depths(swarm: Swarm) -> set[int]:
    return {depth for rooms in swarm.peers.values() for depth in rooms.depths}


def num_steps_to_all(swarm: Swarm) -> int:
    """How often the news of one peer must be passed on until all have it."""
    start = next(iter(swarm.peers))
    reached, frontier, num_steps = {start}, {start}, 0
    while frontier:
        frontier = set().union(*(swarm.known(peer) for peer in frontier)) - reached
        reached |= frontier
        num_steps += bool(frontier)
    assert reached == swarm.peers.keys()
    return num_steps


def check_settled(swarm: Swarm) -> None:
    """What holds of any swarm that has had some refreshes in peace, whatever its size."""
    num_peers = len(swarm.peers)
    num_known = [len(swarm.known(peer)) for peer in swarm.peers]
    assert min(num_known) >= min(num_peers - 1, 15)
    assert max(num_known) <= 80
    for peer in swarm.peers:
        assert all(peer in swarm.views[other] for other in swarm.known(peer))
    assert num_steps_to_all(swarm) <= 4
    num_published = [len(rooms.to_publish()) for rooms in swarm.peers.values()]
    assert mean(num_published) <= 7
    assert max(num_published) <= 14
    swarm.refresh(10)  # until displaced signposts are gone
    assert mean(swarm.num_reads[peer] for peer in swarm.peers) <= 5
    assert max(swarm.num_reads[peer] for peer in swarm.peers) <= 7
    assert mean(swarm.num_records[peer] for peer in swarm.peers) <= 150
    assert max(swarm.num_records[peer] for peer in swarm.peers) <= 300


@pytest.mark.parametrize("at_once", [False, True], ids=["in turns", "at once"])
@pytest.mark.parametrize("num_peers", [2, 5, FULL, FULL + 1, 40, 200, 1000])
def test_after_a_start_all_know_some_and_work_little(num_peers: int, at_once: bool) -> None:
    swarm = Swarm(num_peers, at_once=at_once)
    swarm.refresh(12)
    check_settled(swarm)
    if num_peers <= FULL:
        assert depths(swarm) == {0}


def test_thousands_work_no_more_than_hundreds() -> None:
    swarm = Swarm(2500)
    swarm.refresh(6)
    check_settled(swarm)
    assert min(depths(swarm)) >= 6
    swarm.join(1)
    swarm.refresh()
    newcomer = next(reversed(swarm.peers))
    assert swarm.num_reads[newcomer] <= 1 + 2 * 9
    assert len(swarm.known(newcomer)) >= 15


@pytest.mark.parametrize("num_peers", [40, 200, 1000])
def test_who_comes_and_goes_leaves_the_others_their_views(num_peers: int) -> None:
    swarm = Swarm(num_peers)
    swarm.refresh(8)
    for _ in range(40):
        swarm.crash(max(1, num_peers // 100))
        swarm.join(max(1, num_peers // 100))
        swarm.refresh()
        assert min(len(swarm.known(peer)) for peer in swarm.peers) >= 10
    swarm.refresh(LIFETIME + 6)
    check_settled(swarm)


def test_a_swarm_that_shrinks_is_one_room_again() -> None:
    swarm = Swarm(1000)
    swarm.refresh(10)
    assert min(depths(swarm)) >= 4
    swarm.crash(980)
    swarm.refresh(LIFETIME + 8)
    assert depths(swarm) == {0}
    assert all(len(swarm.known(peer)) == 19 for peer in swarm.peers)


def test_a_swarm_grows_and_its_first_peers_do_not_bear_the_load() -> None:
    swarm = Swarm(5)
    swarm.refresh(2)
    while len(swarm.peers) < 1000:
        swarm.join(max(1, len(swarm.peers) // 10))
        swarm.refresh()
        assert min(len(swarm.known(peer)) for peer in swarm.peers) >= 4
    swarm.refresh(10)
    first = [len(swarm.peers[peer].to_publish()) for peer in list(swarm.peers)[:40]]
    assert mean(first) <= 7
    check_settled(swarm)


@pytest.mark.parametrize("at_once", [False, True], ids=["in turns", "at once"])
@pytest.mark.parametrize("bounds", [(22, 26), (28, 36), (38, 42), (60, 70)])
def test_no_wavering_about_a_threshold_leaves_anybody_alone(
    bounds: tuple[int, int], at_once: bool
) -> None:
    swarm, rng = Swarm(bounds[0], at_once=at_once), random.Random(1)
    swarm.refresh(10)
    for _ in range(150):
        change = rng.randint(*bounds) - len(swarm.peers)
        swarm.join(max(0, change))
        swarm.crash(max(0, -change))
        swarm.refresh()
        assert min(len(swarm.known(peer)) for peer in swarm.peers) >= 8


def test_a_peer_goes_deeper_once_and_stays_there() -> None:
    swarm = Swarm(FULL)
    swarm.refresh(5)
    moves = 0
    for change in (1, -1, 1, -2, 2, -4, 4) * 10:
        swarm.join(max(0, change))
        swarm.crash(max(0, -change))
        before = {peer: rooms.depths for peer, rooms in swarm.peers.items()}
        swarm.refresh(LIFETIME + 1)
        moves += sum(rooms.depths != before[peer] != (0, 0) for peer, rooms in swarm.peers.items())
    assert moves == 0
    assert depths(swarm) == {1}


def test_new_signposts_stand_where_all_old_ones_fell() -> None:
    swarm = Swarm(500)
    swarm.refresh(12)
    for signpost in swarm.owners("peers"):
        del swarm.peers[signpost]
    swarm.refresh(3 * LIFETIME)
    assert FULL < len(swarm.owners("peers")) <= PLACES + 10
    assert min(depths(swarm)) >= 3
    check_settled(swarm)


def test_a_refresh_that_broke_off_is_begun_again() -> None:
    swarm = Swarm(100)
    swarm.refresh(5)
    peer, rooms = next(iter(swarm.peers.items()))
    rooms.begin()
    rooms.on_read(rooms.to_read()[0], [])  # and then the directory was out of reach
    swarm.refresh(5)
    assert len(swarm.known(peer)) >= 15


def test_a_room_deeper_than_all_is_none() -> None:
    rooms = Rooms(PeerId("us"), RUN_ID)
    crowd = [PeerId(f"peer{number}") for number in range(MAX_RECORDS)]
    rooms.begin()
    while topics := rooms.to_read():
        for topic in topics:
            rooms.on_read(topic, crowd)
    assert rooms.depths == (MAX_DEPTH, MAX_DEPTH)
    assert all(topic == "peers" or is_room(topic) for topic in rooms.to_publish())


@given(peer=st.text("abcdef", min_size=1), other=st.text("abcdef", min_size=1))
def test_a_room_is_on_the_way_of_those_who_may_enter_it(peer: str, other: str) -> None:
    ways = set(rooms_of(peer, RUN_ID))
    assert len(ways) == 2 * MAX_DEPTH
    assert all(is_room(topic) and may_enter(topic, peer, RUN_ID) for topic in ways)
    for topic in rooms_of(other, RUN_ID):
        assert may_enter(topic, peer, RUN_ID) == (topic in ways)


def test_paths_are_drawn_evenly_and_anew_in_each_stair_and_run() -> None:
    peers = [f"peer{number}" for number in range(2000)]
    for topic in ("peers/0/0", "peers/0/1", "peers/1/0", "peers/1/1"):
        assert 900 < sum(may_enter(topic, peer, RUN_ID) for peer in peers) < 1100
    for twins in (("peers/0/1", "peers/1/1"), ("peers/0/01", "peers/1/01")):
        both = [all(may_enter(topic, peer, RUN_ID) for topic in twins) for peer in peers]
        expected = len(peers) / 4 ** len(twins[0].rpartition("/")[2])
        assert 0.7 * expected < sum(both) < 1.3 * expected
    other_run = RunId("cd" * 32)
    moved = [
        may_enter("peers/0/1", p, RUN_ID) != may_enter("peers/0/1", p, other_run) for p in peers
    ]
    assert 900 < sum(moved) < 1100


NO_ROOMS = (
    *("", "peers", "peers/", "peers/0", "peers/0/", "/peers/0/0", "rounds/0/0", "peers/0/0/1"),
    *("peers/2/0", "peers/00/0", "peers/-0/0", "peers/\u0660/0", "peers/0/\u0660"),
    *("peers/0/2", "peers/0/0a1", "peers/0/ 0", "peers/0/0\n", "peers/0/" + "0" * (MAX_DEPTH + 1)),
)


@pytest.mark.parametrize("topic", NO_ROOMS)
def test_what_is_not_called_like_a_room_is_none(topic: str) -> None:
    assert not is_room(topic)
    assert not may_enter(topic, "peer", RUN_ID)
