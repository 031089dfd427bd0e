"""Processes as /proc shows them: who descends from whom, in what state, and what they hold."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import cpu_s_of

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TRAINER, DAEMON = "peer.train.worker", "p2pd"
"""What their command lines have in them."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process holds, and what it has used."""

    fds: int
    threads: int
    rss_bytes: int
    cpu_s: float


def descendants(pid: int) -> list[int]:
    """Returns the living children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        if fields := _stat(path):
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, todo = [], [pid]
    while todo:
        found += (below := children.get(todo.pop(), []))
        todo += below
    return found


def state_of(pid: int) -> str:
    """Returns the state's letter: T is stopped; nothing if there is no such process any more."""
    fields = _stat(Path(f"/proc/{pid}/stat"))
    return fields[0] if fields and fields[0] != "Z" else ""


def command_of(pid: int) -> str:
    """Returns the command line, its words parted by blanks; nothing if there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def role_of(pid: int) -> str:
    """Returns which part of a peer a process is: wire, trainer or daemon."""
    command = command_of(pid)
    if TRAINER in command:
        return "trainer"
    return "daemon" if command.split(" ", 1)[0].endswith(DAEMON) else "wire"


def vitals_of(pid: int) -> Vitals | None:
    """Returns what a process holds, None if there is no such process any more."""
    folder = Path(f"/proc/{pid}")
    try:
        rss_pages = int((folder / "statm").read_text().split()[1])
        fields = _stat(folder / "stat")
        fds = len(os.listdir(folder / "fd"))
        cpu_s = cpu_s_of(pid)
    except (OSError, IndexError):
        return None
    if not fields:
        return None
    return Vitals(fds, int(fields[17]), rss_pages * _PAGE_BYTES, cpu_s)


def marked(mark: str) -> list[int]:
    """Returns the processes that have these words in the environment they were started with."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes() and state_of(pid := int(path.parent.name)):
                found.append(pid)
    return sorted(found)


def _stat(path: Path) -> list[str]:
    """Returns what stands behind the name: state, parent, ...; nothing if it is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []
