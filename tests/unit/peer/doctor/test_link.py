"""The doctor finds what is poor, says the command that changes it, and never guesses."""

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from peer.doctor.finding import Finding
from peer.doctor.link import CHECKS
from peer.doctor.machine import Machine, this_machine
from peer.net.pace import Cap, parse_cap
from peer.net.rates import BUFFERED_BYTES, LinkRates, write_rates
from protocol.identity import PeerId

HEALTHY = {
    "tcp_congestion_control": "bbr\n",
    "tcp_available_congestion_control": "reno cubic bbr\n",
    "tcp_wmem": "4096\t16384\t4194304\n",
    "tcp_rmem": "4096\t131072\t6291456\n",
}
"""As Linux is by default, but for bbr."""


def examine(machine: Machine) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(machine)]


@pytest.fixture
def healthy(tmp_path: Path) -> Machine:
    sysctls = tmp_path / "sysctls"
    sysctls.mkdir()
    for name, text in HEALTHY.items():
        (sysctls / name).write_text(text)
    return Machine(system="linux", sysctls=sysctls, open_files=(1024, 1024))


def changed(machine: Machine, **sysctls: str) -> Machine:
    for name, text in sysctls.items():
        (machine.sysctls / name).write_text(text)
    return machine


def poor(machine: Machine) -> Finding:
    """Returns the one finding that is poor."""
    (finding,) = (finding for finding in examine(machine) if finding.verdict == "poor")
    assert finding.why
    assert finding.fix
    return finding


def test_a_healthy_machine_is_told_so(healthy: Machine) -> None:
    findings = examine(healthy)
    assert {finding.verdict for finding in findings} == {"good"}
    assert not any(finding.fix for finding in findings)
    assert [finding.subject for finding in findings] == [
        "congestion control",
        "send buffers",
        "receive buffers",
        "open files",
    ]


# ---- congestion control


def test_another_congestion_control_is_poor_and_the_fix_is_one_command(healthy: Machine) -> None:
    machine = changed(healthy, tcp_congestion_control="cubic\n")
    finding = poor(machine)
    assert "cubic" in finding.found
    assert shlex.split(finding.fix) == [
        *("sudo", "sysctl", "-w"),
        *("net.core.default_qdisc=fq", "net.ipv4.tcp_congestion_control=bbr"),
    ]


def test_where_bbr_is_not_there_its_module_is_loaded_first(healthy: Machine) -> None:
    machine = changed(
        healthy,
        tcp_congestion_control="cubic",
        tcp_available_congestion_control="reno cubic notbbr",
    )
    assert poor(machine).fix.startswith("sudo modprobe tcp_bbr; sudo sysctl -w")


@pytest.mark.parametrize("used", ["bbr", "bbr2", "bbr3"])
def test_every_bbr_is_good(used: str, healthy: Machine) -> None:
    findings = examine(changed(healthy, tcp_congestion_control=used))
    assert {finding.verdict for finding in findings} == {"good"}


# ---- buffers and files


@pytest.mark.parametrize(
    ("name", "enough_bytes"), [("tcp_wmem", 2_500_000), ("tcp_rmem", 5_000_000)]
)
def test_buffers_must_hold_what_is_on_the_way(
    name: str, enough_bytes: int, healthy: Machine
) -> None:
    enough = changed(healthy, **{name: f"4096 20000 {enough_bytes}"})
    assert {finding.verdict for finding in examine(enough)} == {"good"}
    finding = poor(changed(healthy, **{name: f"4096 20000 {enough_bytes - 1}"}))
    *_, assignment = shlex.split(finding.fix)
    setting, _, sizes = assignment.partition("=")
    assert setting == f"net.ipv4.{name}"
    assert sizes.split()[:2] == ["4096", "20000"]
    # what the fix sets is good
    assert {each.verdict for each in examine(changed(healthy, **{name: sizes}))} == {"good"}


@pytest.mark.parametrize(
    ("limits", "fix"),
    [
        ((256, 1 << 20), "ulimit -n 4096"),
        ((256, 2000), "ulimit -n 2000"),
        ((256, 512), "sudo prlimit --pid $$ --nofile=4096:4096"),
    ],
)
def test_few_open_files_are_poor_and_the_fix_is_what_the_shell_may_do(
    limits: tuple[int, int], fix: str, healthy: Machine
) -> None:
    assert poor(replace(healthy, open_files=limits)).fix == fix


# ---- what cannot be told


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_cannot_tell_and_that_is_no_fault(system: str, tmp_path: Path) -> None:
    findings = examine(Machine(system=system, sysctls=tmp_path / "none"))
    assert {finding.verdict for finding in findings} == {"unknown"}
    assert all(f"only Linux shows it, this is {system}" in each.found for each in findings)


@pytest.mark.parametrize("text", ["", "what", "4096 16384", "a b c", "1 2 3 4", "1 2 -3"])
def test_what_cannot_be_read_is_not_guessed(text: str, healthy: Machine) -> None:
    findings = examine(changed(healthy, tcp_rmem=text))
    (unknown,) = (finding for finding in findings if finding.verdict == "unknown")
    assert unknown.subject == "receive buffers"
    assert "cannot tell" in unknown.found


def test_this_machine_is_examined_without_a_crash() -> None:
    findings = examine(this_machine(folder=None))
    assert len(findings) >= len(CHECKS) - 1


# ---- rates and caps


@pytest.fixture
def measured(healthy: Machine, tmp_path: Path) -> Machine:
    """A peer's folder that remembers 10 Mbit/s up and 50 Mbit/s down."""
    rates = LinkRates()
    for direction, bps, buffered in ((rates.up, 10e6, BUFFERED_BYTES), (rates.down, 50e6, 0)):
        direction.began(PeerId("A"), 0.0)
        direction.on_bytes(PeerId("A"), int(bps / 8 * 2) + buffered, 2.0)
    write_rates(tmp_path, rates)
    return replace(healthy, folder=tmp_path)


def test_what_the_link_was_seen_to_carry_is_told(measured: Machine) -> None:
    found = {finding.subject: finding for finding in examine(measured)}
    assert found["measured up"].found == "10 Mbit/s"
    assert found["measured down"].found == "50 Mbit/s"
    assert {finding.verdict for finding in found.values()} == {"good"}


def test_a_folder_without_rates_is_no_fault(healthy: Machine, tmp_path: Path) -> None:
    findings = examine(replace(healthy, folder=tmp_path))[-2:]
    assert [finding.verdict for finding in findings] == ["unknown", "unknown"]
    assert all("nothing was measured yet" in finding.found for finding in findings)


@pytest.mark.parametrize("text", ["5M", "10M", "off", "off,08:00-18:00=5M"])
def test_a_cap_that_can_be_reached_fits(text: str, measured: Machine) -> None:
    findings = examine(replace(measured, up=parse_cap(text)))
    assert {finding.verdict for finding in findings} == {"good"}


@pytest.mark.parametrize("text", ["20M", "5M,08:00-18:00=20M", "off,08:00-18:00=20M"])
def test_a_cap_that_the_link_never_reaches_is_poor_and_the_fix_is_a_cap_that_fits(
    text: str, measured: Machine
) -> None:
    finding = poor(replace(measured, up=parse_cap(text)))
    assert "20 Mbit/s" in finding.found
    assert "10 Mbit/s" in finding.found
    option, cap = shlex.split(finding.fix)
    assert option == "--up"
    assert parse_cap(cap) == Cap(pytest.approx(8e6))
    assert math.isinf(measured.down.bps(0))
