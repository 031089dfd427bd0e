"""What stands between this machine and its link, and how to change it.

A check is a function from a machine to its findings; `CHECKS` lists them. None of them changes
anything or needs privileges.
"""

import math
from collections.abc import Callable, Iterator

from peer.doctor.finding import Finding
from peer.doctor.machine import Machine
from peer.net.pace import Cap
from peer.net.rates import Direction, LinkRates, read_rates
from peer.units import format_bytes, format_duration, format_rate

FAST_BPS, FAR_S = 100e6, 0.2
"""The link that buffers should do for: its bytes on the way are FAST_BPS x FAR_S / 8."""

ROOMY_BYTES = 16 << 20
LEAST_FILES, ROOMY_FILES = 1024, 4096
"""Open files: up to 16 connections to a partner, others that fetch from us, and the directory."""

UNREACHED = 1.1
"""A cap that is so many times as high as what the link was seen to carry."""


def congestion_control(machine: Machine) -> Iterator[Finding]:
    """What TCP does when packets get lost."""
    subject = "congestion control"
    used, available = (
        _sysctl(machine, name)
        for name in ("tcp_congestion_control", "tcp_available_congestion_control")
    )
    if not used:
        yield _cannot_tell(subject, machine)
    elif used.startswith("bbr"):
        yield Finding(subject, "good", used)
    else:
        has_bbr = "bbr" in (available or "").split()
        yield Finding(
            subject,
            "poor",
            f"{used}; available: {available or 'unknown'}",
            "on long links that lose packets, what is sent with bbr is up to 35 times faster",
            ("" if has_bbr else "sudo modprobe tcp_bbr; ")
            + "sudo sysctl -w net.core.default_qdisc=fq net.ipv4.tcp_congestion_control=bbr",
        )


def socket_buffers(machine: Machine) -> Iterator[Finding]:
    """How much may be on the way in one connection."""
    on_the_way = int(FAST_BPS * FAR_S / 8)
    link = f"{format_rate(FAST_BPS)} over {format_duration(FAR_S)}"
    # The kernel keeps half of a receive buffer for its own bookkeeping (tcp_adv_win_scale).
    for name, subject, least_bytes in (
        ("tcp_wmem", "send buffers", on_the_way),
        ("tcp_rmem", "receive buffers", 2 * on_the_way),
    ):
        sizes = (_sysctl(machine, name) or "").split()
        if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
            yield _cannot_tell(subject, machine)
            continue
        least, usual, most_bytes = sizes[0], sizes[1], int(sizes[2])
        found = f"up to {format_bytes(most_bytes)}"
        if most_bytes >= least_bytes:
            yield Finding(subject, "good", found)
        else:
            yield Finding(
                subject,
                "poor",
                found,
                f"one connection cannot fill {link} with less than {format_bytes(least_bytes)}",
                f'sudo sysctl -w net.ipv4.{name}="{least} {usual} {ROOMY_BYTES}"',
            )


def open_files(machine: Machine) -> Iterator[Finding]:
    """How many connections and files a process may have."""
    subject = "open files"
    if machine.open_files is None:
        yield _cannot_tell(subject, machine)
        return
    now, most = machine.open_files
    if now >= LEAST_FILES:
        yield Finding(subject, "good", f"up to {now:,}")
        return
    why = "each connection is one, so in a large swarm peers would be refused"
    fix = f"ulimit -n {min(most, ROOMY_FILES)}"
    if most < LEAST_FILES:  # a shell may not raise it by itself
        fix = f"sudo prlimit --pid $$ --nofile={ROOMY_FILES}:{ROOMY_FILES}"
    yield Finding(subject, "poor", f"up to {now:,}", why, fix)


def measured_rates(machine: Machine) -> Iterator[Finding]:
    """What the link was seen to carry when a peer last ran, and whether its caps fit that."""
    if machine.folder is None:
        return
    rates = LinkRates()
    read_rates(machine.folder, rates)
    directions = (("up", rates.up, machine.up), ("down", rates.down, machine.down))
    for name, direction, cap in directions:
        subject, measured_bps = f"measured {name}", direction.measured_bps
        if measured_bps:
            yield Finding(subject, "good", format_rate(measured_bps))
            yield from _cap_that_fits(name, direction, cap)
        else:
            yield Finding(subject, "unknown", f"nothing was measured yet in {machine.folder}")


CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    congestion_control,
    socket_buffers,
    open_files,
    measured_rates,
)


def _cap_that_fits(name: str, direction: Direction, cap: Cap) -> Iterator[Finding]:
    measured_bps = direction.measured_bps
    caps_bps = (cap.usual_bps, *(hours.bps for hours in cap.hours))
    highest_bps = max(filter(math.isfinite, caps_bps), default=0.0)
    if highest_bps > UNREACHED * measured_bps:
        yield Finding(
            f"--{name}",
            "poor",
            f"{format_rate(highest_bps)}, of which {format_rate(measured_bps)} were reached",
            "a cap that the link never reaches leaves nothing to others; a fifth of it is left by",
            f"--{name} {format_rate(0.8 * measured_bps).removesuffix('bit/s').replace(' ', '')}",
        )


def _cannot_tell(subject: str, machine: Machine) -> Finding:
    if machine.system.startswith("linux"):
        return Finding(subject, "unknown", "cannot tell: this system does not show it")
    return Finding(
        subject, "unknown", f"cannot tell: only Linux shows it, this is {machine.system}"
    )


def _sysctl(machine: Machine, name: str) -> str | None:
    try:
        return (machine.sysctls / name).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
