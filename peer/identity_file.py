"""The key file that makes a peer the same peer after a restart."""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from protocol.errors import ConfigError, MalformedMessage
from protocol.identity import Identity


def load_identity(path: Path) -> Identity:
    """Returns the identity in a key file; makes a new one if there is no file.

    Raises:
        ConfigError: the file is no key, or others may read it.
    """
    if not path.exists():
        _write_new(path, Identity(secrets.token_bytes(32)))
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
        return Identity.from_libp2p(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the identity: {error}") from error
    except MalformedMessage as error:
        raise ConfigError(f"{path} is no identity ({error}); move it away for a new one") from None


def _write_new(path: Path, identity: Identity) -> None:
    # Never half a key under the final name, and never readable by others, not even for a moment.
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(identity.to_libp2p())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(
            f"cannot write a new identity to {path}: {error.strerror}; make room, or "
            "choose another folder with --dir"
        ) from error
