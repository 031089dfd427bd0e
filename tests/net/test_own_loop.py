"""One run, founded for a small Llama, trained by two programs of their users' own.

One has a loop with `thinwire.join`, the other is a Hugging Face `Trainer` with the callback; both
are processes, started as `python test_own_loop.py KIND TICKET FOLDER`. When they have exchanged for
a while they are told to end. Then this process takes the loop's folder over, as its user might the
day after.
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thinwire
from protocol.errors import ConfigError
from tests.net.swarm import Actor, descendants, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(300)]
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
VOCAB, CONTEXT, BATCH, LR = 32, 16, 8, 0.01
ROUNDS = 3
MIN_STEPS = 60
STEP_S = 0.005
"""A step is at least so long, so that not all of them are over before the others are there."""


class Counting(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Numbers that go up by one; where they begin is all that has to be guessed."""

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = (torch.arange(CONTEXT) + index * 7) % VOCAB
        return {"input_ids": window, "labels": window}


def a_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


# ---- the two programs


def own_loop(ticket: str, folder: Path) -> dict[str, Any]:
    """Trains with a loop of its own until it is told to end."""
    torch.manual_seed(os.getpid())
    model, losses, data = a_llama(), [], Counting()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    options = {"dir": folder, "evaluate": lambda: 1.25, "evaluate_every": 1}
    with thinwire.join(ticket, model=model, optimizer=optimizer, **options) as swarm:
        wait_for_company(swarm)
        while not (is_over(folder) and len(losses) >= MIN_STEPS):
            starts = torch.randint(len(data), (BATCH,))
            batch = torch.stack([data[int(start)]["input_ids"] for start in starts])
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            swarm.step(tokens=BATCH * CONTEXT, loss=loss)
            losses.append(loss.item())
            time.sleep(STEP_S)
    return {"moments": moments(optimizer)} | result_of(swarm, losses)


def hf_trainer(ticket: str, folder: Path) -> dict[str, Any]:
    """Trains with the Trainer of transformers until it is told to end."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from thinwire.hf import SwarmCallback

    class Pace(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait_for_company(callback.swarm)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            time.sleep(STEP_S)
            if is_over(folder) and state.global_step >= MIN_STEPS:
                control.should_training_stop = True

    args = TrainingArguments(
        output_dir=str(folder / "output"),
        max_steps=1_000_000,
        per_device_train_batch_size=BATCH,
        learning_rate=LR,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        include_num_input_tokens_seen="all",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        seed=os.getpid(),
    )
    callback = SwarmCallback(ticket, dir=folder)
    trainer = Trainer(
        model=a_llama(), args=args, train_dataset=Counting(), callbacks=[callback, Pace()]
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert callback.swarm is not None
    return result_of(callback.swarm, losses)


def wait_for_company(swarm: thinwire.Swarm | None) -> None:
    """Lets both begin with what the founder has, however long each took to start."""
    assert swarm is not None
    while swarm.status.members == 0:
        time.sleep(0.05)


def is_over(folder: Path) -> bool:
    return (folder.parent / "over").exists()


def moments(optimizer: torch.optim.Optimizer) -> float:
    return sum(state["exp_avg_sq"].double().sum().item() for state in optimizer.state.values())


def result_of(swarm: thinwire.Swarm, losses: list[float]) -> dict[str, Any]:
    status = swarm.status
    return {
        "losses": losses,
        "step": status.step,
        "tokens": status.tokens,
        "exchanges": status.exchanges_done,
        "validation": status.validation,
        "is_alone": status.is_alone,
    }


PROGRAMS = {"loop": own_loop, "trainer": hf_trainer}


# ---- the tests


class Program(Actor):
    """One of them, as a process."""

    def __init__(self, kind: str, folder: Path, ticket: str) -> None:
        self.name, self.folder = kind, folder
        folder.mkdir()
        self._log = (folder / "out.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, __file__, kind, ticket, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    @property
    def digests(self) -> dict[int, str]:
        """Of the anchors that landed, by round."""
        return {event["round"]: event["digest"] for event in self.events("landed")}

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found


class OneRun:
    """What there is when both programs have ended, and the bootstrap node is still there."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = a_llama()
        method = {"preset": "diloco", "schedule": {"interval_steps": 20}}
        thinwire.found(self.model, folder / "run", method=method, round={"grace_s": 1.0})
        self.folder = folder
        self.node = Actor("bootstrap", folder / "node", "bootstrap", str(folder / "run"))
        self.programs: dict[str, Program] = {}

    def go(self) -> None:
        file = self.folder / "run" / "ticket.txt"
        wait_for("the ticket", file.exists, self.node)
        self.ticket = file.read_text().strip()
        for kind in PROGRAMS:
            self.programs[kind] = Program(kind, self.folder / kind, self.ticket)
        running = (self.node, *self.programs.values())
        wait_for("exchanges", lambda: len(self.common_rounds) >= ROUNDS, *running)
        (self.folder / "over").touch()
        for program in self.programs.values():
            wait_for("its end", lambda p=program: p.process.poll() is not None, self.node)
            assert program.process.returncode == 0, program.log

    @property
    def common_rounds(self) -> set[int]:
        first, second = (program.digests.keys() for program in self.programs.values())
        return first & second

    def end(self) -> None:
        for actor in (self.node, *self.programs.values()):
            actor.end()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneRun]:
    made = OneRun(tmp_path_factory.mktemp("own_loop"))
    try:
        made.go()
        yield made
    finally:
        made.end()


def test_one_swarm_serves_a_loop_and_a_trainer_and_their_anchors_are_equal(run: OneRun) -> None:
    assert len(run.common_rounds) >= ROUNDS
    for round in run.common_rounds:
        assert len({program.digests[round] for program in run.programs.values()}) == 1


@pytest.mark.parametrize("kind", PROGRAMS)
def test_its_loss_falls_its_tokens_count_and_its_work_is_in_averages(
    run: OneRun, kind: str
) -> None:
    program = run.programs[kind]
    result = program.result
    losses = result["losses"]
    assert losses[0] == pytest.approx(math.log(VOCAB), rel=0.1)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert result["tokens"] == len(losses) * BATCH * CONTEXT
    assert result["exchanges"] >= ROUNDS
    assert any(event["contributed"] for event in program.events("landed"))
    assert not result["is_alone"]


def test_the_loops_own_evaluation_is_what_counts(run: OneRun) -> None:
    assert run.programs["loop"].result["validation"] == 1.25
    assert run.programs["trainer"].result["validation"] is None


def test_the_day_after(run: OneRun, caplog: pytest.LogCaptureFixture) -> None:
    former, folder = run.programs["loop"].result, run.programs["loop"].folder
    model = a_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    options = {"model": model, "optimizer": optimizer, "quiet": True}

    # It goes on where it was, and knows by its folder which run that is.
    with thinwire.join(dir=folder, resume=True, **options) as swarm:
        assert swarm.step_count == former["step"]
        assert moments(optimizer) == pytest.approx(former["moments"], rel=1e-9)
        # The network process dies: the loop does not.
        before = swarm.step_count
        for pid in descendants(os.getpid()):
            if "peer.loop.wire_process" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)

        def steps_alone() -> bool:
            swarm.step(tokens=1)
            return swarm.status.is_alone

        with caplog.at_level(logging.WARNING):
            wait_for("the loop to notice", steps_alone)
        assert "training goes on alone" in caplog.text
        assert swarm.step_count > before

    # Or it begins anew, and nobody else has come farther than the founder.
    with thinwire.join(dir=folder, resume=False, **options) as swarm:
        assert swarm.step_count == 0
        for ours, theirs in zip(model.parameters(), run.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_checkpoint_that_is_not_there_cannot_be_demanded(run: OneRun, tmp_path: Path) -> None:
    model = a_llama()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ConfigError, match="checkpoint"):
        thinwire.join(run.ticket, model=model, optimizer=optimizer, dir=tmp_path, resume=True)


if __name__ == "__main__":
    kind, ticket, folder = sys.argv[1:]
    outcome = PROGRAMS[kind](ticket, Path(folder))
    (Path(folder) / "result.json").write_text(json.dumps(outcome))
