"""Loads the experts beside this file and mixes them. It needs torch, safetensors, numpy.

    python load_experts.py "Once upon a time"

    from load_experts import load
    mixture = load()                # of all experts here, by the posterior
    log_probs = mixture(tokens)     # [B, T] bytes -> [B, T, 256]: of the byte after each position

Shapes: K experts, B sequences, T positions, D = dim, N heads, V = 256 byte values.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
V = 256


class Block(nn.Module):
    """Attention and feed-forward, each on a normed residual stream."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        D, ffn_dim, self.N = spec["dim"], spec["ffn_dim"], spec["heads"]
        self.is_gated = spec["activation"] == "swiglu"
        self.attention_norm = nn.RMSNorm(D, eps=1e-5)
        self.attention = nn.ModuleDict(
            {"qkv": nn.Linear(D, 3 * D, bias=False), "out": nn.Linear(D, D, bias=False)}
        )
        self.ffn_norm = nn.RMSNorm(D, eps=1e-5)
        self.ffn = nn.ModuleDict(
            {
                "up": nn.Linear(D, ffn_dim * (1 + self.is_gated), bias=False),
                "out": nn.Linear(ffn_dim, D, bias=False),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the residual stream `[B, T, D]` after this block."""
        B, T, D = x.shape
        qkv = self.attention["qkv"](self.attention_norm(x)).view(B, T, 3, self.N, D // self.N)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.attention["out"](mixed.transpose(1, 2).reshape(B, T, D))
        hidden = self.ffn["up"](self.ffn_norm(x))
        if self.is_gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = functional.silu(gate) * hidden
        else:
            hidden = functional.gelu(hidden)
        after: Tensor = x + self.ffn["out"](hidden)
        return after


def rotate(x: Tensor) -> Tensor:
    """Returns queries or keys `[B, N, T, W]`, turned by their positions."""
    T, W = x.shape[-2:]
    angles = torch.arange(T)[:, None] * 10_000.0 ** -(torch.arange(0, W, 2) / W)
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Transformer(nn.Module):
    """One expert: a decoder over bytes."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, spec["dim"])
        self.blocks = nn.Sequential(*(Block(spec) for _ in range(spec["layers"])))
        self.norm = nn.RMSNorm(spec["dim"], eps=1e-5)
        self.head = None if spec["tied_embeddings"] else nn.Linear(spec["dim"], V, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the logits `[B, T, V]` of the byte after each position of `[B, T]`."""
        x = self.norm(self.blocks(self.embedding(tokens)))
        return functional.linear(x, (self.embedding if self.head is None else self.head).weight)


class Mixture(nn.Module):
    """All experts as one model: each weighs as much as it foretold the sequence so far.

    Args:
        experts: They may differ in size.
        prior: `[K]`, their weights before the first byte; they sum to 1.
        context: No expert has seen longer sequences.
    """

    def __init__(self, experts: list[Transformer], prior: Tensor, context: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.log_prior = nn.Buffer(prior.log())
        self.context = context

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """Returns log-probabilities `[B, T, V]` of the byte after each position of `[B, T]`."""
        each = torch.stack([expert(tokens).log_softmax(-1) for expert in self.experts])
        of_next = each[:, :, :-1].gather(-1, tokens[None, :, 1:, None].expand(len(each), -1, -1, 1))
        evidence = functional.pad(of_next.squeeze(-1).cumsum(-1), (1, 0))  # [K, B, T]
        posterior = (evidence + self.log_prior[:, None, None]).log_softmax(0)
        return (posterior[..., None] + each).logsumexp(0)


def load(folder: Path = HERE) -> Mixture:
    """Returns the mixture of all experts in a folder, on the CPU."""
    catalogue = json.loads((folder / "experts.json").read_text())
    entries = catalogue["experts"]
    if any(entry["tokenizer"] != "bytes" for entry in entries):
        raise SystemExit("this loader knows the tokenizer 'bytes' alone")
    experts = []
    for entry in entries:
        with torch.device("meta"):
            expert = Transformer(entry["model"])
        expert.load_state_dict(load_file(folder / entry["file"]), assign=True)
        experts.append(expert.eval())
    prior = catalogue["prior"] or {entry["name"]: 1 / len(entries) for entry in entries}
    weights = torch.tensor([prior[entry["name"]] for entry in entries])
    return Mixture(experts, weights, min(entry["model"]["context"] for entry in entries))


def main(prompt: str, num_bytes: int = 200, temperature: float = 0.8) -> None:
    """Continues a prompt."""
    mixture = load()
    tokens = torch.tensor([list((prompt or "\n").encode())])
    for _ in range(num_bytes):
        log_probs = mixture(tokens[:, -mixture.context :])[0, -1]
        drawn = torch.multinomial((log_probs / temperature).softmax(-1), 1)
        tokens = torch.cat((tokens, drawn[None]), dim=1)
    sys.stdout.write(bytes(tokens[0].tolist()).decode(errors="replace") + "\n")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
