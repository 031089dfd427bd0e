"""A file system of one megabyte, to fill."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def a_small_disk(folder: Path) -> Iterator[Path]:
    """Mounts one at a new folder; skips the test where that is not allowed."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or mount is None or subprocess.run(command, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, but_bytes: int = 0) -> Path:
    """Fills a disk but for so many bytes, with a file to delete."""
    filler = disk / "filler"
    space = os.statvfs(disk)
    with filler.open("wb", buffering=0) as file:
        file.write(b"\0" * max(space.f_bavail * space.f_frsize - but_bytes, 0))
    return filler
