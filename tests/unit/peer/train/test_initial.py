"""theta_0 from the run's file: the very values, where the layout wants them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from optim.layout import load_from
from peer.method import mixing_of
from peer.train.alone import train_alone
from peer.train.data import load_text
from peer.train.initial import check_initial
from peer.train.model import (
    Transformer,
    initial_anchor,
    initial_anchors,
    layout_of_run,
    shapes_of_run,
)
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import INITIAL, Manifest, manifest_from

MODEL = {"dim": 16, "layers": 4, "heads": 1, "ffn_dim": 16, "context": 16}
FILES = [{"name": INITIAL, "size_bytes": 1, "digest": "0" * 64}]


def a_run(fragments: int = 1, pattern: str = "balanced", **settings: Any) -> Manifest:
    schedule = {"fragments": fragments, "pattern": pattern}
    given = {"founder": "x", "model": MODEL, "files": FILES, "method": {"schedule": schedule}}
    return manifest_from(given | settings)


def drawn(manifest: Manifest) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = shapes_of_run(manifest)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(("fragments", "pattern"), [(1, "balanced"), (3, "strided")])
def test_each_parameter_is_the_files(tmp_path: Path, fragments: int, pattern: str) -> None:
    manifest = a_run(fragments, pattern)
    theta = drawn(manifest)
    save_file(dict(reversed(theta.items())), tmp_path / INITIAL)
    anchors = initial_anchors(manifest, tmp_path)
    assert len(anchors) == fragments
    model = Transformer(manifest.transformer, 256)
    load_from(torch.cat(anchors), layout_of_run(manifest), model)
    for name, param in model.named_parameters():
        assert torch.equal(param, theta[name]), name
    mixing = mixing_of(manifest, Identity(b"p" * 32).peer_id, tmp_path)
    assert all(torch.equal(o.anchor, a) for o, a in zip(mixing.outer, anchors, strict=True))


def test_parameters_without_a_model_of_ours_come_from_the_file(tmp_path: Path) -> None:
    tensors = [{"name": "b", "shape": [3]}, {"name": "a", "shape": [2, 2]}]
    manifest = a_run(model={"kind": "own", "tensors": tensors})
    save_file(
        {"a": torch.arange(4.0).view(2, 2), "b": torch.tensor([7.0, 8, 9])}, tmp_path / INITIAL
    )
    assert initial_anchor(manifest, tmp_path).tolist() == [7, 8, 9, 0, 1, 2, 3]


def test_training_alone_begins_at_the_files_parameters(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a line of a text\n" * 4000)
    recipe = f"text:{tmp_path}/*.txt"
    manifest = a_run(data={"recipe": recipe, "validation_frac": 0.1})
    theta = drawn(manifest)
    save_file(theta, tmp_path / INITIAL)
    alone = train_alone(manifest, 0, corpus=load_text(recipe, 0.1), files=tmp_path)
    for name, param in alone.replica.model.named_parameters():
        assert torch.equal(param, theta[name])


def test_who_has_no_files_is_told_so() -> None:
    with pytest.raises(ConfigError, match=f"begins with its file {INITIAL}, which is not here"):
        initial_anchors(a_run())


ODD = {
    "it lacks 'norm.weight'": {"norm.weight": None},
    "the model has no parameter 'extra'": {"extra": torch.ones(1)},
    r"norm.weight is F32 \[17\] instead of F32 \[16\]": {"norm.weight": torch.ones(17)},
    r"norm.weight is F16 \[16\] instead of F32": {"norm.weight": torch.ones(16).half()},
    "norm.weight has values that are not finite": {"norm.weight": torch.full((16,), math.nan)},
}


@pytest.mark.parametrize("words", ODD)
def test_a_file_of_another_model_is_refused(tmp_path: Path, words: str) -> None:
    manifest = a_run()
    theta = drawn(manifest) | ODD[words]
    save_file({name: x for name, x in theta.items() if x is not None}, tmp_path / INITIAL)
    for refuse in (
        lambda: initial_anchors(manifest, tmp_path),
        lambda: check_initial(tmp_path / INITIAL, shapes_of_run(manifest)),
    ):
        with pytest.raises(ConfigError, match=words) as refused:
            refuse()
        assert "\n" not in str(refused.value)


def test_no_file_and_no_safetensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        initial_anchors(a_run(), tmp_path)
    (tmp_path / INITIAL).write_bytes(b"cposix\nsystem\n(S'true'\ntR.")  # a pickle
    with pytest.raises(ConfigError, match="cannot read"):
        initial_anchors(a_run(), tmp_path)


def test_a_header_that_would_take_much_memory_is_not_read(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{number:07}": empty for number in range(150_000)}).encode()
    path = tmp_path / INITIAL
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConfigError, match=r"its header has \d+ bytes, of at most 8388608"):
        check_initial(path, {"0000000": (0,)})


def test_a_run_without_the_file_begins_as_ever(tmp_path: Path) -> None:
    manifest = manifest_from({"founder": "x", "model": MODEL, "seed": 3})
    save_file({"odd": torch.ones(1)}, tmp_path / INITIAL)
    assert torch.equal(initial_anchor(manifest, tmp_path), initial_anchor(manifest))
