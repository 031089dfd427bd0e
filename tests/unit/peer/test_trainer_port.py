import asyncio
import errno
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from peer.train import lines
from peer.train.config import TrainerConfig
from peer.trainer_port import _AWAITED, TrainerGone, TrainerPort
from protocol.errors import ConfigError
from tests.unit.peer.test_scripted_trainer import (
    LAYOUT,
    NUM_ELEMENTS,
    PATIENCE_S,
    TWO_FRAGMENTS,
    Rig,
    a_rig,
    settle,
)

START = torch.arange(NUM_ELEMENTS, dtype=torch.float32)
NEW = START * 2 - 3
DRIFT = torch.linspace(-1, 1, NUM_ELEMENTS)


async def started(rig: Rig) -> None:
    await rig.port.start(anchors_of(rig), step=40, tokens=7)


def anchors_of(rig: Rig) -> list[torch.Tensor]:
    return [START[span.start : span.stop] for span in rig.layout.fragments]


async def departed(rig: Rig, fragment: int = 0) -> None:
    rig.trainer.depart(fragment)
    async with asyncio.timeout(PATIENCE_S):
        await rig.news.get()


async def test_training_starts_from_the_anchors_of_all_fragments() -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        rig.trainer.hello()
        assert (await rig.port.hello).num_fragments == 2
        await started(rig)
        assert rig.trainer.received == [lines.Start(step=40, tokens=7)]
        assert torch.equal(rig.trainer.theta, START)


async def test_a_snapshot_stays_while_training_goes_on() -> None:
    async with a_rig() as rig:
        await started(rig)
        assert not rig.port.has_snapshot(0)
        rig.trainer.train(DRIFT)
        await departed(rig)
        rig.trainer.train(DRIFT)
        assert rig.port.has_snapshot(0)
        assert torch.equal(rig.port.snapshot(0), START + DRIFT)


async def test_a_landing_with_our_contribution_keeps_the_steps_since_the_departure() -> None:
    async with a_rig() as rig:
        await started(rig)
        rig.trainer.train(DRIFT)
        await departed(rig)
        rig.trainer.train(2 * DRIFT)
        landed = await rig.port.land(0, 5, NEW, base=None, tokens=100, is_planned=True)
        assert (landed.round, landed.step) == (5, 42)
        assert rig.trainer.received[-1] == lines.Land(
            fragment=0, round=5, tokens=100, is_planned=True
        )
        torch.testing.assert_close(rig.trainer.theta, NEW + 2 * DRIFT)
        assert not rig.port.has_snapshot(0)


async def test_a_landing_without_it_keeps_all_steps() -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await started(rig)
        rig.trainer.train(DRIFT)
        span = TWO_FRAGMENTS.fragments[1]
        part = slice(span.start, span.stop)
        assert await rig.port.depart(1) == lines.Departed(fragment=1, step=41, tokens=100)
        await rig.port.land(1, 9, NEW[part], base=START[part])
        assert rig.trainer.received[1:] == [
            lines.Depart(fragment=1),
            lines.Land(fragment=1, round=9),
        ]
        assert torch.equal(rig.port.snapshot(1), START[part])
        expected = START + DRIFT
        expected[part] = NEW[part] + DRIFT[part]
        torch.testing.assert_close(rig.trainer.theta, expected)
        assert rig.news.empty()  # that departure is nobody's contribution


async def test_a_snapshot_in_hand_gives_way_to_the_old_anchor() -> None:
    async with a_rig() as rig:
        await started(rig)
        rig.trainer.train(DRIFT)
        await departed(rig)
        rig.trainer.train(DRIFT)
        assert await rig.port.depart(0) is None
        await rig.port.land(0, 9, NEW, base=START)
        assert lines.Depart not in rig.trainer.kinds()
        torch.testing.assert_close(rig.trainer.theta, NEW + 2 * DRIFT)


async def test_a_departure_that_crosses_our_request_is_taken_for_the_answer() -> None:
    async with a_rig() as rig:
        await started(rig)
        rig.trainer.held = {lines.Depart}
        rig.trainer.train(DRIFT)
        departing = asyncio.create_task(rig.port.depart(0))
        depart = await rig.trainer.next(lines.Depart)
        rig.trainer.depart(tokens=7)  # by its schedule, before it has read our line
        rig.trainer.answer(depart)  # too late to have an effect
        assert (await departing) == lines.Departed(fragment=0, step=41, tokens=7)
        await rig.port.land(0, 9, NEW, base=START)
        torch.testing.assert_close(rig.trainer.theta, NEW + DRIFT)
        await departed(rig)  # the next one is news again
        assert rig.port.has_snapshot(0)


async def test_nobody_waits_for_a_departure_that_came_while_another_was_asked_for() -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await started(rig)
        rig.trainer.held = {lines.Depart}
        other = asyncio.create_task(rig.port.depart(1))
        question = await rig.trainer.next(lines.Depart)
        ours = asyncio.create_task(rig.port.depart(0))  # has to wait for its turn
        await settle()
        await departed(rig)  # by the schedule; a trainer with a snapshot out answers no `Depart`
        rig.trainer.answer(question)
        async with asyncio.timeout(PATIENCE_S):
            assert await ours is None
            assert await other is not None
        assert rig.trainer.kinds().count(lines.Depart) == 1


async def test_an_evaluation_asks_for_the_anchors_when_it_is_its_turn() -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await started(rig)
        await departed(rig, 1)
        rig.trainer.held = {lines.Land}
        anchors = anchors_of(rig)
        landing = asyncio.create_task(rig.port.land(1, 5, anchors[1] + 1, base=None))
        land = await rig.trainer.next(lines.Land)
        evaluating = asyncio.create_task(rig.port.evaluate(5, lambda: anchors))
        await settle()
        anchors[1] = anchors[1] + 1  # as when it has landed
        rig.trainer.answer(land)
        await landing
        bits = float(sum(anchor.double().sum() for anchor in anchors))
        assert (await evaluating).bits_per_byte == bits


async def test_landings_of_different_fragments_do_not_wait_for_each_other() -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await started(rig)
        anchors = anchors_of(rig)
        rig.trainer.held = {lines.Land}
        for fragment in (0, 1):
            await departed(rig, fragment)
        landings = [
            asyncio.create_task(rig.port.land(f, 5, anchors[f] * 2, base=None, is_planned=True))
            for f in (0, 1)
        ]
        asked = [await rig.trainer.next(lines.Land) for _ in landings]  # in any order
        first, second = sorted(asked, key=lambda land: land.fragment)
        rig.trainer.answer(second)  # the other one's overlap is not over
        assert (await landings[1]).fragment == 1
        assert not landings[0].done()
        rig.trainer.answer(first)
        await landings[0]
        assert torch.equal(rig.trainer.theta, 2 * START)


class Held(torch.Tensor):
    """A vector that is copied only when the event loop says so."""

    go_on = threading.Event()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        if func is torch.Tensor.copy_:
            assert cls.go_on.wait(PATIENCE_S), "the event loop is held up"
        with torch._C.DisableTorchFunctionSubclass():
            copied: torch.Tensor = func(*args, **(kwargs or {}))
        return copied


@pytest.mark.parametrize("which", ["anchor", "base"])
async def test_the_event_loop_goes_on_while_a_landing_is_copied(which: str) -> None:
    async with a_rig() as rig:
        await started(rig)
        rig.trainer.train(DRIFT)
        await departed(rig)
        Held.go_on.clear()
        anchor, base = NEW.clone(), START.clone()
        if which == "anchor":
            anchor = anchor.as_subclass(Held)
        else:
            base = base.as_subclass(Held)
        landing = asyncio.create_task(rig.port.land(0, 5, anchor, base=base))
        await settle()
        assert lines.Land not in rig.trainer.kinds()  # nothing is said before it is all there
        Held.go_on.set()
        await landing
        torch.testing.assert_close(rig.trainer.theta, NEW + DRIFT)


async def test_a_landing_waits_for_an_evaluation_to_end() -> None:
    async with a_rig() as rig:
        await started(rig)
        await departed(rig)
        rig.trainer.held = {lines.Evaluate}
        evaluating = asyncio.create_task(rig.port.evaluate(4, lambda: anchors_of(rig)))
        question = await rig.trainer.next(lines.Evaluate)
        landing = asyncio.create_task(rig.port.land(0, 5, NEW, base=None))
        await settle()
        assert torch.equal(rig.interchange.anchor, START)
        rig.trainer.answer(question)
        assert (await evaluating).bits_per_byte == float(START.double().sum())
        await landing
        assert rig.trainer.kinds()[-2:] == [lines.Evaluate, lines.Land]


async def test_an_evaluation_waits_for_a_landing_to_end() -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await started(rig)
        await departed(rig, 1)
        rig.trainer.held = {lines.Land}
        span = TWO_FRAGMENTS.fragments[1]
        new = NEW[span.start : span.stop]
        landing = asyncio.create_task(rig.port.land(1, 5, new, base=None))
        land = await rig.trainer.next(lines.Land)
        evaluating = asyncio.create_task(rig.port.evaluate(5, lambda: anchors_of(rig)))
        await settle()
        assert lines.Evaluate not in rig.trainer.kinds()
        rig.trainer.answer(land)
        await landing
        assert (await evaluating).round == 5


async def test_what_belongs_to_a_save_is_taken_when_no_landing_is_on_its_way() -> None:
    async with a_rig() as rig:
        await started(rig)
        await departed(rig)
        rig.trainer.held = {lines.Land, lines.Save}
        landing = asyncio.create_task(rig.port.land(0, 5, NEW, base=None))
        land = await rig.trainer.next(lines.Land)
        captured: list[bool] = []
        saving = asyncio.create_task(
            rig.port.save("folder", lambda: captured.append(landing.done()))
        )
        await settle()
        assert captured == []
        rig.trainer.answer(land)
        save = await rig.trainer.next(lines.Save)
        assert captured == [True]
        assert save.folder == "folder"
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)


async def test_landings_go_on_while_what_was_copied_is_being_written() -> None:
    async with a_rig() as rig:
        await started(rig)
        await departed(rig)
        rig.trainer.held = {lines.Save}
        saving = asyncio.create_task(rig.port.save("folder", lambda: None))
        await rig.trainer.next(lines.Save)
        landing = asyncio.create_task(rig.port.land(0, 5, NEW, base=None))
        await settle()
        assert lines.Land not in rig.trainer.kinds()
        rig.trainer._send(lines.Staged(step=1, tokens=1))
        assert (await landing).round == 5
        assert not saving.done()
        rig.trainer._send(lines.Saved(step=1, tokens=1, path="folder"))
        assert (await saving).path == "folder"


async def test_the_answer_to_a_save_that_was_given_up_is_not_the_next_ones() -> None:
    async with a_rig() as rig:
        rig.trainer.held = {lines.Save}
        first = asyncio.create_task(rig.port.save("first", lambda: None))
        await rig.trainer.next(lines.Save)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(rig.port.save("second", lambda: None))
        await settle()
        for folder in ("first", "second"):  # the trainer has gone on with the first one
            rig.trainer._send(lines.Staged(step=1, tokens=1))
            rig.trainer._send(lines.Saved(step=1, tokens=1, path=folder))
        async with asyncio.timeout(PATIENCE_S):
            assert (await second).path == "second"


async def test_a_trainer_that_dies_is_reported_to_all_who_wait() -> None:
    async with a_rig() as rig:
        rig.trainer.held = {lines.Start, lines.Save}
        starting = asyncio.create_task(started(rig))
        await rig.trainer.next(lines.Start)
        await rig.die()
        for waiting in (starting, rig.port.hello, rig.life):
            with pytest.raises(TrainerGone, match="ended by itself"):
                await waiting


@pytest.mark.parametrize(
    ("is_config", "expected"), [(True, ConfigError), (False, TrainerGone)], ids=["theirs", "ours"]
)
async def test_a_trainer_that_fails_says_why(is_config: bool, expected: type[Exception]) -> None:
    async with a_rig() as rig:
        rig.trainer.held = {lines.Evaluate}
        evaluating = asyncio.create_task(rig.port.evaluate(1, lambda: anchors_of(rig)))
        await rig.trainer.next(lines.Evaluate)
        rig.trainer.fail("device 'tpu' is not available here", is_config=is_config)
        await rig.die()
        for waiting in (rig.life, evaluating, rig.port.hello):
            with pytest.raises(expected, match="device 'tpu'") as failed:
                await waiting
            assert type(failed.value) is expected


async def test_a_question_after_the_end_is_answered_with_the_end() -> None:
    async with a_rig() as rig:
        await rig.die()
        await asyncio.gather(rig.life, return_exceptions=True)
        async with asyncio.timeout(0.2):
            with pytest.raises(TrainerGone):
                await rig.port.evaluate(1, lambda: anchors_of(rig))


async def test_what_belongs_to_a_save_is_not_taken_when_the_trainer_is_gone() -> None:
    async with a_rig() as rig:
        await rig.die()
        await asyncio.gather(rig.life, return_exceptions=True)
        captured: list[None] = []
        with pytest.raises(TrainerGone):
            await rig.port.save("folder", lambda: captured.append(None))
        assert not captured


async def test_a_trainer_that_cannot_be_started_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(folder: Path) -> Coroutine[Any, Any, TrainerPort]:
        config = TrainerConfig(manifest="manifest.json", run_id="ab" * 32, peer_id="somebody")
        return TrainerPort.launch(config, folder, LAYOUT, on_news=lambda news: None)

    def popen(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with pytest.raises(ConfigError, match=r"cannot write .*trainer\.json: No such file"):
        await launch(tmp_path / "gone")
    monkeypatch.setattr("subprocess.Popen", popen)
    with pytest.raises(ConfigError, match="cannot start the trainer process: Resource"):
        await launch(tmp_path)


async def test_leaving_is_no_failure_and_needs_no_patience() -> None:
    async with a_rig(LAYOUT) as rig:
        await started(rig)
        await rig.port.leave()
        await rig.life
    assert rig.process.calls == ["kill", "wait"]


async def test_a_trainer_that_has_not_left_is_given_a_moment_and_then_killed() -> None:
    async with a_rig() as rig:
        await started(rig)
    assert rig.process.calls == ["wait a little", "kill", "wait"]
    with pytest.raises(TrainerGone):
        rig.life.result()


def test_every_question_to_the_trainer_has_a_name() -> None:
    assert set(_AWAITED) == set(lines.ToTrainer.__args__) - {lines.Free, lines.Rest}  # no answer


async def test_a_question_is_listed_until_it_is_answered_or_given_up() -> None:
    async with a_rig(TWO_FRAGMENTS) as rig:
        await started(rig)
        assert rig.port.waits.now() == []
        rig.trainer.held = {lines.Depart, lines.Save}
        departing = asyncio.create_task(rig.port.depart(1))
        question = await rig.trainer.next(lines.Depart)
        (wait,) = rig.port.waits.now()
        assert (wait.name, wait.fragment) == ("a snapshot of the trainer (fragment 1)", 1)
        assert (wait.deadline_s, wait.until) == (None, "the trainer answers")
        rig.trainer.answer(question)
        await departing
        assert rig.port.waits.now() == []
        saving = asyncio.create_task(rig.port.save("folder", lambda: None))
        await rig.trainer.next(lines.Save)
        assert [wait.name for wait in rig.port.waits.now()] == ["the trainer to save"]
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        assert rig.port.waits.now() == []
