"""`thinwire export` from a peer's folder, and what it refuses. By a ticket: tests/net."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from protocol.errors import ConfigError
from tests.unit.peer.export.small_run import a_peers_folder, a_run, with_domains
from thinwire.commands import app


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["export", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_peers_folder_becomes_one_that_the_library_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = a_run()
    a_peers_folder(tmp_path / "peer", run, 2.0)
    words = said("peer")
    folder = tmp_path / f"thinwire-model-{run.run_id[:12]}"
    assert f"{folder.name}: the model after round 1, step 100" in words
    assert "AutoModelForCausalLM.from_pretrained loads it" in words
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    with pytest.raises(ConfigError, match="is there already; choose another folder with --out"):
        said("peer")
    assert "from_pretrained" not in said("peer", "--out", "tensors", "--format", "safetensors")
    assert "blocks.0.attention.qkv.weight" in load_file(tmp_path / "tensors" / "model.safetensors")
    said("peer", "--out", "small", "--dtype", "bf16")
    assert json.loads((tmp_path / "small" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["peer", "--format", "gguf"], "--format gguf: it is one of auto, safetensors, hf"),
        (["peer", "--dtype", "int4"], "--dtype int4: it is one of fp32, bf16"),
        (["peer"], "choose one with --domain, or export all of them"),
        (["peer", "--domain", "poems"], "the run has no domain 'poems'"),
        (["peer", "--domain", "law"], "keeps no model of domain law yet"),
        (["empty"], "holds no run"),
        (["nowhere"], "nowhere is neither a folder nor a file here, and no ticket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    a_peers_folder(tmp_path / "peer", with_domains())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as refused:
        said(*arguments)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {path.name for path in tmp_path.iterdir()} == {"peer", "empty"}
