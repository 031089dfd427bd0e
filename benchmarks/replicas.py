"""Many replicas trained at once: their parameters in one stack, their steps in one pass.

Small models on a CPU spend most of a step in calling operators. One call for all replicas costs
hardly more than one call for one, so a step of four takes little longer than a step of one. The
arithmetic is that of `peer.train.model` and of torch's AdamW and Muon, replica by replica
(tests/unit/benchmarks/test_replicas.py); each replica is still an `nn.Module` of its own, whose
parameters are views into the stack, so outer methods see nothing of it.

Shapes: M replicas, B windows of T tokens, D = dim, V = vocabulary, N heads of width W.
"""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from peer.train.model import NORM_EPS, Transformer, rotary_table, rotate

_MOMENTUM, _NS_STEPS, _NS = 0.95, 5, (3.4445, -4.7750, 2.0315)
_BETAS = (0.9, 0.95)


class Replicas:
    """The replicas and their inner optimizer, AdamW or Muon with AdamW.

    Args:
        models: Of equal shape; their parameters become views into the stack.
        inner: `adamw` or `muon`, as in `optim.inner`.
        weight_decay: Of tensors of two or more dimensions.
    """

    def __init__(self, models: Sequence[Transformer], *, inner: str, weight_decay: float) -> None:
        self._spec = models[0].spec
        self._P: dict[str, Tensor] = {}
        """Parameters `[M, ...]` by name."""
        for name, _ in models[0].named_parameters():
            own = [model.get_parameter(name) for model in models]
            stack = torch.stack([param.detach() for param in own])
            for param, view in zip(own, stack, strict=True):
                param.data = view
            self._P[name] = stack.requires_grad_()
        hidden = [n for n, p in self._P.items() if p.dim() == 3 and n.startswith("blocks.")]
        self._hidden = sorted(hidden if inner == "muon" else [], key=lambda n: self._P[n].shape)
        rest = {n: p for n, p in self._P.items() if n not in self._hidden}
        groups = [
            {"params": [p for p in rest.values() if p.dim() > 2], "weight_decay": weight_decay},
            {"params": [p for p in rest.values() if p.dim() <= 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=0.0, betas=_BETAS)
        self._weight_decay = weight_decay
        self._momentum = {name: torch.zeros_like(self._P[name]) for name in self._hidden}

    def step(self, tokens_MBT: Tensor, *, lr: float, clip_norm: float = 1.0) -> None:
        """Make one inner step of each replica on its own `[B, T + 1]` tokens."""
        for stack in self._P.values():
            stack.grad = None
        logits = self._logits(tokens_MBT[:, :, :-1])
        targets = tokens_MBT[:, :, 1:]
        mean = functional.cross_entropy(logits.flatten(0, 2), targets.flatten())
        torch.autograd.backward(mean * len(tokens_MBT))  # each replica's loss is its own mean
        self._clip(clip_norm)
        with torch.no_grad():
            self._muon(lr)
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()

    def _logits(self, tokens_MBT: Tensor) -> Tensor:
        M, B, T = tokens_MBT.shape
        P, D, N = self._P, self._spec.dim, self._spec.heads
        table = P["embedding.weight"]
        offsets = torch.arange(M, device=tokens_MBT.device).view(M, 1, 1) * table.shape[1]
        x = functional.embedding(tokens_MBT + offsets, table.flatten(0, 1)).view(M, B * T, D)
        rotary = rotary_table(T, D // N, device=x.device)
        for layer in range(self._spec.layers):
            at = f"blocks.{layer}."
            qkv = _linear(_norm(x, P[at + "attention_norm.weight"]), P[at + "attention.qkv.weight"])
            q, k, v = qkv.view(M * B, T, 3, N, D // N).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(
                rotate(q, rotary), rotate(k, rotary), v, is_causal=True
            )
            mixed = mixed.transpose(1, 2).reshape(M, B * T, D)
            x = x + _linear(mixed, P[at + "attention.out.weight"])
            hidden = _linear(_norm(x, P[at + "ffn_norm.weight"]), P[at + "ffn.up.weight"])
            if self._spec.activation == "swiglu":
                gate, value = hidden.chunk(2, dim=-1)
                hidden = functional.silu(gate) * value
            else:
                hidden = functional.gelu(hidden)
            x = x + _linear(hidden, P[at + "ffn.out.weight"])
        head = P.get("head.weight", table)
        return _linear(_norm(x, P["norm.weight"]), head).view(M, B, T, -1)

    @torch.no_grad()
    def _clip(self, clip_norm: float) -> None:
        grads = [grad for p in self._P.values() if (grad := p.grad) is not None]
        squares = torch.stack([grad.flatten(1).square().sum(1) for grad in grads])
        scale_M = (clip_norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(scale_M.view(-1, *[1] * (grad.dim() - 1)))

    def _muon(self, lr: float) -> None:
        for shape, group in groupby(self._hidden, key=lambda n: self._P[n].shape):
            names = list(group)
            updates = []
            for name in names:
                grad, momentum = self._P[name].grad, self._momentum[name]
                assert grad is not None
                momentum.lerp_(grad, 1 - _MOMENTUM)
                updates.append(grad.lerp(momentum, _MOMENTUM))
            orthogonal = _newton_schulz(torch.cat(updates))
            scale = 0.2 * math.sqrt(max(shape[1:]))
            for name, update in zip(names, torch.split(orthogonal, shape[0]), strict=True):
                self._P[name].mul_(1 - lr * self._weight_decay).add_(update, alpha=-lr * scale)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return torch.bmm(x, weight.transpose(1, 2))


def _norm(x: Tensor, gain_MD: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=NORM_EPS) * gain_MD.unsqueeze(1)


def _newton_schulz(G: Tensor) -> Tensor:
    # torch.optim.Muon's iteration for a batch of matrices; torch does it in bf16.
    a, b, c = _NS
    is_tall = G.shape[1] > G.shape[2]
    X = G.transpose(1, 2) if is_tall else G
    X = X / torch.linalg.matrix_norm(X, keepdim=True).clamp(min=1e-7)
    for _ in range(_NS_STEPS):
        gram = torch.bmm(X, X.transpose(1, 2))
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return X.transpose(1, 2) if is_tall else X
