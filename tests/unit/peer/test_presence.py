"""Presences over one board in memory, under a clock that the test sets."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from peer.net.directory_memory import MemoryBoard, MemoryDirectory
from peer.net.record_rules import RecordRules
from peer.presence import CARD_LIFETIME_S, GOODBYE_LIFETIME_S, Presence, address_of, wire_addresses
from protocol.card import TOPIC, Card
from protocol.errors import MalformedMessage
from protocol.identity import Identity, PeerId
from protocol.manifest import RunId
from protocol.ticket import MAX_ADDRESSES, Address, Ticket, parse_ticket

RUN_ID = RunId("ab" * 32)
IDS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 40)]


@dataclass
class Board:
    now_unix_s: float = 1_800_000_000.0
    board: MemoryBoard = field(init=False)

    def __post_init__(self) -> None:
        self.board = MemoryBoard(RecordRules(RUN_ID), lambda: self.now_unix_s)

    def join(self, number: int) -> Presence:
        identity = Identity(bytes([number]) * 32)
        return Presence(MemoryDirectory(identity, self.board), identity.peer_id)


def card_of(number: int, role: str = "peer", **fields: int) -> Card:
    return Card(wire_addresses=(f"10.0.0.{number}:4000",), role=role, **fields)


async def test_we_see_the_others_and_not_ourselves() -> None:
    board = Board()
    ours, theirs = board.join(1), board.join(2)
    await ours.announce(card_of(1))
    await theirs.announce(card_of(2, round=7, tokens=99))
    await ours.refresh()
    assert ours.cards == {IDS[1]: card_of(2, round=7, tokens=99)}
    assert ours.members() == (IDS[1],)
    assert list(ours.addresses(IDS[1])) == ["10.0.0.2:4000"]
    assert list(ours.addresses(IDS[0])) == []
    assert list(ours.addresses(IDS[2])) == []


@pytest.mark.parametrize("role", ["bootstrap", "left"])
async def test_who_does_not_train_is_no_member_but_can_be_dialled(role: str) -> None:
    board = Board()
    ours, theirs, third = board.join(1), board.join(2), board.join(3)
    await theirs.announce(card_of(2))
    await third.announce(card_of(3))
    await theirs.announce(card_of(2, role))
    await ours.refresh()
    assert ours.members() == (IDS[2],)
    assert list(ours.addresses(IDS[1])) == ["10.0.0.2:4000"]


async def test_members_come_sorted_for_whoever_asks() -> None:
    board = Board()
    presences = [board.join(number) for number in (3, 1, 4, 2)]
    for number, presence in zip((3, 1, 4, 2), presences, strict=True):
        await presence.announce(card_of(number))
    for presence in presences:
        await presence.refresh()
        assert list(presence.members()) == sorted(presence.members())
        assert len(presence.members()) == 3


async def test_a_card_that_makes_no_sense_is_as_good_as_none() -> None:
    board = Board()
    ours, theirs = board.join(1), board.join(2)
    await theirs.announce(card_of(2))
    for number, payload in ((3, b"\xff garbage"), (4, b""), (5, card_of(5, "king").to_bytes())):
        await board.join(number).directory.publish(TOPIC, payload, lifetime_s=30)
    await ours.refresh()
    assert set(ours.cards) == {IDS[1]}


async def test_who_stops_announcing_is_forgotten_and_a_goodbye_outlives_the_card() -> None:
    board = Board()
    ours, silent, leaving = board.join(1), board.join(2), board.join(3)
    await silent.announce(card_of(2))
    await leaving.announce(card_of(3))
    await leaving.announce(card_of(3, "left"))
    board.now_unix_s += CARD_LIFETIME_S + 1
    await ours.refresh()
    assert set(ours.cards) == {IDS[2]}
    assert ours.members() == ()
    board.now_unix_s += GOODBYE_LIFETIME_S
    await ours.refresh()
    assert ours.cards == {}


async def test_running_announces_us_and_looks_again_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peer.presence.REFRESH_S", 60.0)
    board = Board()
    ours, theirs = board.join(1), board.join(2)
    refreshes: asyncio.Queue[tuple[PeerId, ...]] = asyncio.Queue()
    running = asyncio.create_task(
        ours.run(lambda: card_of(1), lambda: refreshes.put_nowait(ours.members()))
    )
    async with asyncio.timeout(5):
        assert await refreshes.get() == ()
        await theirs.refresh()
        assert theirs.members() == (IDS[0],)
        await theirs.announce(card_of(2))
        ours.look_again()
        assert await refreshes.get() == (IDS[1],)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_directory_out_of_reach_ends_nothing_and_keeps_what_we_know() -> None:
    board = Board()
    ours, theirs = board.join(1), board.join(2)
    await theirs.announce(card_of(2))
    await ours.refresh()
    await ours.directory.close()
    await ours.refresh_quietly()
    refreshed = asyncio.Event()
    running = asyncio.create_task(ours.run(lambda: card_of(1), refreshed.set))
    async with asyncio.timeout(5):
        await refreshed.wait()
    assert ours.members() == (IDS[1],)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class ListeningDirectory(MemoryDirectory):
    def multiaddrs(self) -> Sequence[str]:
        return [f"/ip4/10.0.0.1/tcp/400{n}/p2p/{IDS[0]}" for n in range(2)]


@pytest.mark.parametrize("num_others", [1, 3, MAX_ADDRESSES])
def test_our_ticket_lists_us_first_once_and_fits_a_ticket(num_others: int) -> None:
    identity = Identity(bytes([1]) * 32)
    presence = Presence(ListeningDirectory(identity, Board().board), identity.peer_id)
    others = [Address(f"10.0.0.{n}", 4000, IDS[n]) for n in range(1, num_others)]
    stale = Address("10.9.9.9", 4000, identity.peer_id)  # where we listened last time
    given = Ticket(RUN_ID, IDS[30], (stale, *others), b"s" * 16)
    ours = parse_ticket(str(presence.ticket(given)))
    assert [address.port for address in ours.addresses[:2]] == [4000, 4001]
    assert all(address.peer_id == identity.peer_id for address in ours.addresses[:2])
    assert stale not in ours.addresses
    assert list(ours.addresses[2:]) == others[: MAX_ADDRESSES - 2]
    assert (ours.run_id, ours.founder, ours.secret) == (RUN_ID, IDS[30], b"s" * 16)


def test_an_address_is_read_from_its_multiaddr_and_its_key_checked() -> None:
    expected = Address("192.0.2.7", 4001, IDS[4])
    assert address_of(f"/ip4/192.0.2.7/tcp/4001/p2p/{IDS[4]}") == expected
    with pytest.raises(MalformedMessage):
        address_of("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWnobody")


class Listener:
    """A directory that found these addresses of its own."""

    def multiaddrs(self) -> list[str]:
        hosts = ("127.0.0.1", "192.0.2.7", "198.51.100.9")
        return [f"/ip4/{host}/tcp/4001/p2p/{Identity(bytes(32)).peer_id}" for host in hosts]


@pytest.mark.parametrize(
    ("listen", "announce", "expected"),
    [
        ("127.0.0.1", None, ("127.0.0.1:7000",)),
        ("0.0.0.0", "203.0.113.5", ("203.0.113.5:7000",)),
        ("0.0.0.0", None, ("192.0.2.7:7000", "198.51.100.9:7000", "127.0.0.1:7000")),
    ],
    ids=["one address", "announced", "everywhere"],
)
def test_others_are_told_addresses_that_can_be_dialled(
    listen: str, announce: str | None, expected: tuple[str, ...]
) -> None:
    told = wire_addresses(Listener(), listen_host=listen, announce_host=announce, port=7000)
    assert told == expected
