"""Checkpoints on disk: a folder that is either whole and ours, or refused with one clear line.

    step-00000120/
        inner.safetensors     replica: parameters, inner optimizer, counters (by the trainer)
        outer.safetensors     anchors and outer state (by the wire process)
        checkpoint.json       whose it is, and size and SHA-256 of the files beside it

Both processes write into a staged folder beside the others; `commit` hashes the files, writes
checkpoint.json last and renames the folder, so a crash at any point leaves the older checkpoints
and at worst a stale staged folder, which the next commit removes. A full disk does the same.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from protocol.errors import ConfigError

INNER = "inner.safetensors"
OUTER = "outer.safetensors"
KEEP = 2

_INFO = "checkpoint.json"
_VERSION = 1
_COMMITTED = re.compile(r"step-(\d{8,})")
_STAGED_MARK = ".partial-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """Whose checkpoint it is, and of when."""

    run_id: str
    peer_id: str
    step: int
    """Inner steps done, on the run's count."""
    tokens: int
    """Tokens that this peer trained on."""
    rounds: tuple[int, ...]
    """By fragment, the last round that landed."""


@dataclass(frozen=True, slots=True)
class _Stored:
    version: int
    info: CheckpointInfo
    files: dict[str, tuple[int, str]]  # name -> bytes, SHA-256


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint whose files have been verified."""

    path: Path
    info: CheckpointInfo

    def inner(self) -> dict[str, Tensor]:
        """Return the replica's tensors, on the CPU."""
        return read_tensors(self.path / INNER)

    def outer(self) -> dict[str, Tensor]:
        """Return the anchors and the outer state, on the CPU."""
        return read_tensors(self.path / OUTER)


def stage(directory: Path, step: int) -> Path:
    """Return a new, empty folder to write a checkpoint's files into, for `commit` or `discard`.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{_name(step)}{_STAGED_MARK}", dir=directory))
    except OSError as error:
        raise _not_written(directory, error) from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a safetensors file and force them onto the disk.

    Args:
        path: A file, as a rule in a staged folder. It is written whole, or not at all.
        tensors: Contiguous CPU tensors that share no memory.

    Raises:
        ConfigError: the disk is full, read-only or broken. A staged folder is gone then.
    """
    try:
        save_file(tensors, path)
        _sync(path)
    except (OSError, SafetensorError) as error:
        if _STAGED_MARK in path.parent.name:
            discard(path.parent)
        raise _not_written(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read {path}: {error}; {_remedy(path.parent)}") from error
    return tensors


def commit(staged: Path, info: CheckpointInfo, *, keep: int = KEEP) -> Path:
    """Make a staged folder a checkpoint, and remove all but the `keep` newest.

    It reads every file again to hash it: call it off the event loop.

    Args:
        staged: From `stage`, with all its files written.
        info: What goes into checkpoint.json.
        keep: How many checkpoints remain, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: the disk is full, read-only or broken. The staged folder is gone then, and the
            older checkpoints are untouched.
    """
    directory, final = staged.parent, staged.parent / _name(info.step)
    try:
        files = {path.name: _measure(path) for path in sorted(staged.glob("*.safetensors"))}
        text = json.dumps(asdict(_Stored(_VERSION, info, files)), indent=1)
        (staged / _INFO).write_text(text + "\n")
        _sync(staged / _INFO)
        _sync(staged)
        _move_in(staged, final)
        _sync(directory)
    except OSError as error:
        discard(staged)
        raise _not_written(final, error) from error
    for old in _committed(directory)[:-keep]:
        discard(old)
    for stale in directory.glob(f"step-*{_STAGED_MARK}*"):
        discard(stale)
    return final


def discard(folder: Path) -> None:
    """Remove a staged or an old folder, as far as that is possible."""
    shutil.rmtree(folder, ignore_errors=True)


def latest(directory: Path) -> Path | None:
    """Return the newest committed checkpoint's folder, unverified, or None when there is none."""
    return next(reversed(_committed(directory)), None)


def open_checkpoint(path: Path, *, run_id: str, peer_id: str) -> Checkpoint:
    """Return a checkpoint after verifying that it is whole and belongs to this peer of this run.

    Raises:
        ConfigError: it is not; the line names the file and says what to do.
    """
    stored = _read_stored(path)
    if stored.info.run_id != run_id:
        raise ConfigError(
            f"{path} is a checkpoint of run {stored.info.run_id[:12]}, not of {run_id[:12]}; "
            "choose another state folder for this run"
        )
    if stored.info.peer_id != peer_id:
        raise ConfigError(
            f"{path} is a checkpoint of peer {stored.info.peer_id}, not of {peer_id}; "
            "restore that identity's key, or choose another state folder"
        )
    for name in (INNER, OUTER):
        if name not in stored.files:
            raise ConfigError(f"{path / _INFO} does not list {name}; {_remedy(path)}")
    for name, (num_bytes, digest) in stored.files.items():
        _verify(path / Path(name).name, num_bytes, digest)
    return Checkpoint(path, stored.info)


def _read_stored(path: Path) -> _Stored:
    try:
        data: Any = json.loads((path / _INFO).read_bytes())
        stored = TypeAdapter(_Stored).validate_python(data)
    except (OSError, ValueError, ValidationError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise ConfigError(f"{path / _INFO} {what}; {_remedy(path)}") from error
    if stored.version != _VERSION:
        raise ConfigError(
            f"{path} has checkpoint version {stored.version}, this thinwire reads {_VERSION}; "
            "use the version that wrote it"
        )
    return stored


def _verify(path: Path, num_bytes: int, digest: str) -> None:
    if not path.is_file():
        raise ConfigError(f"{path} is missing; {_remedy(path.parent)}")
    found_bytes, found_digest = _measure(path)
    if found_bytes != num_bytes:
        raise ConfigError(
            f"{path} has {found_bytes} bytes instead of {num_bytes}; {_remedy(path.parent)}"
        )
    if found_digest != digest:
        raise ConfigError(f"{path} is damaged: its SHA-256 differs; {_remedy(path.parent)}")


def _remedy(folder: Path) -> str:
    return f"delete {folder} to go on from the checkpoint before it"


def _not_written(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"cannot write the checkpoint {path}: {error}; "
        "free some disk space; older checkpoints are untouched"
    )


def _move_in(staged: Path, final: Path) -> None:
    if not final.exists():
        staged.rename(final)
        return
    # The same step again, after a resume: the newer one counts.
    replaced = final.rename(staged.with_name(f"{staged.name}-replaced"))
    try:
        staged.rename(final)
    except OSError:
        replaced.rename(final)
        raise


def _committed(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    folders = [path for path in directory.iterdir() if _COMMITTED.fullmatch(path.name)]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


def _sync(path: Path) -> None:
    # A folder, too: the names in it are only on the disk after its own fsync.
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _name(step: int) -> str:
    return f"step-{step:08d}"
