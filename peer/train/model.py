"""The model of a run: a decoder-only transformer, or one that `peer.train.huggingface` builds.

Ours has pre-norm blocks with RMSNorm, rotary positions, causal attention and a gated (SwiGLU) or
plain (GELU) feed-forward, without biases. It has parameters only, no buffers, so the flat vector
that peers exchange is all there is to a replica.

Shapes: B sequences, T positions, D = dim, N heads of width W = D / N, V = vocabulary.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from optim.layout import Layout, layout_of, shapes_of
from peer.train.census import MAX_PARAMETERS, require_memory
from peer.train.first_values import draw
from peer.train.huggingface import build_huggingface, shapes_of_huggingface
from peer.train.initial import load_initial, views_of
from peer.train.language_model import require_language_model
from protocol.errors import ConfigError
from protocol.manifest import INITIAL, Manifest
from protocol.models import HuggingFaceSpec, ModelSpec, OwnSpec

VOCAB_SIZE = {"bytes": 256}
"""Vocabulary by tokenizer name."""

_INIT_STD = 0.02
ROTARY_BASE = 10_000.0
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
        # Its own draw, where the model only stands for shapes, imports a second's worth of torch.
        rows_VD = torch.rand(vocab_size, spec.dim)
        self.embedding = nn.Embedding(vocab_size, spec.dim, _weight=rows_VD)
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


def vocab_size_of(manifest: Manifest) -> int:
    """Return how many tokens the run's tokenizer has.

    Raises:
        ConfigError: it is from a file, and the manifest does not say.
    """
    size = VOCAB_SIZE.get(manifest.data.tokenizer, manifest.data.vocab_size)
    if size == 0:
        raise ConfigError("data.vocab_size: it is missing; found the run with `thinwire new`")
    return size


def model_of_run(manifest: Manifest) -> nn.Module:
    """Return the run's model on the CPU in fp32, with parameters that mean nothing yet.

    Tokens `[B, T]` in, logits `[B, T, V]` out, V at least `vocab_size_of` the run.

    Raises:
        ConfigError: it cannot be built here.
    """
    vocab_size = vocab_size_of(manifest)
    if isinstance(manifest.model, HuggingFaceSpec):
        return build_huggingface(manifest.model, vocab_size)
    return build_model(manifest.transformer, vocab_size, generator=torch.Generator())


def shapes_of_run(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the run's parameters by name, in order; allocates none of them."""
    if isinstance(manifest.model, OwnSpec):
        return {tensor.name: tuple(tensor.shape) for tensor in manifest.model.tensors}
    if isinstance(manifest.model, HuggingFaceSpec):
        return shapes_of_huggingface(manifest.model, vocab_size_of(manifest))
    with torch.device("meta"):
        model = Transformer(manifest.transformer, vocab_size_of(manifest))
    return shapes_of(model)


def layout_of_run(manifest: Manifest) -> Layout:
    """Return the layout that every peer of the run derives; allocates no parameters.

    Raises:
        ConfigError: the model cannot be cut into such fragments, or is absurdly large.
    """
    schedule = manifest.method.schedule
    shapes = shapes_of_run(manifest)
    if sum(map(math.prod, shapes.values())) > MAX_PARAMETERS:
        raise ConfigError(f"model: it has more than {MAX_PARAMETERS} parameters")
    try:
        return layout_of(
            shapes,
            num_fragments=schedule.fragments,
            pattern=schedule.pattern,
            separate_embeddings=schedule.separate_embeddings,
        )
    except ValueError as error:
        raise ConfigError(f"method.schedule: {error}") from None


def initial_anchor(manifest: Manifest, files: Path | None = None) -> Tensor:
    """Return theta_0 of a run, `[n]` fp32 on the CPU; see `initial_anchors`."""
    return torch.cat(initial_anchors(manifest, files))


def initial_anchors(manifest: Manifest, files: Path | None = None) -> list[Tensor]:
    """Return theta_0 of a run, one `[m]` fp32 on the CPU for each fragment, each in its own memory.

    It is a function of the manifest and, where that lists `initial.safetensors`, of this file. No
    model is built, so nothing else of their size is needed meanwhile.

    Args:
        manifest: The run.
        files: Where the run's files are; see `peer.run_files`.

    Raises:
        ConfigError: the file is not there, or does not fit the model; or the model does not fit
            into this machine's memory.
    """
    layout = layout_of_run(manifest)
    require_memory(layout.num_elements)
    anchors = [torch.empty(len(span), dtype=torch.float32) for span in layout.fragments]
    _fill(manifest, views_of(layout, anchors), files)
    return anchors


def check_model(manifest: Manifest, files: Path | None = None) -> None:
    """Refuse a run whose model, at theta_0, is no language model of the run's tokens.

    Args:
        manifest: The run.
        files: Where the run's files are.

    Raises:
        ConfigError: says what is wrong.
    """
    model = model_of_run(manifest)
    _fill(manifest, {name: param.detach() for name, param in model.named_parameters()}, files)
    require_language_model(model, vocab_size=vocab_size_of(manifest), context=manifest.context)


def _fill(manifest: Manifest, places: dict[str, Tensor], files: Path | None) -> None:
    """Write theta_0 where its parameters lie."""
    if manifest.file_named(INITIAL) is None:
        _draw(manifest, places)
    elif files is None:
        raise ConfigError(f"this run begins with its file {INITIAL}, which is not here")
    else:
        load_initial(files / INITIAL, places)


def _draw(manifest: Manifest, places: dict[str, Tensor]) -> None:
    """Write what the seed makes of a new model, parameter by parameter."""
    generator = torch.Generator().manual_seed(manifest.seed)
    if isinstance(manifest.model, HuggingFaceSpec):
        draw(manifest.model, places, generator)
        return
    in_order = ((name, places[name]) for name in shapes_of_run(manifest))
    _initialize(in_order, manifest.transformer, generator)


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
    angles = positions[:, None] * ROTARY_BASE**-exponents
    return angles.cos(), angles.sin()


def rotate(x_BNTW: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Return queries or keys turned by their positions, see `rotary_table`."""
    cos, sin = (table.to(x_BNTW.dtype) for table in rotary)
    first, second = x_BNTW.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
