"""A small disk for each peer, which can be full.

Where we may mount, each is a tmpfs in a mount namespace of this process's own: nobody else sees it,
and it goes with us, however we end. Elsewhere the processes are forbidden to write beyond a few
kilobytes, which fails in much the same way.
"""

import contextlib
import ctypes
import errno
import os
import resource
import subprocess
from pathlib import Path

_CLONE_NEWNS = 0x20000
_BALLAST = "ballast"
_BLOCK = bytes(1 << 16)
_ALLOWED_BYTES = 4096


def have_mounts_of_our_own() -> str | None:
    """Makes mounts of this thread, and of its children, invisible to all others.

    Returns:
        Why that is not possible here, or None.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return f"no mounts of our own: {os.strerror(ctypes.get_errno())}"
    done = subprocess.run(
        ["mount", "--make-rprivate", "/"], check=False, capture_output=True, text=True
    )
    return f"no mounts of our own: {done.stderr.strip()}" if done.returncode else None


class Disk:
    """Where a peer's folder is.

    Args:
        folder: Becomes the disk.
        size_bytes: 0 for no disk of its own.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder = folder
        self._is_own = bool(size_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        if self._is_own:
            options = f"size={size_bytes},mode=700"
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "chaos", str(folder)],
                check=True,
                capture_output=True,
            )

    def fill(self, pids: list[int]) -> bool:
        """Leaves no room for what these processes want to write; returns whether there is none."""
        if not self._is_own:
            return all(_limit(pid, _ALLOWED_BYTES) for pid in pids)
        try:
            with (self._folder / _BALLAST).open("ab", buffering=0) as ballast:
                while ballast.write(_BLOCK):
                    pass
        except OSError as error:
            return error.errno == errno.ENOSPC
        return False

    def empty(self, pids: list[int]) -> None:
        """Makes room again."""
        if self._is_own:
            (self._folder / _BALLAST).unlink(missing_ok=True)
        else:
            for pid in pids:
                _limit(pid, resource.RLIM_INFINITY)

    def close(self) -> None:
        """Takes the disk away, with what is on it."""
        if self._is_own:
            subprocess.run(["umount", "-l", str(self._folder)], check=False, capture_output=True)


def _limit(pid: int, size_bytes: int) -> bool:
    with contextlib.suppress(OSError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))
        return True
    return False
