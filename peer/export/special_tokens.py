"""Which tokens begin, end and fill a text: as ids for the model, and spelled for the tokenizer.

A run has the tokenizer's file and the model's configuration, but not the tokenizer_config.json that
says so elsewhere. What the configuration names counts; if it names no end of text, it is the token
that peers put between two documents.
"""

import json
from collections.abc import Mapping
from typing import Any

from peer.train.tokens import END_OF_TEXT

KINDS = ("bos_token", "eos_token", "pad_token")

Ids = int | list[int]


def special_ids(config: Mapping[str, Any], added: Mapping[int, str]) -> dict[str, Ids]:
    """Return `bos_token_id` and its kin, those that there are.

    Args:
        config: As in config.json.
        added: From `added_tokens`.
    """
    by_name = {name: number for number, name in added.items()}
    ends = [by_name[name] for name in END_OF_TEXT if name in by_name]
    ids: dict[str, Ids] = {"eos_token_id": ends[0]} if ends else {}
    named = {f"{kind}_id": config.get(f"{kind}_id") for kind in KINDS}
    return ids | {name: found for name, found in named.items() if found is not None}


def spelled(ids: Mapping[str, Ids], added: Mapping[int, str]) -> dict[str, str]:
    """Return `bos_token` and its kin, of those ids that have a special token.

    Args:
        ids: From `special_ids`; of several ids, as some models have, the first counts.
        added: From `added_tokens`.
    """
    first = {name: i[0] if isinstance(i, list) and i else i for name, i in ids.items()}
    return {
        name.removesuffix("_id"): added[i]
        for name, i in first.items()
        if isinstance(i, int) and i in added
    }


def added_tokens(tokenizer_json: bytes) -> dict[int, str]:
    """Return by id the tokens that a tokenizer has beside its vocabulary: all special ones."""
    try:
        entries = json.loads(tokenizer_json)["added_tokens"]
        return {int(entry["id"]): str(entry["content"]) for entry in entries}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {}  # the library that reads it says what is wrong with it
