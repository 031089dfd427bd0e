"""The settings in a run.toml, before they become a manifest."""

import tomllib
from pathlib import Path
from typing import Any

from optim.method import merged
from protocol.errors import ConfigError


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings in a run.toml.

    Raises:
        ConfigError: there is no such file, or it is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def method_settings(given: object) -> dict[str, Any]:
    """Returns the four axes that `method = ...` in a run.toml means.

    Raises:
        ConfigError: no such preset, or a method that is neither a name nor a table.
    """
    table = {"preset": given} if isinstance(given, str) else given
    if not isinstance(table, dict):
        raise ConfigError('method: write the name of a preset, or a table with preset = "..."')
    for axis in ("schedule", "codec", "outer"):
        if not isinstance(table.get(axis, {}), dict):
            raise ConfigError(f"method.{axis}: write a table of settings, got {table[axis]!r:.60}")
    overrides = {axis: value for axis, value in table.items() if axis != "preset"}
    name = str(table.get("preset", "diloco"))
    try:
        axes = merged(name, overrides)
    except ValueError as error:
        raise ConfigError(f"method: {error}") from None
    outer = dict(axes.pop("outer"))  # the presets are everybody's
    rule = outer.pop("rule", "")
    return {"preset": name, **axes, "outer": {"rule": rule, "constants": outer}}
