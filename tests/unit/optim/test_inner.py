from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optim.inner import HEAD_NAMES, InnerOptimizer, adamw, inner_optimizer, learning_rate

NAMES = ("adamw", "muon", "sgd")


class Language(nn.Module):
    """A model with all the kinds of parameters that `muon` tells apart."""

    def __init__(self, head: str = "head", *, is_tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.block = nn.ModuleDict({"head": nn.Linear(6, 6), "norm": nn.LayerNorm(6)})
        self.kernel = nn.Conv1d(6, 6, 1)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.add_module(head, nn.Linear(6, 11))
        self._head = head
        if is_tied:
            self.get_submodule(head).weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.block["norm"](self.block["head"](self.embedding(tokens))).relu()
        hidden = self.kernel(self.frozen(hidden).mT).mT
        logits: Tensor = self.get_submodule(self._head)(hidden)
        return logits


def language(head: str = "head", *, is_tied: bool = False) -> Language:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Language(head, is_tied=is_tied)


def train(model: nn.Module, optimizer: InnerOptimizer, num_steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(num_steps):
        tokens = torch.randint(11, (4, 8), generator=generator)
        optimizer.zero_grad()
        model(tokens[:, :-1]).logsumexp(-1).sum().backward()
        optimizer.step()


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def is_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def make(name: str, model: nn.Module, *, lr: float = 0.01, **options: float) -> InnerOptimizer:
    settings = {"weight_decay": 0.1, "momentum": 0.9} | options
    return inner_optimizer(name, model, lr=lr, betas=(0.9, 0.95), **settings)


def rate(step: int) -> float:
    return learning_rate(step, peak=4e-4, warmup_steps=10, total_steps=110, final_frac=0.1)


def test_warmup_is_linear_and_never_zero() -> None:
    assert [rate(t) for t in range(10)] == pytest.approx([4e-5 * (t + 1) for t in range(10)])


def test_cosine_falls_from_the_peak_to_the_final_rate_and_stays() -> None:
    assert rate(10) == pytest.approx(4e-4)
    assert rate(60) == pytest.approx(4e-4 * 0.55)  # halfway between 1 and 0.1
    decay = [rate(t) for t in range(10, 120)]
    assert decay == sorted(decay, reverse=True)
    assert rate(110) == rate(10**6) == pytest.approx(4e-5)


def test_no_warmup_and_nothing_but_warmup() -> None:
    assert learning_rate(0, peak=1.0, warmup_steps=0, total_steps=5) == 1.0
    assert learning_rate(4, peak=1.0, warmup_steps=5, total_steps=5) == 1.0
    assert learning_rate(5, peak=1.0, warmup_steps=5, total_steps=5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("step", "warmup_steps", "final_frac", "sentence"),
    [
        (-1, 1, 0.1, "step must be"),
        (0, 6, 0.1, "warmup_steps must be"),
        (0, -1, 0.1, "warmup_steps must be"),
        (0, 1, 1.5, "final_frac must be"),
    ],
)
def test_impossible_numbers_are_refused(
    step: int, warmup_steps: int, final_frac: float, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        learning_rate(
            step, peak=1.0, warmup_steps=warmup_steps, total_steps=5, final_frac=final_frac
        )


def test_only_matrices_decay_and_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    model.get_parameter("0.weight").requires_grad_(False)
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    names = {name: decay.get(id(p)) for name, p in model.named_parameters()}
    assert names == {
        "0.weight": None,
        "1.weight": 0.5,
        "1.bias": 0.0,
        "2.weight": 0.0,
        "2.bias": 0.0,
    }
    assert all(g["lr"] == 0.1 and g["betas"] == (0.9, 0.95) for g in optimizer.param_groups)


def test_a_model_of_matrices_alone_has_one_group() -> None:
    model = nn.Linear(2, 2, bias=False)
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    assert len(optimizer.param_groups) == 1
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_moves_and_no_other(name: str) -> None:
    model = language()
    before = parameters(model)
    train(model, make(name, model))
    moved = {k for k, p in parameters(model).items() if not torch.equal(p, before[k])}
    assert moved == {k for k in before if not k.startswith("frozen")}


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_can_be_set_and_gradients_forgotten(name: str) -> None:
    model = language()
    optimizer = make(name, model)
    train(model, optimizer)
    before = parameters(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer)
    assert is_equal(parameters(model), before)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_vectors_do_not_decay(name: str) -> None:
    model = language()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    optimizer = make(name, model, lr=0.01, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    for key, theta in parameters(model).items():
        decays = theta.dim() >= 2 and not key.startswith("frozen")
        torch.testing.assert_close(theta, torch.full_like(theta, 0.995 if decays else 1.0))


def test_muon_is_torchs_muon_and_adamw_side_by_side() -> None:
    joint, apart = language(), language()
    train(joint, make("muon", joint, weight_decay=0.2))
    hidden = {"block.head.weight"}
    rest = [(k, p) for k, p in apart.named_parameters() if p.requires_grad and k not in hidden]
    matrices: torch.optim.Optimizer = torch.optim.Muon(
        [apart.get_parameter(k) for k in hidden],
        lr=0.01,
        weight_decay=0.2,
        momentum=0.9,
        adjust_lr_fn="match_rms_adamw",
    )
    others = torch.optim.AdamW(
        [
            {"params": [p for _, p in rest if p.dim() > 1], "weight_decay": 0.2},
            {"params": [p for _, p in rest if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        tokens = torch.randint(11, (4, 8), generator=generator)
        apart.zero_grad()
        apart(tokens[:, :-1]).logsumexp(-1).sum().backward()
        others.step()
        matrices.step()
    assert is_equal(parameters(joint), parameters(apart))


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("head", sorted(HEAD_NAMES))
def test_muon_takes_hidden_matrices_only(head: str, is_tied: bool) -> None:
    model = language(head, is_tied=is_tied)
    optimizer = make("muon", model)
    train(model, optimizer)
    kept = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
    orthogonalized = {name for name, keys in kept.items() if keys == {"momentum_buffer"}}
    assert orthogonalized == {"block.head.weight"}
    adamw_keys = {"step", "exp_avg", "exp_avg_sq"}
    assert {k for k, keys in kept.items() if keys == adamw_keys} == {
        k for k, p in model.named_parameters() if p.requires_grad and k not in orthogonalized
    }


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (4, 32), (48, 16)])
def test_muon_moves_a_matrix_by_an_almost_orthogonal_one(rows: int, columns: int) -> None:
    model = nn.Linear(columns, rows, bias=False)
    optimizer = make("muon", model, lr=0.1, weight_decay=0.0)
    before = model.weight.detach().clone()
    generator = torch.Generator().manual_seed(3)
    rank = min(rows, columns)
    u, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator))
    model.weight.grad = u @ torch.logspace(0, -1, rank).diag() @ v.T
    optimizer.step()
    moved = (before - model.weight.detach()) / (0.1 * 0.2 * max(rows, columns) ** 0.5)
    # On the singular vectors of the gradient, whose values are now all about 1: the 5 steps of
    # Newton-Schulz leave them between 0.7 and 1.2, and bf16 adds its rounding.
    assert (u.T @ moved @ v).diag().sub(0.95).abs().max() < 0.3
    assert torch.linalg.matrix_norm(moved - u @ (u.T @ moved @ v).diag().diag() @ v.T) < 0.2


def test_muon_moves_matrices_about_as_far_as_adamw() -> None:
    generator = torch.Generator().manual_seed(4)
    steps: dict[str, list[float]] = {"adamw": [], "muon": []}
    for name, sizes in steps.items():
        model = nn.Linear(24, 40, bias=False)
        optimizer = make(name, model, lr=0.1, weight_decay=0.0)
        for _ in range(60):
            before = model.weight.detach().clone()
            model.weight.grad = torch.randn(40, 24, generator=generator)
            optimizer.step()
            sizes.append(float((model.weight.detach() - before).square().mean().sqrt()) / 0.1)
    adamw_size, muon_size = (np.mean(sizes[30:]) for sizes in steps.values())
    assert 0.5 < muon_size / adamw_size < 2
    assert muon_size == pytest.approx(0.2, rel=0.25)


def test_sgd_decays_through_the_gradient() -> None:
    model = nn.Linear(3, 2, bias=False)
    optimizer = make("sgd", model, lr=0.1, weight_decay=0.2, momentum=0.5)
    theta = model.weight.detach().double().numpy()
    velocity = np.zeros_like(theta)
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        model.weight.grad = torch.randn(2, 3, generator=generator)
        velocity = 0.5 * velocity + model.weight.grad.double().numpy() + 0.2 * theta
        theta = theta - 0.1 * velocity
        optimizer.step()
    np.testing.assert_allclose(model.weight.detach().numpy(), theta, rtol=1e-5, atol=1e-6)


def test_a_model_of_hidden_matrices_alone_needs_no_adamw() -> None:
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 4, bias=False), b=nn.Linear(4, 2, bias=False)))
    optimizer = make("muon", model)
    assert len(optimizer.param_groups) == 1
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert all(set(optimizer.state[p]) == {"momentum_buffer"} for p in model.parameters())


@pytest.mark.parametrize("build", [lambda: nn.Embedding(4, 3), lambda: nn.LayerNorm(3)])
def test_muon_for_a_model_without_hidden_matrices_is_refused(
    build: Callable[[], nn.Module],
) -> None:
    with pytest.raises(ValueError, match="has none: use adamw"):
        make("muon", build())


def test_muon_is_refused_where_torch_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"needs torch 2\.9 or later"):
        make("muon", language())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="choose adamw, muon or sgd"):
        make("galore", language())
