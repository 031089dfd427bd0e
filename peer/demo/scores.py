"""How good the models are in the end: start, swarm and lone replica on the very same text."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from peer.demo.report import Scores
from peer.mixing import digest_of
from peer.train.checkpoint import OUTER, latest
from peer.train.data import load_text
from peer.train.evaluate import evaluate_flat
from peer.train.model import initial_anchor
from peer.train.tensor_file import read_tensors
from protocol.errors import ConfigError
from protocol.manifest import Manifest


def score(
    manifest: Manifest,
    folders: Mapping[str, Path],
    alone: Path,
    *,
    evaluation_bytes: int,
) -> Scores:
    """Returns the final figures; equal anchors are evaluated once.

    Args:
        manifest: The run.
        folders: By peer, the folder with its checkpoints.
        alone: The lone replica's final parameters.
        evaluation_bytes: Validation text to read.
    """
    corpus = load_text(manifest.data.recipe, manifest.data.validation_frac)
    start = initial_anchor(manifest)
    anchors = {name: _anchor(folder) for name, folder in folders.items()}
    lone = read_tensors(alone)["theta"] if alone.exists() else None
    models = {
        digest_of(flat): flat for flat in (start, lone, *anchors.values()) if flat is not None
    }

    def evaluate(flat: Tensor) -> float:
        return evaluate_flat(flat, manifest, corpus.validation, max_bytes=evaluation_bytes)

    # Two models at a time, a thread each, suffer less from a busy machine than one with two.
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        losses = dict(zip(models, pool.map(evaluate, models.values()), strict=True))

    def bits(flat: Tensor | None) -> float:
        return math.nan if flat is None else losses[digest_of(flat)]

    return Scores(
        parameters=start.numel(),
        evaluation_bytes=evaluation_bytes,
        start=bits(start),
        alone=bits(lone),
        peers={name: bits(anchor) for name, anchor in anchors.items()},
        anchors=len({digest_of(anchor) for anchor in anchors.values() if anchor is not None}),
    )


def _anchor(folder: Path) -> Tensor | None:
    """Returns the anchor `[n]` of the newest checkpoint, if there is one that can be read."""
    checkpoint = latest(folder / "checkpoints")
    if checkpoint is None:
        return None
    try:
        tensors = read_tensors(checkpoint / OUTER)
    except ConfigError:
        return None
    fragments = sum(name.startswith("anchor.") for name in tensors)
    return torch.cat([tensors[f"anchor.{fragment}"] for fragment in range(fragments)])
