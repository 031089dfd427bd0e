from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from peer.train.config import TrainerConfig
from peer.train.lines import Evaluated, Failed, Progress, parse_line
from peer.train.model import initial_anchor
from peer.train.worker import main
from protocol.manifest import Manifest


@pytest.fixture
def config_path(manifest: Manifest, tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("the wire is thin, the model is one. " * 2000)
    data = manifest.data.model_copy(update={"recipe": f"text:{tmp_path}/*.txt"})
    manifest = manifest.model_copy(update={"data": data})
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    config = TrainerConfig(
        manifest=str(tmp_path / "manifest.json"),
        run_id=manifest.run_id,
        peer_id="me",
        device="cpu",
        threads=1,
        evaluation_bytes=200,
    )
    config.write(tmp_path / "trainer.json")
    return tmp_path / "trainer.json"


def test_training_alone(
    config_path: Path, manifest: Manifest, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    out = config_path.parent / "end.safetensors"
    command = ["--config", str(config_path), "--alone", "6", "--evaluate-every", "3"]
    assert main([*command, "--out", str(out)]) == 0
    reports = [parse_line(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [r.step for r in reports if isinstance(r, Evaluated)] == [3, 6]
    assert isinstance(reports[-2], Progress)
    assert reports[-2].is_done
    theta = load_file(out)["theta"]
    assert theta.shape == initial_anchor(manifest).shape
    assert not torch.equal(theta, initial_anchor(manifest))


def test_an_operators_mistake_is_told_in_one_line(
    config_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    config_path.write_text("{")
    assert main(["--config", str(config_path), "--alone", "1"]) == 2
    failed = parse_line(capsysbinary.readouterr().out)
    assert isinstance(failed, Failed)
    assert failed.is_config
    assert "trainer configuration" in failed.reason


def test_a_bug_is_told_too(
    config_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("peer.train.alone.train_alone", broken)
    assert main(["--config", str(config_path), "--alone", "1"]) == 1
    assert parse_line(capsysbinary.readouterr().out) == Failed(reason="ZeroDivisionError: by zero")


def test_without_a_parent_it_has_to_be_alone(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--config", str(config_path)])
    assert "--alone" in capsys.readouterr().err
