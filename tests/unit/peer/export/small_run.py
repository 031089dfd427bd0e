"""Runs that are small enough for a test, and a peer's folder of one."""

from pathlib import Path

import torch
from torch import Tensor

from peer.identity_file import load_identity
from peer.mixing import digest_of
from peer.run_folder import IDENTITY, Run, write_run
from peer.train.checkpoint import INNER, OUTER, CheckpointInfo, commit, stage
from peer.train.model import initial_anchors
from peer.train.tensor_file import write_tensors
from protocol.identity import Identity
from protocol.manifest import Manifest, manifest_from, sign_manifest

FOUNDER = Identity(b"f" * 32)
MODEL = {"dim": 16, "layers": 4, "heads": 1, "ffn_dim": 16, "context": 16}
SCHEDULE = {"fragments": 2, "pattern": "strided"}


def a_run(mixing: str = "all") -> Manifest:
    outer = {"rule": "noloco" if mixing == "pairs" else "nesterov"}
    method = {"mixing": mixing, "schedule": SCHEDULE, "outer": outer}
    return manifest_from({"founder": FOUNDER.peer_id, "model": MODEL, "method": method})


def with_domains() -> Manifest:
    domains = [{"name": name, "model": MODEL} for name in ("law", "math")]
    return manifest_from({"founder": FOUNDER.peer_id, "domains": domains})


def anchors_of(manifest: Manifest, scale: float) -> list[Tensor]:
    return [anchor * scale for anchor in initial_anchors(manifest)]


def a_peers_folder(folder: Path, manifest: Manifest, *scales: float) -> Path:
    """Returns a folder with a checkpoint for each scale, after as many rounds."""
    write_run(folder, Run(manifest, sign_manifest(manifest, FOUNDER)))
    identity = load_identity(folder / IDENTITY)
    for round, scale in enumerate(scales, 1):
        staged = stage(folder / "checkpoints", 100 * round)
        anchors = anchors_of(manifest, scale)
        outer = {f"anchor.{i}": anchor for i, anchor in enumerate(anchors)}
        files = {
            INNER: write_tensors(staged / INNER, {"counter.step": torch.tensor(100 * round)}),
            OUTER: write_tensors(staged / OUTER, outer),
        }
        info = CheckpointInfo(
            run_id=manifest.run_id,
            peer_id=identity.peer_id,
            step=100 * round,
            tokens=7,
            rounds=(round, round + 1),
            digests=tuple(digest_of(anchor).hex() for anchor in anchors),
        )
        commit(staged, info, files, identity=identity)
    return folder
