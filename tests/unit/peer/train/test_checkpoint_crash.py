"""Whenever a peer is killed while it writes a checkpoint, all that is called one is good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peer.train.checkpoint import committed, latest, open_checkpoint
from tests.unit.peer.train.crash_points import CALLS, IDENTITY, save


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One for each system call at which the writer was killed."""
    folder = tmp_path_factory.mktemp("crashes")
    command = [sys.executable, "-m", "tests.unit.peer.train.crash_points", str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[4])
    return sorted(folder.iterdir())


def steps_in(directory: Path) -> list[int]:
    """Returns the steps of all checkpoints, each of which is whole."""
    steps = []
    for path in committed(directory):
        checkpoint = open_checkpoint(path, run_id="run", peer_id=IDENTITY.peer_id)
        steps.append(checkpoint.info.step)
        expected = float(checkpoint.info.step)
        assert torch.equal(checkpoint.inner()["theta"], torch.full((99,), expected))
        assert torch.equal(checkpoint.outer()["anchor.1"], torch.full((50,), expected))
    return steps


def test_at_each_call_the_newest_checkpoint_is_good(folders: list[Path]) -> None:
    found = [steps_in(folder) for folder in folders]
    assert found == sorted(found, key=lambda steps: (steps[-1], len(steps) == 2))
    assert found[0] == [1, 2]
    assert found[-1] == [2, 3]
    assert {tuple(steps) for steps in found} == {(1, 2), (1, 2, 3), (2, 3)}  # never fewer than two


def test_the_next_save_succeeds_and_leaves_no_rubbish(folders: list[Path]) -> None:
    assert any(list(folder.glob("partial-*")) for folder in folders)
    for folder in folders:
        assert save(folder, 4) == latest(folder)
        assert steps_in(folder)[-1] == 4
        assert len(os.listdir(folder)) == 2


def test_nothing_counts_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kill keeps what the kernel has; a power cut does not. So the order is looked at, too.
    save(tmp_path, 1)
    save(tmp_path, 2)
    trace: list[tuple[str, str]] = []
    names: dict[int, str] = {}

    def traced(name: str) -> None:
        call = getattr(os, name)

        def noted(first: object, *rest: object, **options: object) -> object:
            result = call(first, *rest, **options)
            if name == "open":
                names[result] = Path(str(first)).name
            trace.append((name, names[first] if isinstance(first, int) else Path(str(first)).name))
            return result

        monkeypatch.setattr(os, name, noted)

    for name in CALLS:
        if name not in ("scandir", "close", "unlink", "rmdir"):
            traced(name)
    path = save(tmp_path, 3)
    kept = [(name, what) for name, what in trace if name in ("write", "fsync", "rename")]
    (staged,) = {what for name, what in kept if name == "rename" and what.startswith("partial-3")}
    made = kept.index(("rename", staged))
    files = ["inner.safetensors", "outer.safetensors", "checkpoint.json", "checkpoint.sig"]
    assert sorted(path.name for path in path.iterdir()) == sorted(files)
    for name in files:
        of_file = [what for what, where in kept[:made] if where == name]
        assert of_file[-1] == "fsync"
        assert "write" in of_file
    assert kept[made - 1] == ("fsync", staged)
    assert kept[made + 1] == ("fsync", tmp_path.name)
    assert kept[made + 2][0] == "rename"  # only now the oldest one goes
    assert kept[made + 2][1].startswith("step-00000001")
