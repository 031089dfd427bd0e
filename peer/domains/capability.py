"""What this machine can do: memory for a trainer, and speed."""

import os
import time
from pathlib import Path

import torch

SIZE = 512
MEASURED_S = 0.15
PROCESS_BYTES = 700_000_000
"""What torch and the process itself take, twice."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def free_memory_bytes() -> int:
    """Returns the memory that is free for a trainer; 0 if nobody knows."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return min(int(rest.split()[0]) * 1024, _limit_bytes())
    except OSError:
        pass  # not Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _limit_bytes() -> int:
    try:
        return int(_CGROUP.read_text())
    except (OSError, ValueError):  # none, or "max"
        return 1 << 62


def flops_per_s(device: torch.device) -> int:
    """Returns what the device was seen to do in products of fp32 matrices, in an instant.

    Of a machine that is busy this is a guess; it decides no more than who goes where.
    """
    matrix = torch.randn(SIZE, SIZE, device=device)
    _settle(matrix @ matrix)
    began_s, count = time.perf_counter(), 0
    while time.perf_counter() - began_s < MEASURED_S:
        _settle(matrix @ matrix)
        count += 1
    return int(2 * SIZE**3 * count / (time.perf_counter() - began_s))


def _settle(product: torch.Tensor) -> None:
    product[0, 0].item()  # waits for the device
