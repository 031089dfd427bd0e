"""The directory of a simulated swarm: expiring records, seen by whom their owner could reach."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from peer.net.swarm_clock import SwarmClock
from peer.sim.network import VirtualHost, VirtualNetwork
from protocol.errors import LimitExceeded, TransportError
from protocol.identity import PeerId
from protocol.record import CLOCK_SKEW_S, MAX_LIFETIME_S, Record, next_expiry
from protocol.ticket import Address

LOOKUP_TRIPS = 3
"""Hops of a lookup in a DHT, each a round trip."""
LOOKUP_BYTES = 2000.0
"""What one reading or publishing costs in sent and in received bytes, without the records."""
NUM_ASKED_FOR_TIME = 3


class Board:
    """What the nodes of the DHT hold together. Records are not signed: nobody here forges any.

    A record is seen by those who were connected to its owner when it was published, by whatever
    way around through running hosts: the two sides of a split do not see each other's news.
    """

    def __init__(self, network: VirtualNetwork, *, max_records: int = 256) -> None:
        self.network = network
        self._max_records = max_records
        self._topics: dict[str, dict[PeerId, tuple[Record, frozenset[PeerId] | None]]] = {}
        self.clocks: dict[PeerId, SwarmClock] = {}
        """Of the hosts."""

    def store(self, record: Record) -> bool:
        """Keeps a record, unless it lives too long, is an old one, or the topic is full."""
        if record.expires_unix_s - self.network.clock.now_s >= MAX_LIFETIME_S + CLOCK_SKEW_S:
            return False
        records = self._topics.setdefault(record.topic, {})
        now_s = self.network.clock.now_s
        for owner in [o for o, (old, _) in records.items() if old.expires_unix_s <= now_s]:
            del records[owner]
        old = records.get(record.owner)
        if old is None and len(records) >= self._max_records:
            return False
        if old is not None and old[0].expires_unix_s >= record.expires_unix_s:
            return False
        records[record.owner] = record, self._reached_by(record.owner)
        return True

    def records(self, topic: str, reader: VirtualHost) -> list[Record]:
        """Returns what a host sees that is alive by its clock."""
        now_s = self.clocks[reader.host_id].now_unix_s()
        found = []
        for record, seen_by in self._topics.get(topic, {}).values():
            left_s = record.expires_unix_s - now_s
            if not 0 < left_s < MAX_LIFETIME_S + CLOCK_SKEW_S:
                continue
            if seen_by is None or reader.host_id in seen_by:
                found.append(record)
        return sorted(found, key=lambda record: record.owner)

    def clocks_near(self, reader: VirtualHost) -> Iterator[tuple[PeerId, SwarmClock]]:
        """Yields the clocks of running hosts to which a host is connected, the next ones first."""
        here, network = reader.host_id, self.network
        ids = sorted(self.clocks)
        at = ids.index(here)
        for there in chain(ids[at + 1 :], ids[:at]):
            is_open = network.is_open(here, there) and network.is_open(there, here)
            if is_open and not network.hosts[there].is_dead:
                yield there, self.clocks[there]

    def _reached_by(self, owner: PeerId) -> frozenset[PeerId] | None:
        """Returns who is connected to a host, with detours; None for everybody."""
        network = self.network
        if not network.is_split:
            return None
        reached, frontier = {owner}, [owner]
        while frontier:
            here = frontier.pop()
            for there, host in network.hosts.items():
                is_new = there not in reached and not host.is_dead
                if is_new and network.is_open(here, there) and network.is_open(there, here):
                    reached.add(there)
                    frontier.append(there)
        return frozenset(reached)


class SimDirectory:
    """Implements `peer.ports.Directory`.

    Args:
        board: What all share.
        host: Ours.
    """

    def __init__(self, board: Board, host: VirtualHost) -> None:
        self._board = board
        self._host = host
        self._own: dict[str, Record] = {}
        self.on_reunion: Callable[[], None] = lambda: None
        clock = board.network.clock
        self.clock = board.clocks[host.host_id] = SwarmClock(
            wall=lambda: clock.now_s + host.clock_offset_s, steady=lambda: clock.now_s
        )

    async def publish(self, topic: str, payload: bytes, *, lifetime_s: float) -> None:
        """Sets our own record.

        Raises:
            LimitExceeded: it would live too long.
            TransportError: nobody takes it.
        """
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise LimitExceeded(f"a record lives for at most {MAX_LIFETIME_S:g} s")
        await self._look_up(len(payload), 0)
        previous = self._own.get(topic)
        expires_s = next_expiry(
            lifetime_s,
            now_unix_s=self.clock.now_unix_s(),
            previous_unix_s=None if previous is None else previous.expires_unix_s,
        )
        record = Record(self._host.host_id, topic, payload, expires_s)
        if not self._board.store(record):
            raise TransportError(f"nobody stored our record under {topic!r}")
        self._own[topic] = record

    async def read(self, topic: str) -> list[Record]:
        """Returns every living record that we see, our own included."""
        await self._look_up(0, 0)
        records = self._board.records(topic, self._host)
        self._host.received_bytes += sum(len(record.payload) for record in records)
        for record in records:
            if record.owner == self._host.host_id:  # perhaps of another life of ours
                self._own[topic] = record  # which the next one must outlive
        return records

    def meet(self, addresses: Iterable[Address]) -> None:
        """Does nothing: all meet at the board."""

    def multiaddrs(self) -> Sequence[str]:
        """Returns nothing: there is nowhere to enter."""
        return ()

    async def close(self) -> None:
        """Leaves."""

    async def _look_up(self, sent_bytes: float, received_bytes: float) -> None:
        self._host.sent_bytes += LOOKUP_BYTES + sent_bytes
        self._host.received_bytes += LOOKUP_BYTES + received_bytes
        await asyncio.sleep(LOOKUP_TRIPS * 2 * self._host.link.latency_s)
        for peer, clock in islice(self._board.clocks_near(self._host), NUM_ASKED_FOR_TIME):
            self.clock.learn(peer, clock.own_unix_s(), asked_s=clock.steady_s())
