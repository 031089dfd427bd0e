import asyncio
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from optim.outer.co2 import CO2
from optim.outer.eager import Eager
from optim.outer.plain import Plain
from peer.keeper import Keeper
from peer.mixing import Mixing
from peer.train import lines
from peer.train.checkpoint import INNER, OUTER, commit, open_checkpoint, stage, write_tensors
from protocol.errors import ConfigError
from protocol.identity import PeerId
from protocol.manifest import RunId
from tests.unit.peer.test_driver import START, Node, drift, manifest_of, nodes
from tests.unit.peer.test_mixing import mixing_of
from tests.unit.peer.test_scripted_trainer import NUM_ELEMENTS, TWO_FRAGMENTS, a_rig, settle

RUN_ID = RunId("ab" * 32)
OURS = PeerId("ours")


def keeper_of(folder: Path, mixing: Mixing) -> Keeper:
    return Keeper(folder, RUN_ID, OURS, mixing)


def moved(num_fragments: int = 2) -> Mixing:
    """A mixing somewhere in the middle of a run, its fragments at different rounds."""
    mixing = mixing_of(num_fragments=num_fragments)
    for fragment, outer in enumerate(mixing.outer):
        size = len(outer.anchor)
        state = {"momentum": torch.full((size,), 0.5 + fragment)}
        mixing.load_state(fragment, outer.anchor + 1 + fragment, state, {}, 7 - fragment)
    return mixing


async def test_a_checkpoint_brings_back_both_halves(tmp_path: Path) -> None:
    mixing = moved()
    async with a_rig(TWO_FRAGMENTS) as rig:
        await rig.port.start([outer.anchor for outer in mixing.outer], step=40, tokens=7)
        rig.trainer.train(drift(0), tokens=100)
        path = await keeper_of(tmp_path, mixing).save(rig.port, step=41)
        theta = rig.trainer.theta
    twin = mixing_of(num_fragments=2)
    assert keeper_of(tmp_path, twin).load() == path
    for ours, theirs in zip(mixing.outer, twin.outer, strict=True):
        assert (ours.round, ours.digest) == (theirs.round, theirs.digest)
        assert torch.equal(ours.copy.state["momentum"], theirs.copy.state["momentum"])
    async with a_rig(TWO_FRAGMENTS) as rig:
        started = await rig.port.resume(str(path), [outer.anchor for outer in twin.outer])
        assert (started.step, started.tokens) == (41, 107)
        assert torch.equal(rig.trainer.theta, theta)
        assert torch.equal(rig.interchange.anchor, torch.cat([o.anchor for o in mixing.outer]))


METHODS: dict[str, dict[str, Any]] = {
    "nesterov": {},
    "no memory": {"rule": Plain()},
    "feedback": {"feedback": 0.9},
    "eager": {"rule": Eager()},
    "co2": {"rule": CO2()},
    "eager with feedback": {"rule": Eager(), "feedback": 0.9},
}


def departed(method: str) -> Mixing:
    """A mixing whose own vectors are not what they were at first."""
    mixing = mixing_of(num_fragments=2, **METHODS[method])
    for fragment, outer in enumerate(mixing.outer):
        size = len(outer.anchor)
        own = {name: torch.randn(size) for name in outer.copy.own}
        state = {name: torch.randn(size) for name in outer.copy.state}
        mixing.load_state(fragment, outer.anchor + 1, state, own, 3)
    return mixing


@pytest.mark.parametrize("method", METHODS)
async def test_what_concerns_this_peer_alone_is_in_its_checkpoint(
    tmp_path: Path, method: str
) -> None:
    mixing = departed(method)
    async with a_rig(TWO_FRAGMENTS) as rig:
        await keeper_of(tmp_path, mixing).save(rig.port, step=41)
    twin = mixing_of(num_fragments=2, **METHODS[method])
    keeper_of(tmp_path, twin).load()
    assert twin.landed == twin.outer
    for ours, theirs in zip(mixing.outer, twin.outer, strict=True):
        assert ours.digest == theirs.digest
        for kept, loaded in (
            (ours.copy.own, theirs.copy.own),
            (ours.copy.state, theirs.copy.state),
        ):
            assert kept.keys() == loaded.keys()
            assert all(torch.equal(kept[name], loaded[name]) for name in kept)


@pytest.mark.parametrize(("of_checkpoint", "of_run"), list(permutations(METHODS, 2)))
async def test_another_methods_checkpoint_is_refused(
    tmp_path: Path, of_checkpoint: str, of_run: str
) -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await keeper_of(tmp_path, departed(of_checkpoint)).save(rig.port, step=1)
    with pytest.raises(ConfigError, match=r"does not fit the run's method.*without --resume"):
        keeper_of(tmp_path, departed(of_run)).load()


async def test_the_newest_checkpoint_counts(tmp_path: Path) -> None:
    mixing = moved()
    async with a_rig(TWO_FRAGMENTS) as rig:
        for step in (9, 10, 11):
            rig.trainer.step = step
            mixing.load_state(0, mixing.outer[0].anchor, mixing.outer[0].copy.state, {}, step)
            await keeper_of(tmp_path, mixing).save(rig.port, step)
    twin = mixing_of(num_fragments=2)
    assert keeper_of(tmp_path, twin).load().name.endswith("11")
    assert twin.outer[0].round == 11


def test_without_a_checkpoint_resuming_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no checkpoint in .*without --resume"):
        keeper_of(tmp_path, moved()).load()


async def test_a_trainer_that_could_not_write_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    mixing = moved()
    keeper = keeper_of(tmp_path, mixing)
    async with a_rig(TWO_FRAGMENTS) as rig:
        path = await keeper.save(rig.port, 1)
        rig.trainer.held = {lines.Save}
        saving = asyncio.create_task(keeper.save(rig.port, 2))
        await rig.trainer.next(lines.Save)
        save = await rig.trainer.next(lines.Save)
        rig.trainer._send(lines.Saved(step=2, tokens=0, path=save.folder, problem="disk full"))
        with pytest.raises(ConfigError, match="disk full"):
            await saving
        assert keeper.load() == path


@pytest.mark.parametrize(
    ("run_id", "peer_id", "word"),
    [(RunId("cd" * 32), OURS, "of run ab"), (RUN_ID, PeerId("theirs"), "of peer ours")],
    ids=["another run", "another peer"],
)
async def test_somebody_elses_checkpoint_is_refused(
    tmp_path: Path, run_id: RunId, peer_id: PeerId, word: str
) -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await keeper_of(tmp_path, moved()).save(rig.port, 1)
    with pytest.raises(ConfigError, match=word):
        Keeper(tmp_path, run_id, peer_id, moved()).load()


@pytest.mark.parametrize(
    "left_out",
    [
        "anchor.0",
        "state.0.momentum",
    ],
)
async def test_a_checkpoint_that_does_not_fit_the_method_is_refused(
    tmp_path: Path, left_out: str
) -> None:
    keeper = keeper_of(tmp_path, moved())
    async with a_rig(TWO_FRAGMENTS) as rig:
        path = await keeper.save(rig.port, 1)
    checkpoint = open_checkpoint(path, run_id=RUN_ID, peer_id=OURS)
    tensors, inner = checkpoint.outer(), checkpoint.inner()
    del tensors[left_out]
    staged = stage(path.parent, 2)
    write_tensors(staged / OUTER, tensors)
    write_tensors(staged / INNER, inner)
    commit(staged, checkpoint.info)
    with pytest.raises(ConfigError, match=r"does not fit the run's method.*without --resume"):
        keeper.load()


async def test_a_checkpoint_of_more_fragments_than_the_run_has_is_refused(tmp_path: Path) -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await keeper_of(tmp_path, moved(2)).save(rig.port, 1)
    with pytest.raises(ConfigError, match="does not fit"):
        keeper_of(tmp_path, mixing_of()).load()


def halves_of(path: Path, node: Node) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Returns round, anchor and theta of a checkpoint."""
    checkpoint = open_checkpoint(path, run_id=node.manifest.run_id, peer_id=node.peer_id)
    (round,) = checkpoint.info.rounds
    return round, checkpoint.outer()["anchor.0"], checkpoint.inner()["theta"]


@pytest.mark.parametrize("first", ["landing", "save"])
async def test_a_landing_is_in_both_halves_or_in_none(tmp_path: Path, first: str) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):
        keeper = Keeper(tmp_path, node.manifest.run_id, node.peer_id, node.mixing)
        node.trainer.train(drift(0))
        theta_before = node.trainer.theta
        node.trainer.held = {lines.Land, lines.Save}
        if first == "landing":
            node.trainer.depart()
            await node.trainer.next(lines.Land)
            saving = asyncio.create_task(keeper.save(node.rig.port, 1))
        else:
            saving = asyncio.create_task(keeper.save(node.rig.port, 1))
            save = await node.trainer.next(lines.Save)
            node.trainer.depart()
            while node.mixing.outer[0].round == 0:
                await settle()
            node.trainer.answer(save)
        node.trainer.held.clear()
        if first == "landing":
            node.trainer.answer(node.trainer.received[-1])
        round, anchor, theta = halves_of(await saving, node)
        await node.events.until("landed")
        if first == "landing":
            assert round == 1
            torch.testing.assert_close(theta, anchor)
        else:
            assert round == 0
            assert torch.equal(anchor, START)
            assert torch.equal(theta, theta_before)


async def test_a_landing_that_waits_behind_a_save_is_in_no_half(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):
        keeper = Keeper(tmp_path, node.manifest.run_id, node.peer_id, node.mixing)
        node.trainer.train(drift(0))
        theta_before = node.trainer.theta
        node.trainer.held = {lines.Evaluate}
        evaluating = asyncio.create_task(node.rig.port.evaluate(0, lambda: [START]))
        question = await node.trainer.next(lines.Evaluate)
        saving = asyncio.create_task(keeper.save(node.rig.port, 1))
        await settle()
        node.trainer.depart()
        while node.mixing.outer[0].round == 0:
            await settle()
        node.trainer.answer(question)
        await evaluating
        round, anchor, theta = halves_of(await saving, node)
        await node.events.until("landed")
        if round == 1:
            torch.testing.assert_close(theta, anchor)
        else:
            assert torch.equal(anchor, START)
            assert torch.equal(theta, theta_before)


def test_the_stage_of_these_tests_is_as_they_think() -> None:
    assert sum(len(outer.anchor) for outer in moved().outer) == NUM_ELEMENTS
