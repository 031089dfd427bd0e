"""The Hugging Face `Trainer` as a peer of a swarm: one callback more, and all else stays as it is.

    pip install 'thinwire[hf]'
    python examples/hf_trainer.py --found run             # once: a run for this model
    thinwire bootstrap run                                # serves it, and prints the ticket
    python examples/hf_trainer.py TICKET --dir peer-1     # train; as many peers as you like

A small Llama reads the Python files of the standard library, byte by byte; nothing is downloaded.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import thinwire
from thinwire.hf import SwarmCallback

CONTEXT, BATCH = 64, 16
CONFIG = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=CONTEXT,
    bos_token_id=None,
    eos_token_id=None,
)


class Windows(Dataset[dict[str, Tensor]]):
    """The text, cut into windows."""

    def __init__(self) -> None:
        files = sorted(Path(os.__file__).parent.glob("*.py"))
        text = bytearray(b"".join(map(Path.read_bytes, files)))
        self.windows = torch.frombuffer(text, dtype=torch.uint8).unfold(0, CONTEXT, CONTEXT)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = self.windows[index].long()
        return {"input_ids": window, "labels": window}


def train(ticket: str | None, folder: str | None, max_steps: int) -> None:
    """Train up to a step of the run."""
    args = TrainingArguments(
        output_dir=f"{folder or 'hf-trainer'}-output",
        max_steps=max_steps,
        per_device_train_batch_size=BATCH,
        learning_rate=0.003,
        logging_steps=100,
        save_strategy="no",  # the peer's folder has checkpoints of its own
        include_num_input_tokens_seen="all",  # so that steps weigh by their tokens
        seed=int.from_bytes(os.urandom(4)),  # each peer has an order of its own
        report_to="none",
    )
    swarm = SwarmCallback(ticket, dir=folder, max_steps=max_steps)
    model = LlamaForCausalLM(CONFIG)
    Trainer(model=model, args=args, train_dataset=Windows(), callbacks=[swarm]).train()


def main() -> None:
    """Found a run, or train in one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ticket", nargs="?", help="the ticket, or a file that holds it")
    parser.add_argument("--found", metavar="FOLDER", help="found a run for this model, and end")
    parser.add_argument("--dir", help="this peer's folder")
    parser.add_argument("--steps", type=int, default=1000, help="train up to this step of the run")
    options = parser.parse_args()
    if options.found:
        method = {"preset": "diloco", "schedule": {"interval_steps": 50}}
        thinwire.found(LlamaForCausalLM(CONFIG), options.found, name="my trainer", method=method)
    else:
        train(options.ticket, options.dir, options.steps)


if __name__ == "__main__":
    main()
