"""What a machine is fit for, whatever the run: Python, torch, memory, disk, and ports."""

from collections.abc import Callable, Iterator

from peer.doctor.finding import Finding, Verdict
from peer.doctor.machine import Machine
from peer.doctor.ports import Port
from peer.units import format_bytes

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
LEAST_MEMORY_BYTES = 1 << 30
"""A trainer and a wire process of the smallest model take about 0.7 GB."""
LEAST_DISK_BYTES, LITTLE_DISK_BYTES = 1 << 20, 1 << 30
OTHER_DISK = "delete files, or choose another disk: --dir DIR"
CUDA_INDEX = "https://download.pytorch.org/whl/cu126"


def python(machine: Machine) -> Iterator[Finding]:
    """Whether this Python is one that thinwire is made for."""
    found = ".".join(map(str, machine.python))
    if OLDEST_PYTHON <= machine.python <= NEWEST_PYTHON:
        yield Finding("Python", "good", found)
        return
    oldest, newest = (".".join(map(str, v)) for v in (OLDEST_PYTHON, NEWEST_PYTHON))
    why = f"thinwire is for Python {oldest} to {newest}"
    verdict: Verdict = "poor" if machine.python > NEWEST_PYTHON else "fatal"
    fix = f"python{newest} -m venv thinwire && thinwire/bin/pip install thinwire"
    yield Finding("Python", verdict, found, why, fix)


def device(machine: Machine) -> Iterator[Finding]:
    """What there is to train on."""
    torch = machine.torch
    if torch is None:
        why = "nothing can be trained without torch"
        yield Finding("torch", "fatal", "it cannot be imported", why, "pip install 'torch>=2.7'")
        return
    yield Finding("torch", "good", f"{torch.version}, built for {torch.built_for}")
    if torch.problem:
        fix = "leave --device out, or: --device cpu"
        yield Finding("device", "fatal", torch.problem, "the device is not there", fix)
    elif torch.device.startswith("cuda"):
        numbers = "bf16" if torch.has_bf16 else "fp32, since it has no bf16"
        found = f"{torch.device}, {torch.name}, {format_bytes(torch.memory_bytes)}, {numbers}"
        yield Finding("device", "good", found)
    elif machine.has_nvidia and torch.built_for == "CPU":
        why = "there is an NVIDIA GPU, but this torch was built without CUDA"
        fix = f"pip install --force-reinstall torch --index-url {CUDA_INDEX}"
        yield Finding("device", "poor", _on_cpu(machine), why, fix)
    elif machine.has_nvidia and torch.device == "cpu":
        why = "there is an NVIDIA GPU that torch cannot use: its driver may be too old, or in use"
        yield Finding("device", "poor", _on_cpu(machine), why, "nvidia-smi")
    elif torch.device == "mps":
        yield Finding("device", "good", "mps (Apple GPU), fp32")
    else:
        yield Finding("device", "good", _on_cpu(machine))


def memory(machine: Machine) -> Iterator[Finding]:
    """Whether a trainer of any model could start."""
    free, limit = machine.free_memory_bytes, machine.memory_limit_bytes
    least = format_bytes(LEAST_MEMORY_BYTES)
    if limit is not None:
        found = f"a process may have {format_bytes(limit)} (ulimit -v)"
        why = "torch reserves many times what it uses, so such a limit ends it at any moment"
        yield Finding("memory limit", "poor", found, why, "ulimit -v unlimited")
    if not free:
        yield Finding("memory", "unknown", "cannot tell: this system does not show it")
    elif free < LEAST_MEMORY_BYTES:
        why = f"the smallest model takes about {least}, in two processes"
        yield Finding("memory", "poor", f"{format_bytes(free)} free", why, "end other programs")
    else:
        yield Finding("memory", "good", f"{format_bytes(free)} free")


def disk(machine: Machine) -> Iterator[Finding]:
    """Whether a peer could write its folder."""
    if machine.disk is None:
        return
    place, free = machine.disk.place, machine.disk.free_bytes
    if machine.disk.problem:
        why = "a peer keeps its identity, its log and its checkpoints in a folder"
        yield Finding("disk", "fatal", machine.disk.problem, why, "choose another one: --dir DIR")
        return
    found = f"{format_bytes(free)} free at {place}"
    if free < LEAST_DISK_BYTES:
        why = "not even a peer's identity can be written"
        yield Finding(
            "disk", "fatal", found, why, "delete files, or choose another disk: --dir DIR"
        )
    elif free < LITTLE_DISK_BYTES:
        why = "when a disk is full, a peer trains on, but cannot keep checkpoints"
        yield Finding("disk", "poor", found, why, OTHER_DISK)
    else:
        yield Finding("disk", "good", found)


def ports(machine: Machine) -> Iterator[Finding]:
    """Whether a peer could listen where it is told to."""
    host = machine.listen[0]
    for port in machine.ports:
        subject = f"port {port.number}" if port.number else "port"
        if not port.problem:
            where = f"any free one on {host}" if not port.number else f"free on {host}"
            yield Finding(subject, "good", where)
        else:
            yield _unusable(subject, host, machine.listen[1], port)


CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (python, device, memory, disk, ports)


def _on_cpu(machine: Machine) -> str:
    threads = machine.torch.num_threads if machine.torch else 1
    return f"cpu, {threads} thread{'' if threads == 1 else 's'}, fp32"


def _unusable(subject: str, host: str, asked: int, port: Port) -> Finding:
    if port.problem == "taken":
        found = f"taken by {port.holder}" if port.holder else "taken by another process"
        why = f"somebody else listens on {host}:{port.number}"
        other = asked + 2 if asked + 3 < 65536 else asked - 2
        which = f"end that process, or take other ports: --listen {host}:{other}"
    elif port.problem == "address":
        found, why = f"{host} is no address of this machine", "nothing can listen there"
        which = f"--listen 0.0.0.0:{asked or 4000} --announce {host}"
    elif port.problem == "privilege":
        found, why = "only root may listen there", "ports below 1024 are for the system"
        which = f"--listen {host}:4000"
    else:
        found, why = port.problem, "nothing can listen there"
        which = f"--listen {host}:{asked + 2 if asked else 4000}"
    return Finding(subject, "fatal", found, why, which)
