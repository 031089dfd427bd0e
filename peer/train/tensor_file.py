"""Tensors in a safetensors file that is written as a stream, hashed on the way, and whole or gone.

The library's own `save_file` wants all tensors at once, and somebody to read the file again for its
hash. Here the header is known from the tensors' shapes alone, so the place on the disk is taken
before the first byte, and each tensor may be let go of once it is written. Only system calls and
the hash take time, and neither holds the interpreter's lock.

A file is read into memory of its own: the library would map it, and a mapping holds a removed
checkpoint's place on the disk, and ends the process when somebody shortens the file.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from protocol.errors import ConfigError

SPARE_BYTES = 64 << 20
"""So much of a disk stays free, or a twentieth of a small one: others write there, too."""
_CHUNK_BYTES = 8 << 20
_SYNC_BYTES = 64 << 20
"""After so many bytes they are forced onto the disk: a heap of them would hold up other writers."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What a file can hold, and what it is called there."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is on the disk."""

    num_bytes: int
    digest: str
    """BLAKE3, in hex."""


class TensorFile:
    """A new file for tensors like these. Call `write`, or `abandon`.

    Args:
        path: Where; a file that is there is replaced.
        like: By name, in the order of writing: only types and shapes are read.

    Raises:
        ConfigError: there is no room for it, or it cannot be made. Then there is no file.
    """

    def __init__(self, path: Path, like: Mapping[str, Tensor]) -> None:
        self.path = path
        self._outlines = [_outline(tensor) for tensor in like.values()]
        self._header = _header(like)
        self.num_bytes = len(self._header) + sum(tensor.nbytes for tensor in like.values())
        self._hash = blake3()
        self._unsynced_bytes = 0
        require_room(path.parent, self.num_bytes)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise not_written(path, error) from error
        try:
            if hasattr(os, "posix_fallocate"):  # better refused here than in the midst of it
                os.posix_fallocate(self._fd, 0, self.num_bytes)
        except OSError as error:
            self.abandon()
            raise not_written(path, error) from error

    def write(self, tensors: Iterable[Tensor]) -> Written:
        """Write the tensors, on the CPU, and force them onto the disk.

        Args:
            tensors: As promised, in that order. None is held longer than it takes to write it.

        Raises:
            ConfigError: the disk is full, read-only or broken. Then there is no file.
        """
        try:
            self._put(memoryview(self._header))
            num_tensors = 0
            for tensor in tensors:
                if _outline(tensor) != self._outlines[num_tensors]:
                    raise ValueError(f"tensor {num_tensors} of {self.path} is not as promised")
                self._put(_bytes_of(tensor))
                num_tensors += 1
            if num_tensors < len(self._outlines):
                raise ValueError(f"{self.path} lacks tensors")
            os.fsync(self._fd)
            self._close()
        except OSError as error:
            self.abandon()
            raise not_written(self.path, error) from error
        except BaseException:
            self.abandon()
            raise
        return Written(self.num_bytes, self._hash.hexdigest())

    def abandon(self) -> None:
        """Remove the file, as far as that is possible."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _close(self) -> None:
        # Once, even if it fails: the number may be somebody else's by then.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _put(self, data: memoryview) -> None:
        for start in range(0, len(data), _CHUNK_BYTES):
            rest = data[start : start + _CHUNK_BYTES]
            self._hash.update(rest)
            self._unsynced_bytes += len(rest)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if self._unsynced_bytes >= _SYNC_BYTES:
                os.fsync(self._fd)
                self._unsynced_bytes = 0


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write tensors, on the CPU, to a safetensors file and force them onto the disk.

    Raises:
        ConfigError: the disk is full, read-only or broken. Then there is no file.
    """
    # Whoever maps the file wants each tensor at a multiple of its elements' size.
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    file = TensorFile(path, {name: tensors[name] for name in names})
    return file.write(tensors[name] for name in names)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU, in memory of their own.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def require_room(folder: Path, num_bytes: int) -> None:
    """Refuse to write so much where too little would stay free.

    Raises:
        ConfigError: says how much is missing.
    """
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise not_written(folder, error) from error
    free_bytes = disk.f_bavail * disk.f_frsize
    spare_bytes = min(SPARE_BYTES, disk.f_blocks * disk.f_frsize // 20)
    if free_bytes < num_bytes + spare_bytes:
        problem = (
            f"{os.strerror(errno.ENOSPC)}: it needs {num_bytes / 1e6:.1f} MB, "
            f"{free_bytes / 1e6:.1f} MB are free and {spare_bytes / 1e6:.1f} MB are left to others"
        )
        raise not_written(folder, problem)


def not_written(path: Path, problem: object) -> ConfigError:
    """Return the error that says that a file or folder could not be written."""
    return ConfigError(
        f"cannot write to {path}: {problem}; free some disk space; what was there is untouched"
    )


def _outline(tensor: Tensor) -> tuple[torch.dtype, torch.Size]:
    return tensor.dtype, tensor.shape


def _header(like: Mapping[str, Tensor]) -> bytes:
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in like.items():
        start, end = end, end + tensor.nbytes
        fields[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
