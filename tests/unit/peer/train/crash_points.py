"""Saves a checkpoint again and again, and dies at each of its system calls, one after the other.

    python -m tests.unit.peer.train.crash_points FOLDER

makes `FOLDER/K` for each call K: two checkpoints, and a third whose writer was killed just before
its K-th call. The last one is whole.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from peer.train.checkpoint import INNER, OUTER, CheckpointInfo, commit, stage
from peer.train.tensor_file import TensorFile, write_tensors
from protocol.identity import Identity

IDENTITY = Identity(b"c" * 32)
CALLS = (
    *("mkdir", "open", "posix_fallocate", "write", "fsync", "close"),
    *("rename", "unlink", "rmdir", "scandir"),
)


def save(directory: Path, step: int) -> Path:
    """Writes both halves of a checkpoint, as the two processes do."""
    staged = stage(directory, step)
    anchors = {f"anchor.{n}": torch.full((50,), float(step)) for n in range(2)}
    outer = TensorFile(staged / OUTER, anchors)
    files = {
        INNER: write_tensors(staged / INNER, {"theta": torch.full((99,), float(step))}),
        OUTER: outer.write(anchors.values()),
    }
    info = CheckpointInfo(
        run_id="run", peer_id=IDENTITY.peer_id, step=step, tokens=step, rounds=(step, step)
    )
    return commit(staged, info, files, identity=IDENTITY, keep=2)


def die_at(k: int) -> None:
    """Lets this process die just before its k-th system call from now on."""
    calls = iter(range(1, sys.maxsize))

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if next(calls) == k:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))


def main(folder: Path) -> None:
    """Dies at each call."""
    k, is_whole = 0, False
    while not is_whole:
        k += 1
        directory = folder / f"{k:03d}"
        for step in (1, 2):
            save(directory, step)
        child = os.fork()
        if child == 0:
            die_at(k)
            save(directory, 3)
            os._exit(0)
        is_whole = os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
