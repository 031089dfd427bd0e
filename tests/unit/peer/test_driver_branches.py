"""Whole wire sides that lost sight of each other and meet again."""

import asyncio
from pathlib import Path

import pytest
import torch

from peer.driver import Driver
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.pins import PIN_S, Pins
from peer.ports import Source
from protocol.errors import NotAvailable
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note
from protocol.state_index import parse_index
from tests.blobs import BytesSource
from tests.unit.peer.test_driver import (
    IDS,
    Node,
    a_round,
    drift,
    introduce,
    manifest_of,
    nodes,
    wire_config,
)
from tests.unit.peer.test_scripted_trainer import settle


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is where is known soon here."""
    monkeypatch.setattr("protocol.group_exchange.AMBIGUOUS_RESENDS", 0.5)


def vectors_of(node: Node) -> list[torch.Tensor]:
    copy = node.mixing.outer[0].copy
    return [copy.anchor.clone(), *(copy.state[name].clone() for name in sorted(copy.state))]


async def until_round(node: Node, round: int) -> None:
    async with asyncio.timeout(10.0):
        while node.mixing.landed[0].round < round:
            await settle()


async def until_on_top(members: list[Node]) -> None:
    """What the outer side knows has reached all trainers."""
    async with asyncio.timeout(10.0):
        while any(node.mixing.landed[0] is not node.mixing.outer[0] for node in members):
            await settle()


async def until_equal(members: list[Node]) -> None:
    async with asyncio.timeout(10.0):
        while len({(node.mixing.outer[0].round, *node.digests()) for node in members}) > 1:
            await settle()


async def test_two_camps_that_meet_average_what_they_have_and_keep_their_own_work_on_top(
    tmp_path: Path,
) -> None:
    async with nodes(manifest_of(), tmp_path, 4) as members:
        camps = members[:2], members[2:]
        for first_round, camp in enumerate(camps):
            introduce(camp)
            for node in camp:
                node.trainer.train(drift(first_round))
            await a_round(camp, 0)
        await a_round(camps[1], 1)
        before = [vectors_of(camp[0]) for camp in camps]
        for camp in camps:
            assert camp[0].digests() == camp[1].digests()
            assert all(map(torch.equal, vectors_of(camp[0]), vectors_of(camp[1])))
        tokens = [sum(camp[0].mixing.outer[0].lineage.tokens.values()) for camp in camps]
        assert tokens == [300, 600]
        for place, node in enumerate(members):
            node.trainer.train(drift(50 + place))
        introduce(members)
        members[0].trainer.depart()  # one that speaks is enough
        await until_equal(members)
        for node in members:
            assert node.mixing.outer[0].round == 3
            for mine, other, new in zip(*before, vectors_of(node), strict=True):
                torch.testing.assert_close(new, mine / 3 + other * 2 / 3)
            assert all(map(torch.equal, vectors_of(node), vectors_of(members[0])))
            assert sum(node.mixing.outer[0].lineage.tokens.values()) == 900
            assert not node.events.of("catching_up_failed")
        assert any(node.events.of("merged") for node in members)
        await until_on_top(members)
        for place, node in enumerate(members):
            torch.testing.assert_close(node.trainer.theta, node.anchor() + drift(50 + place))
        for node in members:  # and all go on together
            node.trainer.depart()
        for node in members:
            await until_round(node, 4)
        assert len({tuple(node.digests()) for node in members}) == 1


async def test_whoever_landed_what_the_others_made_anew_takes_theirs(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 3) as members:
        lone, *rest = members
        introduce(members)
        await a_round(members, 0)
        lone.driver.on_members((), (), tuple(node.peer_id for node in rest))
        introduce(rest)
        await a_round([lone], 1)
        await a_round(rest, 1)
        theirs = rest[0].digests()
        assert lone.digests() != theirs
        introduce(members)
        lone.trainer.train(drift(7))
        for node in members:
            node.trainer.depart()
        await lone.events.until("caught_up")
        for node in members:
            await until_round(node, 3)
        await until_equal(members)
        assert not any(node.events.of("merged") for node in members)
        for node in rest:  # they need nothing of it
            assert not node.events.of("caught_up")
        assert lone.mixing.outer[0].lineage.knows(2, theirs[0])


async def test_a_state_from_several_is_the_one_that_most_have(tmp_path: Path) -> None:
    """One of them lies about its blocks, and is named; the state is right all the same."""
    network, manifest = MemoryNetwork(), manifest_of()
    async with nodes(manifest, tmp_path, 3, network) as members:
        *camp, late = members
        introduce(camp)
        for round in range(3):
            await a_round(camp, round)
        for node in camp:
            node.mixing._benches.clear()
            (machine,) = node.driver._machines
            machine._journal.clear()  # type: ignore[attr-defined]
        liar = Liar(camp[0].driver)
        liar.wire = MemoryWire(network, IDS[3], wire_config(manifest), inbox=liar)
        introduce(members, IDS[3])
        late.trainer.train(drift(1))
        late.trainer.depart()
        (caught_up,) = await late.events.until("caught_up")
        assert caught_up["round"] == 3
        assert late.digests() == camp[0].digests()
        assert torch.equal(late.anchor(), camp[0].anchor())
        torch.testing.assert_close(late.trainer.theta, late.anchor() + drift(1))
        assert liar.asked
        dropped = late.events.of("donor_dropped")
        assert [seen["src"] for seen in dropped] in ([IDS[3]], [])


class Liar:
    """Has the same index as an honest peer, and other blocks."""

    def __init__(self, honest: Driver) -> None:
        self.wire: MemoryWire | None = None
        self.asked: list[str] = []
        self._honest = honest

    def on_note(self, src: PeerId, note: Note) -> None:
        """It says nothing."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        self.asked.append(ref.kind)
        source = await self._honest.blob(src, ref)
        if ref.kind == "index":
            return source
        return BytesSource(b"\0" * source.size_bytes, source.round)


async def test_rounds_that_go_on_do_not_keep_a_pin_alive(tmp_path: Path) -> None:
    """Everybody fetches the averages of the newest round; who replays wants an older one."""
    async with nodes(manifest_of(), tmp_path, 2) as members:
        introduce(members)
        now_s = [0.0]
        for node in members:
            node.driver._pins = Pins(node.mixing, lambda: now_s[0])
        await a_round(members, 0)
        names = []
        for node in members:
            packed = await node.driver.blob(IDS[3], BlobRef("index"))
            names.append(parse_index(await packed.read(0, packed.size_bytes)).name)
        now_s[0] = 0.9 * PIN_S
        await a_round(members, 1)
        now_s[0] = 1.1 * PIN_S
        introduce(members)
        for node, name in zip(members, names, strict=True):
            with pytest.raises(NotAvailable):
                await node.driver.blob(IDS[3], BlobRef("state", 0, name))


async def test_whoever_replays_keeps_the_pin_alive(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        introduce(members)
        now_s = [0.0]
        (node, _) = members
        node.driver._pins = Pins(node.mixing, lambda: now_s[0])
        await a_round(members, 0)
        packed = await node.driver.blob(IDS[3], BlobRef("index"))
        name = parse_index(await packed.read(0, packed.size_bytes)).name
        await a_round(members, 1)
        (machine,) = node.driver._machines
        replayed = machine._journal[2]  # type: ignore[attr-defined]
        await a_round(members, 2)
        now_s[0] = 0.9 * PIN_S
        await node.driver.blob(IDS[3], BlobRef("average", 0, replayed.exchange_id, 0))
        now_s[0] = 1.1 * PIN_S
        introduce(members)
        assert (await node.driver.blob(IDS[3], BlobRef("state", 0, name))).round == 1


async def test_who_replays_several_rounds_ends_where_the_others_are(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 3) as members:
        *camp, late = members
        introduce(members)
        await a_round(members, 0)
        work = late.trainer.theta - late.anchor()
        introduce(camp)
        for round in (1, 2):
            await a_round(camp, round)
        introduce(members)
        late.trainer.train(drift(1))
        late.trainer.depart()
        landed = await late.events.until("landed", 3)
        assert [(seen["round"], seen["contributed"]) for seen in landed[1:]] == [
            (2, False),
            (3, False),
        ]
        assert not late.events.of("caught_up")
        assert len({tuple(node.digests()) for node in members}) == 1
        torch.testing.assert_close(late.trainer.theta, late.anchor() + work + drift(1))
        assert late.mixing.outer[0].lineage == camp[0].mixing.outer[0].lineage
