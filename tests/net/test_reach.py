"""Peers that nobody can dial: they listen at others, are called back, and are passed on to."""

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from peer.net import frames, tls  # first, since it sets gRPC's environment

# isort: split
import grpc
import grpc.aio

from peer.net import link as link_module
from peer.net import listening as listening_module
from peer.net import reach as reach_module
from peer.net.config import WireConfig
from peer.net.dial_back import MAX_ADDRESSES, DialBack, caller_host
from peer.net.link import error_from
from peer.net.reach import DIAL_BACK, verdict
from peer.net.tunnel import LISTEN, PIECE_BYTES, TUNNEL, join
from peer.net.ways import Candidate
from peer.net.wire import GrpcWire
from peer.ports import Source
from protocol.card import Card
from protocol.errors import NotAvailable, RemoteError, ThinwireError, TransportError
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note, Ready
from protocol.pb import thinwire_pb2 as pb
from tests.blobs import BytesSource, KeptSink, fetched

pytestmark = pytest.mark.net

RUN_ID = RunId("ab" * 32)
NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
REF = BlobRef("part", 0, b"e" * 16, 1)
GRAIN_BYTES = 64 * 1024
PORT = 4321  # announced only
FAST = 1e9  # what a relay passes on in tests that are not about that, in bit/s


class Inbox:
    def __init__(self) -> None:
        self.notes: asyncio.Queue[tuple[PeerId, Note]] = asyncio.Queue()
        self.blobs: dict[BlobRef, Source] = {}

    def on_note(self, src: PeerId, note: Note) -> None:
        self.notes.put_nowait((src, note))

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        if ref not in self.blobs:
            raise NotAvailable("it was never made")
        return self.blobs[ref]


class Someone:
    """A peer; unless it can be dialled, it announces a place where nobody answers."""

    def __init__(self, identity: Identity, wire: GrpcWire, inbox: Inbox, host: str) -> None:
        self.identity, self.wire, self.inbox = identity, wire, inbox
        self.peer_id = identity.peer_id
        self.announced = (f"{host}:{wire.listen_port}",)

    @property
    def card(self) -> Card:
        reach = self.wire.reach
        return Card(
            wire_addresses=reach.listed(self.announced),
            reach=reach.reachability,
            relays=reach.relays,
        )

    def way_to(self, other: "Someone") -> str | None:
        return self.wire._link(other.peer_id).way


class World:
    """All peers, and what they tell each other."""

    def __init__(self) -> None:
        self.all: dict[PeerId, Someone] = {}

    async def start(self, seed: int, *, dialable: bool, **settings: Any) -> Someone:
        identity, inbox = Identity(bytes([seed]) * 32), Inbox()
        config = WireConfig(**{"run_id": RUN_ID, "progress_s": 2.0, "relay_bps": FAST, **settings})
        wire = await GrpcWire.start(identity, config, inbox=inbox, addresses=self.addresses)  # type: ignore[arg-type]
        wire.reach.relays_of = self.relays
        host = "127.0.0.1" if dialable else "127.0.0.9"
        someone = self.all[identity.peer_id] = Someone(identity, wire, inbox, host)
        return someone

    def addresses(self, peer_id: PeerId) -> Sequence[str]:
        return self.all[peer_id].announced if peer_id in self.all else ()

    def relays(self, peer_id: PeerId) -> Sequence[PeerId]:
        return self.all[peer_id].wire.reach.relays if peer_id in self.all else ()

    def tell(self) -> None:
        """Everybody reads the directory."""
        for someone in self.all.values():
            others = {peer: other.card for peer, other in self.all.items() if other is not someone}
            someone.wire.reach.on_cards(others, someone.announced)

    async def settle(self, *undialable: Someone) -> None:
        """Until these know that they cannot be dialled, and can be called at all others."""
        self.tell()
        hosts = len(self.all) - len(undialable)
        await until(
            lambda: all(one.wire.reach.reachability == "reverse" for one in undialable), self.tell
        )
        await until(
            lambda: all(len(one.wire.reach.relays) == hosts for one in undialable), self.tell
        )

    async def leave(self, someone: Someone) -> None:
        del self.all[someone.peer_id]
        await someone.wire.close()


async def until(condition: Callable[[], bool], again: Callable[[], object] = bool) -> None:
    async with asyncio.timeout(20):
        while not condition():
            again()
            await asyncio.sleep(0.02)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(listening_module, "PAUSE_S", (0.05, 0.5))
    made = World()
    before = asyncio.all_tasks()
    yield made
    folders = [one.wire.reach.server_path.parent for one in made.all.values()]
    for someone in list(made.all.values()):
        await made.leave(someone)
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})  # type: ignore[operator]
    assert not any(folder.exists() for folder in folders)


async def fetch(dst: Someone, src: Someone, data: bytes) -> bytes:
    src.inbox.blobs[REF] = BytesSource(data, grain_bytes=GRAIN_BYTES)
    return await fetched(dst.wire, src.peer_id, REF, len(data), grain_bytes=GRAIN_BYTES)


async def exchange(one: Someone, other: Someone, size: int = 300_000) -> None:
    """Notes and blobs go both ways."""
    for src, dst in ((one, other), (other, one)):
        await src.wire.send(dst.peer_id, NOTE)
        assert await dst.inbox.notes.get() == (src.peer_id, NOTE)
        data = os.urandom(size)
        assert await fetch(dst, src, data) == data


# ---- knowing whether we can be dialled


async def test_who_can_be_dialled_learns_so_and_listens_nowhere(world: World) -> None:
    one, other = await world.start(1, dialable=True), await world.start(2, dialable=True)
    world.tell()
    await until(lambda: one.wire.reach._verdict is not None, world.tell)
    assert one.card == Card(wire_addresses=one.announced)
    assert one.peer_id not in other.wire.reach.switchboard


async def test_who_cannot_be_dialled_learns_so_and_listens_at_those_who_can(world: World) -> None:
    hidden = await world.start(1, dialable=False)
    other_hidden = await world.start(2, dialable=False)
    hosts = [await world.start(seed, dialable=True) for seed in (3, 4)]
    await world.settle(hidden, other_hidden)
    assert hidden.wire.reach.reachability == "reverse"
    assert hidden.card.wire_addresses == ()
    assert set(hidden.wire.reach.relays) == {host.peer_id for host in hosts}
    assert all(hidden.peer_id in host.wire.reach.switchboard for host in hosts)
    assert hidden.peer_id not in other_hidden.wire.reach.switchboard


async def test_an_address_that_others_tell_us_of_is_listed_if_it_can_be_ours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a router that forwards our port, we know only our address at home."""
    one = await world.start(1, dialable=True)
    others = ["1.2.3.4:1", f"192.168.0.9:{PORT}", "example.org:1", "x"]
    reply = pb.DialBackReply(reached=[*others, f"1.2.3.4:{PORT}"], failed=[f"10.0.0.9:{PORT}"])
    ours = (f"10.0.0.9:{PORT}", f"192.168.0.8:{PORT}")
    listed = await listed_after(one, ours, reply, monkeypatch=monkeypatch)
    assert listed == (f"192.168.0.8:{PORT}", f"1.2.3.4:{PORT}")


async def listed_after(
    one: Someone,
    ours: Sequence[str],
    *replies: pb.DialBackReply,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, ...]:
    """Returns what is on the card of `one` when its neighbours have answered so."""
    reach = one.wire.reach
    answers = {PeerId(f"{place}"): reply for place, reply in enumerate(replies)}

    async def told(peer_id: PeerId) -> pb.DialBackReply:
        return answers[peer_id]

    monkeypatch.setattr(reach, "ask_one", told)
    reach.on_cards({peer: Card(wire_addresses=("192.0.2.1:1",)) for peer in answers}, ours)
    await until(lambda: reach._verdict is not None)
    return reach.listed(ours)


async def test_one_of_several_neighbours_adds_nothing_to_our_card_and_takes_nothing_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await world.start(1, dialable=True)
    ours = [f"8.8.8.8:{PORT}", f"[2600::8]:{PORT}"]
    honest = pb.DialBackReply(reached=ours[:1])
    liar = pb.DialBackReply(reached=[f"1.2.3.{n}:{PORT}" for n in range(8)], failed=ours)
    listed = await listed_after(one, ours, honest, liar, honest, monkeypatch=monkeypatch)
    assert listed == tuple(ours)


async def test_what_two_neighbours_say_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await world.start(1, dialable=True)
    ours, found = [f"192.168.0.8:{PORT}", f"8.8.8.8:{PORT}"], f"8.8.8.9:{PORT}"
    honest = pb.DialBackReply(reached=[found], failed=ours[1:])
    liar = pb.DialBackReply(reached=[f"1.2.3.4:{PORT}"])
    listed = await listed_after(one, ours, honest, liar, honest, monkeypatch=monkeypatch)
    assert listed == (ours[0], found)


async def test_a_false_only_neighbour_adds_one_address_behind_ours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await world.start(1, dialable=True)
    ours = [f"10.0.0.{n}:{PORT}" for n in range(MAX_ADDRESSES + 1)]
    liar = pb.DialBackReply(reached=[f"1.2.3.{n}:{PORT}" for n in range(8)])
    listed = await listed_after(one, ours, liar, monkeypatch=monkeypatch)
    assert listed == (*ours[: MAX_ADDRESSES - 1], f"1.2.3.0:{PORT}")


async def test_not_everybody_listens_at_the_same_few_but_all_at_bootstrap_nodes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach_module, "MAX_HOSTS", 8)
    cards = {PeerId(f"{n:03}"): Card(wire_addresses=("192.0.2.1:1",)) for n in range(256)}
    node = PeerId("zzz")
    cards[node] = Card(wire_addresses=("192.0.2.1:1",), role="bootstrap")
    taken = []
    for seed in (1, 2):
        reach = (await world.start(seed, dialable=False)).wire.reach
        monkeypatch.setattr(reach, "_verdict", "reverse")
        monkeypatch.setattr(reach, "_ask_at_s", math.inf)
        monkeypatch.setattr(reach.listening, "listen_at", taken.append)
        for order in (cards, dict(reversed(cards.items()))):
            reach.on_cards(order, ())
    first, first_again, second, _ = taken
    assert first == first_again
    assert len(first) == len(second) == 8
    assert first[0] == second[0] == node
    assert len({*first} & {*second}) < 5  # by chance each of 7 with 7 / 256


def test_one_neighbour_is_not_the_world() -> None:
    yes, no = pb.DialBackReply(reached=["a"]), pb.DialBackReply(failed=["a"])
    assert [verdict(answers) for answers in ([yes], [no], [yes, no], [yes, yes, no])] == [
        "direct",
        "reverse",
        "reverse",
        "direct",
    ]


@pytest.mark.parametrize(
    ("caller", "asked", "dialled"),
    [
        ("ipv4:192.0.2.7:999", ["192.0.2.7:1", "192.0.2.8:1", "10.0.0.1:1"], ["192.0.2.7:1"]),
        ("ipv4:192.0.2.7:999", ["0.0.0.0:7000", "127.0.0.1:22"], ["192.0.2.7:7000"]),
        ("ipv4:127.0.0.1:999", ["127.0.0.9:1", "192.0.2.7:1"], ["127.0.0.9:1"]),
        (
            "ipv6:%5B2001:db8::7%5D:999",
            ["[2001:db8::7]:1", "[::]:2"],
            ["[2001:db8::7]:1", "[2001:db8::7]:2"],
        ),
        ("ipv6:[::ffff:192.0.2.7]:999", ["192.0.2.7:1"], ["192.0.2.7:1"]),
        ("ipv4:192.0.2.7:999", ["localhost:1", "192.0.2.7:0", "x", "192.0.2.7:99999"], []),
    ],
)
async def test_only_the_caller_itself_is_dialled(
    caller: str, asked: list[str], dialled: list[str]
) -> None:
    seen = []

    async def dial(peer_id: PeerId, address: str) -> None:
        seen.append(address)

    request = pb.DialBack(addresses=asked).SerializeToString()
    reply = pb.DialBackReply.FromString(
        await DialBack(dial).answer(PeerId("p"), request, caller=caller)
    )
    assert seen == list(reply.reached) == dialled


async def test_nobody_makes_us_dial_all_the_time_or_from_a_tunnel() -> None:
    seen = []

    async def dial(peer_id: PeerId, address: str) -> None:
        seen.append(address)
        raise TransportError("nobody there")

    asked = pb.DialBack(addresses=["127.0.0.1:1"]).SerializeToString()
    answer = DialBack(dial).answer
    for caller, refusal in (("ipv4:127.0.0.1:9", ""), ("ipv4:127.0.0.1:9", "just now")):
        reply = pb.DialBackReply.FromString(await answer(PeerId("p"), asked, caller=caller))
        assert refusal in reply.refusal
    assert seen == ["127.0.0.1:1"]
    reply = pb.DialBackReply.FromString(await answer(PeerId("q"), asked, caller="unix:"))
    assert "address" in reply.refusal
    many = pb.DialBack(addresses=["127.0.0.1:1"] * 9).SerializeToString()
    for wrong in (many, b"\xff", bytes(5000)):
        with pytest.raises(RemoteError):
            await answer(PeerId("r"), wrong, caller="ipv4:127.0.0.1:9")
    assert caller_host("nonsense") is None


# ---- being reached


async def test_a_host_that_says_it_again_and_again_changes_nothing(world: World) -> None:
    hidden, host = await world.start(1, dialable=False), await world.start(2, dialable=True)
    await world.settle(hidden)
    listening, changes = hidden.wire.reach.listening, []
    hidden.wire.reach.on_change = lambda: changes.append(listening.hosts)
    heard, on_summons = [], listening._on_summons

    def watched(host: PeerId, message: bytes) -> None:
        on_summons(host, message)
        heard.append(message)

    listening._on_summons = watched  # type: ignore[method-assign]
    queue = host.wire.reach.switchboard._listeners[hidden.peer_id]
    for _ in range(5):
        queue.put_nowait(pb.Summons())
    await until(lambda: len(heard) == 5)
    assert changes == []
    assert listening.hosts == (host.peer_id,)


async def test_the_dialable_and_the_others_reach_each_other(world: World) -> None:
    hidden, host = await world.start(1, dialable=False), await world.start(2, dialable=True)
    await world.settle(hidden)
    await exchange(hidden, host)
    assert hidden.way_to(host) == "direct"
    assert host.way_to(hidden) == "reverse"
    assert host.wire.ways == {"reverse": 1}


async def test_two_that_nobody_can_dial_meet_through_a_third(world: World) -> None:
    one, other = await world.start(1, dialable=False), await world.start(2, dialable=False)
    relay = await world.start(3, dialable=True)
    await world.settle(one, other)
    await exchange(one, other, size=3_000_000)
    assert one.way_to(other) == other.way_to(one) == "relayed"
    assert relay.wire.counters.sent["relay"] > 6_000_000
    assert relay.inbox.notes.empty()


async def test_a_ping_goes_through_tunnels_and_is_answered_by_the_peer_alone(world: World) -> None:
    one, other = await world.start(1, dialable=False), await world.start(2, dialable=False)
    relay = await world.start(3, dialable=True)
    await world.settle(one, other)
    for _ in range(3):  # the first way is perhaps not open yet
        with contextlib.suppress(TransportError):
            await one.wire.ping(other.peer_id, wait_s=5.0)
    await one.wire.ping(other.peer_id, wait_s=5.0)
    assert one.way_to(other) == "relayed"
    heard_s = one.wire.signs.heard_at_s(other.peer_id)
    await world.leave(other)  # the relay goes on
    with pytest.raises(TransportError):
        await one.wire.ping(other.peer_id, wait_s=1.0)
    assert one.wire.signs.heard_at_s(other.peer_id) == heard_s
    await relay.wire.ping(one.peer_id, wait_s=5.0)
    assert relay.way_to(one) == "reverse"


async def test_a_slow_relay_delivers_all_the_same(world: World) -> None:
    one, other = await world.start(1, dialable=False), await world.start(2, dialable=False)
    await world.start(3, dialable=True, relay_bps=2e6)
    await world.settle(one, other)
    data = os.urandom(200_000)
    assert await fetch(one, other, data) == data


async def test_who_relays_nothing_says_so(world: World) -> None:
    one, other = await world.start(1, dialable=False), await world.start(2, dialable=False)
    host = await world.start(3, dialable=True, relay_bps=0)
    await world.settle(one, other)
    with pytest.raises(TransportError):
        await one.wire.send(other.peer_id, NOTE)
    assert "relay" not in host.wire.counters.sent
    await exchange(one, host)


async def test_several_connections_are_several_tunnels_and_end_alone(world: World) -> None:
    hidden, host = await world.start(1, dialable=False), await world.start(2, dialable=True)
    await world.settle(hidden)
    link = host.wire._link(hidden.peer_id)
    channels = [await link.another_channel() for _ in range(3)]
    for channel in channels:
        await channel.unary_unary(frames.NOTE)(b"not a note")
    tunnels = hidden.wire.reach.listening._tunnels
    assert len(tunnels) == 4
    await link.drop(channels[0])
    await until(lambda: len(tunnels) == 3)
    assert not link.is_open(channels[0])
    assert all(map(link.is_open, channels[1:]))
    await host.wire.send(hidden.peer_id, NOTE)
    await link.drop()
    await until(lambda: not tunnels)


# ---- when things break


async def test_another_relay_takes_over_in_the_middle_of_a_transfer(world: World) -> None:
    one, other = await world.start(1, dialable=False), await world.start(2, dialable=False)
    relays = [await world.start(seed, dialable=True) for seed in (3, 4, 5)]
    await world.settle(one, other)
    data = os.urandom(1_000_000)
    source = BytesSource(data, grain_bytes=GRAIN_BYTES, made_bytes=GRAIN_BYTES)
    other.inbox.blobs[REF] = source
    sink = KeptSink(len(data), GRAIN_BYTES)
    fetching = asyncio.create_task(one.wire.fetch(other.peer_id, REF, sink))
    await sink.has_grown.wait()
    used = [relay for relay in relays if relay.wire.counters.sent["relay"] > 50_000]
    for relay in used:
        await world.leave(relay)
    source.made.set()
    await asyncio.gather(fetching, return_exceptions=True)  # it may go on by itself, or not

    async def finish() -> None:
        while sink.missing():
            try:
                await one.wire.fetch(other.peer_id, REF, sink)
            except TransportError:
                await asyncio.sleep(0.05)

    async with asyncio.timeout(30):
        await finish()
    assert sink.data == data
    assert 1 <= len(used) < len(relays)


async def test_without_any_relay_left_calls_fail_and_nothing_hangs(world: World) -> None:
    one, other = await world.start(1, dialable=False), await world.start(2, dialable=False)
    relay = await world.start(3, dialable=True)
    await world.settle(one, other)
    await one.wire.send(other.peer_id, NOTE)
    await world.leave(relay)
    async with asyncio.timeout(15):
        with pytest.raises(TransportError):
            await one.wire.send(other.peer_id, NOTE)
        with pytest.raises(TransportError):
            await fetch(one, other, bytes(100_000))


async def test_a_listener_that_vanishes_cannot_be_called_any_more(world: World) -> None:
    hidden, host = await world.start(1, dialable=False), await world.start(2, dialable=True)
    await world.settle(hidden)
    await host.wire.send(hidden.peer_id, NOTE)
    await hidden.wire.close()
    await until(lambda: hidden.peer_id not in host.wire.reach.switchboard)
    async with asyncio.timeout(15):
        with pytest.raises(TransportError):
            await host.wire.send(hidden.peer_id, NOTE)
        with pytest.raises(TransportError):
            await host.wire.send(hidden.peer_id, NOTE)
    await until(lambda: not host.wire.reach.doors._tunnels)


async def test_a_host_that_restarts_is_listened_at_again(world: World) -> None:
    hidden, host = await world.start(1, dialable=False), await world.start(2, dialable=True)
    await world.settle(hidden)
    port = host.wire.listen_port
    await world.leave(host)
    await until(lambda: not hidden.wire.reach.relays)
    host = await world.start(2, dialable=True, listen_port=port)
    await until(lambda: hidden.peer_id in host.wire.reach.switchboard, world.tell)
    await host.wire.send(hidden.peer_id, NOTE)


async def test_a_way_that_says_nothing_does_not_hold_up_the_next(world: World) -> None:
    hidden, host = await world.start(1, dialable=False), await world.start(2, dialable=True)
    await world.settle(hidden)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hidden.announced = (f"127.0.0.1:{silent.getsockname()[1]}",)
        await host.wire.send(hidden.peer_id, NOTE)
        assert host.way_to(hidden) == "reverse"


async def test_a_better_way_is_taken_when_there_is_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await world.start(1, dialable=False), await world.start(2, dialable=False)
    await world.start(3, dialable=True)
    await world.settle(one, other)
    monkeypatch.setattr(link_module, "BETTER_WAY_EVERY_S", {"reverse": 0.0, "relayed": 0.0})
    monkeypatch.setattr(link_module, "HAND_OVER_S", (0.0, 1.0))
    await one.wire.send(other.peer_id, NOTE)
    assert one.way_to(other) == "relayed"
    other.announced = (f"127.0.0.1:{other.wire.listen_port}",)  # its router forwards the port now
    while one.way_to(other) != "direct":
        await one.wire.send(other.peer_id, NOTE)
    await exchange(one, other)


async def test_the_way_that_worked_is_tried_first_again(world: World) -> None:
    hidden, host = await world.start(1, dialable=False), await world.start(2, dialable=True)
    await world.settle(hidden)
    link = host.wire._link(hidden.peer_id)
    await host.wire.send(hidden.peer_id, NOTE)
    tried: list[Candidate] = []
    attempt = link._attempt

    async def watched(at: Candidate) -> Any:
        tried.append(at)
        return await attempt(at)

    link._attempt = watched  # type: ignore[method-assign]
    await link.drop()
    await host.wire.send(hidden.peer_id, NOTE)
    assert [at.way for at in tried] == ["reverse"]


# ---- strangers, and members who go too far


async def opened(channel: Any, opening: pb.TunnelOpen | bytes) -> ThinwireError:
    """Returns how a tunnel ended that should not have been opened."""
    call = channel.stream_stream(TUNNEL)()
    try:
        data = opening if isinstance(opening, bytes) else opening.SerializeToString()
        await call.write(data)
        async with asyncio.timeout(10):
            while (await call.read()) is not grpc.aio.EOF:
                pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        return error_from(error, our_wait_s=10)
    raise AssertionError("it was served")


async def test_strangers_are_refused(world: World) -> None:
    host, hidden = await world.start(1, dialable=True), await world.start(2, dialable=False)
    await world.settle(hidden)
    stranger = Identity(b"s" * 32)
    options = [("grpc.ssl_target_name_override", tls.target_name(host.peer_id))]
    credentials = tls.channel_credentials(stranger, host.peer_id)
    async with grpc.aio.secure_channel(host.announced[0], credentials, options) as channel:
        assert "say hello" in str(await opened(channel, pb.TunnelOpen(dst=hidden.peer_id)))
        with pytest.raises(grpc.aio.AioRpcError, match="say hello"):
            await channel.unary_unary(DIAL_BACK)(b"")
        with pytest.raises(grpc.aio.AioRpcError, match="say hello"):
            async for _ in channel.unary_stream(LISTEN)(b""):
                pass
    assert stranger.peer_id not in host.wire.reach.switchboard


async def test_a_tunnel_is_for_whom_it_was_made(world: World) -> None:
    host, hidden = await world.start(1, dialable=True), await world.start(2, dialable=False)
    thief = await world.start(3, dialable=True)
    await world.settle(hidden)
    channel = await thief.wire._link(host.peer_id).channel()
    board = host.wire.reach.switchboard
    names: list[bytes] = []
    hidden.wire.reach.listening._on_summons = lambda host, message: names.append(  # type: ignore[method-assign]
        pb.Summons.FromString(message).tunnel_id
    )

    class Silent:
        async def read(self) -> bytes:
            raise TransportError("over")

        async def write(self, data: bytes) -> None:
            pass

    calling = asyncio.create_task(board.call(hidden.peer_id, Silent()))
    await until(lambda: bool(names))
    assert "nobody waits" in str(await opened(channel, pb.TunnelOpen(tunnel_id=names[0])))
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    own = await hidden.wire._link(host.peer_id).channel()
    assert "nobody waits" in str(await opened(own, pb.TunnelOpen(tunnel_id=names[0])))
    for wrong in (
        pb.TunnelOpen(),
        pb.TunnelOpen(tunnel_id=b"short"),
        pb.TunnelOpen(tunnel_id=bytes(16), dst="both"),
        b"\xff\xff",
        bytes(PIECE_BYTES),
    ):
        assert isinstance(await opened(channel, wrong), RemoteError)
    for nobody in ("", "nobody", thief.peer_id):
        error = await opened(channel, pb.TunnelOpen(tunnel_id=bytes(16) * (not nobody), dst=nobody))
        assert isinstance(error, TransportError)


async def test_a_piece_that_is_too_large_ends_the_tunnel(world: World) -> None:
    host, hidden = await world.start(1, dialable=True), await world.start(2, dialable=False)
    member = await world.start(3, dialable=True)
    await world.settle(hidden)
    channel = await member.wire._link(host.peer_id).channel()
    call = channel.stream_stream(TUNNEL)()
    await call.write(pb.TunnelOpen(dst=hidden.peer_id).SerializeToString())
    await call.write(bytes(PIECE_BYTES + 1))
    async with asyncio.timeout(10):
        assert await call.code() is grpc.StatusCode.ABORTED
    await until(lambda: not host.wire.reach.switchboard._num_relayed)
    await until(lambda: not hidden.wire.reach.listening._tunnels)


async def test_so_many_may_listen_and_the_newer_of_two_wins(world: World) -> None:
    host = await world.start(1, dialable=True, max_peers=2)
    others = [await world.start(seed, dialable=True) for seed in (2, 3, 4)]
    calls = []
    for other in (*others[:2], others[0]):
        channel = await other.wire._link(host.peer_id).channel()
        calls.append(channel.unary_stream(LISTEN)(b""))
        assert await calls[-1].read() == b""
    assert await calls[0].read() is grpc.aio.EOF
    assert all(other.peer_id in host.wire.reach.switchboard for other in others[:2])
    channel = await others[2].wire._link(host.peer_id).channel()
    with pytest.raises(grpc.aio.AioRpcError, match="2 peers listen here"):
        await channel.unary_stream(LISTEN)(b"").read()


# ---- the stream itself


class Pipe:
    """One end in memory: what it reads was put in, what is written to it comes out."""

    def __init__(self, *pieces: bytes, then: Callable[[], Awaitable[bytes]] | None = None) -> None:
        self.pieces, self.out, self.then = list(pieces), [], then  # type: ignore[var-annotated]

    async def read(self) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        return await self.then() if self.then else b""

    async def write(self, data: bytes) -> None:
        self.out.append(data)


async def forever() -> bytes:
    await asyncio.Event().wait()
    return b""


async def broken() -> bytes:
    raise TransportError("it broke off")


async def test_a_direction_that_ended_does_not_end_the_other() -> None:
    still_to_come = asyncio.Event()

    async def late() -> bytes:
        await still_to_come.wait()
        two.then = None
        return b"late"

    one, two = Pipe(b"a", b"b"), Pipe(b"c", then=late)
    joining = asyncio.create_task(join(one, two))
    await until(lambda: two.out == [b"a", b"b", b""])
    assert one.out == [b"c"]
    still_to_come.set()
    await joining
    assert one.out == [b"c", b"late", b""]


async def test_an_end_that_breaks_ends_both_directions() -> None:
    with pytest.raises(TransportError, match="broke off"):
        await join(Pipe(then=forever), Pipe(b"x", then=broken))


async def test_a_tunnel_in_which_nothing_moves_is_closed() -> None:
    with pytest.raises(TransportError, match="nothing moved"):
        await join(Pipe(b"x", then=forever), Pipe(then=forever), idle_s=0.05)
