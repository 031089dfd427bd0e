import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peer.train.alone import train_alone
from peer.train.checkpoint import INNER, stage
from peer.train.data import Corpus
from peer.train.interchange import Interchange
from peer.train.lines import (
    Depart,
    Departed,
    Evaluate,
    Evaluated,
    Free,
    Hello,
    Land,
    Landed,
    Leave,
    Left,
    Message,
    Progress,
    Rest,
    Resume,
    Save,
    Saved,
    Staged,
    Start,
    Started,
)
from peer.train.model import initial_anchor
from peer.train.replica import Replica
from peer.train.tensor_file import read_tensors
from peer.train.trainer import Trainer
from protocol.errors import ConfigError, LocalProtocolError
from protocol.manifest import Manifest
from tests.unit.peer.train.executors import Inline, Manual

STEP_TOKENS = 2 * 16


class ScriptedWire:
    """The other side, played by a test: what it puts into `inbox` comes at the next turn."""

    def __init__(self) -> None:
        self.inbox: list[Message] = []
        self.sent: list[Message] = []
        self.is_closed = False
        self.backlog_bytes = 0

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def poll(self, *, wait_s: float = 0.0) -> list[Message]:
        messages, self.inbox = self.inbox, []
        return messages

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


class Stage:
    """A trainer, its shared buffers, and a scripted wire process."""

    def __init__(self, manifest: Manifest, corpus: Corpus, **options: Any) -> None:
        self.replica = Replica(manifest, corpus, peer_id="me", device=torch.device("cpu"))
        self.buffers = Interchange.create(self.replica.layout.num_elements)
        self.buffers.anchor.copy_(initial_anchor(manifest))
        self.wire = ScriptedWire()
        options = {"executor": Inline()} | options
        self.trainer = Trainer(self.replica, self.buffers, self.wire, **options)

    def turns(self, count: int, *messages: Message) -> None:
        self.wire.inbox += messages
        for _ in range(count):
            self.trainer.turn()

    def theta(self) -> Tensor:
        flat = torch.empty_like(self.buffers.anchor)
        self.replica.snapshot(flat)
        return flat

    def span(self, fragment: int) -> slice:
        span = self.replica.layout.fragments[fragment]
        return slice(span.start, span.stop)

    def moments(self) -> dict[str, Tensor]:
        state = self.replica.state()
        return {name: t.clone() for name, t in state.items() if not name.startswith("theta")}


START = Start(step=0, tokens=0)


def planned(fragment: int, *, round: int = 1, steps: int = 4) -> Land:
    """The landing of a snapshot that departed, in which so many steps of ours are."""
    tokens = steps * STEP_TOKENS
    return Land(fragment=fragment, round=round, tokens=tokens, is_planned=True)


def with_schedule(manifest: Manifest, **changes: Any) -> Manifest:
    schedule = manifest.method.schedule.model_copy(update=changes)
    method = manifest.method.model_copy(update={"schedule": schedule})
    return manifest.model_copy(update={"method": method})


def is_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_it_says_hello_trains_and_leaves(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus, data="a text", validation_problem="another text")
    stage.wire.inbox = [START, Leave()]
    stage.trainer.run()
    hello, started, left = stage.wire.sent
    assert isinstance(hello, Hello)
    assert hello.num_elements == len(stage.buffers.anchor)
    assert (hello.num_fragments, hello.device, hello.data) == (2, "cpu", "a text")
    assert hello.validation_problem == "another text"
    assert started == Started(step=0, tokens=0)
    assert left == Left(step=0)


def test_it_ends_when_the_other_side_is_gone(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus)
    stage.wire.is_closed = True
    stage.trainer.run()
    stage.wire.is_closed = False
    stage.trainer.run(is_wanted=lambda: False)
    assert stage.replica.step == 0


def test_it_trains_nothing_before_it_is_started(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(3, Depart(fragment=0))
    assert (stage.replica.step, stage.wire.sent) == (0, [])


def test_it_starts_where_the_run_is(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(1, Start(step=19, tokens=5))
    assert stage.wire.sent[0] == Started(step=19, tokens=5)
    assert stage.wire.sent[1] == Departed(fragment=0, step=20, tokens=STEP_TOKENS)
    with pytest.raises(LocalProtocolError, match="started twice"):
        stage.turns(1, START)


def test_departures_follow_the_schedule(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(4, START)
    assert torch.equal(stage.buffers.base[stage.span(0)], stage.theta()[stage.span(0)])
    assert not stage.buffers.base[stage.span(1)].any()
    stage.turns(2)
    assert stage.wire.of(Departed) == [
        Departed(fragment=0, step=4, tokens=4 * STEP_TOKENS),
        Departed(fragment=1, step=6, tokens=6 * STEP_TOKENS),
    ]


def test_a_snapshot_that_is_out_is_not_overwritten(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(6, START)
    before = stage.buffers.base.clone()
    stage.turns(7, Depart(fragment=0))
    assert torch.equal(stage.buffers.base, before)
    assert len(stage.wire.of(Departed)) == 2
    stage.turns(3, Free(fragment=0))
    assert stage.wire.of(Departed)[-1] == Departed(fragment=0, step=16, tokens=16 * STEP_TOKENS)
    assert torch.equal(stage.buffers.base[stage.span(1)], before[stage.span(1)])


def test_a_fresh_snapshot_can_be_had_at_once(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(5, START)
    stage.turns(1, Free(fragment=0), Depart(fragment=0))
    assert stage.wire.of(Departed)[-2] == Departed(fragment=0, step=6, tokens=6 * STEP_TOKENS)
    assert torch.equal(stage.buffers.base[stage.span(0)], stage.theta()[stage.span(0)])


@pytest.mark.parametrize("message", [Land(fragment=0, round=1), Free(fragment=0)])
def test_the_wire_side_cannot_give_what_it_does_not_have(
    manifest: Manifest, corpus: Corpus, message: Message
) -> None:
    with pytest.raises(LocalProtocolError, match="without a snapshot"):
        Stage(manifest, corpus).turns(1, START, message)


def test_an_anchor_lands_to_the_bit_on_an_unmoved_fragment(
    manifest: Manifest, corpus: Corpus
) -> None:
    stage = Stage(manifest, corpus, max_steps=4)
    stage.turns(4, START)
    before, moments = stage.theta(), stage.moments()
    anchor = torch.randn(len(before), generator=torch.Generator().manual_seed(1))
    anchor[0] = -0.0
    stage.buffers.anchor.copy_(anchor)
    stage.turns(1, planned(0, round=3))
    after = stage.theta()
    assert torch.equal(
        after[stage.span(0)].view(torch.int32), anchor[stage.span(0)].view(torch.int32)
    )
    assert torch.equal(after[stage.span(1)], before[stage.span(1)])
    assert is_equal(stage.moments(), moments)
    assert stage.wire.of(Landed) == [Landed(fragment=0, round=3, step=4)]


def test_landing_our_own_theta_is_plain_adamw(manifest: Manifest, corpus: Corpus) -> None:
    # T6 of DiLoCo's identities: one worker, outer SGD with rate 1 and no momentum.
    stage = Stage(manifest, corpus)
    stage.turns(1, START)
    for _ in range(14):
        for departed in stage.wire.of(Departed)[len(stage.wire.of(Landed)) :]:
            span = stage.span(departed.fragment)
            stage.buffers.anchor[span] = stage.buffers.base[span]
            landing = planned(departed.fragment, steps=departed.tokens // STEP_TOKENS)
            stage.wire.inbox.append(landing)
        stage.turns(1)
    alone = train_alone(manifest, 15, peer_id="me", corpus=corpus)
    assert len(stage.wire.of(Landed)) == 6
    assert is_equal(stage.replica.state(), alone.replica.state())


def test_steps_after_departure_survive_a_late_landing(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus, max_steps=7)
    stage.turns(7, START)
    span, before = stage.span(0), stage.theta()
    base = stage.buffers.base[span].clone()
    assert not torch.equal(base, before[span])
    stage.buffers.anchor[span] = base + 1
    stage.turns(1, planned(0))
    assert torch.allclose(stage.theta()[span], before[span] + 1, atol=1e-6)


def test_catching_up_with_the_old_anchor_as_base(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus, max_steps=5)
    old = stage.buffers.anchor.clone()
    stage.turns(3, START)
    stage.turns(2, Depart(fragment=1))
    span = stage.span(1)
    assert stage.wire.of(Departed)[1] == Departed(fragment=1, step=4, tokens=4 * STEP_TOKENS)
    before = stage.theta()
    stage.buffers.base[span] = old[span]
    stage.buffers.anchor[span] = old[span] * 2
    stage.turns(1, Land(fragment=1, round=9))
    assert torch.allclose(stage.theta()[span], before[span] + old[span], atol=1e-6)


def test_a_contribution_waits_for_the_overlap_and_others_do_not(
    manifest: Manifest, corpus: Corpus
) -> None:
    stage = Stage(with_schedule(manifest, overlap_steps=2), corpus)
    stage.turns(4, START)
    stage.turns(1, planned(0))
    assert stage.wire.of(Landed) == []
    stage.turns(1)
    assert stage.wire.of(Landed) == [Landed(fragment=0, round=1, step=6)]
    stage.turns(1, Land(fragment=1, round=1))
    assert stage.wire.of(Landed)[1:] == [Landed(fragment=1, round=1, step=6)]


@pytest.mark.parametrize(
    ("landed_steps", "left_steps"), [(4, 4), (0, 8), (3, 5), (-2, 10)], ids=str
)
def test_tokens_count_what_no_average_contains(
    manifest: Manifest, corpus: Corpus, landed_steps: int, left_steps: int
) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(5, START)
    stage.buffers.anchor[stage.span(0)] = stage.buffers.base[stage.span(0)]
    stage.turns(3, Land(fragment=0, round=1, tokens=landed_steps * STEP_TOKENS, is_planned=True))
    departed = Departed(fragment=0, step=8, tokens=left_steps * STEP_TOKENS)
    assert stage.wire.of(Departed)[-1] == departed


@pytest.mark.parametrize("saved_at", [0, 5], ids=["before the first step", "later"])
def test_a_resumed_run_goes_on_to_the_bit(
    manifest: Manifest, corpus: Corpus, tmp_path: Path, saved_at: int
) -> None:
    whole, second = Stage(manifest, corpus), Stage(manifest, corpus)
    first = Stage(manifest, corpus, max_steps=saved_at)
    whole.turns(12, START)
    first.turns(6, START)
    folder = stage(tmp_path, saved_at)
    first.turns(1, Save(folder=str(folder)))
    saved = first.wire.of(Saved)[0]
    assert (saved.step, saved.tokens, saved.problem) == (saved_at, saved_at * STEP_TOKENS, None)
    second.turns(12 - saved_at, Resume(folder=str(folder)))
    assert second.wire.sent[0] == Started(step=saved_at, tokens=saved_at * STEP_TOKENS)
    assert is_equal(second.replica.state(), whole.replica.state())
    # The snapshot that was out when it stopped is void; its tokens are in the next one.
    departed = Departed(fragment=0, step=8, tokens=8 * STEP_TOKENS)
    assert (departed in second.wire.of(Departed)) == (saved_at > 4)


def test_a_save_lands_what_came_before_it(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    stage_ = Stage(with_schedule(manifest, overlap_steps=3), corpus)
    stage_.turns(4, START)
    save = Save(folder=str(stage(tmp_path, 4)))
    stage_.turns(1, planned(0), save)
    assert [type(m) for m in stage_.wire.sent if isinstance(m, Landed | Staged)] == [Landed, Staged]


def test_a_full_disk_stops_the_checkpoint_and_not_training(
    manifest: Manifest, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer, folder = Stage(manifest, corpus), stage(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        trainer.turns(3, START, Save(folder=str(folder)))
    assert "No space left" in trainer.wire.of(Saved)[0].problem
    assert trainer.replica.step == 3
    assert os.listdir(folder) == []
    trainer.turns(1, Save(folder=str(folder)))
    assert trainer.wire.of(Saved)[1].problem is None
    assert os.listdir(folder) == [INNER]


# ---- checkpoints beside the training


def test_training_goes_on_while_the_copy_of_one_moment_is_written(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    beside = Manual()
    trainer, folder = Stage(manifest, corpus, executor=beside), stage(tmp_path, 0)
    trainer.turns(3, START)
    trainer.turns(2, Save(folder=str(folder)))
    assert trainer.wire.of(Staged) == []  # there is no memory to copy into yet
    beside.do()
    trainer.turns(1)
    assert trainer.wire.of(Staged) == [Staged(step=5, tokens=5 * STEP_TOKENS)]
    # What the fifth step had left, and nothing of what comes now.
    twin = Stage(manifest, corpus, max_steps=5)
    twin.turns(5, START)
    span = trainer.span(0)
    trainer.buffers.anchor[span] = trainer.buffers.base[span] + 1
    trainer.turns(4, planned(0), Evaluate(round=1))
    assert trainer.replica.step == 10
    assert len(trainer.wire.of(Landed)) == len(trainer.wire.of(Evaluated)) == 1
    assert trainer.wire.of(Saved) == []
    beside.do()
    trainer.turns(1)
    (saved,) = trainer.wire.of(Saved)
    assert (saved.step, saved.problem) == (5, None)
    tensors = read_tensors(folder / INNER)
    assert tensors.pop("counter.fragment_tokens").tolist() == [5 * STEP_TOKENS] * 2
    assert is_equal(tensors, twin.replica.state())


def test_a_save_waits_for_the_one_before_it(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    beside = Manual()
    trainer = Stage(manifest, corpus, executor=beside)
    folders = [tmp_path / str(n) for n in range(2)]
    for folder in folders:
        folder.mkdir()
    trainer.turns(2, START, *(Save(folder=str(folder)) for folder in folders))
    while beside.waiting:
        assert len(beside.waiting) == 1  # and never two at once
        beside.do()
        trainer.turns(2)
    first, second = trainer.wire.of(Saved)
    assert [saved.path for saved in (first, second)] == [str(f / INNER) for f in folders]
    assert [m.step for m in trainer.wire.of(Staged)] == [first.step, second.step]
    assert first.step < second.step
    kinds = [type(m) for m in trainer.wire.sent if isinstance(m, Staged | Saved)]
    assert kinds == [Staged, Saved, Staged, Saved]


def test_the_memory_of_a_copy_is_made_once(
    manifest: Manifest, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    empty = torch.empty

    def counted(*arguments: Any, **options: Any) -> Tensor:
        made.append(1)
        return empty(*arguments, **options)

    trainer = Stage(manifest, corpus)
    trainer.turns(2, START, Save(folder=str(tmp_path)))
    trainer.turns(1, Save(folder=str(tmp_path)))  # with the optimizer's state
    monkeypatch.setattr("peer.train.saver.torch.empty", counted)
    trainer.turns(1, Save(folder=str(tmp_path)))
    assert len(trainer.wire.of(Saved)) == 3
    assert made == []


def test_without_memory_for_a_copy_training_goes_on(
    manifest: Manifest, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_arguments: Any, **_options: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nand so on")

    trainer = Stage(manifest, corpus)
    with monkeypatch.context() as patch:
        patch.setattr("peer.train.saver.torch.empty", none_left)
        trainer.turns(1, START, Save(folder=str(tmp_path)))
    assert len(trainer.wire.of(Staged)) == 1  # landings must go on, too
    (saved,) = trainer.wire.of(Saved)
    assert saved.problem == (
        "no memory for a copy of the replica to write: DefaultCPUAllocator: can't allocate memory"
    )
    trainer.turns(2, Save(folder=str(tmp_path)))
    assert trainer.wire.of(Saved)[1].problem is None
    assert trainer.replica.step == 3


def test_a_bug_in_the_writing_is_not_taken_for_a_full_disk(
    manifest: Manifest, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("peer.train.saver.write_tensors", broken)
    with pytest.raises(ZeroDivisionError):
        Stage(manifest, corpus).turns(2, START, Save(folder=str(tmp_path)))


def test_leaving_waits_for_what_is_being_written(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    trainer = Stage(manifest, corpus, executor=None)  # a thread, as in life
    trainer.turns(1, START, Save(folder=str(tmp_path)), Leave())
    kinds = [type(m) for m in trainer.wire.sent if isinstance(m, Staged | Saved | Left)]
    assert kinds == [Staged, Saved, Left]
    assert trainer.wire.of(Saved)[0].problem is None
    assert os.listdir(tmp_path) == [INNER]


def test_a_resting_trainer_makes_no_step_and_answers(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    trainer = Stage(manifest, corpus)
    trainer.turns(3, START)
    trainer.turns(5, Rest(), Save(folder=str(tmp_path)), Depart(fragment=1), Evaluate(round=1))
    assert trainer.replica.step == 3
    assert trainer.wire.of(Saved)[0].step == 3
    assert trainer.wire.of(Departed) == [Departed(fragment=1, step=3, tokens=3 * STEP_TOKENS)]
    assert len(trainer.wire.of(Evaluated)) == 1


def test_the_copy_counts_as_overhead_and_the_writing_does_not(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    now_s = 0.0

    class Slow(Manual):
        """An executor that takes a minute."""

        def do(self) -> None:
            nonlocal now_s
            now_s += 60
            super().do()

    beside = Slow()
    trainer = Stage(manifest, corpus, executor=beside, clock=lambda: now_s)
    state = trainer.replica.state

    def slow_state() -> dict[str, Tensor]:
        nonlocal now_s
        now_s += 2
        return state()

    trainer.replica.state = slow_state  # type: ignore[method-assign]
    trainer.turns(3, START, Save(folder=str(tmp_path)))
    beside.do()
    trainer.turns(1)
    beside.do()
    trainer.turns(1)
    last = trainer.wire.of(Progress)[-1]
    assert len(trainer.wire.of(Saved)) == 1
    assert last.overhead_s == 4  # once for the sizes, once for the copy
    assert last.longest_gap_s == 62  # the minute is nobody's but a slow step's


def test_another_models_checkpoint_is_refused(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    folder = stage(tmp_path, 0)
    Stage(manifest, corpus).turns(1, START, Save(folder=str(folder)))
    wider = manifest.model_copy(update={"model": manifest.model.model_copy(update={"ffn_dim": 32})})
    with pytest.raises(ConfigError, match=r"does not fit the run's model: blocks\.0\.ffn\.up"):
        Stage(wider, corpus).turns(1, Resume(folder=str(folder)))


def test_evaluating_the_anchor_leaves_theta_alone(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus, max_steps=2)
    stage.turns(2, START)
    before = stage.theta()
    stage.buffers.anchor.zero_()
    stage.turns(1, Evaluate(round=4))
    evaluated = stage.wire.of(Evaluated)[0]
    assert (evaluated.round, evaluated.step) == (4, 2)
    assert evaluated.bits_per_byte == pytest.approx(8)
    assert torch.equal(stage.theta(), before)


def test_after_its_last_step_it_hands_over_the_rest(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus, max_steps=7)  # the schedule's last departures are at 4 and 6
    stage.turns(8, START)
    assert [(d.fragment, d.step) for d in stage.wire.of(Departed)] == [(0, 4), (1, 6)]
    stage.turns(3, planned(0))
    assert stage.wire.of(Departed)[-1] == Departed(fragment=0, step=7, tokens=3 * STEP_TOKENS)
    stage.turns(3, planned(0, round=2, steps=3), Free(fragment=1))
    assert stage.wire.of(Departed)[-1] == Departed(fragment=1, step=7, tokens=7 * STEP_TOKENS)
    stage.turns(3, planned(1, steps=7))
    assert len(stage.wire.of(Departed)) == 4


def test_after_its_last_step_it_still_answers(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus, max_steps=3)
    stage.turns(6, START)
    assert stage.replica.step == 3
    last = stage.wire.of(Progress)[-1]
    assert (last.is_done, last.step, last.tokens) == (True, 3, 3 * STEP_TOKENS)
    assert sum(progress.is_done for progress in stage.wire.of(Progress)) == 1
    stage.turns(1, Depart(fragment=1))
    assert stage.wire.sent[-1] == Departed(fragment=1, step=3, tokens=3 * STEP_TOKENS)
    stage.turns(1, planned(1))
    stage.turns(1, Leave())
    assert stage.wire.sent[-2:] == [Landed(fragment=1, round=1, step=3), Left(step=3)]


def test_a_slow_reader_gets_no_heap_of_progress(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus)
    stage.wire.backlog_bytes = 1
    stage.turns(3, START)
    assert stage.wire.of(Progress) == []
    stage.wire.backlog_bytes = 0
    stage.turns(1)
    assert stage.wire.of(Progress)[0].step == 4


def test_a_schedule_that_cannot_be_is_the_operators_mistake(
    manifest: Manifest, corpus: Corpus
) -> None:
    with pytest.raises(ConfigError, match=r"method\.schedule: overlap_steps"):
        Stage(with_schedule(manifest, overlap_steps=5), corpus)


# ---- overlap and blending


def test_with_an_overlap_of_a_whole_interval_no_departure_is_lost(
    manifest: Manifest, corpus: Corpus
) -> None:
    stage = Stage(with_schedule(manifest, overlap_steps=4), corpus)
    stage.turns(1, START)
    num_answered = 0
    for _ in range(19):
        for departed in stage.wire.of(Departed)[num_answered:]:
            steps = departed.tokens // STEP_TOKENS
            stage.wire.inbox.append(planned(departed.fragment, steps=steps))
            num_answered += 1
        stage.turns(1)
    of_first = [m for m in stage.wire.sent if getattr(m, "fragment", None) == 0]
    assert [(type(m), m.step) for m in of_first] == [
        (Departed, 4),
        *[(kind, step) for step in (8, 12, 16, 20) for kind in (Landed, Departed)],
    ]
    assert {m.tokens for m in of_first if isinstance(m, Departed)} == {4 * STEP_TOKENS}
    assert [m.step for m in stage.wire.of(Departed) if m.fragment == 1] == [6, 10, 14, 18]


def blended(
    manifest: Manifest, corpus: Corpus, steps: int, landing: Land, **schedule: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lands a new anchor on fragment 0, which departed at step 4, after so many steps.

    Returns: what theta is then, what it would be without the landing, `base`, and the anchor.
    """
    run = with_schedule(manifest, **schedule)
    stage, twin = (Stage(run, corpus, max_steps=steps) for _ in range(2))
    twin.turns(steps, START)
    stage.turns(steps, START)
    span, base = stage.span(0), stage.buffers.base.clone()
    assert torch.equal(stage.theta(), twin.theta())
    generator = torch.Generator().manual_seed(3)
    stage.buffers.anchor.copy_(torch.randn(len(base), generator=generator))
    stage.turns(1, landing)
    assert stage.wire.of(Landed) == [Landed(fragment=0, round=1, step=steps)]
    return stage.theta()[span], twin.theta()[span], base[span], stage.buffers.anchor[span]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_a_landing_in_time_is_blended(manifest: Manifest, corpus: Corpus, alpha: float) -> None:
    theta, before, _, anchor = blended(
        manifest, corpus, 6, planned(0), overlap_steps=2, merge_alpha=alpha
    )
    torch.testing.assert_close(theta, alpha * before + (1 - alpha) * anchor)


@pytest.mark.parametrize(("overlap_steps", "late_frac"), [(1, 2 / 3), (0, 1.0)])
def test_a_late_blend_keeps_the_steps_that_came_too_late_for_it(
    manifest: Manifest, corpus: Corpus, overlap_steps: int, late_frac: float
) -> None:
    theta, before, base, anchor = blended(
        manifest, corpus, 7, planned(0), overlap_steps=overlap_steps, merge_alpha=0.0
    )
    torch.testing.assert_close(theta, anchor + late_frac * (before - base))


def test_what_is_not_planned_is_never_blended(manifest: Manifest, corpus: Corpus) -> None:
    theta, before, base, anchor = blended(
        manifest, corpus, 6, Land(fragment=0, round=1), overlap_steps=2, merge_alpha=0.25
    )
    torch.testing.assert_close(theta, anchor + (before - base))


# ---- moves that are no landings of what departed


def test_a_move_that_was_in_the_way_of_a_departure_makes_up_for_it(
    manifest: Manifest, corpus: Corpus
) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(7, START, Depart(fragment=1))  # so that the schedule's turn at 6 finds it out
    stage.turns(1, Land(fragment=1, round=1))
    assert [(d.fragment, d.step) for d in stage.wire.of(Departed)] == [(1, 1), (0, 4), (1, 8)]
    assert stage.wire.of(Departed)[-1].tokens == 8 * STEP_TOKENS


@pytest.mark.parametrize("landing", [planned(1, steps=2), Land(fragment=1, round=1, tokens=1)])
def test_what_departed_and_landed_has_had_its_turn(
    manifest: Manifest, corpus: Corpus, landing: Land
) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(7, START, Depart(fragment=1))
    stage.turns(2, landing)
    assert [(d.fragment, d.step) for d in stage.wire.of(Departed)] == [(1, 1), (0, 4)]


def test_a_move_that_was_in_nobodys_way_makes_up_for_nothing(
    manifest: Manifest, corpus: Corpus
) -> None:
    stage = Stage(manifest, corpus)
    stage.turns(4, START, Depart(fragment=1))
    stage.turns(1, Land(fragment=1, round=1))
    assert [(d.fragment, d.step) for d in stage.wire.of(Departed)] == [(1, 1), (0, 4)]


def test_what_is_given_back_after_the_last_step_departs_once_more(
    manifest: Manifest, corpus: Corpus
) -> None:
    stage = Stage(manifest, corpus, max_steps=6)
    stage.turns(7, START)
    stage.turns(3, Land(fragment=1, round=0, tokens=6 * STEP_TOKENS))  # it goes ahead
    assert [(d.fragment, d.step) for d in stage.wire.of(Departed)] == [(0, 4), (1, 6)]
    stage.turns(1, Depart(fragment=1))
    stage.turns(2, Land(fragment=1, round=0, tokens=-6 * STEP_TOKENS))
    departed = Departed(fragment=1, step=6, tokens=6 * STEP_TOKENS)
    assert stage.wire.of(Departed)[-1] == departed


def test_a_trainer_driven_from_outside_says_and_does_the_same(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    overlapping = with_schedule(manifest, overlap_steps=1)
    driven, own = (Stage(overlapping, corpus, max_steps=14, clock=lambda: 0.0) for _ in range(2))
    script: dict[int, list[Message]] = {
        2: [Depart(fragment=1)],
        3: [Free(fragment=1)],
        5: [planned(0)],
        8: [planned(1, steps=6), Evaluate(round=1)],
        10: [Save(folder=str(tmp_path))],
        16: [Rest()],
        19: [Leave()],
    }
    own.turns(1, START)
    driven.wire.inbox += [START]
    driven.trainer.listen()
    for step in range(1, 20):
        driven.wire.inbox += script.get(step, [])
        driven.trainer.stepped()
        own.turns(1, *script.get(step, []))
    assert own.trainer.has_left
    assert driven.trainer.has_left
    assert [m for m in driven.wire.sent if not isinstance(m, Evaluated)] == [
        m for m in own.wire.sent if not isinstance(m, Evaluated)
    ]
    assert torch.equal(driven.theta(), own.theta())


def test_a_driven_trainer_never_waits(manifest: Manifest, corpus: Corpus) -> None:
    stage = Stage(manifest, corpus, max_steps=2)
    waits_s: list[float] = []
    poll = stage.wire.poll

    def noting(*, wait_s: float = 0.0) -> list[Message]:
        waits_s.append(wait_s)
        return poll()

    stage.wire.poll = noting  # type: ignore[method-assign]
    stage.wire.inbox = [START]
    for _ in range(5):
        stage.trainer.stepped()
    assert stage.trainer.is_done
    assert set(waits_s) == {0.0}
    stage.trainer.turn()  # which has nothing else to do
    assert waits_s[-1] > 0


def test_a_replica_that_no_file_can_hold_stops_no_training(
    manifest: Manifest, corpus: Corpus, tmp_path: Path
) -> None:
    trainer = Stage(manifest, corpus)
    state = trainer.replica.state

    def unstorable() -> dict[str, Tensor]:
        raise ConfigError("a list is no tensor")

    trainer.replica.state = unstorable  # type: ignore[method-assign]
    trainer.turns(2, START, Save(folder=str(tmp_path)))
    trainer.replica.state = state  # type: ignore[method-assign]
    trainer.turns(2, Save(folder=str(tmp_path)))
    first, second = trainer.wire.of(Saved)
    assert (first.problem, second.problem) == ("a list is no tensor", None)
    assert len(trainer.wire.of(Staged)) == 2  # landings must go on, too
    assert trainer.replica.step == 4
