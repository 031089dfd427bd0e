"""What an evaluation found that is worth keeping beside exported experts.

It is read from what `thinwire experts eval --json` prints.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from peer.experts.expert import Expert
from protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Figures:
    """See the module docstring.

    Attributes:
        bits_per_byte: By expert, on held-out text of its own domain.
        prior: By expert; None: none was estimated.
    """

    bits_per_byte: Mapping[str, float] = field(default_factory=dict)
    prior: Mapping[str, float] | None = None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)  # what it says besides is for others


class _Judged(_Part):
    name: str
    step: int


class _Row(_Part):
    name: str
    kind: str
    bits_per_byte: dict[str, float | None]


class _Evaluation(_Part):
    experts: list[_Judged]
    rows: list[_Row]
    prior: dict[str, float] | None


def read_figures(path: Path, experts: Sequence[Expert]) -> Figures:
    """Returns the figures in a file, if they are of these experts.

    Raises:
        ConfigError: they are of others, or the file is no evaluation.
    """
    try:
        fields: Any = json.loads(path.read_bytes())
        found = _Evaluation.model_validate(fields)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError, ValidationError):
        raise ConfigError(
            f"{path} is no evaluation; write one with: thinwire experts eval DIR --json"
        ) from None
    judged = {(each.name, each.step) for each in found.experts}
    ours = {(expert.name, expert.step) for expert in experts}
    if judged != ours:
        raise ConfigError(
            f"{path} is of other experts: {_spelled(judged)} instead of {_spelled(ours)}; "
            "evaluate these first"
        )
    own = {row.name: row.bits_per_byte.get(row.name) for row in found.rows if row.kind == "expert"}
    return Figures({name: bits for name, bits in own.items() if bits is not None}, found.prior)


def _spelled(experts: set[tuple[str, int]]) -> str:
    return ", ".join(f"{name} at step {step}" for name, step in sorted(experts)) or "nobody"
