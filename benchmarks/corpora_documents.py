"""From what packages hold to documents: cut or gathered to a size, without repeats, and split.

A *document* is what goes whole into one split. A file of code is one; long works are cut at
paragraph ends into passages, so a test passage may come from a book whose other passages were
trained on; short texts (a licence, a mail, a summary) are gathered with their neighbours.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

DOCUMENT_CHARS = 8_000
TEST_FRAC = 0.08
_MIN_DOCUMENT_CHARS = 200
_MIN_PARAGRAPH_CHARS = 60
"""Shorter ones may repeat: a lone `else:` or `Amen` is nobody's leak."""


def passages(text: str, chars: int = DOCUMENT_CHARS) -> Iterator[str]:
    """Yields a long text in parts of at least `chars` characters, cut at paragraph ends."""
    return gathered(text.split("\n\n"), chars)


def gathered(texts: Iterable[str], chars: int = DOCUMENT_CHARS) -> Iterator[str]:
    """Yields neighbours joined, until they have at least `chars` characters; the rest is last."""
    part: list[str] = []
    length = 0
    for text in texts:
        part.append(text)
        length += len(text) + 2
        if length >= chars:
            yield "\n\n".join(part)
            part, length = [], 0
    if part:
        yield "\n\n".join(part)


def chosen(documents: Iterable[str], max_bytes: int) -> list[bytes]:
    """Returns distinct documents, about `max_bytes` of them, as UTF-8.

    They are taken in the order of their hashes, which is as good as shuffled and the same anywhere.
    A paragraph that a document before has is left out, whatever its case, blanks and punctuation,
    so that no paragraph of note is in two documents, hence in two splits.
    """
    tidy = {_tidy(document) for document in documents}
    in_order = sorted(tidy, key=lambda text: hashlib.sha256(text.encode()).digest())
    seen: set[str] = set()
    kept: list[bytes] = []
    total = 0
    for text in in_order:
        if total >= max_bytes:
            break
        fresh = _without_repeats(text, seen)
        if len(fresh) >= _MIN_DOCUMENT_CHARS:
            kept.append(fresh.encode())
            total += len(kept[-1])
    return kept


def name_of(document: bytes) -> str:
    """Returns its file name: the hash of what is in it."""
    return hashlib.sha256(document).hexdigest()[:16] + ".txt"


def is_test(name: str) -> bool:
    """Returns whether a document is for the last test only; its name alone decides."""
    digest = hashlib.sha256(b"test " + name.encode()).digest()
    return int.from_bytes(digest[:8]) < TEST_FRAC * 2**64


def paragraph_keys(text: str) -> Iterator[str]:
    """Yields what makes two paragraphs of note the same."""
    for paragraph in re.split(r"\n\s*\n", text):
        key = _key(paragraph)
        if len(key) >= _MIN_PARAGRAPH_CHARS:
            yield key


def _without_repeats(text: str, seen: set[str]) -> str:
    kept = []
    for paragraph in re.split(r"\n\s*\n", text):
        key = _key(paragraph)
        if len(key) < _MIN_PARAGRAPH_CHARS or key not in seen:
            kept.append(paragraph)
        if len(key) >= _MIN_PARAGRAPH_CHARS:
            seen.add(key)
    return "\n\n".join(kept).strip()


def _key(paragraph: str) -> str:
    return re.sub(r"\W+", " ", paragraph.lower()).strip()


def _tidy(text: str) -> str:
    without_marks = re.sub(r"[\x00-\x08\x0b-\x1f]", "", text)
    return without_marks.encode("utf-8", "ignore").decode().strip()
