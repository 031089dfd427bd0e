"""Checkpoints on disk: a folder that is either whole and ours, or passed over with one clear line.

    step-00000120-000007/       120 steps of the run; the seventh checkpoint of this folder
        inner.safetensors       replica: parameters, inner optimizer, counters (by the trainer)
        outer.safetensors       anchors and outer state (by the wire process)
        checkpoint.json         whose it is, and size and BLAKE3 of the files beside it
        checkpoint.sig          the peer's signature of checkpoint.json

Both processes write into a staged folder beside the others, and force it onto the disk; then one
rename makes it a checkpoint, and only then older ones go. So a crash or a full disk at any point
leaves the older checkpoints, and at worst a stale staged folder, which the next save removes.

The newest is the one with the highest number, not the one with the most steps: a peer that had to
go back keeps what it did since then.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from peer.train.tensor_file import Written, not_written, read_tensors
from protocol.errors import ConfigError, RemoteError
from protocol.identity import Identity, verify

INNER = "inner.safetensors"
OUTER = "outer.safetensors"
KEEP = 2

_INFO = "checkpoint.json"
_SIGNATURE = "checkpoint.sig"
_SIGNATURE_DOMAIN = b"thinwire checkpoint\0"
_VERSION = 2
_COMMITTED = re.compile(r"step-(\d{8,})-(\d{6,})")
_STAGED = "partial-"


class Unusable(ConfigError):
    """A checkpoint that is damaged, altered, or written by another version; others may do."""


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
    digests: tuple[str, ...] = ()
    """By fragment, the digest of its anchor, in hex; zeros where anchors are nobody else's."""
    lineages: tuple[str, ...] = ()
    """By fragment, which landings are in its anchor, in hex (`protocol.lineage`)."""


@dataclass(frozen=True, slots=True)
class _Stored:
    version: int
    info: CheckpointInfo
    files: dict[str, Written]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint whose signature and files have been verified."""

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

    Stale ones of former attempts are removed, so there is one at a time.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for stale in directory.glob(f"{_STAGED}*"):
            discard(stale)
        return Path(tempfile.mkdtemp(prefix=f"{_STAGED}{step}-", dir=directory))
    except OSError as error:
        raise not_written(directory, error) from error


def commit(
    staged: Path,
    info: CheckpointInfo,
    files: Mapping[str, Written],
    *,
    identity: Identity,
    keep: int = KEEP,
    unusable: Collection[Path] = (),
) -> Path:
    """Make a staged folder a checkpoint, and remove what is older than the `keep` newest.

    It waits for the disk: call it off the event loop.

    Args:
        staged: From `stage`, with all its files on the disk.
        info: What goes into checkpoint.json.
        files: By name, what was written.
        identity: Who signs it: the peer of `info`.
        keep: How many checkpoints remain, at least 1.
        unusable: Checkpoints known to be so; they do not count.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: the disk is full, read-only or broken. The staged folder is gone then, and the
            older checkpoints are untouched.
    """
    directory = staged.parent
    final = directory / _name(info.step, _serial(latest(directory)) + 1)
    data = json.dumps(asdict(_Stored(_VERSION, info, dict(files))), indent=1).encode() + b"\n"
    try:
        _write(staged / _INFO, data)
        _write(staged / _SIGNATURE, identity.sign(_SIGNATURE_DOMAIN + data))
        _sync(staged)
        staged.rename(final)
        _sync(directory)
    except OSError as error:
        discard(staged)
        raise not_written(final, error) from error
    _remove_old(directory, keep, unusable)
    return final


def discard(folder: Path) -> None:
    """Remove a staged or an old folder, as far as that is possible."""
    shutil.rmtree(folder, ignore_errors=True)


def committed(directory: Path) -> list[Path]:
    """Return the folders of all checkpoints, unverified, the newest last."""
    if not directory.is_dir():
        return []
    return sorted((p for p in directory.iterdir() if _COMMITTED.fullmatch(p.name)), key=_serial)


def latest(directory: Path) -> Path | None:
    """Return the newest checkpoint's folder, unverified, or None when there is none."""
    return next(reversed(committed(directory)), None)


def open_checkpoint(path: Path, *, run_id: str, peer_id: str) -> Checkpoint:
    """Return a checkpoint after verifying that it is whole and belongs to this peer of this run.

    Raises:
        Unusable: it is damaged or altered; the line names the file.
        ConfigError: it is somebody else's; the line says what to do.
    """
    stored = _read_stored(path)
    if stored.info.run_id != run_id:
        raise ConfigError(
            f"{path} is a checkpoint of run {stored.info.run_id[:12]}, not of {run_id[:12]}; "
            "choose another folder for this run"
        )
    if stored.info.peer_id != peer_id:
        raise ConfigError(
            f"{path} is a checkpoint of peer {stored.info.peer_id}, not of {peer_id}; "
            "restore that identity's key, or choose another folder"
        )
    for name in (INNER, OUTER):
        if name not in stored.files:
            raise Unusable(f"{path / _INFO} does not list {name}")
    for name, written in stored.files.items():
        _verify(path / Path(name).name, written)
    return Checkpoint(path, stored.info)


def _read_stored(path: Path) -> _Stored:
    try:
        data, signature = (path / _INFO).read_bytes(), (path / _SIGNATURE).read_bytes()
        fields: Any = json.loads(data)
        version = fields["version"]
        if version != _VERSION:
            raise Unusable(f"{path} has version {version}, this thinwire reads {_VERSION}")
        stored = TypeAdapter(_Stored).validate_python(fields)
        verify(stored.info.peer_id, signature, _SIGNATURE_DOMAIN + data)
    except FileNotFoundError as error:
        raise Unusable(f"{error.filename} is missing") from error
    except OSError as error:
        raise Unusable(f"{path / _INFO} cannot be read: {error}") from error
    except RemoteError as error:
        raise Unusable(f"{path / _INFO} is damaged or was altered: {error}") from error
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise Unusable(f"{path / _INFO} is damaged") from error
    return stored


def _verify(path: Path, written: Written) -> None:
    try:
        found_bytes = path.stat().st_size
        if found_bytes != written.num_bytes:
            raise Unusable(f"{path} has {found_bytes} bytes instead of {written.num_bytes}")
        digest = blake3().update_mmap(path).hexdigest()
    except FileNotFoundError as error:
        raise Unusable(f"{path} is missing") from error
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error}") from error
    if digest != written.digest:
        raise Unusable(f"{path} is damaged: its hash differs")


def _remove_old(directory: Path, keep: int, unusable: Collection[Path]) -> None:
    # What is damaged stays while it is newer than the good ones: somebody may want to look at it.
    num_good = 0
    for path in reversed(committed(directory)):
        if num_good >= keep:
            _retire(path)
        elif path not in unusable and _looks_whole(path):
            num_good += 1


def _retire(path: Path) -> None:
    # In one go, so that what is called a checkpoint is whole even if we die in the midst of it.
    retired = path.with_name(f"{_STAGED}{path.name}")
    with contextlib.suppress(OSError):
        path = path.rename(retired)
    discard(path)


def _looks_whole(path: Path) -> bool:
    try:
        files = _read_stored(path).files
        return all((path / name).stat().st_size == files[name].num_bytes for name in files)
    except (OSError, Unusable):
        return False


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync(folder: Path) -> None:
    # The names in a folder are only on the disk after its own fsync.
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _serial(path: Path | None) -> int:
    return int(path.name.rpartition("-")[2]) if path else 0


def _name(step: int, serial: int) -> str:
    return f"step-{step:08d}-{serial:06d}"
