"""`experts.json`: what lies in an exported folder, and the digest of each file.

It may come from a stranger: all of it is checked here, and nothing in it is a path.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from protocol.errors import ConfigError
from protocol.manifest import DataSpec, DomainName, Frac
from protocol.models import ModelSpec, Spec

CATALOGUE = "experts.json"
FORMAT: Literal["thinwire experts"] = "thinwire experts"
VERSION: Literal[1] = 1
PRIOR_TOLERANCE = 1e-3
"""By how much the sum of a prior may differ from 1."""

_MAX_BYTES = 1 << 20
_MAX_EXPERTS = 64

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\.safetensors$")]
Steps = Annotated[int, Field(ge=0)]


class ExpertEntry(Spec):
    """One expert and its file."""

    name: DomainName
    file: FileName
    blake3: Digest
    model: ModelSpec
    tokenizer: Annotated[str, Field(min_length=1, max_length=64)]
    data: DataSpec | None = None
    """The text that it was trained on, and how that was split; null if nobody knows."""
    step: Steps = 0
    total_steps: Steps = 0
    """Of its budget; 0 if nobody knows."""
    bits_per_byte: Annotated[float, Field(ge=0)] | None = None
    """On held-out text of its own domain, if it was evaluated."""


class Catalogue(Spec):
    """See the module docstring."""

    format: Literal["thinwire experts"] = FORMAT
    version: Literal[1] = VERSION
    run_id: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the run that trained them; empty if nobody knows."""
    experts: Annotated[list[ExpertEntry], Field(min_length=1, max_length=_MAX_EXPERTS)]
    prior: dict[DomainName, Frac] | None = None
    """By expert, estimated on text that no figure here is of; null: uniform."""
    absent: list[DomainName] = Field(default_factory=list, max_length=_MAX_EXPERTS)
    """Experts of the run that are not in the folder."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Catalogue":
        names = [expert.name for expert in self.experts]
        for known in (names, [expert.file for expert in self.experts]):
            if len(set(known)) < len(known):
                raise ValueError("two experts share a name or a file")
        if self.prior is not None:
            if set(self.prior) != set(names):
                raise ValueError("the prior is not of these experts")
            if abs(sum(self.prior.values()) - 1) > PRIOR_TOLERANCE:
                raise ValueError(f"the prior sums to {sum(self.prior.values()):.6g} instead of 1")
        return self

    def to_json(self) -> str:
        """Returns the text of `experts.json`."""
        return self.model_dump_json(indent=1) + "\n"


def read_catalogue(folder: Path) -> Catalogue:
    """Returns what an exported folder says is in it.

    Raises:
        ConfigError: it cannot be read, or is none that we understand.
    """
    path = folder / CATALOGUE
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES} bytes")
        fields: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged: it is no JSON") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ConfigError(f"{path} is none of thinwire's: its format is not {FORMAT!r}")
    if fields.get("version") != VERSION:
        version = fields.get("version")
        raise ConfigError(f"{path} has version {version!r:.20}, this thinwire reads {VERSION}")
    try:
        return Catalogue.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        where = f"{where}: " if where.isprintable() and where else ""
        raise ConfigError(f"{path} is damaged: {where}{first['msg']}") from None
