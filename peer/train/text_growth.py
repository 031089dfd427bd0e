"""How much longer a tokenizer may make a text before it cuts it into tokens.

A tokenizer's file comes from a stranger. One that replaces each letter by a page is small, and a
few kilobytes of text take all memory.
"""

import base64
import json
import math
from typing import Any

from protocol.errors import ConfigError

MAX_GROWTH = 128.0
"""Of known ones T5's grows most: its table spells out U+FDFA in 33 bytes."""
MAX_NORMALIZERS = 64


def require_little_growth(normalizer: Any) -> None:
    """Refuse a normalizer that could make a text much longer.

    Args:
        normalizer: Of the library `tokenizers`; None if a tokenizer has none.

    Raises:
        ConfigError: says how much longer.
    """
    if normalizer is None:
        return
    parts = _parts(json.loads(normalizer.__getstate__()))
    if len(parts) > MAX_NORMALIZERS:
        raise ConfigError(f"it has {len(parts)} normalizers, of at most {MAX_NORMALIZERS}")
    growth = math.prod(map(_growth, parts))
    if growth > MAX_GROWTH:
        raise ConfigError(f"it makes texts up to {growth:.0f} times as long, not {MAX_GROWTH:.0f}")


def _parts(normalizer: dict[str, Any]) -> list[dict[str, Any]]:
    if normalizer["type"] != "Sequence":
        return [normalizer]
    return [part for each in normalizer["normalizers"] for part in _parts(each)]


def _growth(normalizer: dict[str, Any]) -> float:
    match normalizer["type"]:
        case "Replace":
            content = len(normalizer["content"])
            if plain := normalizer["pattern"].get("String"):
                return max(1.0, content / len(plain))
            return 1.0 + content  # a pattern may match between any two letters
        case "Prepend":
            return 1.0 + len(normalizer["prepend"])
        case "Precompiled":
            return _longest(base64.b64decode(normalizer["precompiled_charsmap"]))
        case "ByteLevel":
            return 2.0
        case _:
            return 1.0


def _longest(table: bytes) -> float:
    """Return the longest text in sentencepiece's table, which is behind its trie."""
    trie_bytes = int.from_bytes(table[:4], "little")
    return max(1.0, *map(len, table[4 + trie_bytes :].split(b"\0")))
