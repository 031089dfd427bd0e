"""The table of presets in docs/methods.md is the presets."""

from pathlib import Path
from typing import Any

import pytest

from optim.presets import PRESETS

PAGE = (Path(__file__).parents[3] / "docs" / "methods.md").read_text()


def row_of(name: str) -> str:
    axes = PRESETS[name]
    return f"| `{name}` | {axes['mixing']} | {words(axes['schedule'])} | {codec_of(axes)} | {rule_of(axes)} |"  # fmt: skip  # noqa: E501


def words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not False)


def codec_of(axes: dict[str, Any]) -> str:
    codec = dict(axes["codec"])
    return " ".join(filter(None, [codec.pop("name"), words(codec)]))


def rule_of(axes: dict[str, Any]) -> str:
    outer = dict(axes["outer"])
    return f"{outer.pop('rule')}({words(outer)})"


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_shows_each_preset_as_it_is(name: str) -> None:
    assert row_of(name) in PAGE


def test_the_page_shows_no_other_preset() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") and "_steps" in line]
    assert len(rows) == len(PRESETS)
