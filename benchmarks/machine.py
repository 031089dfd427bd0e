"""What a result needs to be judged: the machine, the versions, the date, and who used the cores."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "grpcio", "uvloop", "cryptography")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def facts() -> dict[str, Any]:
    """Returns hardware, load, versions and date, to be taken before a measurement."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def cpu_s_of(pid: int) -> float:
    """Returns the CPU time of a process and all its threads so far, in ticks of 10 ms as a rule."""
    # The name, in brackets, may contain blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime, stime


def busy_cpu_s() -> float:
    """Returns the CPU time that all processes together have used on all cores so far."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().split("\n"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
