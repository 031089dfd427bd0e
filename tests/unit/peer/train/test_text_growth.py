"""Tokenizers that make a text much longer are refused before they see one."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from peer.export.byte_tokenizer import tokenizer_json
from peer.train.tokens import FileTokenizer
from protocol.errors import ConfigError

pytest.importorskip("tokenizers")


def a_tokenizer(folder: Path, *normalizers: dict[str, Any]) -> FileTokenizer:
    words = json.loads(tokenizer_json())
    words["normalizer"] = {"type": "Sequence", "normalizers": list(normalizers)}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(words))
    return FileTokenizer(path)


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def precompiled(longest: int) -> dict[str, Any]:
    trie = bytes(1024)  # in which nothing is found
    table = len(trie).to_bytes(4, "little") + trie + b"a\0" + b"x" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


@pytest.mark.parametrize(
    "normalizers",
    [
        [],
        [{"type": "Prepend", "prepend": "_"}, replace("_", String=" ")],
        [precompiled(33), replace("_", Regex=" {2,}")],
        [replace('"', String="``"), {"type": "NFKD"}, {"type": "Lowercase"}],
    ],
    ids=["none", "llama", "t5", "albert"],
)
def test_what_known_tokenizers_do_is_accepted(
    tmp_path: Path, normalizers: list[dict[str, Any]]
) -> None:
    assert a_tokenizer(tmp_path, *normalizers).vocab_size == 256


@pytest.mark.parametrize(
    ("normalizers", "times"),
    [
        ([replace("b" * 20_000, String="a")], "20000"),
        ([replace("aaaa", String="a")] * 4, "256"),
        ([replace("ab", Regex="")] * 5, "243"),
        ([{"type": "ByteLevel"}] * 8, "256"),
        ([{"type": "Prepend", "prepend": "a" * 200}], "201"),
        ([precompiled(500)], "500"),
    ],
    ids=["long", "again", "between", "bytes", "before", "table"],
)
def test_what_makes_texts_long_is_refused_in_one_line(
    tmp_path: Path, normalizers: list[dict[str, Any]], times: str
) -> None:
    with pytest.raises(ConfigError, match=f"up to {times} times as long") as refused:
        a_tokenizer(tmp_path, *normalizers)
    assert "\n" not in str(refused.value)


def test_too_many_normalizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="65 normalizers"):
        a_tokenizer(tmp_path, *[{"type": "NFC"}] * 65)
