"""Small models with loops of their own, for the identities that methods must satisfy."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from optim.swarm import LocalSwarm

DIM = 6
Gradient = Callable[[Tensor], Tensor]
InnerStep = Callable[[nn.Module], None]


def data_of(seed: int, *, rows: int = 12) -> tuple[Tensor, Tensor]:
    """Return A [rows, DIM] and b [rows]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, DIM, generator=generator), torch.randn(rows, generator=generator)


def gradient_of(A: Tensor, b: Tensor) -> Gradient:
    """Return x -> the gradient of |A x - b|^2 / (2 rows)."""
    return lambda x: A.t() @ (A @ x - b) / len(b)


def shards(k: int) -> list[Gradient]:
    return [gradient_of(*data_of(seed)) for seed in range(k)]


def inner_sgd(x: Tensor, gradient: Gradient, steps: int, lr: float = 0.05) -> Tensor:
    for _ in range(steps):
        x = x - lr * gradient(x)
    return x


class Point(nn.Module):
    """A vector, to be moved along gradients given as functions."""

    def __init__(self, x: Tensor | None = None) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(DIM) if x is None else x.clone())


def moves_by(gradient: Gradient, lr: float = 0.05) -> InnerStep:
    @torch.no_grad()
    def step(model: nn.Module) -> None:
        x = model.get_parameter("x")
        x.sub_(lr * gradient(x))

    return step


def points_of(swarm: LocalSwarm) -> list[Tensor]:
    """Return the live parameters of each replica, in the order of the anchor."""
    return [
        torch.cat([model.get_parameter(e.name).detach().reshape(-1) for e in swarm.layout.entries])
        for model in swarm.models
    ]


def train(swarm: LocalSwarm, inner: Sequence[InnerStep], steps: int) -> None:
    for _ in range(steps):
        for model, step in zip(swarm.models, inner, strict=True):
            step(model)
        swarm.step()


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


class AdamStep:
    """An inner step with an AdamW and a stream of data that live as long as the replica."""

    def __init__(self, data_seed: int) -> None:
        self.data = torch.Generator().manual_seed(data_seed)
        self.optimizer: torch.optim.Optimizer | None = None

    def __call__(self, model: nn.Module) -> None:
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
        x = torch.randn(8, 3, generator=self.data)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ffn = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.softmax(self.attn(x) @ x.transpose(-1, -2), -1) @ x
        return x + torch.tanh(self.ffn(x))


class TinyTransformer(nn.Module):
    """Embedding, blocks, norm, head: the names and the shape of a language model."""

    def __init__(self, num_blocks: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class TokenStep:
    """An inner step of next-token prediction on a noisy cycle of tokens."""

    def __init__(self, data_seed: int) -> None:
        self.data = torch.Generator().manual_seed(data_seed)
        self.optimizer: torch.optim.Optimizer | None = None
        self.losses: list[float] = []

    def __call__(self, model: nn.Module) -> None:
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        first = torch.randint(0, 11, (4, 1), generator=self.data)
        tokens = (first + torch.arange(9)) % 11
        loss = nn.functional.cross_entropy(
            model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
        )
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.losses.append(loss.item())


def copies_of(model: nn.Module, k: int) -> list[nn.Module]:
    return [copy.deepcopy(model) for _ in range(k)]
