"""Whether a peer could listen where it is told to."""

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTENS = "0A"
"""The state of a socket in /proc/net/tcp."""


@dataclass(frozen=True, slots=True)
class Port:
    """One port that a peer would listen on."""

    number: int
    """0 for any."""
    problem: str = ""
    """Why it cannot: `taken`, `address`, `privilege`, or what the system says."""
    holder: str = ""
    """Which process has it, as far as we may know."""


def ports_of(host: str, port: int) -> tuple[Port, ...]:
    """Returns the ports that a peer would need: the wire's, and the directory's, which is next."""
    numbers = (port, port + 1) if port else (0,)
    return tuple(_try(host, number) for number in numbers)


def _try(host: str, port: int) -> Port:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            return Port(port)
    except socket.gaierror:
        return Port(port, "address")
    except OSError as error:
        known = {
            errno.EADDRINUSE: "taken",
            errno.EADDRNOTAVAIL: "address",
            errno.EACCES: "privilege",
        }
        problem = known.get(error.errno or 0, error.strerror or str(error))
        return Port(port, problem, holder_of(port) if problem == "taken" else "")


def holder_of(port: int, proc: Path = Path("/proc")) -> str:
    """Returns `NAME (process PID)` of who listens on a TCP port; empty if that is not to be seen.

    Args:
        port: The port.
        proc: Linux's.
    """
    inodes = set(_listening(port, proc))
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for descriptor in proc.glob("[0-9]*/fd/*"):
        try:
            is_theirs = os.readlink(descriptor) in wanted
            process = descriptor.parent.parent
            if is_theirs:
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:
            continue  # gone, or another user's
    return ""


def _listening(port: int, proc: Path) -> Iterator[str]:
    """Yields the inodes of the sockets that listen on a port."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            local, state, inode = fields[1], fields[3], fields[9]
            if state == _LISTENS and int(local.rpartition(":")[2], 16) == port:
                yield inode
