"""The callback in a real `Trainer`, with a swarm that only takes notes."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from peer.loop.swarm import Swarm

transformers = pytest.importorskip("transformers")
callback_module = pytest.importorskip("peer.loop.callback")

SEQUENCES, TOKENS = 2, 8


class Notes:
    """What a callback asked of its swarm."""

    def __init__(self, max_steps: int | None = None) -> None:
        self.steps: list[tuple[int, float | None]] = []
        self.joined_with: dict[str, Any] = {}
        self.num_left = 0
        self._max_steps = max_steps

    @property
    def is_done(self) -> bool:
        return self._max_steps is not None and len(self.steps) >= self._max_steps

    def step(self, tokens: int, loss: float | None) -> None:
        self.steps.append((tokens, loss))

    def leave(self) -> None:
        self.num_left += 1

    def join(self, ticket: object, **options: Any) -> Swarm:
        self.joined_with = {"ticket": ticket} | options
        return cast("Swarm", self)


class Counting(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = (torch.arange(TOKENS) + index) % 16
        return {"input_ids": window, "labels": window}


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    made = Notes()
    monkeypatch.setattr(callback_module, "join", lambda *a, **k: made.join(*a, **k))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return made


def train(folder: Path, callback: Any, *, steps: int = 3, **options: Any) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    arguments = {
        "per_device_train_batch_size": SEQUENCES,
        "max_steps": steps,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
    } | options
    trainer = transformers.Trainer(
        model=transformers.LlamaForCausalLM(config),
        args=transformers.TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=Counting(),
        callbacks=[callback],
    )
    trainer.train()
    return trainer


def test_it_joins_with_the_trainers_own_model_and_optimizer_and_leaves_once(
    notes: Notes, tmp_path: Path
) -> None:
    trainer = train(tmp_path, callback_module.SwarmCallback("a ticket", dir="peer", resume=False))
    assert notes.joined_with["ticket"] == "a ticket"
    assert (notes.joined_with["dir"], notes.joined_with["resume"]) == ("peer", False)
    assert notes.joined_with["model"] is trainer.model
    held = {id(p) for g in notes.joined_with["optimizer"].param_groups for p in g["params"]}
    assert held == {id(param) for param in trainer.model.parameters()}
    assert isinstance(notes.joined_with["optimizer"], torch.optim.AdamW)
    assert notes.num_left == 1


def test_a_step_counts_its_tokens_in_all_its_batches_or_else_its_sequences(
    notes: Notes, tmp_path: Path
) -> None:
    callback = callback_module.SwarmCallback()
    train(
        *(tmp_path, callback),
        gradient_accumulation_steps=2,
        include_num_input_tokens_seen="all",
    )
    assert [tokens for tokens, _ in notes.steps] == [2 * SEQUENCES * TOKENS] * 3
    notes.steps.clear()
    train(tmp_path, callback_module.SwarmCallback(), gradient_accumulation_steps=2)
    assert [tokens for tokens, _ in notes.steps] == [2 * SEQUENCES] * 3


def test_a_loss_that_was_logged_is_told_with_the_next_step_and_once(
    notes: Notes, tmp_path: Path
) -> None:
    trainer = train(tmp_path, callback_module.SwarmCallback(), steps=4, logging_steps=2)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [loss for _, loss in notes.steps] == [None, None, logged[0], None]


def test_training_stops_at_the_last_step_of_the_run(notes: Notes, tmp_path: Path) -> None:
    notes._max_steps = 2
    trainer = train(tmp_path, callback_module.SwarmCallback(), steps=5)
    assert (len(notes.steps), trainer.state.global_step) == (2, 2)


def test_each_rank_of_several_tells_its_own_tokens(notes: Notes) -> None:
    callback = callback_module.SwarmCallback()
    callback.swarm = cast("Swarm", notes)
    args = SimpleNamespace(world_size=4, train_batch_size=2, gradient_accumulation_steps=1)
    state = SimpleNamespace(num_input_tokens_seen=400)  # of all four
    callback.on_step_end(args, state, SimpleNamespace())
    assert notes.steps == [(100, None)]


def test_what_comes_before_joining_is_nobodys(notes: Notes) -> None:
    callback = callback_module.SwarmCallback()
    callback.on_step_end(SimpleNamespace(), SimpleNamespace(), SimpleNamespace())
    callback.leave()
    assert (notes.steps, notes.num_left) == ([], 0)
