"""Founding a run with files, and what a node does without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file

from bootstrap.found import found
from bootstrap.node import serve
from peer.run_files import files_folder
from peer.run_folder import MANIFEST
from peer.settings import read_settings
from peer.train.model import initial_anchor, shapes_of_run
from protocol.errors import ConfigError
from protocol.manifest import INITIAL, Manifest, manifest_from, parse_manifest

MODEL = {"dim": 16, "layers": 1, "heads": 1, "ffn_dim": 16, "context": 16}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "text.txt").write_text("a line of a text\n" * 4000)
    data = {"recipe": f"text:{tmp_path}/*.txt", "validation_frac": 0.1}
    return {"model": MODEL, "data": data}


def theta_of(path: Path, fill: float = 0.5) -> str:
    shapes = shapes_of_run(manifest_from({"founder": "x", "model": MODEL}))
    save_file({name: torch.full(shape, fill) for name, shape in shapes.items()}, path)
    return str(path)


def test_a_file_is_in_the_manifest_and_theta_0_is_what_is_in_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = theta_of(tmp_path / "mine.safetensors")
    manifest = found(settings | {"files": {INITIAL: path}}, tmp_path / "run")
    (spec,) = manifest.files
    data = Path(path).read_bytes()
    assert (spec.name, spec.size_bytes) == (INITIAL, len(data))
    assert spec.digest == blake3(data).hexdigest()
    kept = parse_manifest((tmp_path / "run" / MANIFEST).read_bytes())
    assert kept == manifest
    theta = initial_anchor(manifest, files_folder(tmp_path / "run"))
    assert set(theta.tolist()) == {0.5}


def test_it_is_founded_from_a_table_or_a_list_in_run_toml(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / INITIAL
    theta_of(path)
    ids = set()
    for words in (f'[files]\n"{INITIAL}" = "{path}"', f'files = ["{path}"]'):
        (tmp_path / "run.toml").write_text(words)
        given = settings | read_settings(tmp_path / "run.toml")
        ids.add(found(given, tmp_path / "run").run_id)
    assert len(ids) == 1


def test_another_file_is_another_run(settings: dict[str, Any], tmp_path: Path) -> None:
    def manifest_with(fill: float) -> Manifest:
        path = theta_of(tmp_path / f"{fill}.safetensors", fill)
        return found(settings | {"files": {INITIAL: path}}, tmp_path / f"run-{fill}")

    assert manifest_with(0.5).run_id != manifest_with(0.25).run_id


def test_a_theta_0_of_another_model_founds_no_run(settings: dict[str, Any], tmp_path: Path) -> None:
    path = theta_of(tmp_path / "mine.safetensors")
    settings["model"] = MODEL | {"dim": 32}
    with pytest.raises(ConfigError, match="does not fit the model"):
        found(settings | {"files": {INITIAL: path}}, tmp_path / "run")
    assert not (tmp_path / "run" / MANIFEST).exists()


def test_a_run_with_domains_has_no_files(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    domains = [{"name": "law", "data": settings["data"]}]
    with pytest.raises(ConfigError, match="a run with domains has none"):
        found({"domains": domains, "files": [str(tmp_path / "a")]}, tmp_path / "run")


async def test_a_node_does_not_serve_a_run_whose_files_it_lacks(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("words")
    found(settings | {"files": [str(tmp_path / "words.txt")]}, tmp_path / "run")
    kept = files_folder(tmp_path / "run") / "words.txt"
    kept.unlink()
    kept.write_text("other")
    with pytest.raises(ConfigError, match=r"words.txt is missing, or is not the file") as refused:
        await serve(
            tmp_path / "run",
            listen_host="127.0.0.1",
            listen_port=0,
            announce_host=None,
            on_ready=lambda ticket: None,
            on_refresh=lambda presence: None,
            on_notice=lambda notice: None,
        )
    assert "\n" not in str(refused.value)
