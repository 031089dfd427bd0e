"""Founding a run: settings that people write become a manifest that nobody can change."""

import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootstrap.pretrained import with_pretrained
from peer.experts.divided import divided
from peer.experts.settings import undivided
from peer.identity_file import load_identity
from peer.method import check_method
from peer.run_files import add_files, files_folder
from peer.run_folder import Run, write_run, write_whole
from peer.settings import method_settings
from peer.train.data import with_validation
from peer.train.initial import check_initial
from peer.train.model import check_model, shapes_of_run
from peer.train.run_text import text_of_run
from protocol.errors import ConfigError
from protocol.manifest import INITIAL, Manifest, manifest_from, sign_manifest
from protocol.models import HuggingFaceSpec, OwnSpec
from protocol.ticket import SECRET_BYTES

FOUNDER_KEY = "founder.key"
SECRET = "secret"


def found(
    settings: dict[str, Any],
    folder: Path,
    *,
    on_progress: Callable[[str], None] = lambda words: None,
) -> Manifest:
    """Founds a run in `folder`: signs its manifest and writes the files that `serve` needs.

    Args:
        settings: As in run.toml: the manifest's settings, with `method` a preset's name or a table
            with a `preset` and what differs from it; `files` as `peer.run_files.add_files` takes
            them; and with domains as `peer.experts.settings` has them.
        folder: New, or that of the same run.
        on_progress: Called with what is being done, in a few words.

    Raises:
        ConfigError: a setting is wrong, or the folder cannot be used.
    """
    founder = load_identity(folder / FOUNDER_KEY)
    settings = settings | {"founder": founder.peer_id}
    if settings.get("domains") or settings.get("experts"):
        if settings.get("files"):
            raise ConfigError("files: a run with domains has none")
        manifest = divided(undivided(settings), on_progress)
    else:
        manifest = _of_one_model(settings, folder, on_progress)
    if manifest.membership.policy == "invite":
        digest = hashlib.sha256(_secret(folder)).hexdigest()
        membership = manifest.membership.model_copy(update={"invite_digest": digest})
        manifest = manifest.model_copy(update={"membership": membership})
    write_run(folder, Run(manifest, sign_manifest(manifest, founder)))
    return manifest


def _of_one_model(
    settings: dict[str, Any], folder: Path, on_progress: Callable[[str], None]
) -> Manifest:
    settings = settings | {"method": method_settings(settings.get("method", "diloco"))}
    if "files" in settings:
        files = add_files(settings["files"], folder, on_progress)
        settings["files"] = [file.model_dump() for file in files]
    settings = with_pretrained(settings, folder, on_progress)
    manifest = manifest_from(settings)
    check_method(manifest)
    if manifest.file_named(INITIAL):
        on_progress(f"checking {INITIAL}")
        check_initial(files_folder(folder) / INITIAL, shapes_of_run(manifest))
    if isinstance(manifest.model, OwnSpec):
        return manifest  # what it reads is its owner's loop's
    if isinstance(manifest.model, HuggingFaceSpec):
        on_progress("trying the model")
        check_model(manifest, files_folder(folder))
    on_progress("reading the text")
    corpus = text_of_run(manifest, files_folder(folder), on_progress)
    return manifest.model_copy(update={"data": with_validation(manifest.data, corpus)})


def _secret(folder: Path) -> bytes:
    path = folder / SECRET
    if not path.exists():
        write_secret(path, secrets.token_bytes(SECRET_BYTES))
    return read_secret(path)


def write_secret(path: Path, secret: bytes) -> None:
    """Keeps the secret of a run by invitation; readable by its owner only.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        write_whole(path, secret.hex().encode(), mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def read_secret(path: Path) -> bytes:
    """Returns the secret of a run by invitation.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        secret = bytes.fromhex(path.read_text())
    except (OSError, ValueError):
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"this run is by invitation, but its secret {path} is missing or damaged")
    return secret
