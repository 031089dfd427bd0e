"""One of two ranks over Gloo that are one peer: `python -m tests.net.ranks RANK FOLDER`.

Both go through all cases, in one order, and leave what they found behind as FOLDER/RANK.npz.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from optim.layout import shapes_of
from peer.loop import orders
from peer.loop.follower import Follower
from peer.loop.orders import Orders
from peer.loop.sharded import ShardedLearner
from peer.loop.shards import plain_parameters
from protocol.errors import ConfigError, ThinwireError
from protocol.manifest import Manifest, manifest_from

RANKS = 2
FRAGMENTS = 3
VOCAB = 7
WRAPPINGS = ("fsdp", "ddp")
LANDINGS: list[dict[str, Any]] = [{}, {"alpha": 0.25}, {"alpha": 0.5, "planned_frac": 0.75}]
CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "a parameter less": lambda s: {name: s[name] for name in s if name != "theta.scale"},
    "a larger one": lambda s: s | {"theta.scale": torch.ones(2)},
    "of sgd": lambda s: s | {"sgd.momentum_buffer.scale": torch.ones(1)},
}


class Net(nn.Module):
    """Odd shapes, a tied head, a frozen layer, and statistics."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen = nn.Linear(5, 5).requires_grad_(False)
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(VOCAB, 5)
            self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
            self.scale = nn.Parameter(torch.randn(1))
            self.norm = nn.BatchNorm1d(5)
            self.head = nn.Linear(5, VOCAB, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        logits: Tensor = self.head(self.norm(self.frozen(h))) * self.scale
        return logits


def manifest_of(model: nn.Module) -> Manifest:
    tensors = [{"name": n, "shape": list(shape)} for n, shape in shapes_of(model).items()]
    schedule = {"interval_steps": 6, "fragments": FRAGMENTS, "separate_embeddings": False}
    return manifest_from(
        {
            "founder": "12D3KooW",
            "model": {"kind": "own", "tensors": tensors},
            "files": [{"name": "initial.safetensors", "size_bytes": 1, "digest": "00" * 32}],
            "method": {"schedule": schedule},
        }
    )


def flat(seed: int) -> Tensor:
    num_elements = sum(p.numel() for p in plain_parameters(Net()).values())
    return torch.randn(num_elements, generator=torch.Generator().manual_seed(seed))


def _wrapped(wrapping: str, model: nn.Module) -> nn.Module:
    if wrapping == "ddp":
        return DistributedDataParallel(model)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, rank: int, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(10 * step + rank)
        x = torch.randint(VOCAB, (8,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(x), x).backward()
        optimizer.step()


class Rank:
    """One of the two, with a model of its own; `on_lead` is done by rank 0, the other follows."""

    def __init__(self, wrapping: str, rank: int, seed: int = 0) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # no earlier group is left
        self.rank = rank
        self.model = _wrapped(wrapping, Net(seed))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        parts: dict[str, Any] = {"evaluation": lambda: float(10 + rank)}
        self.lead: ShardedLearner | None = None
        if rank == 0:
            self.lead = ShardedLearner(self.model, self.optimizer, manifest_of(Net()), **parts)
        else:
            self.follower = Follower(self.model, self.optimizer, **parts)

    def train(self, steps: range) -> None:
        train(self.model, self.optimizer, self.rank, steps)

    def on_lead(self, work: Callable[[ShardedLearner], Any]) -> Any:
        if self.lead is None:
            self.follower.follow()
            return None
        done = work(self.lead)
        self.lead.go_on()
        return done

    def snapshot(self, fragment: int | None = None) -> npt.NDArray[Any]:
        out = torch.full_like(flat(0), torch.nan)
        self.on_lead(lambda lead: lead.snapshot(out, fragment))
        return out.numpy()

    def whole(self) -> npt.NDArray[Any]:
        """What torch itself gathers, on each rank."""
        options = StateDictOptions(full_state_dict=True)
        full = get_model_state_dict(self.model, options=options)
        return torch.cat([full[name].reshape(-1) for name in shapes_of(Net())]).numpy()


def _reading(wrapping: str, rank: int) -> dict[str, Any]:
    group = Rank(wrapping, rank)
    found: dict[str, Any] = {"snapshot": group.snapshot()}
    for fragment in range(FRAGMENTS):
        found[f"snapshot/{fragment}"] = group.snapshot(fragment)
    group.train(range(3))
    found["trained/snapshot"], found["trained/whole"] = group.snapshot(), group.whole()
    return found


def _landing(wrapping: str, rank: int) -> dict[str, Any]:
    group = Rank(wrapping, rank)
    found: dict[str, Any] = {}
    group.on_lead(lambda lead: lead.load(flat(1)))
    found["loaded"] = group.whole()
    for fragment, how in enumerate(LANDINGS):
        group.on_lead(lambda lead, f=fragment, h=how: lead.land(f, flat(2), flat(3), **h))
        found[f"landed/{fragment}"] = group.whole()
    group.train(range(2))  # and the shards are still a model's
    return found


def _after_a_look(wrapping: str, rank: int) -> dict[str, Any]:
    group = Rank(wrapping, rank)
    x = torch.arange(VOCAB)
    group.model.eval()
    with torch.no_grad():
        group.model(x)
        group.on_lead(lambda lead: lead.load(flat(1)))
        return {"logits": group.model(x).numpy()}


def _resuming(wrapping: str, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    group = Rank(wrapping, rank)
    group.train(range(3))
    state = group.on_lead(lambda lead: lead.state())
    group.train(range(3, 5))
    found["unbroken"] = group.whole()
    for name, other in ("same", group), ("fresh", Rank(wrapping, rank, seed=9)):
        other.on_lead(lambda lead: lead.restore(state))
        other.train(range(3, 5))
        found[name] = other.whole()
        found[f"{name}/tracked"] = plain_buffers(other.model)["norm.num_batches_tracked"]
    if rank == 0:
        found |= {f"state/{name}": value.numpy() for name, value in state.items()}
    return found


def plain_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value for name, value in model.named_buffers()}


def _counting(rank: int) -> dict[str, Any]:
    group = Rank("fsdp", rank)
    losses = []
    for step in range(3):
        if group.lead is None:
            group.follower.step(100 + step)
        else:
            group.lead.count(1000, torch.tensor(0.5 + step))
            losses.append(float(group.lead.train_step()))
            group.lead.wait()
            group.lead.go_on()
    found: dict[str, Any] = {"losses": losses}
    if group.lead:
        found["tokens"], found["step_tokens"] = group.lead.tokens, group.lead.step_tokens
        found["steps"] = group.lead.step
        group.lead.leave()
    else:
        found["steps"] = group.follower.steps
        group.follower.follow()
        found["has_left"] = group.follower.has_left
    return found


def _evaluating(rank: int) -> dict[str, Any]:
    group = Rank("fsdp", rank)
    bits = group.on_lead(lambda lead: lead.evaluate(flat(1), max_bytes=1))
    return {"bits": bits or 0.0, "afterwards": group.snapshot()}


def _interrupting(rank: int) -> dict[str, Any]:
    group = Rank("fsdp", rank)
    group.on_lead(lambda lead: None)  # from the first step on
    if group.lead is None:
        signal.raise_signal(signal.SIGINT)
        group.follower.step(1)
        found = {"has_left": group.follower.has_left}
    else:
        group.lead.count(1, None)
        found = {"is_interrupted": group.lead.is_interrupted}
        group.lead.leave()
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return found | {"is_default_again": is_default}


def _refusal(work: Callable[[], Any]) -> str:
    try:
        work()
    except ThinwireError as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return "accepted"


def _entering(model: nn.Module, rank: int, trained: nn.Module | None = None) -> str:
    optimizer = torch.optim.AdamW((trained or model).parameters())
    if rank == 0:
        return _refusal(lambda: ShardedLearner(model, optimizer, manifest_of(Net())))
    return _refusal(lambda: Follower(model, optimizer))


def _stopping(error: Exception, rank: int) -> str:
    line, model = Orders(), Net()
    if rank == 0:
        line.stop(error)
        return "stopped"
    optimizer = torch.optim.AdamW(model.parameters())
    return _refusal(lambda: Follower(model, optimizer, orders=line))


def _refusing(rank: int) -> dict[str, Any]:
    found = {
        "other model on rank 1": _entering(nn.Linear(2, 2) if rank else Net(), rank),
        "all frozen": _entering(Net().requires_grad_(False), rank),
        "other optimizer": _entering(Net(), rank, trained=Net()),
        "stopped by a bug": _stopping(KeyError("x"), rank),
        "stopped by the operator": _stopping(ConfigError("no such ticket"), rank),
    }
    group = Rank("fsdp", rank)
    state = group.on_lead(lambda lead: lead.state())
    for name, change in CHANGES.items():
        if rank == 0:
            found[name] = _refusal(lambda c=change: group.lead.restore(c(dict(state))))
        else:
            found[name] = _refusal(group.follower.follow)
    group.train(range(1))
    scale = plain_parameters(group.model)["embedding.weight"]
    for name, value in ("a list", [1.0]), ("a row", torch.ones(VOCAB)):
        group.optimizer.state[scale]["odd"] = value
        if rank == 0:
            found[f"state with {name}"] = _refusal(group.lead.state)
    if rank == 0:
        found["state without a count"] = _refusal(lambda: group.lead.restore({}))
    return found


def _elsewhere(rank: int) -> dict[str, Any]:
    """The loop's default device and type are others than ours."""
    group = Rank("fsdp", rank)
    group.train(range(1))
    start, out = flat(1), flat(0)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.bfloat16)
    group.on_lead(lambda lead: lead.load(start))
    state = group.on_lead(lambda lead: lead.state())
    group.on_lead(lambda lead: lead.restore(state))
    group.on_lead(lambda lead: lead.evaluate(start, max_bytes=1))
    group.on_lead(lambda lead: lead.snapshot(out))
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    return {"snapshot": out.numpy()}


def _failing(rank: int) -> dict[str, Any]:
    """Rank 0 fails while the other waits for it in a collective of the training's."""
    group = Rank("ddp", rank)
    theirs = torch.zeros(1)
    if group.lead is None:
        dist.recv(theirs, src=0)
        return {}
    orders.STOP_S = 0.5
    group.lead.stop(KeyError("x"))
    dist.send(theirs, dst=1)  # which would be the end of its process
    return {"went on": True}


def _left_behind() -> str:
    lead = Rank("fsdp", 0).lead
    assert lead is not None
    try:
        for _ in range(2):
            lead.count(1, None)
    except RuntimeError as error:
        return type(error).__name__
    return "did not notice"


def _rank_main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    results: dict[str, Any] = {}
    for wrapping in WRAPPINGS:
        for case in (_reading, _landing, _after_a_look, _resuming):
            found = case(wrapping, rank)
            results |= {f"{wrapping}/{case.__name__}/{name}": v for name, v in found.items()}
    for case in (_counting, _interrupting, _evaluating, _elsewhere, _refusing, _failing):
        results |= {f"{case.__name__}/{name}": v for name, v in case(rank).items()}
    if rank == 0:
        results["after the other's end"] = _left_behind()
    else:
        Rank("fsdp", rank)  # and it ends without a word
    np.savez(folder / f"{rank}.npz", **results)
    os._exit(0)  # torch would wait for the other


if __name__ == "__main__":
    _rank_main(int(sys.argv[1]), Path(sys.argv[2]))
