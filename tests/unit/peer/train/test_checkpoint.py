import errno
import json
import os
from pathlib import Path
from typing import Any, Never

import pytest
import torch

from peer.train import checkpoint
from peer.train.checkpoint import (
    INNER,
    OUTER,
    Checkpoint,
    CheckpointInfo,
    commit,
    latest,
    open_checkpoint,
    stage,
    write_tensors,
)
from protocol.errors import ConfigError


def info(step: int = 3, **changes: Any) -> CheckpointInfo:
    fields = {"run_id": "run", "peer_id": "me", "step": step, "tokens": 9, "rounds": (2, 1)}
    return CheckpointInfo(**(fields | changes))


def save(directory: Path, step: int = 3, **changes: Any) -> Path:
    staged = stage(directory, step)
    write_tensors(staged / INNER, {"theta": torch.arange(100.0)})
    write_tensors(staged / OUTER, {"anchor.0": torch.full((4,), float(step))})
    return commit(staged, info(step, **changes))


def reopen(path: Path) -> Checkpoint:
    return open_checkpoint(path, run_id="run", peer_id="me")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "not yet there", step=120)
    assert path.name == "step-00000120"
    assert latest(path.parent) == path
    found = reopen(path)
    assert found.info == info(120)
    assert torch.equal(found.inner()["theta"], torch.arange(100.0))
    assert torch.equal(found.outer()["anchor.0"], torch.full((4,), 120.0))
    assert sorted(os.listdir(path)) == ["checkpoint.json", INNER, OUTER]


def test_the_last_two_are_kept_and_stale_folders_go(tmp_path: Path) -> None:
    stale = stage(tmp_path, 1)
    (stale / "half").write_text("")
    (tmp_path / "notes.txt").write_text("not ours")
    for step in (5, 10, 100_000_000):
        save(tmp_path, step)
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "step-00000010", "step-100000000"]
    assert latest(tmp_path).name == "step-100000000"


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def test_the_same_step_again_replaces(tmp_path: Path) -> None:
    save(tmp_path, tokens=1)
    path = save(tmp_path, tokens=2)
    assert reopen(path).info.tokens == 2
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", [INNER, OUTER])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match=rf"{name} has {len(whole) - 1} bytes .*delete"):
        reopen(path)
    (path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ConfigError, match=rf"{name} is damaged"):
        reopen(path)
    (path / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name} is missing"):
        reopen(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "\xff"])
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    path = save(tmp_path)
    (path / "checkpoint.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match=r"checkpoint\.json cannot be read; delete"):
        reopen(path)
    (path / "checkpoint.json").unlink()
    with pytest.raises(ConfigError, match=r"checkpoint\.json is missing"):
        reopen(path)


def test_a_half_without_its_other_half_is_refused(tmp_path: Path) -> None:
    staged = stage(tmp_path, 1)
    write_tensors(staged / INNER, {"theta": torch.zeros(1)})
    with pytest.raises(ConfigError, match=f"does not list {OUTER}"):
        reopen(commit(staged, info(1)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run_id": "other"}, "of run other, not of run"),
        ({"peer_id": "you"}, "of peer you, not of me"),
    ],
    ids=["run", "identity"],
)
def test_somebody_elses_checkpoint_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    path = save(tmp_path, **changes)
    with pytest.raises(ConfigError, match=says):
        reopen(path)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    stored = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(stored | {"version": 2}))
    with pytest.raises(ConfigError, match="version 2, this thinwire reads 1"):
        reopen(path)


@pytest.mark.parametrize("failing", ["save_file", "_sync", "_measure"])
def test_a_full_disk_leaves_the_older_checkpoint_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_args: object) -> Never:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = save(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, failing, full)
        with pytest.raises(ConfigError, match=r"No space left on device.*free some disk space"):
            save(tmp_path, 4)
    assert os.listdir(tmp_path) == [path.name]
    assert reopen(path).info.step == 3
    assert save(tmp_path, 5) == latest(tmp_path)


def test_a_failed_write_outside_a_staged_folder_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_tensors(tmp_path / "mine" / "x", {"a": torch.zeros(1)})
    assert (tmp_path / "mine").exists()
