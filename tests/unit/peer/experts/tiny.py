"""Experts that are small enough for a test, and folders and texts for them."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch

from peer.experts.expert import Expert
from peer.experts.folder import ModelFolder
from peer.train.model import build_model
from protocol.manifest import DataSpec
from protocol.models import ModelSpec

SMALL: dict[str, Any] = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 24, "context": 16}
LARGE: dict[str, Any] = SMALL | {
    "dim": 24,
    "layers": 2,
    "activation": "gelu",
    "tied_embeddings": False,
}
WORDS = {
    "law": "the court finds that the party shall pay",
    "code": "def return self.x = y + 1 if else:",
    "verse": "o moon thy silver sleep upon my weary sea",
}


def an_expert(name: str, shape: Mapping[str, Any] = SMALL, **facts: Any) -> Expert:
    """Returns an expert with weights of its own, large enough to have opinions."""
    spec = ModelSpec(**shape)
    model = build_model(spec, 256, generator=torch.Generator().manual_seed(sum(name.encode())))
    theta = {key: param.detach() * 4 for key, param in model.named_parameters()}
    return Expert(name=name, spec=spec, theta=theta, **{"step": 9, "total_steps": 9} | facts)


def a_folder(*experts: Expert, **facts: Any) -> ModelFolder:
    return ModelFolder(path=Path("peer-1"), run_id="ab" * 32, experts=list(experts), **facts)


def write_text(folder: Path, name: str, num_bytes: int = 40_000) -> str:
    """Writes a text of a domain, and returns its recipe."""
    drawn = Random(name).choices(WORDS[name].split(), k=num_bytes // 4)
    path = folder / f"{name}.txt"
    path.write_text(" ".join(drawn)[:num_bytes])
    return f"text:{path}"


def a_data_spec(folder: Path, name: str) -> DataSpec:
    return DataSpec(recipe=write_text(folder, name), validation_frac=0.2)
