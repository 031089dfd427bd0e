"""Halves of a run that do not know each other become one as soon as any link between them works."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from peer.net import directory_upkeep
from peer.net.address_book import PEERS, AddressBook
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.p2pd import free_port
from peer.net.swarm_clock import STEP_S, SwarmClock
from peer.presence import Presence, address_of
from protocol.card import Card
from protocol.errors import TransportError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address

pytestmark = pytest.mark.net

RUN_ID = RunId("ab" * 32)
X, Y, A, B, C, D = (Identity(bytes([seed]) * 32) for seed in range(1, 7))
GOAL_S = 20.0


@dataclass
class Member:
    """A directory with a presence that lives."""

    directory: HivemindDirectory
    presence: Presence
    living: "asyncio.Task[None]"

    @property
    def address(self) -> Address:
        return address_of(self.directory.multiaddrs()[0])

    def knows(self, *others: Identity) -> bool:
        return {other.peer_id for other in others} <= self.presence.cards.keys()

    async def end(self) -> None:
        self.living.cancel()
        await asyncio.gather(self.living, return_exceptions=True)
        await self.directory.close()


Join = Callable[..., Awaitable[Member]]


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    members: list[Member] = []

    async def join(identity: Identity, *entrances: Address, **others: object) -> Member:
        directory = await HivemindDirectory.start(identity, RUN_ID, bootstrap=entrances, **others)
        presence = Presence(directory, identity.peer_id)

        def card() -> Card:
            multiaddrs = tuple(directory.multiaddrs())
            return Card(wire_addresses=("127.0.0.1:1",), multiaddrs=multiaddrs)

        living = asyncio.create_task(presence.run(card, lambda: None))
        members.append(Member(directory, presence, living))
        return members[-1]

    yield join
    for member in members:
        await member.end()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition: Callable[[], bool]) -> float:
    """Returns how long it took."""
    began_s = time.monotonic()
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return time.monotonic() - began_s


@contextlib.asynccontextmanager
async def link(port: int, target: int) -> AsyncIterator[None]:
    """A way from one port to another, for as long as it lasts."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
        for work in (pump(reader, there_writer), pump(there_reader, writer)):
            tasks.add(asyncio.create_task(work))

    server = await asyncio.start_server(carry, "127.0.0.1", port)
    async with server:
        yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_sides_that_entered_by_nodes_that_never_met_become_one(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_upkeep, "MEET_EVERY_S", 2.0)
    x, y = await join(X), await join(Y)
    way_to_y = Address("127.0.0.1", free_port("127.0.0.1"), Y.peer_id)
    a, c = await join(A, x.address, way_to_y), await join(C, x.address)
    b, d = await join(B, y.address), await join(D, y.address)
    ours, theirs = {X: x, A: a, C: c}, {Y: y, B: b, D: d}
    for side in (ours, theirs):
        await until(lambda side=side: all_know_all(side))
    await asyncio.sleep(2 * directory_upkeep.MEET_EVERY_S)  # the others are tried in vain
    assert not any(member.knows(other) for member in ours.values() for other in theirs)
    async with link(way_to_y.port, y.address.port):
        took_s = await until(lambda: all_know_all(ours | theirs))
        for member in (*ours.values(), *theirs.values()):
            await member.end()
    assert took_s < GOAL_S


async def test_a_peer_comes_back_by_those_whom_it_remembers(join: Join, tmp_path: Path) -> None:
    x = await join(X)
    entrance, book = x.address, tmp_path / PEERS
    a, c = await join(A, entrance, book=AddressBook.read(book)), await join(C, entrance)
    await until(lambda: all_know_all({A: a, C: c, X: x}))
    await a.end()
    assert c.address in AddressBook.read(book).addresses
    await x.end()
    again = await join(A, entrance, book=AddressBook.read(book))
    await until(lambda: again.knows(C))
    await again.end()
    stranger = await join(B, entrance)  # the same ticket, but no book
    assert not stranger.directory.clock.error_s
    with pytest.raises(TransportError):
        await stranger.directory.read("peers")


@pytest.mark.parametrize("wrong_s", [300.0, -300.0])
async def test_a_peer_whose_clock_is_wrong_sees_the_others_and_is_seen(
    join: Join, wrong_s: float
) -> None:
    x = await join(X)
    a = await join(A, x.address)
    notices: list[str] = []
    clock = SwarmClock(wall=lambda: time.time() + wrong_s)
    c = await join(C, x.address, clock=clock, on_notice=notices.append)
    await until(lambda: all_know_all({X: x, A: a, C: c}))
    assert clock.error_s == pytest.approx(wrong_s, abs=1.0)
    await until(lambda: all(abs(member.directory.clock.error_s) <= STEP_S for member in (x, a)))
    await until(lambda: bool(notices))
    assert notices == [
        f"this machine's clock is 300 s {'ahead of' if wrong_s > 0 else 'behind'} the others'; "
        "set it when you can"
    ]


async def test_two_whose_clocks_differ_agree_on_the_later_one(join: Join) -> None:
    x = await join(X)
    a = await join(A, x.address, clock=SwarmClock(wall=lambda: time.time() - 300.0))
    await until(lambda: all_know_all({X: x, A: a}))
    assert x.directory.clock.error_s == 0.0


def all_know_all(members: dict[Identity, Member]) -> bool:
    return all(
        member.knows(*(other for other in members if other is not identity))
        for identity, member in members.items()
    )
