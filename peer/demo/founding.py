"""What a demo's run is founded from, and what comes out."""

from pathlib import Path

from protocol.errors import ConfigError, MalformedMessage
from protocol.manifest import Manifest, parse_manifest


def prepare(directory: Path, settings: str) -> None:
    """Makes the folder of a demo, with its run.toml.

    Raises:
        ConfigError: it cannot be written, or has a demo in it already.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run.toml").write_text(settings)
    except OSError as error:
        raise ConfigError(f"cannot write into {directory}: {error}; choose another --dir") from None
    if (directory / "run").exists():
        raise ConfigError(f"{directory} has a demo in it already; choose another --dir")


def manifest_in(folder: Path) -> Manifest:
    """Returns the manifest of the run that was founded there.

    Raises:
        ConfigError: there is none.
    """
    try:
        return parse_manifest((folder / "manifest.json").read_bytes())
    except (OSError, MalformedMessage) as error:
        raise ConfigError(f"thinwire new left no manifest in {folder}: {error}") from None
