"""Text as tokens: bytes, or those of a tokenizer that the run has as a file.

The file is in the format of the library `tokenizers`: data that its Rust code interprets, no code.
What looks like a special token in a text is read as plain text, so no document ends early.

Shapes: n tokens.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peer.train.data import Corpus, Text
from peer.train.library import INSTALL
from peer.train.text_growth import require_little_growth
from protocol.errors import ConfigError

MAX_FILE_BYTES = 64 << 20
MAX_VOCABULARY = 1 << 24

Widths = NDArray[np.uint32]
"""How many bytes of the text belong to each token, `[n]`."""

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[EOS]", "[SEP]")
"""What tokenizers call the token between two documents; the first that there is, counts."""
_PIECE_BYTES = 64 << 10
_PIECES = 64


class Tokenizer(Protocol):
    """Turns texts into tokens."""

    vocab_size: int

    @property
    def between(self) -> Text:
        """The tokens between two documents, at least one."""

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Return the tokens of each text."""

    def measured(self, texts: Sequence[str]) -> tuple[list[Text], list[Widths]]:
        """Return the tokens of each text, and how many of its bytes each of them stands for."""


class ByteTokenizer:
    """A byte is a token."""

    vocab_size = 256
    between: Text = np.frombuffer(b"\n", dtype=np.uint8)

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Return the bytes of each text."""
        return [np.frombuffer(_bytes(text), dtype=np.uint8) for text in texts]

    def measured(self, texts: Sequence[str]) -> tuple[list[Text], list[Widths]]:
        """Return the bytes of each text, and that each is one."""
        encoded = self.encode(texts)
        return encoded, [np.ones(len(each), dtype=np.uint32) for each in encoded]


class FileTokenizer:
    """A tokenizer from a file such as tokenizer.json.

    Args:
        path: Of the file.

    Raises:
        ConfigError: it is missing, damaged or too large, or the library is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._tokenizer = _read(path)
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        if not 0 < self.vocab_size <= MAX_VOCABULARY:
            raise ConfigError(f"{path} has {self.vocab_size} tokens, of at most {MAX_VOCABULARY}")
        self._dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        ends = (self._tokenizer.token_to_id(name) for name in END_OF_TEXT)
        end = next((found for found in ends if found is not None), None)
        self._between = self.encode(["\n"])[0] if end is None else np.array([end], self._dtype)

    @property
    def between(self) -> Text:
        """The tokens between two documents."""
        return self._between

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Return the tokens of each text, 16 bits each where the vocabulary allows it."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self._dtype) for encoding in encodings]

    def measured(self, texts: Sequence[str]) -> tuple[list[Text], list[Widths]]:
        """Return the tokens of each text, and how many of its bytes each of them stands for.

        A token has the bytes from the end of the one before it to its own, so nothing that a
        tokenizer skips is lost; of tokens that share a character the first has all of it.
        """
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        tokens = [np.array(encoding.ids, dtype=self._dtype) for encoding in encodings]
        pairs = zip(texts, encodings, strict=True)
        return tokens, [_widths(text, encoding.offsets) for text, encoding in pairs]


def tokenizer_of(name: str, files: Path | None) -> Tokenizer:
    """Return the tokenizer that a manifest names.

    Args:
        name: `bytes`, or `file:NAME`.
        files: The folder of the run's files.

    Raises:
        ConfigError: it is not there, or no tokenizer.
    """
    if name == "bytes":
        return ByteTokenizer()
    if files is None:
        raise ConfigError(f"data.tokenizer {name!r}: the run's files are not here")
    return FileTokenizer(files / name.removeprefix("file:"))


def tokenized(
    corpus: Corpus,
    tokenizer: Tokenizer,
    on_progress: Callable[[str], None] = lambda words: None,
) -> Corpus:
    """Return a corpus of bytes as one of tokens.

    Args:
        corpus: In bytes.
        tokenizer: Whose tokens.
        on_progress: Called with what is being done, in a few words.
    """
    train: list[Text] = []
    done = 0
    for pieces in _batched(_pieces(corpus.train), _PIECES):
        train += tokenizer.encode(pieces)
        done += sum(map(len, pieces))
        on_progress(f"making tokens of the text: {min(1.0, done / len(corpus.train)):.0%}")
    validation, widths = joined(tokenizer, list(_pieces(corpus.validation)), is_apart=False)
    return Corpus(np.concatenate(train), validation, corpus.description, widths=widths)


def joined(
    tokenizer: Tokenizer, texts: Sequence[str], *, is_apart: bool = True
) -> tuple[Text, Widths]:
    """Return texts as one, measured.

    Args:
        tokenizer: Whose tokens.
        texts: At least one.
        is_apart: Whether they are documents, with something between them that counts as one byte.
    """
    tokens, widths = tokenizer.measured(texts)
    if is_apart:
        between = tokenizer.between
        gap = np.zeros(len(between), dtype=np.uint32)
        gap[0] = 1
        tokens = [part for each in tokens for part in (each, between)]
        widths = [part for each in widths for part in (each, gap)]
    return np.concatenate(tokens), np.concatenate(widths)


def _read(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer as LibraryTokenizer
    except ImportError as error:
        raise ConfigError(f"a tokenizer from a file needs {INSTALL} ({error})") from None
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than a tokenizer's {MAX_FILE_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the tokenizer {path}: {error.strerror}") from None
    try:
        found = LibraryTokenizer.from_buffer(data)
    except Exception as error:  # the library has no type for it
        raise ConfigError(f"{path} is no tokenizer.json: {error!s:.200}") from error
    try:
        require_little_growth(found.normalizer)
    except ConfigError as error:
        raise ConfigError(f"{path} is no tokenizer for text: {error}") from None
    found.no_truncation()
    found.no_padding()
    found.encode_special_tokens = True
    return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # a lone surrogate is no text


def _widths(text: str, offsets: Sequence[tuple[int, int]]) -> Widths:
    """Return the bytes of a text that belong to each token, from where tokens end in characters."""
    if not offsets:
        return np.zeros(0, dtype=np.uint32)
    ends = np.maximum.accumulate(np.array([end for _, end in offsets], dtype=np.int64))
    ends[-1] = len(text)
    if not text.isascii():
        ends = _byte_ends(text)[ends]
    return np.diff(ends, prepend=0).astype(np.uint32)


def _byte_ends(text: str) -> NDArray[np.int64]:
    """Return how many bytes come before each character, and after the last."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000).astype(np.int64)
    return np.concatenate([[0], np.cumsum(lengths)])


def _pieces(text: Text) -> Iterator[str]:
    """Yield a text in pieces that end with a line, where lines are not too long."""
    data, start = text.tobytes(), 0
    while start < len(data):
        stop = min(len(data), start + _PIECE_BYTES)
        if stop < len(data):
            line_end = data.rfind(b"\n", start, stop) + 1
            stop = line_end or stop
            while not line_end and data[stop] & 0xC0 == 0x80 and stop > start + _PIECE_BYTES - 4:
                stop -= 1  # not in the midst of a character
        yield data[start:stop].decode("utf-8", "replace")
        start = stop


def _batched(pieces: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(itertools.islice(pieces, size)):
        yield batch
