"""What founding makes of a model's folder and of a tokenizer: settings and files of the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer.run_files import add_files, files_folder
from peer.train.plain_config import plain_config
from peer.train.pretrained import write_initial
from peer.train.tokens import FileTokenizer
from protocol.errors import ConfigError
from protocol.manifest import INITIAL

TOKENIZER = "tokenizer.json"
_MAX_CONFIG_BYTES = 1 << 20


def with_pretrained(
    settings: dict[str, Any], folder: Path, on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """Returns the settings with what a folder of a model and a tokenizer's file say.

    Args:
        settings: Of a run.toml, where `files` are already in the run's folder.
        folder: Of the run.
        on_progress: Called with what is being done, in a few words.

    Raises:
        ConfigError: a folder or file is not what it should be.
    """
    model, data = settings.get("model"), settings.get("data", {})
    files = [dict(file) for file in settings.get("files", ())]
    if isinstance(model, dict) and model.get("kind") == "huggingface":
        source = model.get("pretrained")
        if source is not None:
            model, initial = _from_folder(model, _folder(source), folder, on_progress)
            files += initial
            if (name := _missing(data, files)) and (_folder(source) / TOKENIZER).is_file():
                files += _add({name: str(_folder(source) / TOKENIZER)}, folder, on_progress)
        elif isinstance(model.get("config"), dict):
            model = model | {"config": plain_config(model["config"])}
    elif isinstance(model, dict) and "pretrained" in model:
        raise ConfigError('model.pretrained is for a model of kind = "huggingface"')
    if name := _missing(data, files):
        raise ConfigError(
            f"data.tokenizer 'file:{name}': the run has no such file; add it: "
            f'[files] "{name}" = "PATH"'
        )
    changed = dict(settings)
    if model is not None:
        changed["model"] = model
    if files:
        changed["files"] = files
    if name := _tokenizer_file(data):
        tokenizer = FileTokenizer(files_folder(folder) / name)
        changed["data"] = data | {"vocab_size": tokenizer.vocab_size}
    return changed


def _from_folder(
    model: dict[str, Any], source: Path, folder: Path, on_progress: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the model's settings, and theta_0 as one of the run's files."""
    if "config" in model:
        raise ConfigError("model.config is in the folder model.pretrained; leave it out")
    path = source / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is too large for a model's configuration")
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"model.pretrained: cannot read {path}: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"model.pretrained: {path} is no model's configuration")
    # Many folders have code beside a model that the library knows by now.
    config = plain_config({key: value for key, value in config.items() if key != "auto_map"})
    on_progress(f"reading the model in {source}")
    staged = folder / f".{INITIAL}"
    try:
        write_initial(source, config, staged)
        files = _add({INITIAL: str(staged)}, folder, on_progress)
    finally:
        staged.unlink(missing_ok=True)
    kept = {key: value for key, value in model.items() if key != "pretrained"}
    return kept | {"config": config}, files


def _folder(source: object) -> Path:
    if not isinstance(source, str):
        raise ConfigError("model.pretrained: write the path of a folder")
    path = Path(source).expanduser()
    if not path.is_dir():
        raise ConfigError(
            f"model.pretrained: there is no folder {path}; a model of the Hugging Face hub becomes "
            "one with: hf download ORG/NAME --local-dir PATH"
        )
    return path


def _add(
    paths: dict[str, str], folder: Path, on_progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    return [file.model_dump() for file in add_files(paths, folder, on_progress)]


def _tokenizer_file(data: object) -> str:
    name = data.get("tokenizer", "") if isinstance(data, dict) else ""
    return name.removeprefix("file:") if isinstance(name, str) and name.startswith("file:") else ""


def _missing(data: object, files: list[dict[str, Any]]) -> str:
    name = _tokenizer_file(data)
    return "" if any(file["name"] == name for file in files) else name
