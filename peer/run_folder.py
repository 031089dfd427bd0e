"""The files that say which run a folder belongs to; the same for hosts and for peers."""

import contextlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from protocol.errors import ConfigError, RemoteError
from protocol.manifest import Manifest, verify_manifest
from protocol.ticket import MAX_ADDRESSES, Ticket, parse_ticket

logger = logging.getLogger(__name__)

IDENTITY = "identity.key"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
TICKET = "ticket.txt"


@dataclass(frozen=True, slots=True)
class Run:
    """A manifest with its founder's signature."""

    manifest: Manifest
    signature: bytes


def write_run(folder: Path, run: Run) -> None:
    """Writes a run's files, unless they are there: a full disk keeps nobody from coming back.

    Raises:
        ConfigError: the folder cannot be written, or belongs to another run.
    """
    data = run.manifest.to_bytes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = _content(folder / MANIFEST)
        if kept not in (None, data):
            raise ConfigError(f"{folder} belongs to another run; choose another folder")
        # The manifest comes last: with it the folder counts as the run's.
        if _content(folder / SIGNATURE) != run.signature:
            write_whole(folder / SIGNATURE, run.signature)
        if kept is None:
            write_whole(folder / MANIFEST, data)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error}") from error


def read_run(folder: Path, ticket: Ticket) -> Run | None:
    """Returns the run in a folder, or None if there is none yet.

    Raises:
        ConfigError: it is not the run of `ticket`.
    """
    if not (folder / MANIFEST).exists():
        return None
    try:
        data, signature = (folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_bytes()
        manifest = verify_manifest(data, signature, run_id=ticket.run_id, founder=ticket.founder)
    except OSError as error:
        raise ConfigError(f"cannot read the run in {folder}: {error}") from error
    except RemoteError as error:
        raise ConfigError(
            f"{folder} does not fit the ticket: {error}; choose another folder with --dir"
        ) from None
    return Run(manifest, signature)


def write_ticket(folder: Path, ticket: Ticket) -> None:
    """Keeps a ticket for later; readable by its owner only, since it may hold a secret.

    Raises:
        OSError: it cannot be written; the former one is as it was.
    """
    write_whole(folder / TICKET, f"{ticket}\n".encode(), mode=0o600)


class TicketFile:
    """The ticket in a folder, for who has a newer one now and then.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: Ticket | None = None
        self._is_full = False

    def keep(self, ticket: Ticket) -> None:
        """Writes a ticket, unless it did. A full disk is only logged: ask again later."""
        if ticket == self._kept:
            return
        try:
            write_ticket(self._folder, ticket)
        except OSError as error:
            if not self._is_full:
                logger.warning("cannot keep the ticket: %s", error)
            self._is_full = True
        else:
            self._kept, self._is_full = ticket, False


def write_whole(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Writes a file that is there in full or, after a crash or on a full disk, as it was before.

    Args:
        path: Whose folder exists.
        data: All of it.
        mode: Who may read and write it, less what the umask forbids.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _content(path: Path) -> bytes | None:
    """Returns what is in a file; None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def read_ticket(path: Path) -> Ticket:
    """Returns the ticket kept in a folder, or in a file.

    Raises:
        ConfigError: there is none.
    """
    file = path if path.is_file() else path / TICKET
    try:
        return parse_ticket(file.read_bytes().decode("ascii", "replace"))
    except OSError:
        raise ConfigError(f"{path} holds no run: there is no {TICKET} in it") from None


def with_kept_addresses(ticket: Ticket, folder: Path) -> Ticket:
    """Returns a ticket with the addresses, too, of the one that a peer's folder keeps.

    Those in a ticket that was given out long ago may all have died.
    """
    try:
        kept = read_ticket(folder)
    except (ConfigError, RemoteError):
        return ticket
    if kept.run_id != ticket.run_id:
        return ticket
    addresses = dict.fromkeys((*ticket.addresses, *kept.addresses))
    return replace(ticket, addresses=tuple(addresses)[:MAX_ADDRESSES])


def folder_here(place: Path) -> Path:
    """Returns the peer's folder that somebody means who is in `place` and names none.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if _is_peers(place):
        return place
    folders = sorted(filter(_is_peers, place.glob("thinwire-*")))
    if len(folders) == 1:
        return folders[0]
    if folders:
        names = ", ".join(map(str, folders))
        raise ConfigError(f"several peers have folders here ({names}); choose one with --dir")
    raise ConfigError("give a ticket, or the folder of a peer with --dir")


def _is_peers(folder: Path) -> bool:
    return (folder / IDENTITY).is_file() and (folder / TICKET).is_file()
