"""The machine that is examined, as plain facts: whoever has others can examine another one."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from peer.doctor.ports import Port, ports_of
from peer.net.pace import NO_CAP, Cap
from protocol.errors import ConfigError

LOCK = "in-use.lock"
"""Held by the peer that runs in a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """What there is to train with."""

    version: str
    built_for: str
    """`CUDA 12.8`, `ROCm 6.4`, or `CPU`."""
    device: str = "cpu"
    """Which one `join` would take."""
    name: str = ""
    """Of a GPU."""
    memory_bytes: int = 0
    """Of a GPU of its own, all of it; 0 if it has the host's, or there is none."""
    has_bf16: bool = False
    num_threads: int = 1
    problem: str = ""
    """Why the device that was asked for is not to be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Where a peer's folder is, or would be."""

    place: Path
    free_bytes: int
    problem: str = ""
    """Why nothing can be written there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is examined, and what `join` would be told there."""

    system: str = sys.platform
    sysctls: Path = Path("/proc/sys/net/ipv4")
    open_files: tuple[int, int] | None = None
    """How many a process may have open, and may allow itself; None if that cannot be told."""
    folder: Path | None = None
    """Of a peer, which may have kept measured rates."""
    is_folder_used: bool = False
    """Whether a peer runs in it."""
    up: Cap = NO_CAP
    down: Cap = NO_CAP
    python: tuple[int, int] = (3, 11)
    torch: Torch | None = None
    """None if it cannot be imported."""
    has_nvidia: bool = False
    """Whether the system has a driver for an NVIDIA GPU."""
    free_memory_bytes: int = 0
    """0 if nobody knows."""
    memory_limit_bytes: int | None = None
    """What a process may use by `ulimit -v`; None if there is no limit."""
    disk: Disk | None = None
    listen: tuple[str, int] = ("127.0.0.1", 0)
    announce: str | None = None
    ports: tuple[Port, ...] = ()
    keep_checkpoints: int = 2
    allow_text: bool = False


def this_machine(
    *,
    folder: Path | None,
    up: Cap = NO_CAP,
    down: Cap = NO_CAP,
    device: str = "auto",
    listen: tuple[str, int] = ("127.0.0.1", 0),
    announce: str | None = None,
    keep_checkpoints: int = 2,
    allow_text: bool = False,
) -> Machine:
    """Returns the machine that we are on; loads torch, which takes seconds.

    Args:
        folder: A peer's; None for one that would be made here.
        up: The upload cap.
        down: The download cap.
        device: As `join` takes it, and so are the others.
        listen: Host and port.
        announce: Where others would reach us.
        keep_checkpoints: How many.
        allow_text: Whether files of the operator's may be trained on.
    """
    from peer.domains.capability import free_memory_bytes

    return Machine(
        open_files=_limit("RLIMIT_NOFILE"),
        folder=folder if folder is not None and folder.is_dir() else None,
        is_folder_used=folder is not None and _is_used(folder),
        up=up,
        down=down,
        python=sys.version_info[:2],
        torch=_torch(device),
        has_nvidia=Path("/proc/driver/nvidia/version").exists(),
        free_memory_bytes=free_memory_bytes(),
        memory_limit_bytes=_address_space_bytes(),
        disk=_disk(folder or Path()),
        listen=listen,
        announce=announce,
        ports=ports_of(*listen),
        keep_checkpoints=keep_checkpoints,
        allow_text=allow_text,
    )


def _torch(wanted: str) -> Torch:
    import torch

    from peer.train.replica import choose_device

    hip = getattr(torch.version, "hip", None)
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    version, num_threads = torch.__version__, torch.get_num_threads()
    built_for = f"ROCm {hip}" if hip else built_for
    try:
        device = choose_device(wanted)
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            return Torch(
                version=version,
                built_for=built_for,
                device=str(device),
                name=properties.name,
                memory_bytes=properties.total_memory,
                has_bf16=torch.cuda.is_bf16_supported(including_emulation=False),
                num_threads=num_threads,
            )
    except (ConfigError, RuntimeError, AssertionError) as error:
        problem = str(error).partition("\n")[0]
        return Torch(version=version, built_for=built_for, num_threads=num_threads, problem=problem)
    return Torch(version=version, built_for=built_for, device=device.type, num_threads=num_threads)


def _disk(folder: Path) -> Disk:
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return Disk(place=place, free_bytes=0, problem=f"{place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        return Disk(place=place, free_bytes=0, problem=f"you may not write to {place}")
    return Disk(place=place, free_bytes=shutil.disk_usage(place).free)


def _is_used(folder: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # not a Unix
        return False
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # nobody ever was
    return False


def _limit(name: str) -> tuple[int, int] | None:
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    unlimited = resource.RLIM_INFINITY  # which is -1 in places
    now, most = resource.getrlimit(getattr(resource, name))
    return (
        sys.maxsize if now == unlimited else now,
        sys.maxsize if most == unlimited else most,
    )


def _address_space_bytes() -> int | None:
    limit = _limit("RLIMIT_AS")
    return None if limit is None or limit[0] == sys.maxsize else limit[0]
