"""Where the text comes from: recipes by name, and the split that all peers share.

A recipe turns a name in the manifest into bytes on this machine. `stdlib` is the source of the
Python standard library, which every peer already has; `text:GLOB` is UTF-8 files of the operator's;
`hf:DATASET` is where Hugging Face datasets will go. A recipe may read slightly different bytes on
two machines (another Python version, say): training data may differ, but validation text must not,
so the manifest holds its digest and `check_validation` says when ours is another.

Split: a file belongs to validation when the hash of its relative path says so, hence wherever the
file lies and whatever else is there. With fewer than 20 files that would be a lottery; then the
tail of each file is validation.
"""

import glob
import hashlib
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError
from protocol.manifest import DataSpec

Text = NDArray[np.uint8]
"""A text as bytes, `[length]`."""

MIN_TRAIN_BYTES = 16 * 1024
MIN_VALIDATION_BYTES = 1024
MAX_TEXT_BYTES = 4 << 30
"""The text is held in memory."""

_FEWEST_FILES_TO_SPLIT = 20
_NOT_IN_STDLIB = {  # installed beside it, or neither code nor prose
    "site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Text to train on and text to judge by; no file's byte is in both."""

    train: Text
    validation: Text
    description: str
    """For people: `1234 files of the Python 3.12.1 standard library, 21.5 MB`."""


Recipe = Callable[[str], tuple[list[tuple[str, Path]], str]]
"""Argument after the colon -> files as (relative POSIX path, path), sorted, and a description."""


def load_text(recipe: str, validation_frac: float) -> Corpus:
    """Return the text that a recipe names, split.

    Args:
        recipe: `stdlib` or `text:GLOB`.
        validation_frac: The part that becomes validation text, in (0, 0.5).

    Raises:
        ConfigError: no such recipe, nothing matches it, or it is too little or too much text.
    """
    name, _, argument = recipe.partition(":")
    if name not in RECIPES:
        raise ConfigError(f"data.recipe {recipe!r} is unknown; there are {', '.join(RECIPES)}")
    files, description = RECIPES[name](argument)
    total = sum(path.stat().st_size for _, path in files)
    if total > MAX_TEXT_BYTES:
        raise ConfigError(
            f"data.recipe {recipe!r} is {total / 1e9:.1f} GB of text; at most "
            f"{MAX_TEXT_BYTES / 1e9:.1f} GB fit, as it is held in memory"
        )
    train, validation = _split(list(_readable(files)), validation_frac)
    if len(train) < MIN_TRAIN_BYTES or len(validation) < MIN_VALIDATION_BYTES:
        raise ConfigError(
            f"data.recipe {recipe!r} has too little text: {len(train)} bytes to train on and "
            f"{len(validation)} for validation, of at least {MIN_TRAIN_BYTES} and "
            f"{MIN_VALIDATION_BYTES}"
        )
    size = f"{(len(train) + len(validation)) / 1e6:.1f} MB"
    return Corpus(train, validation, f"{description}, {size}")


def validation_digest(corpus: Corpus) -> str:
    """Return the SHA-256 of the validation text, in hex."""
    return hashlib.sha256(corpus.validation.tobytes()).hexdigest()


def check_validation(corpus: Corpus, spec: DataSpec) -> str | None:
    """Return one sentence when our validation text is not the run's, else None.

    A manifest without a digest fits everybody.
    """
    ours = validation_digest(corpus)
    if spec.validation_digest in ("", ours):
        return None
    return (
        f"the validation text here is not the run's: {len(corpus.validation)} bytes with digest "
        f"{ours[:12]} instead of {spec.validation_bytes} bytes with {spec.validation_digest[:12]} "
        f"(recipe {spec.recipe}, Python {platform.python_version()}), "
        "so validation losses here do not compare with other peers'"
    )


def _stdlib(argument: str) -> tuple[list[tuple[str, Path]], str]:
    if argument:
        raise ConfigError(f"data.recipe stdlib takes no argument, not {argument!r}")
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    # _sysconfigdata and sitecustomize are written by whoever built or packaged this Python.
    kept = sorted(
        path.as_posix()
        for path in paths
        if not _NOT_IN_STDLIB & set(path.parts)
        and not path.name.startswith(("_sysconfigdata", "sitecustomize"))
    )
    if not kept:
        raise ConfigError(f"this Python has no library source in {root}; use a text:GLOB recipe")
    what = f"{len(kept)} files of the Python {platform.python_version()} standard library"
    return [(relative, root / relative) for relative in kept], what


def _text(argument: str) -> tuple[list[tuple[str, Path]], str]:
    pattern = Path(argument).expanduser()
    fixed = 0
    while fixed < len(pattern.parts) - 1 and not glob.has_magic(pattern.parts[fixed]):
        fixed += 1
    root = Path(*pattern.parts[:fixed])
    matches = (Path(match) for match in glob.iglob(str(pattern), recursive=True))
    files = sorted((m.relative_to(root).as_posix(), m) for m in matches if m.is_file())
    if not files:
        raise ConfigError(f"data.recipe text:{argument} matches no file on this machine")
    return files, f"{len(files)} files of {argument}"


def _hf(argument: str) -> tuple[list[tuple[str, Path]], str]:
    # A later version downloads a pinned revision here and returns its text files.
    raise ConfigError(f"data.recipe hf:{argument}: not in this version; use text:GLOB")


RECIPES: dict[str, Recipe] = {"stdlib": _stdlib, "text": _text, "hf": _hf}
"""Recipes by registered name. A manifest names one, it never carries code."""


def _readable(files: list[tuple[str, Path]]) -> Iterator[tuple[str, bytes]]:
    for relative, path in files:
        data = path.read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield relative, data


def _split(files: list[tuple[str, bytes]], validation_frac: float) -> tuple[Text, Text]:
    train: list[bytes] = []
    validation: list[bytes] = []
    for relative, data in files:
        if len(files) < _FEWEST_FILES_TO_SPLIT:
            cut = len(data) - int(len(data) * validation_frac)
            train.append(data[:cut])
            validation.append(data[cut:])
        else:
            (validation if _is_validation(relative, validation_frac) else train).append(data)
    return _joined(train), _joined(validation)


def _is_validation(relative: str, validation_frac: float) -> bool:
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) < validation_frac * 2**64


def _joined(parts: list[bytes]) -> Text:
    return np.frombuffer(b"\n".join(parts), dtype=np.uint8)
