import asyncio
import errno
import gc
import json
import os
import threading
import weakref
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from optim.outer.co2 import CO2
from optim.outer.eager import Eager
from optim.outer.plain import Plain
from peer.keeper import Keeper
from peer.memory import Vectors
from peer.mixing import Mixing
from peer.train import lines
from peer.train.checkpoint import INNER, OUTER, commit, committed, open_checkpoint, stage
from peer.train.tensor_file import TensorFile, read_tensors, write_tensors
from peer.trainer_port import TrainerGone
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.lineage import EMPTY
from protocol.manifest import RunId
from tests.unit.peer.small_disk import a_small_disk, fill
from tests.unit.peer.test_driver import START, Node, drift, manifest_of, nodes
from tests.unit.peer.test_mixing import mixing_of
from tests.unit.peer.test_scripted_trainer import NUM_ELEMENTS, TWO_FRAGMENTS, a_rig, settle

RUN_ID = RunId("ab" * 32)
OURS, THEIRS = Identity(b"o" * 32), Identity(b"t" * 32)


def keeper_of(folder: Path, mixing: Mixing, **options: Any) -> Keeper:
    return Keeper(folder, RUN_ID, OURS, mixing, **options)


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
    with pytest.raises(ConfigError, match=r"does not fit the run's method.*with --fresh"):
        keeper_of(tmp_path, departed(of_run)).load()


async def test_the_newest_checkpoint_counts(tmp_path: Path) -> None:
    mixing = moved()
    async with a_rig(TWO_FRAGMENTS) as rig:
        for step in (9, 10, 11):
            rig.trainer.step = step
            mixing.load_state(0, mixing.outer[0].anchor, mixing.outer[0].copy.state, {}, step)
            await keeper_of(tmp_path, mixing).save(rig.port, step)
    twin = mixing_of(num_fragments=2)
    assert keeper_of(tmp_path, twin).load().name == "step-00000011-000003"
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
        rig.trainer._send(lines.Staged(step=2, tokens=0))
        rig.trainer._send(lines.Saved(step=2, tokens=0, path=save.folder, problem="disk full"))
        with pytest.raises(ConfigError, match="disk full"):
            await saving
        assert keeper.load() == path
        assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("run_id", "identity", "word"),
    [(RunId("cd" * 32), OURS, "of run ab"), (RUN_ID, THEIRS, f"of peer {OURS.peer_id}")],
    ids=["another run", "another peer"],
)
async def test_somebody_elses_checkpoint_is_refused(
    tmp_path: Path, run_id: RunId, identity: Identity, word: str
) -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await keeper_of(tmp_path, moved()).save(rig.port, 1)
    with pytest.raises(ConfigError, match=word):
        Keeper(tmp_path, run_id, identity, moved()).load()


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
    checkpoint = open_checkpoint(path, run_id=RUN_ID, peer_id=OURS.peer_id)
    tensors, inner = checkpoint.outer(), checkpoint.inner()
    del tensors[left_out]
    staged = stage(path.parent, 2)
    files = {
        name: write_tensors(staged / name, x) for name, x in ((OUTER, tensors), (INNER, inner))
    }
    commit(staged, checkpoint.info, files, identity=OURS)
    with pytest.raises(ConfigError, match=r"does not fit the run's method.*with --fresh"):
        keeper.load()


async def test_a_checkpoint_of_more_fragments_than_the_run_has_is_refused(tmp_path: Path) -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await keeper_of(tmp_path, moved(2)).save(rig.port, 1)
    with pytest.raises(ConfigError, match="does not fit"):
        keeper_of(tmp_path, mixing_of()).load()


def halves_of(path: Path, node: Node) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Returns round, anchor and theta of a checkpoint."""
    checkpoint = open_checkpoint(path, run_id=node.manifest.run_id, peer_id=OURS.peer_id)
    (round,) = checkpoint.info.rounds
    return round, checkpoint.outer()["anchor.0"], checkpoint.inner()["theta"]


@pytest.mark.parametrize("first", ["landing", "save"])
async def test_a_landing_is_in_both_halves_or_in_none(tmp_path: Path, first: str) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):
        keeper = Keeper(tmp_path, node.manifest.run_id, OURS, node.mixing)
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
        keeper = Keeper(tmp_path, node.manifest.run_id, OURS, node.mixing)
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


# ---- what is in it, and for whom


async def test_a_checkpoint_names_the_anchors_and_where_they_come_from(tmp_path: Path) -> None:
    mixing = moved()
    for fragment in range(2):
        old = mixing.outer[fragment]
        lineage = EMPTY.landed(3, b"x" * 32, 5).landed(old.round, old.digest, 1000 + fragment)
        copy = old.copy
        mixing.load_state(fragment, copy.anchor, copy.state, copy.own, copy.round, lineage)
    async with a_rig(TWO_FRAGMENTS) as rig:
        path = await keeper_of(tmp_path, mixing).save(rig.port, step=41)
    info = json.loads((path / "checkpoint.json").read_text())["info"]
    assert info["rounds"] == [7, 6]
    assert info["digests"] == [outer.digest.hex() for outer in mixing.outer]
    twin = mixing_of(num_fragments=2)
    keeper_of(tmp_path, twin).load()
    assert [outer.lineage for outer in twin.outer] == [outer.lineage for outer in mixing.outer]
    assert twin.outer[1].lineage.tokens_beyond(EMPTY) == 1006


# ---- when something is damaged


async def several(folder: Path, count: int) -> list[Path]:
    """Writes checkpoints of steps 1, 2, ..., whose first fragments are at rounds 1, 2, ..."""
    mixing = moved()
    keeper = keeper_of(folder, mixing, keep=count)
    async with a_rig(TWO_FRAGMENTS) as rig:
        paths = []
        for step in range(1, count + 1):
            rig.trainer.step = step
            mixing.load_state(0, mixing.outer[0].anchor, mixing.outer[0].copy.state, {}, step)
            paths.append(await keeper.save(rig.port, step))
    return paths


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("name", [INNER, OUTER, "checkpoint.json", "checkpoint.sig"])
async def test_the_checkpoint_before_a_damaged_one_is_taken_and_that_is_said(
    tmp_path: Path, name: str
) -> None:
    paths = await several(tmp_path, 3)
    damage(paths[2] / name)
    notices: list[str] = []
    twin = mixing_of(num_fragments=2)
    assert keeper_of(tmp_path, twin, notify=notices.append).load() == paths[1]
    assert twin.outer[0].round == 2
    (notice,) = notices
    assert str(paths[2]) in notice
    assert "going on from the checkpoint before it, step-00000002-000002" in notice
    assert "\n" not in notice


async def test_only_when_none_is_good_a_peer_refuses(tmp_path: Path) -> None:
    paths = await several(tmp_path, 3)
    for path in paths[1:]:
        damage(path / OUTER)
    assert keeper_of(tmp_path, mixing_of(num_fragments=2)).load() == paths[0]
    (paths[0] / INNER).unlink()
    with pytest.raises(ConfigError, match=r"no checkpoint in .* can be used: .*with --fresh") as e:
        keeper_of(tmp_path, mixing_of(num_fragments=2)).load()
    assert all(path.name in str(e.value) for path in paths)


async def test_the_good_one_outlives_damaged_newer_ones(tmp_path: Path) -> None:
    paths = await several(tmp_path, 3)
    for path in paths[1:]:
        damage(path / OUTER)  # of its full size, so that only the hash tells
    keeper = keeper_of(tmp_path, mixing_of(num_fragments=2), keep=2)
    keeper.load()
    async with a_rig(TWO_FRAGMENTS) as rig:
        newest = await keeper.save(rig.port, 2)
        assert committed(paths[0].parent) == [*paths, newest]
        after = await keeper.save(rig.port, 3)
    assert committed(paths[0].parent) == [newest, after]


# ---- beside everything else


async def test_old_states_are_written_as_they_were_and_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, has_begun = threading.Event(), threading.Event()
    write = TensorFile.write

    def held(file: TensorFile, tensors: Any) -> Any:
        if file.path.name == OUTER:
            has_begun.set()
            assert go_on.wait(10)
        return write(file, tensors)

    monkeypatch.setattr(TensorFile, "write", held)
    vectors = Vectors()  # memory that serves again as soon as nobody holds it
    mixing = moved()
    old: list[weakref.ref[torch.Tensor]] = []
    expected = []
    for fragment in range(2):
        copy = mixing.outer[fragment].copy
        anchor = vectors.empty(len(copy.anchor)).copy_(copy.anchor)
        mixing.load_state(fragment, anchor, copy.state, {}, copy.round)
        old.append(weakref.ref(anchor))
        expected.append(anchor.clone())
        del anchor, copy
    async with a_rig(TWO_FRAGMENTS) as rig:
        saving = asyncio.create_task(keeper_of(tmp_path, mixing).save(rig.port, 1))
        assert await asyncio.to_thread(has_begun.wait, 10)
        for fragment in range(2):  # meanwhile there is a landing
            copy = mixing.outer[fragment].copy
            anchor = vectors.empty(len(copy.anchor)).fill_(-1)
            mixing.load_state(fragment, anchor, copy.state, {}, copy.round + 1)
            del anchor, copy
        gc.collect()
        assert all(ref() is not None for ref in old)
        go_on.set()
        path = await saving
    gc.collect()
    assert all(ref() is None for ref in old)
    written = read_tensors(path / OUTER)
    assert all(torch.equal(written[f"anchor.{f}"], expected[f]) for f in range(2))


async def test_two_saves_at_once_become_one_after_the_other(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path, moved())
    async with a_rig(TWO_FRAGMENTS) as rig:
        rig.trainer.held = {lines.Save}
        first, second = (asyncio.create_task(keeper.save(rig.port, step)) for step in (1, 2))
        question = await rig.trainer.next(lines.Save)
        await settle()
        assert rig.trainer.kinds().count(lines.Save) == 1
        rig.trainer.held.clear()
        rig.trainer.answer(question)
        assert [(await each).name for each in (first, second)] == [
            "step-00000000-000001",
            "step-00000000-000002",
        ]


async def test_before_the_last_checkpoint_training_ends(tmp_path: Path) -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await keeper_of(tmp_path, moved()).save(rig.port, 1, is_last=True)
        assert rig.trainer.kinds() == [lines.Rest, lines.Save]


@pytest.mark.parametrize("when", ["before", "in the midst", "between"])
async def test_a_trainer_that_dies_leaves_no_rubbish(tmp_path: Path, when: str) -> None:
    mixing = moved()
    keeper = keeper_of(tmp_path, mixing)
    async with a_rig(TWO_FRAGMENTS) as rig:
        path = await keeper.save(rig.port, 1)
        rig.trainer.held = {lines.Save}
        if when == "before":
            await rig.die()
            await asyncio.gather(rig.life, return_exceptions=True)
        saving = asyncio.create_task(keeper.save(rig.port, 2))
        if when != "before":
            await rig.trainer.next(lines.Save)
            await rig.trainer.next(lines.Save)
            if when == "between":
                rig.trainer._send(lines.Staged(step=2, tokens=0))
            await rig.die()
        with pytest.raises(TrainerGone):
            await saving
    assert os.listdir(path.parent) == [path.name]
    assert keeper.load() == path


# ---- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with a_small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.mark.parametrize("but_bytes", [0, 4096, 8192, 40_000, 60_000, 64_000, 70_000, 80_000])
async def test_on_a_full_disk_older_checkpoints_stay_and_later_ones_succeed(
    small_disk: Path, but_bytes: int
) -> None:
    keeper = keeper_of(small_disk, moved())
    async with a_rig(TWO_FRAGMENTS) as rig:
        paths = [await keeper.save(rig.port, step) for step in (1, 2)]
        filler = fill(small_disk, but_bytes)
        try:
            await keeper.save(rig.port, 3)
        except ConfigError as error:
            assert "No space left on device" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            assert committed(paths[0].parent) == paths
        else:
            assert but_bytes >= 60_000
            assert len(committed(paths[0].parent)) == 2
        assert not list(paths[0].parent.glob("partial-*"))
        assert keeper_of(small_disk, mixing_of(num_fragments=2)).load()
        filler.unlink()
        newest = await keeper.save(rig.port, 4)
        assert keeper_of(small_disk, mixing_of(num_fragments=2)).load() == newest


@pytest.mark.parametrize("name", ["mkdir", "open", "posix_fallocate", "write", "fsync", "rename"])
@pytest.mark.parametrize("after", range(0, 12, 2))
async def test_wherever_the_disk_is_full_older_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    keeper = keeper_of(tmp_path, moved())
    async with a_rig(TWO_FRAGMENTS) as rig:
        paths = [await keeper.save(rig.port, step) for step in (1, 2)]
        call, calls = getattr(os, name), iter(range(1000))

        def full(*arguments: Any, **options: Any) -> Any:
            flags = arguments[1] if name == "open" else os.O_CREAT
            if not flags & os.O_CREAT or next(calls) < after:
                return call(*arguments, **options)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            try:
                await keeper.save(rig.port, 3)
            except ConfigError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                assert committed(paths[0].parent) == paths
        assert not list(paths[0].parent.glob("partial-*"))
        newest = await keeper.save(rig.port, 4)
        assert keeper_of(tmp_path, mixing_of(num_fragments=2)).load() == newest


def test_the_stage_of_these_tests_is_as_they_think() -> None:
    assert sum(len(outer.anchor) for outer in moved().outer) == NUM_ELEMENTS
