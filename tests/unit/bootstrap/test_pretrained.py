import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bootstrap.found import found
from peer.run_files import files_folder
from peer.run_folder import MANIFEST
from peer.train.alone import train_alone
from peer.train.huggingface import checked_config
from peer.train.model import initial_anchor, layout_of_run, model_of_run
from protocol.errors import ConfigError
from protocol.manifest import INITIAL, Manifest, parse_manifest
from protocol.models import HuggingFaceSpec
from tests.unit.peer.train.hugging import DEEPSEEK, GPT2, LLAMA, settings_of, write_tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("the wire is thin, the model is one. " * 2000)
    return path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` leaves it, with weights in bf16 and a tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(checked_config(GPT2))
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return folder


@pytest.fixture
def settings(text: Path) -> dict[str, Any]:
    data = {"recipe": f"text:{text}", "validation_frac": 0.1}
    return settings_of(LLAMA, data=data)


def found_again(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST).read_bytes())


def begin_from(settings: dict[str, Any], pretrained: Path, **data: Any) -> dict[str, Any]:
    model = {"kind": "huggingface", "pretrained": str(pretrained), "context": 32}
    return settings | {"model": model, "data": settings["data"] | data}


def test_a_run_begins_where_a_pretrained_model_ended(
    settings: dict[str, Any], pretrained: Path, tmp_path: Path
) -> None:
    run = found(begin_from(settings, pretrained, tokenizer="file:tokenizer.json"), tmp_path)
    assert {file.name for file in run.files} == {INITIAL, "tokenizer.json"}
    assert run.data.vocab_size == 400
    assert isinstance(run.model, HuggingFaceSpec)
    assert run.model.config["model_type"] == "gpt2"
    assert found_again(tmp_path) == run
    theta = initial_anchor(run, files_folder(tmp_path))
    model = transformers.AutoModelForCausalLM.from_pretrained(pretrained, dtype=torch.float32)
    parameters = dict(model.named_parameters())
    for entry in layout_of_run(run).entries:
        part = theta[entry.start : entry.stop].view(entry.shape)
        assert torch.equal(part, parameters[entry.name])
    assert not list(tmp_path.glob(f".{INITIAL}*"))
    first = found(begin_from(settings, pretrained, tokenizer="file:tokenizer.json"), tmp_path)
    assert first.run_id == run.run_id  # the same settings found the same run
    assert train_alone(run, 2, files=files_folder(tmp_path)).losses


def test_a_model_that_is_more_than_its_parameters_is_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """As DeepSeek's are, where a table beside the parameters says which experts were idle."""
    config = checked_config(DEEPSEEK)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "fresh")
    assert found(begin_from(settings, tmp_path / "fresh"), tmp_path / "run").files
    model.model.layers[0].mlp.gate.e_score_correction_bias[1] = 0.5
    model.save_pretrained(tmp_path / "trained")
    with pytest.raises(ConfigError, match="e_score_correction_bias has values of its own"):
        found(begin_from(settings, tmp_path / "trained"), tmp_path / "other")


def test_what_was_trained_goes_back_into_a_folder_of_the_library(
    settings: dict[str, Any], pretrained: Path, tmp_path: Path
) -> None:
    run = found(begin_from(settings, pretrained), tmp_path / "run")
    trained = train_alone(run, 3, files=files_folder(tmp_path / "run")).replica.model
    assert isinstance(run.model, HuggingFaceSpec)
    library = transformers.AutoModelForCausalLM.from_config(checked_config(run.model.config))
    library.load_state_dict(dict(trained.named_parameters()), strict=False)
    library.save_pretrained(tmp_path / "export")
    again = found(begin_from(settings, tmp_path / "export"), tmp_path / "next")
    theta = initial_anchor(again, files_folder(tmp_path / "next"))
    ours = torch.cat([param.detach().flatten() for _, param in trained.named_parameters()])
    assert torch.equal(theta, ours)


def test_a_tokenizer_s_size_is_written_by_founding(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    write_tokenizer(tmp_path / "mine.json", vocab_size=300)
    settings["files"] = {"words.json": str(tmp_path / "mine.json")}
    settings["data"]["tokenizer"] = "file:words.json"
    run = found(settings, tmp_path / "run")
    assert run.data.vocab_size == 300
    assert run.data.validation_bytes == 7200
    settings["model"] = {"dim": 16, "layers": 1, "heads": 1, "ffn_dim": 16, "context": 16}
    ours = found(settings, tmp_path / "ours")
    assert model_of_run(ours)(torch.tensor([[299]])).shape == (1, 1, 300)


def test_a_configuration_is_kept_without_what_is_not_its_shape(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["model"]["config"] = LLAMA | {"transformers_version": "9", "_name_or_path": "a/b"}
    run = found(settings, tmp_path)
    assert isinstance(run.model, HuggingFaceSpec)
    assert run.model.config == LLAMA


def test_what_cannot_be_founded_is_one_line(
    settings: dict[str, Any], pretrained: Path, tmp_path: Path
) -> None:
    bare, pickled, short, foreign = (tmp_path / name for name in "abcd")
    for folder in (bare, pickled, short, foreign):
        folder.mkdir()
    (foreign / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": {"A": "b.C"}}))
    config = json.loads((pretrained / "config.json").read_text())
    for folder in (pickled, short):
        (folder / "config.json").write_text(json.dumps(config))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (short / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    weights = (pretrained / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(weights)
    model = {"kind": "huggingface", "context": 32}
    for changes, says in (
        ({"model": model | {"pretrained": str(tmp_path / "no")}}, "hf download"),
        ({"model": model | {"pretrained": 5}}, "write the path of a folder"),
        ({"model": model | {"pretrained": str(bare)}}, "cannot read .*config.json"),
        ({"model": model | {"pretrained": str(pickled)}}, "no .safetensors file"),
        ({"model": model | {"pretrained": str(short)}}, "lack 12 of the model's parameters"),
        ({"model": model | {"pretrained": str(foreign)}}, "no causal language model"),
        ({"model": model | {"pretrained": str(bare), "config": LLAMA}}, "leave it out"),
        ({"model": {"pretrained": str(pretrained)}}, 'kind = "huggingface"'),
        ({"model": model | {"config": LLAMA, "context": 128}}, "has 64 positions"),
        ({"model": model | {"config": LLAMA | {"auto_map": {"A": "b.C"}}}}, "auto_map"),
        ({"data": settings["data"] | {"tokenizer": "file:t.json"}}, "the run has no such file"),
    ):
        with pytest.raises(ConfigError, match=says) as refused:
            found(settings | changes, tmp_path / "run")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run" / MANIFEST).exists()
