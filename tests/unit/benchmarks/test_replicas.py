"""Replicas in one stack train as each does alone, with the optimizers that the product uses."""

import pytest
import torch
from torch import nn

from benchmarks.replicas import Replicas
from optim.inner import inner_optimizer
from peer.train.model import Transformer, build_model, loss
from protocol.models import ModelSpec

SPEC = ModelSpec(dim=16, layers=2, heads=2, ffn_dim=24, context=8)
VOCABULARY = 32


def models(count: int) -> list[Transformer]:
    return [
        build_model(SPEC, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        for seed in range(count)
    ]


@pytest.mark.parametrize(("inner", "off_frac"), [("adamw", 1e-5), ("muon", 0.05)])
def test_a_stack_of_replicas_trains_as_each_of_them_alone(inner: str, off_frac: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (6, 3, 2, 9), generator=generator)
    stacked, alone = models(3), models(3)
    replicas = Replicas(stacked, inner=inner, weight_decay=0.1)
    optimizers = [inner_optimizer(inner, model, lr=0.01, weight_decay=0.1) for model in alone]
    for batch in tokens:
        replicas.step(batch, lr=0.01)
        for model, optimizer, own in zip(alone, optimizers, batch, strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(own[:, :-1]), own[:, 1:]))
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    for start, x, y in zip(models(3), stacked, alone, strict=True):
        off, moved = [], []  # torch's Muon works in bf16, hence off at all
        for before, a, b in zip(start.parameters(), x.parameters(), y.parameters(), strict=True):
            off.append((a - b).detach().norm())
            moved.append((b - before).detach().norm())
        assert torch.stack(off).norm() < off_frac * torch.stack(moved).norm()


def test_what_is_written_into_a_model_is_in_the_stack() -> None:
    (first, second), untouched = models(2), models(2)[1]
    replicas = Replicas([first, second], inner="adamw", weight_decay=0.0)
    with torch.no_grad():
        first.get_parameter("norm.weight").copy_(torch.zeros(16))
    replicas.step(torch.zeros(2, 1, 9, dtype=torch.int64), lr=0.0)
    assert not first.get_parameter("norm.weight").any()
    for a, b in zip(second.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(a, b)
