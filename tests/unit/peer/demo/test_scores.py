import math
from pathlib import Path

import pytest
import torch

from peer.demo.scores import score
from peer.train.checkpoint import OUTER, CheckpointInfo, commit, stage
from peer.train.model import initial_anchor
from peer.train.tensor_file import write_tensors
from protocol.identity import Identity
from protocol.manifest import Manifest, manifest_from


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 1000)
    data = {"recipe": f"text:{tmp_path}/*.txt"}
    model = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 32, "context": 16}
    return manifest_from({"founder": "somebody", "data": data, "model": model})


def save(folder: Path, manifest: Manifest, anchor: torch.Tensor) -> None:
    staged = stage(folder / "checkpoints", 7)
    first, second = anchor[:100].clone(), anchor[100:].clone()
    written = write_tensors(staged / OUTER, {"anchor.1": second, "anchor.0": first})
    info = CheckpointInfo(
        run_id=manifest.run_id, peer_id="somebody", step=7, tokens=1, rounds=(1, 1)
    )
    commit(staged, info, {OUTER: written}, identity=Identity(bytes(32)))


def test_scores_last_checkpoints_and_the_lone_replica(tmp_path: Path, manifest: Manifest) -> None:
    start = initial_anchor(manifest)
    folders = {name: tmp_path / name for name in ("peer-1", "peer-3", "peer-4", "nobody")}
    save(folders["peer-1"], manifest, start)
    save(folders["peer-3"], manifest, start)
    save(folders["peer-4"], manifest, start * 3)
    write_tensors(tmp_path / "alone.safetensors", {"theta": start * 2})
    scores = score(manifest, folders, tmp_path / "alone.safetensors", evaluation_bytes=1024)
    assert scores.parameters == start.numel()
    assert scores.start == scores.peers["peer-1"] == scores.peers["peer-3"]
    assert len({scores.start, scores.alone, scores.peers["peer-4"]}) == 3
    assert math.isnan(scores.peers["nobody"])
    assert scores.anchors == 2


def test_without_a_lone_replica(tmp_path: Path, manifest: Manifest) -> None:
    scores = score(manifest, {}, tmp_path / "alone.safetensors", evaluation_bytes=1024)
    assert math.isnan(scores.alone)
    assert 7 < scores.start < 9
