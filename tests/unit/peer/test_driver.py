"""Whole wire sides of peers over a network in memory, each with a scripted trainer."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optim.codec.codec import codec_named
from optim.layout import layout_of
from optim.outer.copy import Outer
from optim.outer.named import outer_rule_named
from peer.blobs import StateSink
from peer.driver import Driver
from peer.mixing import Mixing, OuterState
from peer.net.config import WireConfig
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.ports import Source
from peer.status import PeerStatus
from peer.telemetry import Events
from peer.train import lines
from protocol.errors import NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef, Discard, Land, Offer, Reduce
from protocol.manifest import Manifest, manifest_from
from protocol.state_index import parse_index
from protocol.terms import Terms
from tests.unit.peer.test_scripted_trainer import NUM_ELEMENTS, PATIENCE_S, SHAPES, Rig, settle

START = torch.linspace(-1, 1, NUM_ELEMENTS)
RULES = {"all": "nesterov", "pairs": "noloco"}
IDS = sorted(Identity(bytes([n]) * 32).peer_id for n in range(1, 5))


def manifest_of(
    mixing: str = "all", fragments: int = 1, rule: str | None = None, progress_s: float = 0.2
) -> Manifest:
    method = {
        "mixing": mixing,
        "schedule": {"fragments": fragments},
        "outer": {"rule": rule or RULES[mixing]},
    }
    return manifest_from(
        {
            "founder": "nobody",
            "method": method,
            "round": {"grace_s": 0.05, "exchange_s": 20.0, "progress_s": progress_s},
        }
    )


class Recorder(Events):
    """Writes events as a peer does, and lets a test wait for them."""

    def __init__(self, path: Path, manifest: Manifest, peer_id: PeerId) -> None:
        super().__init__(path, run_id=manifest.run_id, peer_id=peer_id)
        self.seen: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    def write(self, event: str, **fields: Any) -> None:
        super().write(event, **fields)
        self.seen.append({"event": event, **fields})
        self._news.set()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [seen for seen in self.seen if seen["event"] == event]

    async def until(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.of(event)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(event)


class Node:
    """One peer without its app: a driver, what it drives, and a scripted trainer."""

    driver: Driver

    def __init__(self, peer_id: PeerId, manifest: Manifest, folder: Path) -> None:
        method = manifest.method
        self.peer_id, self.manifest = peer_id, manifest
        self.layout = layout_of(SHAPES, num_fragments=method.schedule.fragments)
        self.mixing = Mixing(
            self.layout,
            Outer(outer_rule_named(method.outer.rule, **method.outer.constants)),
            (codec_named("fp32"),),
            START,
            our_id=peer_id,
        )
        self.events = Recorder(folder / f"{peer_id}.jsonl", manifest, peer_id)
        self.status = PeerStatus()
        self.rig = Rig(self.layout)

    @property
    def trainer(self) -> Any:
        return self.rig.trainer

    async def start(self, network: MemoryNetwork) -> None:
        self.driver = Driver(
            self.peer_id,
            f"life of {self.peer_id}",
            self.manifest,
            self.mixing,
            events=self.events,
            status=self.status,
        )
        await self.rig.start()
        self.wire = MemoryWire(network, self.peer_id, wire_config(self.manifest), inbox=self.driver)
        await self.rig.port.start([outer.anchor for outer in self.mixing.outer], step=0, tokens=0)

        def on_news(news: lines.Progress | lines.Departed) -> None:
            assert isinstance(news, lines.Departed)
            self.driver.on_departed(news)

        self.rig.on_news = on_news
        self.driver.begin(self.rig.port, self.wire)

    async def close(self) -> None:
        await self.wire.close()
        await self.driver.close()
        await self.rig.close()
        self.events.close()

    def digests(self) -> list[bytes]:
        return [outer.digest for outer in self.mixing.outer]

    def anchor(self) -> torch.Tensor:
        return torch.cat([outer.anchor for outer in self.mixing.outer])


def wire_config(manifest: Manifest) -> WireConfig:
    return WireConfig(
        run_id=manifest.run_id,
        progress_s=manifest.round.progress_s,
        num_fragments=manifest.method.schedule.fragments,
    )


@contextlib.asynccontextmanager
async def nodes(
    manifest: Manifest, folder: Path, num: int = 1, network: MemoryNetwork | None = None
) -> AsyncIterator[list[Node]]:
    """Starts peers with the ids `IDS[:num]`, who do not know each other yet."""
    torch.set_num_threads(1)
    made = [Node(peer_id, manifest, folder) for peer_id in IDS[:num]]
    network = network or MemoryNetwork()
    async with contextlib.AsyncExitStack() as stack:
        for node in made:
            await node.start(network)
            stack.push_async_callback(node.close)
        yield made


def introduce(members: list[Node], *others: PeerId) -> None:
    everybody = [*(node.peer_id for node in members), *others]
    for node in members:
        known = tuple(peer for peer in everybody if peer != node.peer_id)
        node.driver.on_members(known)


def drift(seed: int) -> torch.Tensor:
    return torch.randn(NUM_ELEMENTS, generator=torch.Generator().manual_seed(seed))


async def a_round(members: list[Node], round: int, tokens: int = 100) -> None:
    """Everybody trains, departs and lands."""
    num_fragments = len(members[0].layout.fragments)
    for place, node in enumerate(members):
        node.trainer.train(drift(10 * round + place))
        for fragment in range(num_fragments):
            node.trainer.depart(fragment, tokens=tokens * (place + 1))
    for node in members:
        await node.events.until("landed", num_fragments * (round + 1))


# ---- all


@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("num", [1, 2, 3])
async def test_all_land_the_same_anchor_round_after_round(
    tmp_path: Path, num: int, fragments: int
) -> None:
    async with nodes(manifest_of(fragments=fragments), tmp_path, num) as members:
        introduce(members)
        for round in range(3):
            await a_round(members, round)
            assert len({tuple(node.digests()) for node in members}) == 1
            for node in members:
                torch.testing.assert_close(node.trainer.theta, node.anchor())
                assert not torch.equal(node.anchor(), START)
        for node in members:
            landed = node.events.of("landed")
            assert sorted((seen["fragment"], seen["round"]) for seen in landed) == [
                (fragment, round) for fragment in range(fragments) for round in (1, 2, 3)
            ]
            assert all(seen["contributed"] for seen in landed)
            last = {seen["fragment"]: seen["digest"] for seen in landed}
            assert [last[part] for part in range(fragments)] == [d.hex() for d in node.digests()]
            assert not node.events.of("exchange_failed")
            status = node.status
            assert (status.round, status.exchanges_done) == (3, 3 * fragments)
            assert (status.contributions, status.exchanges_failed) == (3 * fragments, 0)
            assert set(status.partners) == {n.peer_id for n in members} - {node.peer_id}


async def test_an_outer_step_is_taken_on_the_mean_weighted_by_tokens(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        introduce(members)
        await a_round(members, 0)
        moved = (drift(0) * 100 + drift(1) * 200) / 300
        expected = START + 0.7 * 1.9 * moved  # Nesterov's first step
        torch.testing.assert_close(members[0].anchor(), expected)


async def test_steps_made_during_an_exchange_stay_on_top_of_the_landing(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        introduce(members)
        members[0].trainer.held = {lines.Land}
        for node in members:
            node.trainer.train(drift(0))
            node.trainer.depart()
        land = await members[0].trainer.next(lines.Land)
        members[0].trainer.train(drift(1))
        members[0].trainer.answer(land)
        await members[0].events.until("landed")
        torch.testing.assert_close(members[0].trainer.theta, members[0].anchor() + drift(1))


async def test_what_is_counted_is_what_was_in_the_landing(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):
        node.trainer.held = {lines.Land}
        node.trainer.train(1.0)
        node.trainer.depart(tokens=100)
        land = await node.trainer.next(lines.Land)
        node.trainer.answer(land)
        node.trainer.depart(tokens=300)  # on the heels of the landing
        await node.events.until("landed")
        assert node.status.contributed_tokens == 100


async def test_a_departure_on_the_heels_of_a_landing_has_its_turn(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):
        node.trainer.held = {lines.Land}
        node.trainer.train(1.0)
        node.trainer.depart()
        land = await node.trainer.next(lines.Land)
        node.trainer.held.clear()
        node.trainer.answer(land)
        node.trainer.depart()  # it comes while the machine still thinks of the landing
        assert [seen["round"] for seen in await node.events.until("landed", 2)] == [1, 2]


async def test_a_snapshot_from_before_we_began_is_not_forgotten(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        first, second = members
        first.trainer.train(1.0)
        first.trainer.depart()
        await asyncio.wait_for(first.rig.news.get(), PATIENCE_S)
        introduce(members)
        second.trainer.train(1.0)
        second.trainer.depart()
        for node in members:
            await node.events.until("landed")


# ---- pairs


async def test_pairs_land_each_its_own_anchor_and_draw_near(tmp_path: Path) -> None:
    async with nodes(manifest_of("pairs"), tmp_path, 2) as members:
        introduce(members)
        distances = []
        for round in range(2):
            members[0].mixing.load_state(
                0, members[0].anchor() + 1.0, members[0].mixing.outer[0].copy.state, {}, round
            )
            before = (members[0].anchor() - members[1].anchor()).norm()
            await a_round(members, round)
            distances.append((members[0].anchor() - members[1].anchor()).norm() / before)
        assert all(0 < distance < 1 for distance in distances)
        for node in members:
            other = next(n.peer_id for n in members if n is not node)
            assert node.status.partners == (other,)
            assert (node.status.contributions, node.status.exchanges_failed) == (2, 0)
            torch.testing.assert_close(node.trainer.theta, node.anchor())


async def test_of_three_in_pairs_the_third_finds_a_partner_in_the_next_round(
    tmp_path: Path,
) -> None:
    async with nodes(manifest_of("pairs"), tmp_path, 3) as members:
        introduce(members)
        for node in members:
            node.trainer.train(1.0)
            node.trainer.depart()
        async with asyncio.timeout(PATIENCE_S):
            while sum(len(node.events.of("landed")) for node in members) < 2:
                await settle()
        landed = [node for node in members if node.events.of("landed")]
        assert len(landed) == 2
        landed[0].trainer.train(1.0)
        landed[0].trainer.depart()
        for node in members:
            if node is not landed[1]:
                await node.events.until("landed", 2 if node is landed[0] else 1)


# ---- who gets what


async def test_a_part_is_for_the_members_of_its_offer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        introduce(members)
        first, second = members
        # So long as nothing has landed: contributions go then.
        may_land, land = threading.Event(), first.mixing.land

        def land_late(effect: Land) -> OuterState:
            may_land.wait(PATIENCE_S)
            return land(effect)

        monkeypatch.setattr(first.mixing, "land", land_late)
        for node in members:
            node.trainer.train(1.0)
            node.trainer.depart()
        (landed,) = await second.events.until("landed")
        exchange_id = bytes.fromhex(landed["exchange_id"])
        for part in range(2):
            ref = BlobRef("part", 0, exchange_id, part)
            source = await first.driver.blob(second.peer_id, ref)
            made = first.mixing.made(ref)
            assert made is not None
            assert await source.read(0, source.size_bytes) == made.frames[0]
            with pytest.raises(NotAvailable, match="for others"):
                await first.driver.blob(IDS[3], ref)
        may_land.set()
        await first.events.until("landed")
        # An average is anybody's: a late peer replays it.
        ref = BlobRef("average", 0, exchange_id, 0)
        assert await (await first.driver.blob(IDS[3], ref)).read(0, 10)
        with pytest.raises(NotAvailable, match="not here"):
            await first.driver.blob(second.peer_id, BlobRef("part", 0, exchange_id, 0))


async def test_a_part_is_not_for_others_after_many_more_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with 65 fragments: each keeps its bench, the driver remembers 64 offers.
    monkeypatch.setattr("peer.driver.REMEMBERED_OFFERS", 1)
    async with nodes(manifest_of("pairs", fragments=2), tmp_path, 2) as members:
        introduce(members)
        await a_round(members, 0)
        for landed in members[0].events.of("landed"):
            ref = BlobRef("part", landed["fragment"], bytes.fromhex(landed["exchange_id"]))
            assert members[0].mixing.made(ref) is not None
            with pytest.raises(NotAvailable):
                await members[0].driver.blob(IDS[3], ref)


async def test_what_is_never_made_is_refused_after_a_moment(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):
        with pytest.raises(NotAvailable, match="not here"):
            await node.driver.blob(IDS[3], BlobRef("average", 0, b"x" * 16))


async def test_whoever_asks_too_early_gets_it_when_it_is_made(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as (first, second):
        introduce([first, second])
        was_asked, offer = threading.Event(), second.mixing.offer
        served: list[tuple[str, bool]] = []

        def offer_late(effect: Offer, theta: torch.Tensor) -> None:
            was_asked.wait(PATIENCE_S)
            offer(effect, theta)

        async def blob(src: PeerId, ref: BlobRef) -> Source:
            served.append((ref.kind, second.mixing.made(ref) is not None))
            was_asked.set()
            return await Driver.blob(second.driver, src, ref)

        second.mixing.offer = offer_late  # type: ignore[method-assign]
        second.driver.blob = blob  # type: ignore[method-assign]
        await a_round([first, second], 0)
        parts = [is_there for kind, is_there in served if kind == "part"]
        assert parts == [False]  # asked for once, before it was there


async def test_whoever_asks_while_it_is_made_gets_each_grain_as_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Encoding begins only when the other one has its source already.
    async with nodes(manifest_of(), tmp_path, 2) as (first, second):
        introduce([first, second])
        was_asked, encode = threading.Event(), second.mixing.encode
        made_when_asked: list[list[int]] = []

        def encode_late(effect: Offer, on_grain: Callable[[], None]) -> None:
            was_asked.wait(PATIENCE_S)
            encode(effect, on_grain)

        async def blob(src: PeerId, ref: BlobRef) -> Source:
            source = await Driver.blob(second.driver, src, ref)
            if ref.kind == "part":
                made = second.mixing.made(ref)
                assert made is not None
                made_when_asked.append(made.missing())
                was_asked.set()
            return source

        monkeypatch.setattr(second.mixing, "encode", encode_late)
        monkeypatch.setattr(second.driver, "blob", blob)
        await a_round([first, second], 0)
        assert made_when_asked == [[0]]
        assert first.digests() == second.digests()


async def test_who_reads_from_a_discarded_exchange_is_told(tmp_path: Path) -> None:
    # A long progress deadline: nobody waits for it.
    manifest = manifest_of(progress_s=100.0)
    async with nodes(manifest, tmp_path, 1) as (node,):
        terms, exchange_id = Terms((1, 1)), b"x" * 16
        node.mixing.open(0, exchange_id, terms)
        offer = Offer(0, 0, exchange_id, terms, (IDS[3],))
        node.driver._offers[0, exchange_id] = frozenset(offer.members)
        node.mixing.offer(offer, START)  # but not encoded yet
        source = await node.driver.blob(IDS[3], BlobRef("part", 0, exchange_id, 0))
        reading = asyncio.create_task(source.read(0, 1))
        await settle()
        assert not reading.done()
        node.driver._perform(Discard(0, exchange_id))
        with pytest.raises(NotAvailable, match="given up"):
            await asyncio.wait_for(reading, PATIENCE_S)


async def test_a_state_can_be_had_by_anybody_at_any_time(tmp_path: Path) -> None:
    async with nodes(manifest_of(fragments=2), tmp_path) as (node,):
        old = node.mixing.outer[1].copy
        node.mixing.load_state(1, old.anchor * 2, old.state, old.own, 6)
        packed = await node.driver.blob(IDS[3], BlobRef("index", 1))
        index = parse_index(await packed.read(0, packed.size_bytes))
        source = await node.driver.blob(IDS[3], BlobRef("state", 1, index.name))
        twin = Node(IDS[3], node.manifest, tmp_path)
        sink = StateSink(twin.mixing.state_lengths(1), index)
        assert sink.size_bytes == source.size_bytes
        sink.put(0, await source.read(0, source.size_bytes))
        twin.mixing.load_state_blob(1, sink.whole(), index.round)
        twin.events.close()
        assert (twin.mixing.outer[1].round, twin.mixing.outer[1].digest) == (
            6,
            node.mixing.outer[1].digest,
        )
        assert node.events.of("state_offered")[0]["to"] == IDS[3]
        with pytest.raises(NotAvailable):
            await node.driver.blob(IDS[3], BlobRef("state", 1, b"another name was"))


async def test_what_we_wait_for_is_said_in_words(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        first, second = members
        introduce(members)
        assert first.driver.waiting_for() == "training"
        first.trainer.train(1.0)
        first.trainer.depart()
        await asyncio.wait_for(first.rig.news.get(), PATIENCE_S)
        assert first.driver.waiting_for() == f"looking for others, waiting for {IDS[1][-6:]}"
        second.trainer.depart()
        await first.events.until("landed")
        assert first.driver.waiting_for() == "training"


async def test_one_exchange_id_on_two_fragments_is_two_exchanges(tmp_path: Path) -> None:
    """Ids come from others: what ends one must not hold up the other for good."""
    async with nodes(manifest_of(fragments=2), tmp_path, 1) as (node,):
        introduce([node], IDS[3])  # who never comes, so the machines stay READY
        node.trainer.train(drift(1))
        for fragment in range(2):
            node.trainer.depart(fragment, tokens=100)
        while not all(node.rig.port.has_snapshot(fragment) for fragment in range(2)):
            await settle()
        id, terms, driver = b"x" * 16, Terms((1,)), node.driver
        for fragment in range(2):
            driver._perform(Offer(fragment, 0, id, terms, ()))
        driver._perform(Discard(1, id))
        driver._perform(Reduce(BlobRef("average", 0, id, 0), 100))
        driver._perform(Land(0, 0, id, terms))
        await node.events.until("landed", 1)
        assert [seen["fragment"] for seen in node.events.of("landed")] == [0]
        assert (node.mixing.outer[0].round, node.mixing.outer[1].round) == (1, 0)
