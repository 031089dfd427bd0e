"""A training loop of your own as a peer of a swarm: `join` and `step` are all that it takes.

    python examples/own_loop.py --found run               # once: a run for this model
    thinwire bootstrap run                                # serves it, and prints the ticket
    python examples/own_loop.py TICKET --dir peer-1       # train; as many peers as you like

It reads the Python files of the standard library, byte by byte.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import thinwire

CONTEXT, BATCH, LR, WARMUP_STEPS = 64, 16, 0.003, 100


class Reader(nn.Module):
    """A small recurrent network over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, 64)
        self.memory = nn.GRU(64, 128, batch_first=True)
        self.head = nn.Linear(128, 256)

    def forward(self, window: Tensor) -> Tensor:
        """Return the mean loss, in nats, of each byte of `[B, T + 1]` after those before it."""
        states, _ = self.memory(self.bytes(window[:, :-1]))
        return functional.cross_entropy(self.head(states).flatten(0, 1), window[:, 1:].flatten())


def train(ticket: str | None, folder: str | None, max_steps: int) -> None:
    """Train up to a step of the run."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = torch.frombuffer(bytearray(b"".join(map(Path.read_bytes, files))), dtype=torch.uint8)
    model = Reader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    with thinwire.join(
        ticket, model=model, optimizer=optimizer, dir=folder, max_steps=max_steps
    ) as swarm:
        while not swarm.is_done:
            starts = torch.randint(len(text) - CONTEXT, (BATCH, 1))  # no seed: each peer its own
            loss = model(text[starts + torch.arange(CONTEXT + 1)].long())
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1.0, (swarm.step_count + 1) / WARMUP_STEPS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            swarm.step(tokens=BATCH * CONTEXT, loss=loss)
            if swarm.step_count % 100 == 0:
                now = swarm.status
                words = f"{now.members} others, {now.exchanges_done} exchanges"
                print(f"step {now.step}: {loss.item():.3f} nats a byte; {words}", flush=True)


def main() -> None:
    """Found a run, or train in one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ticket", nargs="?", help="the ticket, or a file that holds it")
    parser.add_argument("--found", metavar="FOLDER", help="found a run for this model, and end")
    parser.add_argument("--dir", help="this peer's folder")
    parser.add_argument("--steps", type=int, default=2000, help="train up to this step of the run")
    options = parser.parse_args()
    if options.found:
        method = {"preset": "diloco", "schedule": {"interval_steps": 50}}
        thinwire.found(Reader(), options.found, name="my loop", method=method)
    else:
        train(options.ticket, options.dir, options.steps)


if __name__ == "__main__":
    main()
