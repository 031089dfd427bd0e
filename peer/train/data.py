"""Where the text comes from: recipes by name, and the split that all peers share.

A recipe (`peer.train.recipes`) turns a name in the manifest into bytes on this machine; files that
are not UTF-8 are left out. It may read slightly different bytes on two machines (another Python
version, say): training data may differ, but validation text must not, so the manifest holds its
digest and `check_validation` says when ours is another.

Split: a file belongs to validation when the hash of its relative path says so, hence wherever the
file lies and whatever else is there. With fewer than 20 files that would be a lottery; then, and
where it gives validation less than a quarter of its part, the tail of each file is validation.
"""

import hashlib
import platform
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peer.train.recipes import MIX, files_of, parts_of
from protocol.errors import ConfigError
from protocol.manifest import DataSpec

Text = NDArray[Any]
"""A text as tokens, `[length]` unsigned integers; bytes, unless a tokenizer makes them."""

MIN_TRAIN_BYTES = 16 * 1024
MIN_VALIDATION_BYTES = 1024
MAX_TEXT_BYTES = 4 << 30
"""The text is held in memory."""

MIX_RATIO = 4
"""A part of a mix has at most so many times the text of the smallest one."""

_FEWEST_FILES_TO_SPLIT = 20
_FEWEST_FRAC = 0.25
_PIECE_BYTES = 4096


Epochs = Callable[[str], Generator[Text]]
"""Pieces of a text without end, in an order that follows from a name."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Text to train on and text to judge by; no file's byte is in both."""

    train: Text
    validation: Text
    description: str
    """For people: `1234 files of the Python 3.12.1 standard library, 21.5 MB`."""
    widths: NDArray[np.uint32] | None = None
    """How many bytes each of the validation's tokens stands for, `[length]`; None: one."""
    stream: Epochs | None = None
    """Where the text to train on comes from, if `train` is empty."""

    @property
    def validation_bytes(self) -> int:
        """How long the validation text is."""
        return len(self.validation) if self.widths is None else int(self.widths.sum())


def load_text(recipe: str, validation_frac: float) -> Corpus:
    """Return the text that a recipe names, split.

    Args:
        recipe: See `peer.train.recipes`; or a mix, `mix:stdlib + text:GLOB`, of which a large part
            gives no more than `MIX_RATIO` times what the smallest gives.
        validation_frac: The part that becomes validation text, in (0, 0.5).

    Raises:
        ConfigError: no such recipe, nothing matches it, or it is too little or too much text.
    """
    if recipe.startswith(MIX):
        return _mixed([load_text(part, validation_frac) for part in _parts(recipe)])
    files, description = files_of(recipe)
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
    """Return the SHA-256 of the validation text, in hex; of its tokens, if they are not bytes."""
    return hashlib.sha256(corpus.validation.tobytes()).hexdigest()


def with_validation(spec: DataSpec, corpus: Corpus) -> DataSpec:
    """Return the data of a run with the validation text that all its peers must have."""
    return spec.model_copy(
        update={
            "validation_digest": validation_digest(corpus),
            "validation_bytes": corpus.validation_bytes,
        }
    )


def check_validation(corpus: Corpus, spec: DataSpec) -> str | None:
    """Return one sentence when our validation text is not the run's, else None.

    A manifest without a digest fits everybody.
    """
    ours = validation_digest(corpus)
    if spec.validation_digest in ("", ours):
        return None
    return (
        f"the validation text here is not the run's: {corpus.validation_bytes} bytes with digest "
        f"{ours[:12]} instead of {spec.validation_bytes} bytes with {spec.validation_digest[:12]} "
        f"(recipe {spec.recipe}, Python {platform.python_version()}), "
        "so validation losses here do not compare with other peers'"
    )


def _parts(recipe: str) -> tuple[str, ...]:
    parts = parts_of(recipe)
    if not all(parts) or any(part.startswith(MIX) for part in parts):
        raise ConfigError(f"data.recipe {recipe!r}: write mix:RECIPE + RECIPE, and no mix in a mix")
    return parts


def _mixed(parts: Sequence[Corpus]) -> Corpus:
    description = "a mix of " + "; ".join(part.description for part in parts)
    return Corpus(
        _balanced([part.train for part in parts]),
        _balanced([part.validation for part in parts]),
        description,
    )


def _balanced(texts: Sequence[Text]) -> Text:
    """Return the texts joined, the large ones thinned out."""
    most = MIX_RATIO * min(map(len, texts))
    return _joined([_thinned(text, most).tobytes() for text in texts])


def _thinned(text: Text, most: int) -> Text:
    """Return at most so many bytes of a text, as pieces evenly spread over it."""
    if len(text) <= most:
        return text
    count = max(1, most // _PIECE_BYTES)
    length = most // count
    starts = np.arange(count, dtype=np.int64) * (len(text) - length) // max(1, count - 1)
    return np.concatenate([text[start : start + length] for start in starts])


def _readable(files: list[tuple[str, Path]]) -> Iterator[tuple[str, bytes]]:
    for relative, path in files:
        data = path.read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield relative, data


def _split(files: list[tuple[str, bytes]], validation_frac: float) -> tuple[Text, Text]:
    if len(files) >= _FEWEST_FILES_TO_SPLIT:
        halves: tuple[list[bytes], list[bytes]] = [], []
        for relative, data in files:
            halves[_is_validation(relative, validation_frac)].append(data)
        train, validation = map(_joined, halves)
        fair = validation_frac * (len(train) + len(validation))
        if len(validation) >= _FEWEST_FRAC * fair:
            return train, validation
    cuts = [len(data) - int(len(data) * validation_frac) for _, data in files]
    pairs = [(data[:cut], data[cut:]) for (_, data), cut in zip(files, cuts, strict=True)]
    return _joined([head for head, _ in pairs]), _joined([tail for _, tail in pairs])


def _is_validation(relative: str, validation_frac: float) -> bool:
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) < validation_frac * 2**64


def _joined(parts: list[bytes]) -> Text:
    return np.frombuffer(b"\n".join(parts), dtype=np.uint8)
