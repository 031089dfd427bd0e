"""The model of a run: a decoder-only transformer over bytes.

Pre-norm blocks with RMSNorm, rotary positions, causal attention and a gated (SwiGLU) or plain
(GELU) feed-forward, without biases. It has parameters only, no buffers, so the flat vector that
peers exchange is all there is to a replica.

Shapes: B sequences, T positions, D = dim, N heads of width W = D / N, V = vocabulary.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from optim.layout import Layout, layout_of, shapes_of
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from protocol.models import ModelSpec, OwnSpec

VOCAB_SIZE = {"bytes": 256}
"""Vocabulary by tokenizer name."""

_INIT_STD = 0.02
_ROTARY_BASE = 10_000.0
NORM_EPS = 1e-5


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.qkv = nn.Linear(spec.dim, 3 * spec.dim, bias=False)
        self.out = nn.Linear(spec.dim, spec.dim, bias=False)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Return the attended positions `[B, T, D]`."""
        B, T, D = x_BTD.shape
        qkv = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, N, T, W]
        mixed = functional.scaled_dot_product_attention(
            rotate(q, rotary), rotate(k, rotary), v, is_causal=True
        )
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(B, T, D))
        return attended


class FeedForward(nn.Module):
    """SwiGLU or GELU, position by position."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.is_gated = spec.activation == "swiglu"
        self.up = nn.Linear(spec.dim, spec.ffn_dim * (2 if self.is_gated else 1), bias=False)
        self.out = nn.Linear(spec.ffn_dim, spec.dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the transformed positions `[B, T, D]`."""
        hidden = self.up(x_BTD)
        if self.is_gated:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = functional.silu(gate) * value
        else:
            hidden = functional.gelu(hidden)
        transformed: Tensor = self.out(hidden)
        return transformed


class Block(nn.Module):
    """Attention and feed-forward, each on a normed residual stream."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(spec.dim, eps=NORM_EPS)
        self.attention = Attention(spec)
        self.ffn_norm = nn.RMSNorm(spec.dim, eps=NORM_EPS)
        self.ffn = FeedForward(spec)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Return the residual stream `[B, T, D]` after this block."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary)
        after: Tensor = x_BTD + self.ffn(self.ffn_norm(x_BTD))
        return after


class Transformer(nn.Module):
    """Tokens in, logits of the next token out.

    Args:
        spec: The shape.
        vocab_size: V.
    """

    def __init__(self, spec: ModelSpec, vocab_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(vocab_size, spec.dim)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = nn.RMSNorm(spec.dim, eps=NORM_EPS)
        # Tied: the head reads the embedding, so that the weights appear once in the flat vector.
        self.head = None if spec.tied_embeddings else nn.Linear(spec.dim, vocab_size, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits `[B, T, V]` of the token after each position.

        Args:
            tokens_BT: `[B, T]` int64 in `[0, V)`.
        """
        x_BTD = self.embedding(tokens_BT)
        width = self.spec.dim // self.spec.heads
        rotary = rotary_table(tokens_BT.shape[1], width, device=tokens_BT.device)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotary)
        head = self.embedding if self.head is None else self.head
        return functional.linear(self.norm(x_BTD), head.weight)


def build_model(spec: ModelSpec, vocab_size: int, *, generator: torch.Generator) -> Transformer:
    """Return a freshly initialized model on the CPU; equal generators give equal models.

    Weights are normal with deviation 0.02; the projections that write into the residual stream are
    scaled down by sqrt(2 x layers), as GPT-2 does, so that its variance does not grow with depth.

    Args:
        spec: The shape.
        vocab_size: Number of tokens.
        generator: A CPU generator; the only randomness. Mutated.
    """
    with torch.device("meta"):  # the modules' own init would draw from the global generator
        model = Transformer(spec, vocab_size)
    model = model.to_empty(device="cpu")
    _initialize(model.named_parameters(), spec, generator)
    return model


@torch.no_grad()
def _initialize(
    named_parameters: Iterable[tuple[str, Tensor]], spec: ModelSpec, generator: torch.Generator
) -> None:
    """Draw parameters where they lie, in the order given, which must be the model's."""
    residual_std = _INIT_STD / math.sqrt(2 * spec.layers)
    for name, param in named_parameters:
        if param.dim() < 2:
            param.fill_(1.0)
        else:
            std = residual_std if name.endswith(".out.weight") else _INIT_STD
            param.normal_(0.0, std, generator=generator)


def num_parameters(spec: ModelSpec, vocab_size: int) -> int:
    """Return the length of the flat vector, without allocating it."""
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(spec, vocab_size).parameters())


def shapes_of_run(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the run's parameters by name, in order; allocates none of them."""
    if isinstance(manifest.model, OwnSpec):
        return {tensor.name: tuple(tensor.shape) for tensor in manifest.model.tensors}
    with torch.device("meta"):
        model = Transformer(manifest.transformer, VOCAB_SIZE[manifest.data.tokenizer])
    return shapes_of(model)


def layout_of_run(manifest: Manifest) -> Layout:
    """Return the layout that every peer of the run derives; allocates no parameters.

    Raises:
        ConfigError: the model cannot be cut into such fragments.
    """
    schedule = manifest.method.schedule
    try:
        return layout_of(
            shapes_of_run(manifest),
            num_fragments=schedule.fragments,
            pattern=schedule.pattern,
            separate_embeddings=schedule.separate_embeddings,
        )
    except ValueError as error:
        raise ConfigError(f"method.schedule: {error}") from None


def initial_anchor(manifest: Manifest) -> Tensor:
    """Return theta_0 of a run, `[n]` fp32 on the CPU: a function of the manifest alone."""
    return torch.cat(initial_anchors(manifest))


def initial_anchors(manifest: Manifest) -> list[Tensor]:
    """Return theta_0 of a run, one `[m]` fp32 on the CPU for each fragment, each in its own memory.

    No model is built, so nothing else of their size is needed meanwhile.
    """
    layout = layout_of_run(manifest)
    anchors = [torch.empty(len(span), dtype=torch.float32) for span in layout.fragments]
    places = {}
    for entry in layout.entries:
        first = layout.fragments[entry.fragment].start
        part = anchors[entry.fragment][entry.start - first : entry.stop - first]
        places[entry.name] = part.view(entry.shape)
    with torch.device("meta"):
        model = Transformer(manifest.transformer, VOCAB_SIZE[manifest.data.tokenizer])
    in_order = ((name, places[name]) for name, _ in model.named_parameters())
    _initialize(in_order, manifest.transformer, torch.Generator().manual_seed(manifest.seed))
    return anchors


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats for each token.

    Args:
        logits: `[B, T, V]`.
        targets: `[B, T]` int64.
    """
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def rotary_table(length: int, width: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `[length, width / 2]` of the rotary positions."""
    # Computed on each forward: it costs nothing beside one matmul, and a cached table would be a
    # buffer that must follow the model to its device.
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = positions[:, None] * _ROTARY_BASE**-exponents
    return angles.cos(), angles.sin()


def rotate(x_BNTW: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Return queries or keys turned by their positions, see `rotary_table`."""
    cos, sin = (table.to(x_BNTW.dtype) for table in rotary)
    first, second = x_BNTW.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
