"""Which dataset a manifest means, and which of its text.

dataset:ORG/NAME?config=en&revision=abc&split=train&column=text&validation=test
dataset:json:GLOB?column=text        dataset:parquet:GLOB        dataset:text:GLOB
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from peer.train.recipes import DATASET, DATASET_FORMATS
from protocol.errors import ConfigError

HUB = "hub"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_QUERY = re.compile(r"\w+=[^?&=]*(&\w+=[^?&=]*)*")
_OF_HUB = ("config", "revision", "split", "column", "validation")
_OF_FILES = ("column",)


@dataclass(frozen=True, slots=True)
class DatasetRecipe:
    """What a recipe names.

    Attributes:
        recipe: As it was written.
        kind: `HUB`, or one of `DATASET_FORMATS`.
        place: The dataset's name, or a glob.
        config: Which of a dataset's configurations; empty: its only one.
        revision: A commit, branch or tag; empty: the newest.
        split: What is trained on.
        column: Where the text is.
        validation: The split that is held out; empty: part of `split`.
    """

    recipe: str
    kind: str
    place: str
    config: str = ""
    revision: str = ""
    split: str = "train"
    column: str = "text"
    validation: str = ""

    @classmethod
    def parse(cls, recipe: str) -> "DatasetRecipe":
        """Return what a recipe names.

        Raises:
            ConfigError: it is not written as the module docstring says.
        """
        place, query = recipe.removeprefix(DATASET), ""
        before, mark, after = place.rpartition("?")
        if mark and _QUERY.fullmatch(after):  # else it is a wildcard
            place, query = before, after
        first, colon, rest = place.partition(":")
        kind, place = (first, rest) if colon and first in DATASET_FORMATS else (HUB, place)
        options = _options(recipe, query, _OF_HUB if kind == HUB else _OF_FILES)
        if kind == HUB and not _NAME.fullmatch(place):
            forms = ", ".join(f"dataset:{form}:GLOB" for form in DATASET_FORMATS)
            raise ConfigError(f"data.recipe {recipe!r}: write dataset:ORG/NAME, or {forms}")
        found = cls(recipe, kind, place, **options)
        if found.validation == found.split:
            raise ConfigError(f"data.recipe {recipe!r}: validation is the split that is trained on")
        return found


def _options(recipe: str, query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    options = parse_qsl(query, keep_blank_values=True)
    for key, value in options:
        if key not in allowed:
            raise ConfigError(
                f"data.recipe {recipe!r}: there is no option {key!r:.40}; there is "
                f"{', '.join(allowed)}"
            )
        if not _WORD.fullmatch(value):
            raise ConfigError(f"data.recipe {recipe!r}: {key}={value!r:.40} is no plain name")
    if len(dict(options)) < len(options):
        raise ConfigError(f"data.recipe {recipe!r}: an option is given twice")
    return dict(options)
