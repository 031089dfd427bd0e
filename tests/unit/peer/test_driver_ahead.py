"""A driver whose method does not wait for the average: live parameters move at once, and again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from peer.keeper import Keeper
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.train import lines
from peer.train.checkpoint import open_checkpoint
from peer.trainer_port import TrainerPort
from protocol.identity import Identity
from tests.unit.peer.test_driver import (
    IDS,
    START,
    Node,
    a_round,
    drift,
    introduce,
    manifest_of,
    nodes,
    wire_config,
)
from tests.unit.peer.test_driver_faults import Hostile
from tests.unit.peer.test_scripted_trainer import PATIENCE_S, settle

RULES = pytest.mark.parametrize("rule", ["eager", "co2"])
LR, MU = 0.4, 0.9
"""Of eager."""


def offset(moved: Tensor, num: int) -> Tensor:
    """What one keeps of its own first round among `num`, by the closed form of eager updates."""
    return LR / num * (1 + MU) * moved


def lands_of(node: Node) -> list[lines.Land]:
    return [line for line in node.trainer.received if isinstance(line, lines.Land)]


@contextlib.asynccontextmanager
async def with_a_hostile_peer(folder: Path, rule: str) -> AsyncIterator[list[Node]]:
    """Two peers, and a third that takes part in word: the first exchange fails."""
    network, manifest = MemoryNetwork(), manifest_of(rule=rule)
    async with nodes(manifest, folder, 2, network) as members:
        hostile = Hostile(members[0].mixing, 5)
        hostile.wire = MemoryWire(network, IDS[2], wire_config(manifest), inbox=hostile)
        introduce(members, IDS[2])
        await hostile.say_ready(members)
        yield members


@RULES
@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("num", [1, 2, 3])
async def test_all_land_the_same_anchor_round_after_round(
    tmp_path: Path, num: int, fragments: int, rule: str
) -> None:
    async with nodes(manifest_of(fragments=fragments, rule=rule), tmp_path, num) as members:
        introduce(members)
        for round in range(3):
            await a_round(members, round)
            assert len({tuple(node.digests()) for node in members}) == 1
            for node in members:
                torch.testing.assert_close(node.trainer.theta, node.anchor())
        for node in members:
            assert node.mixing.landed == node.mixing.outer
            assert (node.status.round, node.status.contributions) == (3, 3 * fragments)
            assert not node.events.of("exchange_failed")


async def test_live_parameters_move_at_the_offer_and_again_at_the_landing(tmp_path: Path) -> None:
    async with nodes(manifest_of(rule="eager"), tmp_path, 2) as members:
        introduce(members)
        first = members[0]
        first.trainer.held = {lines.Land}
        for place, node in enumerate(members):
            node.trainer.train(drift(place))
            node.trainer.depart(tokens=100)
        ahead = await first.trainer.next(lines.Land)
        assert ahead == lines.Land(fragment=0, round=0, tokens=100)
        first.trainer.train(drift(7))  # a step before the trainer has read it
        first.trainer.answer(ahead)
        theta = START + offset(drift(0), 2)
        torch.testing.assert_close(first.trainer.theta, theta + drift(7))
        landing = await first.trainer.next(lines.Land)
        assert (landing.tokens, landing.round, landing.is_planned) == (0, 1, False)
        first.trainer.train(drift(8))
        first.trainer.answer(landing)
        await first.events.until("landed")
        anchor = START + LR * (1 + MU) * (drift(0) + drift(1)) / 2
        torch.testing.assert_close(first.anchor(), anchor)
        torch.testing.assert_close(first.trainer.theta, anchor + drift(7) + drift(8))
        assert first.status.contributed_tokens == 100


async def test_a_departure_in_hand_gives_way_to_the_landing_and_has_its_turn(
    tmp_path: Path,
) -> None:
    async with nodes(manifest_of(rule="eager"), tmp_path, 2) as members:
        introduce(members)
        first, second = members
        second.trainer.held = {lines.Land}
        for node in members:
            node.trainer.train(1.0)
            node.trainer.depart()
        ahead = await second.trainer.next(lines.Land)
        second.trainer.answer(ahead)
        second.trainer.train(drift(3))
        second.trainer.depart()  # by its schedule; the average is not here yet
        second.trainer.held.clear()
        for node in members:
            await node.events.until("landed")
        assert second.driver.waiting_for().startswith("looking for others")
        first.trainer.train(drift(4))
        first.trainer.depart()
        for node in members:
            await node.events.until("landed", 2)
            torch.testing.assert_close(node.trainer.theta, node.anchor())
        assert first.digests() == second.digests()
        assert second.trainer.kinds().count(lines.Land) == 4


async def test_a_departure_by_the_schedule_right_after_a_landing_stops_nothing(
    tmp_path: Path,
) -> None:
    async with nodes(manifest_of(rule="eager"), tmp_path) as (node,):
        node.trainer.held = {lines.Land}
        node.trainer.train(1.0)
        node.trainer.depart()
        node.trainer.answer(await node.trainer.next(lines.Land))
        landing = await node.trainer.next(lines.Land)  # it has a snapshot for this move
        node.trainer.held.clear()
        node.trainer.answer(landing)
        node.trainer.train(1.0)
        node.trainer.depart()  # in the same breath
        await node.events.until("landed", 2)
        torch.testing.assert_close(node.trainer.theta, node.anchor())


@RULES
async def test_a_lost_exchange_gives_the_work_back_and_it_is_offered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    monkeypatch.setattr("protocol.gathering.MAX_VAIN_TRIES", 2)
    async with with_a_hostile_peer(tmp_path, rule) as members:
        for place, node in enumerate(members):
            node.trainer.train(drift(place))
            node.trainer.depart(tokens=100)
        for node in members:
            (landed,) = await node.events.until("landed")
            assert (landed["round"], landed["contributed"]) == (1, True)
            assert node.events.of("exchange_failed")
            tokens = [land.tokens for land in lands_of(node)]
            assert tokens[:3] == [100, -100, 100]
            assert sum(tokens) == 100
            torch.testing.assert_close(node.trainer.theta, node.anchor())
            assert node.status.contributed_tokens == 100
        assert members[0].digests() == members[1].digests()
        if rule == "eager":
            anchor = START + LR * (1 + MU) * (drift(0) + drift(1)) / 2
            torch.testing.assert_close(members[0].anchor(), anchor)
            own = members[0].mixing.outer[0].copy.own  # each round counts once
            torch.testing.assert_close(own["own_momentum"], -drift(0))


async def test_steps_made_meanwhile_go_with_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocol.gathering.MAX_VAIN_TRIES", 2)
    async with with_a_hostile_peer(tmp_path, "eager") as members:
        for place, node in enumerate(members):
            node.trainer.held = {lines.Land}
            node.trainer.train(drift(place))
            node.trainer.depart()
        for place, node in enumerate(members):
            ahead = await node.trainer.next(lines.Land)
            node.trainer.train(drift(10 + place))
            node.status.step = node.trainer.step
            node.trainer.held.clear()
            node.trainer.answer(ahead)
        for node in members:
            await node.events.until("landed")
            torch.testing.assert_close(node.trainer.theta, node.anchor())
        work = sum(drift(seed) for seed in (0, 1, 10, 11))
        torch.testing.assert_close(members[0].anchor(), START + LR * (1 + MU) * work / 2)
        assert members[0].digests() == members[1].digests()


@RULES
async def test_who_missed_a_round_replays_it_and_keeps_its_work(tmp_path: Path, rule: str) -> None:
    async with nodes(manifest_of(rule=rule), tmp_path, 3) as members:
        *pair, late = members
        introduce(members)
        for node in pair:
            node.trainer.train(1.0)
            node.trainer.depart()
        for node in pair:
            await node.events.until("landed")
        late.trainer.train(drift(1))
        late.trainer.depart()
        (landed, *_) = await late.events.until("landed")
        assert (landed["round"], landed["contributed"]) == (1, False)
        assert len({tuple(node.digests()) for node in members}) == 1
        torch.testing.assert_close(late.trainer.theta, late.anchor() + drift(1))
        # The work that it had brought goes out with the next round.
        for node in members:
            node.trainer.depart()
        for node in members:
            assert (await node.events.until("landed", 2))[1]["contributed"]
        assert len({tuple(node.digests()) for node in members}) == 1
        torch.testing.assert_close(late.trainer.theta, late.anchor())


async def test_a_checkpoint_has_both_halves_of_what_went_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_in_line = asyncio.Event()
    save = TrainerPort.save

    async def watched(port: TrainerPort, folder: str, capture: Callable[[], None]) -> lines.Saved:
        is_in_line.set()
        return await save(port, folder, capture)

    monkeypatch.setattr(TrainerPort, "save", watched)
    async with nodes(manifest_of(rule="eager"), tmp_path, 2) as members:
        introduce(members)
        node, other = members
        identity = Identity(bytes(32))
        keeper = Keeper(tmp_path, node.manifest.run_id, identity, node.mixing)
        node.trainer.held = {lines.Land}
        for place, each in enumerate(members):
            each.trainer.train(drift(place))
            each.trainer.depart()
        ahead = await node.trainer.next(lines.Land)
        saving = asyncio.create_task(keeper.save(node.rig.port, 1))
        async with asyncio.timeout(PATIENCE_S):
            await is_in_line.wait()  # before the landing, which is held
        node.trainer.answer(ahead)
        checkpoint = open_checkpoint(
            await saving, run_id=node.manifest.run_id, peer_id=identity.peer_id
        )
        outer, theta = checkpoint.outer(), checkpoint.inner()["theta"]
        assert checkpoint.info.rounds == (0,)
        assert torch.equal(outer["anchor.0"], START)
        assert outer["own.0.ahead"].any()
        torch.testing.assert_close(theta, outer["anchor.0"] + outer["own.0.ahead"])
        async with asyncio.timeout(PATIENCE_S):
            while len(lands_of(node)) < 2:
                await settle()
        node.trainer.answer(lands_of(node)[1])
        for each in (node, other):
            await each.events.until("landed")
