"""What a trainer process is told at its start: local matters, and where the manifest is."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocol.errors import ConfigError, MalformedMessage
from protocol.manifest import Manifest, parse_manifest

EVALUATION_BYTES = 64 * 1024
"""Validation text read by one evaluation, unless the operator says otherwise."""


class TrainerConfig(BaseModel):
    """One trainer process; written as JSON by the wire process, read by the worker."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    manifest: str
    """Path of the manifest's canonical bytes."""
    run_id: str
    peer_id: str
    device: str = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads for torch; 0 lets torch choose."""
    max_steps: Annotated[int, Field(ge=0)] | None = None
    """Train up to this step of the run's count, then only answer."""
    evaluation_bytes: Annotated[int, Field(ge=1)] = EVALUATION_BYTES

    def write(self, path: Path) -> None:
        """Write the file that `read_config` reads, unless it is there: a full disk may have it.

        Raises:
            ConfigError: it cannot be written.
        """
        text = self.model_dump_json(indent=1) + "\n"
        try:
            if not path.exists() or path.read_text(errors="replace") != text:
                path.write_text(text)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def read_config(path: Path) -> tuple[TrainerConfig, Manifest]:
    """Return the configuration in a file, and the manifest that it points to.

    Raises:
        ConfigError: one of them cannot be read, or the manifest is another run's.
    """
    try:
        config = TrainerConfig.model_validate(json.loads(path.read_bytes()))
        manifest = parse_manifest(Path(config.manifest).read_bytes())
    except (OSError, ValueError, ValidationError, MalformedMessage) as error:
        raise ConfigError(f"trainer configuration {path}: {error}") from error
    if manifest.run_id != config.run_id:
        raise ConfigError(
            f"{config.manifest} is the manifest of run {manifest.run_id[:12]}, "
            f"not of {config.run_id[:12]}"
        )
    return config, manifest
