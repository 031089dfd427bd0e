"""A machine is examined by its facts: whatever is missing has a fix, and nothing is guessed."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from peer.doctor import fitness
from peer.doctor.finding import Finding
from peer.doctor.machine import Disk, Machine, Torch, this_machine
from peer.doctor.ports import Port, holder_of, ports_of

CPU = Torch(version="2.13.0", built_for="CPU", num_threads=4)
GPU = Torch(
    version="2.13.0",
    built_for="CUDA 12.8",
    device="cuda:0",
    name="H200",
    memory_bytes=140 << 30,
    has_bf16=True,
)
WELL = Machine(
    torch=CPU,
    free_memory_bytes=16 << 30,
    disk=Disk(place=Path("/home/me"), free_bytes=100 << 30),
    ports=(Port(0),),
)


def found(machine: Machine) -> dict[str, Finding]:
    return {each.subject: each for check in fitness.CHECKS for each in check(machine)}


def test_a_machine_that_is_fit_is_told_so() -> None:
    findings = found(WELL)
    assert list(findings) == ["Python", "torch", "device", "memory", "disk", "port"]
    assert {each.verdict for each in findings.values()} == {"good"}
    assert "4 threads" in findings["device"].found


@pytest.mark.parametrize(
    ("version", "verdict"),
    [((3, 10), "fatal"), ((3, 11), "good"), ((3, 13), "good"), ((3, 14), "poor")],
)
def test_an_old_python_fails_and_a_new_one_was_not_tried(
    version: tuple[int, int], verdict: str
) -> None:
    assert found(replace(WELL, python=version))["Python"].verdict == verdict


def test_a_gpu_is_named_with_its_memory_and_its_numbers() -> None:
    device = found(replace(WELL, torch=GPU))["device"]
    assert device.verdict == "good"
    assert "H200" in device.found
    assert "bf16" in device.found
    assert "150.3 GB" in device.found
    older = found(replace(WELL, torch=replace(GPU, has_bf16=False)))["device"]
    assert "no bf16" in older.found


def test_a_gpu_that_torch_was_not_built_for_is_poor_and_the_fix_installs_another() -> None:
    device = found(replace(WELL, has_nvidia=True))["device"]
    assert device.verdict == "poor"
    assert "pip install --force-reinstall torch --index-url https://" in device.fix


def test_a_gpu_that_torch_cannot_use_is_poor() -> None:
    blind = replace(CPU, built_for="CUDA 12.8")
    device = found(replace(WELL, torch=blind, has_nvidia=True))["device"]
    assert (device.verdict, device.fix) == ("poor", "nvidia-smi")


def test_a_device_that_is_not_there_fails() -> None:
    torch = replace(CPU, problem="device 'cuda' is not available here; use auto or cpu")
    device = found(replace(WELL, torch=torch))["device"]
    assert device.verdict == "fatal"
    assert "--device cpu" in device.fix


def test_without_torch_nothing_works() -> None:
    torch = found(replace(WELL, torch=None))["torch"]
    assert torch.verdict == "fatal"
    assert torch.fix.startswith("pip install")


@pytest.mark.parametrize(
    ("free", "verdict"), [(0, "unknown"), (500 << 20, "poor"), (2 << 30, "good")]
)
def test_little_memory_is_poor(free: int, verdict: str) -> None:
    assert found(replace(WELL, free_memory_bytes=free))["memory"].verdict == verdict


def test_a_limit_of_address_space_is_poor() -> None:
    limit = found(replace(WELL, memory_limit_bytes=4 << 30))["memory limit"]
    assert limit.verdict == "poor"
    assert limit.fix == "ulimit -v unlimited"


@pytest.mark.parametrize(
    ("free", "verdict"), [(0, "fatal"), (100 << 20, "poor"), (10 << 30, "good")]
)
def test_a_full_disk_fails_and_a_small_one_is_poor(free: int, verdict: str) -> None:
    disk = found(replace(WELL, disk=Disk(place=Path("/x"), free_bytes=free)))["disk"]
    assert disk.verdict == verdict
    assert ("--dir" in disk.fix) == (verdict != "good")


def test_a_place_that_is_not_ours_fails() -> None:
    machine = replace(WELL, disk=Disk(place=Path("/"), free_bytes=0, problem="you may not write"))
    assert found(machine)["disk"].verdict == "fatal"


# ---- ports


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_names_its_holder_and_other_ports(taken: int) -> None:
    ports = ports_of("127.0.0.1", taken)
    assert ports[0].problem == "taken"
    assert ports[1].number == taken + 1
    machine = replace(WELL, listen=("127.0.0.1", taken), ports=ports)
    finding = found(machine)[f"port {taken}"]
    assert finding.verdict == "fatal"
    assert f"--listen 127.0.0.1:{taken + 2}" in finding.fix
    if Path("/proc/net/tcp").exists():
        assert f"process {os.getpid()}" in finding.found
        assert str(os.getpid()) in holder_of(taken)


def test_any_port_is_always_to_be_had() -> None:
    assert ports_of("127.0.0.1", 0) == (Port(0),)


def test_an_address_of_another_machine_is_announced_not_listened_on() -> None:
    ports = ports_of("192.0.2.1", 4000)
    assert {port.problem for port in ports} == {"address"}
    machine = replace(WELL, listen=("192.0.2.1", 4000), ports=ports)
    assert found(machine)["port 4000"].fix == "--listen 0.0.0.0:4000 --announce 192.0.2.1"


def test_who_holds_a_port_is_not_guessed(tmp_path: Path) -> None:
    assert holder_of(4000, tmp_path) == ""


def test_a_machine_is_looked_at_without_a_change(tmp_path: Path) -> None:
    folder = tmp_path / "peer" / "deeper"
    machine = this_machine(folder=folder)
    assert machine.disk is not None
    assert machine.disk.place == tmp_path
    assert not folder.exists()
    assert machine.folder is None
    assert machine.torch is not None
