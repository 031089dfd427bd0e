"""Whether two domains share text: then an expert has been trained on what judges another one.

Text is compared by paragraphs, so that a copy under another name, or a document within a larger
file, is found. A paragraph is what lies between blank lines, white space aside; those under 128
bytes are too common to tell anything. One above 4 KiB is cut at ends of lines: a line of 128 bytes
is a part of its own, and shorter ones are joined until there are as many and the last line's hash
says so, thus at the same places wherever the text lies. What both domains have counts once, however
often it occurs, so a licence at the head of each file weighs as one. Two domains overlap when they
share more than 4 KiB and more than 0.1 % of the smaller one, or train or are judged on equal text.
"""

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np

from peer.train.data import Corpus
from protocol.errors import ConfigError

MIN_PARAGRAPH_BYTES = 128
MAX_PARAGRAPH_BYTES = 4096
TOLERATED_BYTES = 4096
TOLERATED_FRAC = 0.001
LINES_OF_A_PART = 8
"""On average, beyond those that make up `MIN_PARAGRAPH_BYTES`."""
_BLANK_LINES = re.compile(rb"\n\s*\n")
_SHOWN_CHARS = 60


def check_overlap(corpora: Mapping[str, Corpus]) -> None:
    """Refuse domains that overlap, as the module docstring has it.

    Args:
        corpora: The text of each domain by name; seeds, which may share, left out.

    Raises:
        ConfigError: names two domains, how much they share, and the beginning of the longest part.
    """
    paragraphs = {name: dict(_paragraphs(corpus)) for name, corpus in corpora.items()}
    for (one, left), (other, right) in combinations(paragraphs.items(), 2):
        shared = left.keys() & right.keys()
        num_bytes = sum(left[key] for key in shared)
        smaller = min((left, right), key=lambda side: sum(side.values()))
        share = num_bytes / max(1, sum(smaller.values()))
        if num_bytes > TOLERATED_BYTES and share > TOLERATED_FRAC:
            longest = max(shared, key=lambda key: (left[key], key))
            raise ConfigError(
                f"domains {one} and {other} overlap: {num_bytes:,} bytes are in both, "
                f"{_percent(share)} of {one if smaller is left else other}, such as "
                f"{_beginning(corpora[one], longest)!r}; let each text be in one domain"
            )
        if _are_equal(corpora[one], corpora[other]):
            raise ConfigError(
                f"domains {one} and {other} overlap: they have the same text; let each text be in "
                "one domain"
            )


def _are_equal(one: Corpus, other: Corpus) -> bool:
    """Return whether the text of one half is the same, also if no paragraph of it counts."""
    return np.array_equal(one.train, other.train) or np.array_equal(
        one.validation, other.validation
    )


def _paragraphs(corpus: Corpus) -> Iterator[tuple[bytes, int]]:
    """Yield the digest and the size of each paragraph that counts."""
    for text in _texts(corpus):
        yield _digest(text), len(text)


def _texts(corpus: Corpus) -> Iterator[bytes]:
    for half in (corpus.train, corpus.validation):
        for paragraph in _BLANK_LINES.split(half.tobytes()):
            is_long = len(paragraph) > MAX_PARAGRAPH_BYTES
            for text in _parts(paragraph) if is_long else (b" ".join(paragraph.split()),):
                if len(text) >= MIN_PARAGRAPH_BYTES:
                    yield text


def _parts(paragraph: bytes) -> Iterator[bytes]:
    """Yield a long paragraph in parts of whole lines."""
    part = b""
    for raw in paragraph.splitlines():
        line = b" ".join(raw.split())
        if len(line) >= MIN_PARAGRAPH_BYTES:
            yield part
            yield line
            part = b""
            continue
        part = b" ".join((part, line)) if part else line
        is_end = zlib.crc32(line) % LINES_OF_A_PART == 0
        if len(part) >= (MIN_PARAGRAPH_BYTES if is_end else MAX_PARAGRAPH_BYTES):
            yield part
            part = b""
    yield part


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _beginning(corpus: Corpus, key: bytes) -> str:
    text = next(text for text in _texts(corpus) if _digest(text) == key)
    return text[: 4 * _SHOWN_CHARS].decode("utf-8", "ignore")[:_SHOWN_CHARS]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "all"
