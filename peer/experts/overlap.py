"""Whether two domains share text: then an expert has been trained on what judges another one.

Text is compared by paragraphs, so that a copy under another name, or a document within a larger
file, is found. A paragraph is what lies between blank lines, white space aside, or above 4 KiB each
of its lines; those under 128 bytes are too common to tell anything. What both domains have counts
once, however often it occurs, so a licence at the head of each file weighs as one. Two domains
overlap when they share more than 4 KiB and more than 0.1 % of the smaller one.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from itertools import combinations

from peer.train.data import Corpus
from protocol.errors import ConfigError

MIN_PARAGRAPH_BYTES = 128
MAX_PARAGRAPH_BYTES = 4096
TOLERATED_BYTES = 4096
TOLERATED_FRAC = 0.001
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


def _paragraphs(corpus: Corpus) -> Iterator[tuple[bytes, int]]:
    """Yield the digest and the size of each paragraph that counts."""
    for text in _texts(corpus):
        yield _digest(text), len(text)


def _texts(corpus: Corpus) -> Iterator[bytes]:
    for half in (corpus.train, corpus.validation):
        for paragraph in _BLANK_LINES.split(half.tobytes()):
            is_long = len(paragraph) > MAX_PARAGRAPH_BYTES
            for raw in paragraph.splitlines() if is_long else (paragraph,):
                text = b" ".join(raw.split())
                if len(text) >= MIN_PARAGRAPH_BYTES:
                    yield text


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _beginning(corpus: Corpus, key: bytes) -> str:
    text = next(text for text in _texts(corpus) if _digest(text) == key)
    return text[: 4 * _SHOWN_CHARS].decode("utf-8", "ignore")[:_SHOWN_CHARS]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "all"
