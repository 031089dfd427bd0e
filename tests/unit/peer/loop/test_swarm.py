"""The loop's side: steps, leaving in every way there is, and going on alone."""

import atexit
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from peer.loop import swarm as swarm_module
from peer.loop.learner import ModelLearner
from peer.loop.swarm import Leading
from peer.train import lines
from peer.train.interchange import Interchange
from peer.train.trainer import Trainer
from protocol.manifest import Manifest
from tests.unit.peer.loop.conftest import a_model
from tests.unit.peer.loop.far_end import FarEnd


class Party:
    """A loop that has joined at step 8, where the swarm's model is all ones."""

    def __init__(
        self, manifest: Manifest, max_steps: int | None = None, *, is_group: bool = False
    ) -> None:
        self.far, self.model = FarEnd(), a_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.learner = ModelLearner(self.model, self.optimizer, manifest)
        buffers = self.buffers = Interchange.create(self.learner.layout.num_elements)
        buffers.anchor.fill_(1.0)
        port = self.far.port
        trainer = Trainer(self.learner, buffers, port, max_steps=max_steps, judges_loss=False)
        self.far.start(step=8, tokens=80)
        trainer.listen(wait_s=1.0)
        self.swarm = Leading(self.learner, trainer, port, buffers, is_group=is_group)

    def steps(self, count: int) -> None:
        for _ in range(count):
            with torch.no_grad():
                for param in self.model.parameters():
                    param.add_(0.25)
            self.swarm.step(tokens=10)

    def end(self) -> None:
        self.far.die()
        self.swarm.leave()


@pytest.fixture
def party(manifest: Manifest) -> Iterator[Party]:
    made = Party(manifest)
    yield made
    made.end()


@pytest.fixture
def party_to_10(manifest: Manifest) -> Iterator[Party]:
    made = Party(manifest, max_steps=10)
    yield made
    made.end()


def test_steps_go_on_from_the_swarms_state_and_depart_on_schedule(party: Party) -> None:
    party.steps(4)
    assert party.swarm.step_count == 12
    departed = party.far.heard(lines.Departed)
    # Two fragments, each every four steps, and evenly apart.
    expected = [(1, 10, 20), (0, 12, 40)]
    assert [(each.fragment, each.step, each.tokens) for each in departed] == expected
    first, second = party.learner.layout.fragments
    assert (party.buffers.base[first.start : first.stop] == 2.0).all()  # 1 and 4 times 0.25
    assert (party.buffers.base[second.start : second.stop] == 1.5).all()


def test_a_landing_moves_the_model_within_a_step_and_keeps_what_was_done_since(
    party: Party,
) -> None:
    party.steps(4)
    party.buffers.anchor.fill_(5.0)
    party.far.say(lines.Land(fragment=0, round=1, tokens=40, is_planned=True))
    party.steps(1)
    flat = torch.empty(party.learner.layout.num_elements)
    party.learner.snapshot(flat)
    first, second = (flat[span.start : span.stop] for span in party.learner.layout.fragments)
    assert (first == 5.25).all()
    assert (second == 2.25).all()
    assert [landed.round for landed in party.far.heard(lines.Landed)] == [1]


def test_status_is_what_both_sides_know(party: Party) -> None:
    party.steps(2)
    party.far.say(lines.News(phase="training", members=3, notices=("one",)))
    party.far.say(lines.News(phase="exchanging", members=4, notices=("two",)))
    status = party.swarm.status
    assert (status.step, status.tokens, status.is_alone) == (10, 100, False)
    assert (status.phase, status.members, status.notices) == ("exchanging", 4, ("one", "two"))


def test_tokens_below_zero_are_refused_and_none_count_as_one(party: Party) -> None:
    with pytest.raises(ValueError, match="at least 0, not -1"):
        party.swarm.step(tokens=-1)
    party.swarm.step()
    assert party.swarm.status.tokens == 81


@pytest.mark.parametrize("loss", [2.0, torch.tensor(2.0), torch.tensor([[2.0]])], ids=str)
def test_a_loss_is_one_number_of_whatever_shape(party: Party, loss: torch.Tensor | float) -> None:
    party.swarm.step(loss=loss)
    assert party.far.heard(lines.Progress)[0].loss_bits_per_byte == pytest.approx(2 / math.log(2))


def test_losses_of_several_sequences_are_refused_before_the_step_counts(party: Party) -> None:
    with pytest.raises(ValueError, match=r"one number, the step's mean, not \[3\]"):
        party.swarm.step(loss=torch.ones(3))
    assert party.swarm.step_count == 8


def test_the_loop_goes_on_alone_when_the_wire_process_dies(
    party: Party, caplog: pytest.LogCaptureFixture
) -> None:
    party.steps(5)  # a snapshot is out, and nobody will ever land it
    party.far.die()
    with caplog.at_level(logging.WARNING):
        party.steps(5)
    assert len(caplog.records) == 1
    assert "the wire process has ended; training goes on alone from step 14" in caplog.text
    status = party.swarm.status
    assert (status.step, status.tokens, status.is_alone) == (18, 180, True)
    party.swarm.leave()
    assert not party.far.was_asked_to_leave


def test_who_is_let_go_says_why_as_soon_as_it_knows(
    party: Party, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        party.far.say(lines.Leave())
        party.steps(2)
        assert party.swarm.status.is_alone
        assert caplog.records == []  # the reason is yet to come
        party.far.say(lines.Failed(reason="another process has this identity", is_config=True))
        party.far.die()
        party.steps(2)
    assert len(caplog.records) == 1
    assert "another process has this identity; training goes on alone" in caplog.text
    assert party.swarm.step_count == 12


@pytest.mark.parametrize("error", [None, ZeroDivisionError(), KeyboardInterrupt(), SystemExit(3)])
def test_a_block_that_ends_in_any_way_leaves_in_order_and_once(
    party: Party, error: BaseException | None
) -> None:
    def loop() -> None:
        with party.swarm as swarm:
            party.steps(2)
            if error is not None:
                raise error
            swarm.leave()

    if error is None:
        loop()
    else:
        with pytest.raises(type(error)):
            loop()
    assert party.far.was_asked_to_leave
    assert [left.step for left in party.far.heard(lines.Left)] == [10]
    assert not party.far.process.is_killed
    party.swarm.leave()
    assert len(party.far.process.signals) == 1


def test_a_checkpoint_that_is_asked_for_while_leaving_is_written(
    party: Party, tmp_path: Path
) -> None:
    party.steps(2)
    party.far.say(lines.Save(folder=str(tmp_path)))
    party.swarm.leave()
    saved = party.far.heard(lines.Saved)
    assert [(each.step, each.problem) for each in saved] == [(10, None)]
    assert (tmp_path / "inner.safetensors").exists()


def test_steps_after_leaving_count_and_nobody_hears_of_them(party: Party) -> None:
    party.steps(2)
    party.swarm.leave()
    party.steps(3)
    assert party.swarm.step_count == 13
    assert not party.swarm.status.is_alone


def test_who_does_not_answer_is_left_without_goodbye(
    party: Party, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(swarm_module, "LEAVE_S", 0.0)
    party.far.process.is_deaf = True
    with caplog.at_level(logging.WARNING):
        party.swarm.leave()
    assert "left without goodbye" in caplog.text
    assert party.far.process.is_killed


def test_a_second_interruption_ends_the_wire_process_at_once(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(party.far.port, "ask_to_leave", interrupted)
    with pytest.raises(KeyboardInterrupt), party.swarm:
        raise KeyboardInterrupt
    assert party.far.process.is_killed
    assert party.far.process.waited_s[0] == 1.0  # rather than END_S


def test_a_forked_process_has_nothing_to_leave(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        party.swarm.leave()
    assert not party.far.was_asked_to_leave
    party.steps(1)
    party.swarm.leave()
    assert party.far.was_asked_to_leave


@pytest.mark.parametrize("is_group", [False, True])
def test_at_the_end_of_the_program_a_loop_leaves_in_order_and_a_group_only_ends(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, is_group: bool
) -> None:
    # Ranks that are anywhere gather no last checkpoint: each would wait for the others.
    at_end: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_end.append)
    party = Party(manifest, is_group=is_group)
    stopped: list[BaseException] = []
    monkeypatch.setattr(party.learner, "stop", stopped.append)
    party.steps(1)
    at_end[0]()
    assert party.far.was_asked_to_leave is not is_group
    assert len(stopped) == is_group
    party.end()


def test_after_max_steps_nothing_counts_and_everything_is_answered(party_to_10: Party) -> None:
    party = party_to_10
    party.steps(2)
    assert party.swarm.is_done
    party.steps(2)
    departed = party.far.heard(lines.Departed)  # the schedule has one at step 10, the other at 12
    assert [(each.step, each.tokens) for each in departed] == [(10, 20), (10, 20)]
    assert (party.swarm.step_count, party.swarm.status.tokens) == (10, 100)
    party.swarm.leave()
    assert [left.step for left in party.far.heard(lines.Left)] == [10]


def test_what_an_evaluation_raises_comes_out_of_step_and_leaving_still_works(
    party: Party,
) -> None:
    party.far.say(lines.Evaluate(round=1))  # which this loop has none for
    with pytest.raises(Exception, match="evaluate="), party.swarm:
        party.steps(1)
    assert party.far.heard(lines.Left)
