"""Presences over one board in memory, under a clock that the test sets."""

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.net.directory_memory import MemoryBoard, MemoryDirectory
from peer.net.record_rules import RecordRules
from peer.presence import CARD_LIFETIME_S, GOODBYE_LIFETIME_S, Presence, address_of, wire_addresses
from protocol.card import TOPIC, Card, Kept
from protocol.errors import MalformedMessage
from protocol.identity import Identity, PeerId
from protocol.manifest import RunId
from protocol.record import Record
from protocol.rooms import FULL, PLACES, Rooms
from protocol.ticket import MAX_ADDRESSES, Address, Ticket, parse_ticket

RUN_ID = RunId("ab" * 32)
NOW_UNIX_S = 1_800_000_000.0
IDS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 40)]


@dataclass
class Board:
    now_unix_s: float = NOW_UNIX_S
    board: MemoryBoard = field(init=False)

    def __post_init__(self) -> None:
        self.board = MemoryBoard(RecordRules(RUN_ID), lambda: self.now_unix_s)

    def join(self, number: int) -> Presence:
        identity = Identity(bytes([number]) * 32)
        return Presence(MemoryDirectory(identity, self.board), identity.peer_id)

    def join_rooms(self, number: int) -> Presence:
        presence = self.join(number)
        presence.rooms = Rooms(presence.our_id, RUN_ID)
        return presence


def card_of(number: int, role: str = "peer", **fields: Any) -> Card:
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


async def test_who_cannot_be_dialled_is_a_member_whom_its_relays_can_call() -> None:
    board = Board()
    ours, theirs = board.join(1), board.join(2)
    await theirs.announce(Card(wire_addresses=(), reach="reverse", relays=(IDS[4],)))
    await ours.refresh()
    assert ours.members() == (IDS[1],)
    assert ours.knows(IDS[1])
    assert not ours.knows(IDS[2])
    assert list(ours.addresses(IDS[1])) == []
    assert list(ours.relays(IDS[1])) == [IDS[4]]
    board.now_unix_s += 100.0
    await ours.refresh()
    assert list(ours.relays(IDS[1])) == [IDS[4]], "an exchange with it may be under way"


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


async def test_who_is_out_of_sight_can_still_be_reached_unless_it_said_goodbye() -> None:
    """It may have left our room in the middle of an exchange with us."""
    board = Board()
    ours, theirs, third = board.join(1), board.join(2), board.join(3)
    await theirs.announce(card_of(2))
    await third.announce(card_of(3))
    await ours.refresh()
    await third.announce(card_of(3, "left"))
    await ours.refresh()
    board.now_unix_s += 100.0
    await ours.refresh()
    assert ours.members() == ()
    assert list(ours.addresses(IDS[1])) == ["10.0.0.2:4000"]
    assert ours.reachable == {IDS[1]}


async def test_in_a_domain_members_and_holders_are_those_who_train_there() -> None:
    board = Board()
    ours = board.join(1)
    ours.domain = "law"
    others = {
        2: card_of(2, domain="law"),
        3: card_of(3, "holder", domain="law"),
        4: card_of(4, "coming", domain="law"),  # it is loading, and cannot answer yet
        5: card_of(5, domain="math"),
        6: card_of(6, "holder", domain="math"),
        7: card_of(7),
        8: card_of(8, "bootstrap"),
        9: card_of(9, "left", domain="law"),
    }
    for number, card in others.items():
        await board.join(number).announce(card)
    await ours.refresh()
    assert ours.members() == (IDS[1],)
    assert ours.holders() == (IDS[2],)
    assert not {IDS[1], IDS[2], IDS[3]} & set(ours.left())
    assert {IDS[4], IDS[5], IDS[6], IDS[8]} <= set(ours.left())
    known = {number for number in others if ours.knows(IDS[number - 1])}
    assert known == {2, 3, 9}  # of whom cards say where they train: with us


async def test_who_goes_to_another_domain_has_left_ours() -> None:
    board = Board()
    ours, theirs = board.join(1), board.join(2)
    ours.domain = "law"
    await theirs.announce(card_of(2, domain="law"))
    await ours.refresh()
    assert (ours.members(), ours.left()) == ((IDS[1],), ())
    await theirs.announce(card_of(2, "coming"))
    await ours.refresh()
    assert (ours.members(), ours.left()) == ((), (IDS[1],))
    await theirs.announce(card_of(2, domain="math"))
    await ours.refresh()
    assert (ours.members(), ours.left()) == ((), (IDS[1],))
    await theirs.announce(card_of(2, domain="law"))
    await ours.refresh()
    assert (ours.members(), ours.left()) == ((IDS[1],), ())


@pytest.mark.parametrize("sees_others", [False, True])
async def test_who_vanished_is_gone_only_while_we_have_not_lost_sight_of_the_swarm(
    sees_others: bool,
) -> None:
    board = Board()
    ours, theirs, elsewhere, node = (board.join(number) for number in (1, 2, 3, 4))
    ours.domain = "law"
    await theirs.announce(card_of(2, domain="law"))
    await ours.refresh()
    board.now_unix_s += 2 * CARD_LIFETIME_S
    await node.announce(card_of(4, "bootstrap"))  # a node tells nothing of who trains
    if sees_others:
        await elsewhere.announce(card_of(3, domain="math"))
    await ours.refresh()
    assert ours.members() == ()
    assert (IDS[1] in ours.left()) == sees_others


async def test_without_a_domain_nobody_left_who_did_not_say_so() -> None:
    board = Board()
    ours, theirs, third = board.join(1), board.join(2), board.join(3)
    await theirs.announce(card_of(2))
    await ours.refresh()
    board.now_unix_s += 2 * CARD_LIFETIME_S
    await third.announce(card_of(3, domain="math"))
    await ours.refresh()
    assert (ours.members(), ours.left()) == ((IDS[2],), ())


async def test_a_state_of_our_domain_can_be_had_of_those_who_keep_one_too() -> None:
    board = Board()
    ours = board.join(1)
    ours.domain = "law"
    law, math = Kept("law", 7, 140, is_final=False), Kept("math", 9, 180, is_final=True)
    others = {
        2: card_of(2, domain="law", round=5, step=100),
        3: card_of(3, "holder", domain="law", round=6, step=120),
        4: card_of(4, domain="math", round=99, step=999, kept=(math, law)),
        5: card_of(5, "left", domain="math", kept=(law,)),
        6: card_of(6, domain="math", round=9, step=180, kept=(math,)),
        7: card_of(7, domain="law"),  # at the beginning
        8: card_of(8, kept=(Kept("law", 0, 0, is_final=False),)),
        9: card_of(9, domain="law", round=8, step=160, kept=(law,)),
        10: Card(wire_addresses=(), role="coming", kept=(law,)),  # its wire is not open yet
    }
    for number, card in others.items():
        await board.join(number).announce(card)
    await ours.refresh()
    rounds, steps = ours.progress()
    assert rounds == {IDS[1]: 5, IDS[2]: 6, IDS[8]: 8}, "copies are older than what is trained"
    expected = {IDS[1]: 100, IDS[2]: 120, IDS[8]: 160}
    assert {peer: steps[peer] for peer in rounds} == expected
    await board.join(9).announce(card_of(9, "left", domain="law"))
    await ours.refresh()
    assert ours.progress() == ({IDS[3]: 7}, {IDS[3]: 140}), "the last state of all is a copy"


async def test_without_a_domain_states_are_those_of_members_and_holders() -> None:
    board = Board()
    ours, theirs, third = board.join(1), board.join(2), board.join(3)
    await theirs.announce(card_of(2, round=5, step=100))
    await third.announce(card_of(3, "bootstrap", kept=(Kept("", 9, 9, is_final=True),)))
    await ours.refresh()
    assert ours.progress() == ({IDS[1]: 5}, {IDS[1]: 100})


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


async def live(board: Board, presences: list[Presence], times: int, *, role: str = "peer") -> None:
    """Lets all announce themselves and look, time and again."""
    for _ in range(times):
        board.now_unix_s += 5
        for number, presence in enumerate(presences, 1):
            await presence.announce(card_of(number, role))
        for presence in presences:
            await presence.refresh()


async def test_in_a_small_swarm_rooms_change_nothing() -> None:
    board = Board()
    presences = [board.join_rooms(number) for number in range(1, 6)]
    plain = board.join(6)
    await live(board, [*presences, plain], 3)
    for presence in [*presences, plain]:
        assert {*presence.members(), presence.our_id} == set(IDS[:6])


@dataclass
class Crowd:
    """A swarm that has settled in its rooms."""

    board: Board
    presences: list[Presence]


@pytest.fixture
async def crowd() -> Crowd:
    board = Board()
    presences = [board.join_rooms(number) for number in range(1, 101)]
    await live(board, presences, 12)
    return Crowd(board, presences)


async def test_in_a_crowd_we_know_some_and_they_know_us(crowd: Crowd) -> None:
    members = {presence.our_id: presence.members() for presence in crowd.presences}
    for peer, known in members.items():
        assert 15 <= len(known) <= 60
        assert all(peer in members[other] for other in known)
    assert all(list(p.addresses(known)) for p in crowd.presences for known in p.members())


async def test_a_newcomer_who_knows_of_no_rooms_yet_finds_somebody_and_then_its_own(
    crowd: Crowd,
) -> None:
    newcomer = crowd.board.join(101)
    await newcomer.refresh()
    assert FULL <= len(newcomer.members()) <= PLACES
    newcomer.rooms = Rooms(newcomer.our_id, RUN_ID)
    await newcomer.refresh()
    known = newcomer.members()
    await live(crowd.board, [*crowd.presences, newcomer], 1)
    assert sum(newcomer.our_id in crowd.presences[n].members() for n in range(100)) >= 15
    assert len(set(known) & set(newcomer.members())) >= 15


async def test_a_goodbye_reaches_all_who_know_us(crowd: Crowd) -> None:
    leaving = crowd.presences[0]
    await leaving.announce(card_of(1, "left"))
    for presence in crowd.presences[1:]:
        await presence.refresh()
        assert leaving.our_id not in presence.members()


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_of_two_cards_in_two_rooms_the_newer_counts(order: tuple[int, int]) -> None:
    records = {
        topic: Record(IDS[1], topic, card_of(2, round=round).to_bytes(), NOW_UNIX_S + round)
        for topic, round in zip(("peers", "peers/0/1"), order, strict=True)
    }
    presence = Presence(RoomyDirectory(records), IDS[0], AllRooms(records))  # type: ignore[arg-type]
    await presence.refresh()
    assert presence.cards[IDS[1]].round == 2


class RoomyDirectory:
    """Has a record in each room."""

    def __init__(self, records: dict[str, Record]) -> None:
        self.records = records

    async def read(self, topic: str) -> list[Record]:
        return [self.records[topic]]

    def meet(self, addresses: Iterable[Address]) -> None:
        assert not list(addresses)


class AllRooms:
    """Reads all rooms, and knows all who are there."""

    def __init__(self, topics: Iterable[str]) -> None:
        self.unread = tuple(topics)
        self.owners: set[PeerId] = set()

    def begin(self) -> None:
        pass

    def to_read(self) -> tuple[str, ...]:
        return self.unread

    def on_read(self, topic: str, owners: list[PeerId]) -> None:
        self.unread = tuple(unread for unread in self.unread if unread != topic)
        self.owners.update(owners)

    def others(self) -> set[PeerId]:
        return self.owners


async def test_a_crowd_that_rushes_into_a_full_room_finds_its_way() -> None:
    board = Board()
    board.board.rules.max_records = FULL + 8
    presences = [board.join_rooms(number) for number in range(1, 80)]
    await live(board, presences, 12)
    assert min(len(presence.members()) for presence in presences) >= 15


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


def entrance_of(number: int, host: str = "10.0.0.9", owner: int | None = None) -> str:
    return f"/ip4/{host}/tcp/{4000 + number}/p2p/{IDS[number if owner is None else owner]}"


async def test_our_ticket_lists_living_nodes_and_peers_before_those_that_are_gone() -> None:
    board = Board()
    identity = Identity(bytes([1]) * 32)
    presence = Presence(ListeningDirectory(identity, board.board), identity.peer_id)
    for number, role in ((2, "peer"), (3, "bootstrap"), (4, "left")):
        card = Card(wire_addresses=(), role=role, multiaddrs=(entrance_of(number - 1),))
        await board.join(number).announce(card)
    await presence.refresh()
    gone = [Address(f"10.0.0.{n}", 4000, IDS[n]) for n in range(20, 20 + MAX_ADDRESSES)]
    forwarded = Address("198.51.100.7", 9000, IDS[1])  # how the peer is known from outside
    ticket = presence.ticket(Ticket(RUN_ID, IDS[30], (*gone[:9], forwarded, *gone[9:15])))
    assert [address.peer_id for address in ticket.addresses[:3]] == [IDS[0], IDS[0], IDS[2]]
    assert ticket.addresses[3:5] == (forwarded, address_of(entrance_of(1)))
    assert list(ticket.addresses[5:]) == gone[: MAX_ADDRESSES - 5]


class MeetingDirectory(MemoryDirectory):
    """Remembers whom it shall meet."""

    met: tuple[Address, ...] = ()

    def meet(self, addresses: Iterable[Address]) -> None:
        self.met = tuple(addresses)


async def test_the_directory_is_told_where_those_on_cards_can_be_found() -> None:
    board = Board()
    identity = Identity(bytes([1]) * 32)
    directory = MeetingDirectory(identity, board.board)
    presence = Presence(directory, identity.peer_id)
    said = {
        2: (entrance_of(1), entrance_of(1, "192.0.2.1")),
        3: (entrance_of(2, owner=5),),  # of somebody else
        4: (entrance_of(3, "example.org"), "/nonsense", "/ip4/10.0.0.1/tcp/x/p2p/y"),
    }
    for number, multiaddrs in said.items():
        await board.join(number).announce(Card(wire_addresses=(), multiaddrs=multiaddrs))
    hidden = Card(wire_addresses=(), multiaddrs=(entrance_of(4),), reach="reverse")
    await board.join(5).announce(hidden)
    await presence.refresh()
    assert directory.met == (address_of(said[2][0]), address_of(said[2][1]))


async def test_a_reunion_makes_us_look_again() -> None:
    board = Board()
    presence = board.join(1)
    refreshes: asyncio.Queue[None] = asyncio.Queue()
    running = asyncio.create_task(
        presence.run(lambda: card_of(1), lambda: refreshes.put_nowait(None))
    )
    async with asyncio.timeout(4):  # less than it waits by itself
        await refreshes.get()
        presence.directory.on_reunion()
        await refreshes.get()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_an_address_is_read_from_its_multiaddr_and_its_key_checked() -> None:
    expected = Address("192.0.2.7", 4001, IDS[4])
    assert address_of(f"/ip4/192.0.2.7/tcp/4001/p2p/{IDS[4]}") == expected
    with pytest.raises(MalformedMessage):
        address_of("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWnobody")


HOSTS = ["10.0.0.1", "::1", "fe80::1%eth0", "fe80::1%\u0661", "h\u00e9", "example.org", "", "1"]
PORTS = ["4000", "0", "-1", "65535", "65536", "\u0661", "1_0", " 1", "00000000001", "9" * 200]


@given(
    multiaddrs=st.lists(
        st.builds(
            "/ip4/{}/tcp/{}/p2p/{}".format,
            st.sampled_from(HOSTS) | st.text(max_size=20),
            st.sampled_from(PORTS) | st.text(max_size=20),
            st.sampled_from([*IDS[:4], "nobody"]),
        )
        | st.text(max_size=50),
        max_size=8,
    )
)
def test_whatever_a_card_says_our_ticket_can_be_spelled_and_read(multiaddrs: list[str]) -> None:
    identity = Identity(bytes([1]) * 32)
    presence = Presence(ListeningDirectory(identity, Board().board), identity.peer_id)
    presence.cards = {IDS[2]: Card(wire_addresses=(), multiaddrs=tuple(multiaddrs))}
    ticket = presence.ticket(Ticket(RUN_ID, IDS[30], ()))
    assert parse_ticket(str(ticket)) == ticket
    assert {a.peer_id for a in ticket.addresses} <= {IDS[0], IDS[2]}
    assert all(ipaddress.ip_address(address.host) for address in ticket.addresses)


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
