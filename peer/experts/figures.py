"""What an evaluation found that is worth keeping beside exported experts.

It is read from what `thinwire experts eval --json` prints.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from peer.experts.catalogue import PRIOR_TOLERANCE
from peer.experts.expert import Expert
from protocol.errors import ConfigError
from protocol.manifest import Frac


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
    model_config = ConfigDict(
        frozen=True, allow_inf_nan=False
    )  # what it says besides is for others


class _Judged(_Part):
    name: str
    step: int


class _Row(_Part):
    name: str
    kind: str
    bits_per_byte: dict[str, Annotated[float, Field(ge=0)] | None]


class _Evaluation(_Part):
    run_id: str = ""
    experts: list[_Judged]
    rows: list[_Row]
    prior: dict[str, Frac] | None

    @model_validator(mode="after")
    def _has_a_prior_of_its_experts(self) -> "_Evaluation":
        if self.prior is not None:
            names = {each.name for each in self.experts}
            if set(self.prior) != names or abs(sum(self.prior.values()) - 1) > PRIOR_TOLERANCE:
                raise ValueError("the prior is none of these experts")
        return self


def read_figures(path: Path, experts: Sequence[Expert], run_id: str = "") -> Figures:
    """Returns the figures in a file, if they are of these experts.

    Args:
        path: Of the file.
        experts: Those that are to have the figures.
        run_id: Of the run that trained them; empty if nobody knows.

    Raises:
        ConfigError: they are of others, or of another run, or the file is no evaluation.
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
    if run_id and found.run_id and found.run_id != run_id:
        raise ConfigError(
            f"{path} is of experts of run {found.run_id[:12]!r}, and these are of {run_id[:12]}; "
            "evaluate these first"
        )
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
