"""The tokenizer of models that read bytes, as files that `AutoTokenizer` loads.

It is a byte-pair encoding without pairs: each byte is a token, and its number is the byte's value.
A tokenizer.json spells tokens as text, so bytes that are no visible character have another one
instead, as GPT-2's table says; the library's `ByteLevel` has the same table.
"""

import json
from typing import Any


def spelling() -> list[str]:
    """Returns the character that stands for each byte."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + others.index(byte)) for byte in range(256)]


def tokenizer_json() -> str:
    """Returns the file tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"use_regex": False},
        "post_processor": None,
        "decoder": byte_level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: byte for byte, character in enumerate(spelling())},
            "merges": [],
        },
    }
    return json.dumps(tokenizer, indent=1) + "\n"


def tokenizer_config(context: int) -> dict[str, Any]:
    """Returns what tokenizer_config.json says, of whatever tokenizer.json.

    Args:
        context: Tokens that the model sees at once.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
