"""The files of a run, such as a tokenizer or theta_0: kept in a folder, and served from the disk.

In the folder of a run or of a peer they are `files/NAME`. The manifest has their sizes and BLAKE3
digests, so it does not matter from whom they come; who has them all gives them to anybody. They may
be larger than memory: nothing here holds more than a grain of one.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from pydantic import ValidationError

from peer.ports import Inbox, Source
from peer.run_folder import MANIFEST
from protocol.errors import ConfigError, NotAvailable
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.manifest import FileSpec, Manifest
from protocol.messages import Note

GRAIN_BYTES = 256 * 1024
"""A file is read, sent and written in pieces of this."""
MAX_FILES = 16
"""As in the manifest."""


def files_folder(folder: Path) -> Path:
    """Returns where a run's files are, below the folder of the run or of a peer."""
    return folder / "files"


# ---- founding


def add_files(
    given: object, folder: Path, on_progress: Callable[[str], None] = lambda words: None
) -> list[FileSpec]:
    """Puts files into a run's folder, and returns what the manifest says of them.

    They are linked where the disk allows it, so whoever founds a run leaves them as they are.

    Args:
        given: `[files]` of a run.toml: paths by name, or a list of paths that keep their names.
        folder: Of the run.
        on_progress: Told what is being read.

    Raises:
        ConfigError: one cannot be read or written, or has a name that no file may have.
    """
    paths = _paths(given)
    if len(paths) > MAX_FILES:
        raise ConfigError(f"files: a run has at most {MAX_FILES}, got {len(paths)}")
    place = files_folder(folder)
    specs = []
    for name, path in paths.items():
        on_progress(f"reading {path}")
        _spec(name, 1, "0" * 64)  # a wrong name is refused before anything is written
        try:
            specs.append(_add(name, path, place, is_a_runs=(folder / MANIFEST).exists()))
        except OSError as error:
            raise ConfigError(f"files: cannot add {name} from {path}: {error.strerror}") from None
    return specs


def _paths(given: object) -> dict[str, Path]:
    if isinstance(given, list) and all(isinstance(path, str) for path in given):
        paths = [Path(path) for path in given]
        if len({path.name for path in paths}) < len(paths):
            raise ConfigError('files: two have one name; write a table, name = "path"')
        return {path.name: path.expanduser() for path in paths}
    if isinstance(given, dict) and all(isinstance(path, str) for path in given.values()):
        return {str(name): Path(path).expanduser() for name, path in given.items()}
    raise ConfigError(f'files: write a table, name = "path", or a list of paths, got {given!r:.60}')


def _add(name: str, path: Path, place: Path, *, is_a_runs: bool) -> FileSpec:
    path = path.resolve(strict=True)
    if not path.is_file():
        raise ConfigError(f"files: {path} is no file")
    place.mkdir(parents=True, exist_ok=True)
    to, staged = place / name, place / f".{name}-{os.getpid()}"
    staged.unlink(missing_ok=True)
    try:
        try:
            os.link(path, staged)
        except OSError:  # another disk, or somebody else's file
            shutil.copyfile(path, staged)
        spec = _spec(name, staged.stat().st_size, digest_of(staged))
        if is_a_runs and to.exists() and not _is_file(to, spec):
            raise ConfigError(f"{to} is another run's; choose another folder")
        staged.replace(to)  # which leaves both where they are links to one file
    finally:
        staged.unlink(missing_ok=True)
    return spec


def _spec(name: str, size_bytes: int, digest: str) -> FileSpec:
    try:
        return FileSpec(name=name, size_bytes=size_bytes, digest=digest)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"files: {name!r:.80}: {problem['loc'][0]}: {problem['msg']}") from None


# ---- what is here


def digest_of(path: Path) -> str:
    """Returns the BLAKE3 of a file, in hex; it takes a second or so for each gigabyte.

    Raises:
        OSError: it cannot be read.
    """
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def missing_files(manifest: Manifest, folder: Path) -> list[int]:
    """Returns which of the run's files are not in a folder, or not as the manifest says.

    It reads all of them: call it off the event loop.
    """
    place = files_folder(folder)
    return [
        number
        for number, spec in enumerate(manifest.files)
        if not _is_file(place / spec.name, spec)
    ]


def _is_file(path: Path, spec: FileSpec) -> bool:
    try:
        return path.stat().st_size == spec.size_bytes and digest_of(path) == spec.digest
    except OSError:
        return False


# ---- serving


class FileSource:
    """Serves a file from the disk; implements `peer.ports.Source`.

    Args:
        path: Where it is; it is open only while a grain is read.
        size_bytes: As the manifest says.
    """

    round = 0
    grain_bytes = GRAIN_BYTES

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._path = path
        self._grain = -1, b""

    async def read(self, start: int, stop: int) -> bytes:
        """Returns bytes of one grain; see `peer.ports.Source`."""
        number, skipped = divmod(start, GRAIN_BYTES)
        if self._grain[0] != number:  # a slow link takes it in many small pieces
            self._grain = number, await asyncio.to_thread(self._read, number * GRAIN_BYTES)
        return self._grain[1][skipped : skipped + stop - start]

    def _read(self, start: int) -> bytes:
        length = min(GRAIN_BYTES, self.size_bytes - start)
        try:
            with self._path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, start)
        except OSError:
            data = b""
        if len(data) < length:
            raise NotAvailable("our copy of that file is damaged")
        return data


class FilesInbox:
    """Serves the run's files to anybody; all else is another inbox's. An `Inbox` itself.

    Args:
        inner: Who answers for the rest.
        manifest: Of the run.
        folder: Of the run or the peer, with the files; those that are missing are not served.
    """

    def __init__(self, inner: Inbox, manifest: Manifest, folder: Path) -> None:
        self._inner = inner
        self._files = manifest.files
        self._folder = files_folder(folder)

    def on_note(self, src: PeerId, note: Note) -> None:
        """A note came in."""
        self._inner.on_note(src, note)

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns what `src` asked for; see `peer.ports.Inbox`."""
        if ref.kind != "file":
            return await self._inner.blob(src, ref)
        if ref.part >= len(self._files):
            raise NotAvailable("the run has no such file")
        spec = self._files[ref.part]
        path = self._folder / spec.name
        with contextlib.suppress(OSError):
            if path.stat().st_size == spec.size_bytes:
                return FileSource(path, spec.size_bytes)
        raise NotAvailable(f"{spec.name} is not here")
