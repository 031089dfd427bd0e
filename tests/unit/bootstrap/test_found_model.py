"""Founding a run for a model of somebody's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bootstrap.found_model import found
from optim.layout import flatten_into
from peer.run_files import files_folder
from peer.run_folder import MANIFEST
from peer.train.model import initial_anchor, layout_of_run
from protocol.errors import ConfigError
from protocol.manifest import INITIAL, Manifest, parse_manifest


def manifest_in(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST).read_bytes())


def tied() -> nn.Module:
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "frozen": nn.Linear(2, 2)})
    model["second"] = nn.Linear(4, 4)
    model["second"].weight = model["first"].weight
    model["frozen"].requires_grad_(False)
    model["scale"] = nn.ParameterList([nn.Parameter(torch.tensor(3.0))])
    return model


def test_theta_0_is_the_models_trainable_parameters_to_the_bit(tmp_path: Path) -> None:
    model = tied()
    method = {"preset": "diloco", "schedule": {"fragments": 2}}
    folder = found(model, tmp_path / "run", name="ours", method=method, data="our texts", seed=9)
    manifest = manifest_in(folder)
    assert (manifest.name, manifest.seed, manifest.data.recipe) == ("ours", 9, "our texts")
    assert manifest.file_named(INITIAL) is not None
    layout = layout_of_run(manifest)
    theta = torch.empty(layout.num_elements)
    flatten_into(theta, layout, model)
    assert torch.equal(initial_anchor(manifest, files_folder(folder)), theta)
    names = {entry.name for entry in layout.entries}
    assert names == {"first.weight", "first.bias", "second.bias", "scale.0"}


def test_narrow_parameters_are_kept_as_they_are(tmp_path: Path) -> None:
    model = nn.Linear(3, 3, dtype=torch.bfloat16)
    folder = found(model, tmp_path / "run")
    theta = initial_anchor(manifest_in(folder), files_folder(folder))
    assert torch.equal(theta[:9].view(3, 3).to(torch.bfloat16), model.weight)


def test_founding_the_same_again_is_no_mistake_and_another_run_is(tmp_path: Path) -> None:
    model = nn.Linear(3, 3)
    found(model, tmp_path)
    before = manifest_in(tmp_path).run_id
    found(model, tmp_path)
    assert manifest_in(tmp_path).run_id == before
    theta = initial_anchor(manifest_in(tmp_path), files_folder(tmp_path))
    with pytest.raises(ConfigError, match="another run"):
        found(nn.Linear(3, 3), tmp_path)
    assert torch.equal(initial_anchor(manifest_in(tmp_path), files_folder(tmp_path)), theta)
    assert not list(tmp_path.glob(".initial-*"))


@pytest.mark.parametrize(
    ("model", "settings", "problem"),
    [
        (nn.Linear(2, 2), {"method": "magic"}, "magic"),
        (nn.Linear(2, 2), {"rounds": {}}, "rounds: there is no such setting"),
        (nn.Linear(2, 2), {"files": {}}, "files: the only one"),
        (nn.ReLU(), {}, "no trainable parameters"),
        (nn.Linear(2, 2, dtype=torch.complex64), {}, "complex64"),
        (nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(3000)]), {}, "no room"),
        (nn.Linear(2, 2), {"method": {"schedule": {"fragments": 3}}}, "method.schedule"),
    ],
    ids=["method", "setting", "files", "nothing", "complex", "many", "fragments"],
)
def test_what_makes_no_run_is_refused_in_one_line(
    tmp_path: Path, model: nn.Module, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        found(model, tmp_path / "run", **settings)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / MANIFEST).exists()


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot"):
        found(nn.Linear(2, 2), tmp_path / "file")
