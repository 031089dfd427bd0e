"""A demo's report as JSON, with what else one must know to compare it with another."""

import json
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "hivemind", "grpcio", "numpy")


def write_report(fields: dict[str, Any], path: Path) -> None:
    """Writes a report as JSON, without NaN."""
    path.write_text(json.dumps(_plain(fields), indent=1) + "\n")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for name in ("thinwire", *_PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Returns what the demo ran on."""
    return {"cpu_count": os.cpu_count(), "platform": platform.platform()}


def _plain(value: Any) -> Any:
    """Returns the value with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
