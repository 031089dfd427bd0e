"""A group of ranks that shard one model by FSDP2, and are one peer of a swarm.

    python examples/fsdp_peer.py --found run              # once: a run for this model
    thinwire bootstrap run                                # prints the ticket
    torchrun --nproc-per-node 2 examples/fsdp_peer.py TICKET --dir group
    python examples/fsdp_peer.py TICKET --dir alone       # a peer with the whole model, if you like

The only lines that know of the swarm are `join` and `step`. It reads the Python files of the
standard library, byte by byte.
"""

import argparse
import contextlib
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

import thinwire

CONTEXT, BATCH, DIM, BLOCKS = 64, 8, 64, 2


class Reader(nn.Module):
    """A small causal transformer over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, DIM)
        self.places = nn.Embedding(CONTEXT, DIM)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                DIM, 4, 4 * DIM, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(BLOCKS)
        )
        self.head = nn.Linear(DIM, 256)

    def forward(self, window: Tensor) -> Tensor:
        """Return the mean loss, in nats, of each byte of `[B, T + 1]` after those before it."""
        x, targets = window[:, :-1], window[:, 1:]
        places = torch.arange(x.shape[1], device=x.device)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        h = self.bytes(x) + self.places(places)
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        return functional.cross_entropy(self.head(h).flatten(0, 1), targets.flatten())


def read_text() -> Tensor:
    """Return bytes `[n]` of this machine's standard library."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8)


def draw(text: Tensor, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return windows `[B, T + 1]` from anywhere in the text."""
    starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
    return text[starts + torch.arange(CONTEXT + 1)].long().to(device)


def main() -> None:
    """Found a run, or train in one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ticket", nargs="?", help="the ticket, or a file that holds it")
    parser.add_argument("--found", metavar="FOLDER", help="found a run for this model, and end")
    parser.add_argument("--dir", help="this peer's folder")
    parser.add_argument("--steps", type=int, default=1000, help="train for so many steps")
    options = parser.parse_args()
    if options.found:
        schedule = {"interval_steps": 20}
        method = {"preset": "diloco", "schedule": schedule, "codec": {"name": "int8"}}
        thinwire.found(Reader(), options.found, name="fsdp example", method=method)
        return

    has_gpu = torch.cuda.is_available()
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if has_gpu else "cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    model = Reader().to(device)
    is_group = "RANK" in os.environ  # torchrun says so
    if is_group:
        dist.init_process_group()
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)

    text, generator = read_text(), torch.Generator()
    generator.seed()  # every rank of every peer reads something else
    peer = {"model": model, "optimizer": optimizer, "dir": options.dir}
    with contextlib.suppress(KeyboardInterrupt), thinwire.join(options.ticket, **peer) as swarm:
        last = swarm.step_count + options.steps  # the same on all ranks
        while swarm.step_count < last:
            window = draw(text, generator, device)
            loss = model(window)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            swarm.step(tokens=BATCH * CONTEXT, loss=loss)  # of this rank alone
            if swarm.step_count % 100 == 0 and (not is_group or dist.get_rank() == 0):
                print(f"step {swarm.step_count}: {loss.item():.3f} nats a byte", flush=True)
    if is_group:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
