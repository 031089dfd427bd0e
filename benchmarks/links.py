"""A small link laboratory: hosts in network namespaces, joined by links like those at home.

    python -m benchmarks.links [--up-mbps 10 --down-mbps 10 --round-trip-ms 30 --loss 0]

Run like this, it measures its own links and prints one JSON object, or says in one line why it
cannot run here. It needs Linux, root, /dev/net/tun, and the commands `ip` and `nsenter`; no kernel
module for delays, and no name in the file system.

Each host is a network namespace whose only way out is a TUN device. A thread of this process takes
the packets that leave one host, and hands each to the host that it is for when its time has come:

    host a --> queue, up rate --> loss --> delay of a, delay of b --> queue, down rate --> host b

A queue that is full drops what comes last. Rates and queues count whole IP packets. Delays may
wander (`Link.jitter_s`); packets from one host to another stay in order all the same. One thread of
Python carries 100 Mbit/s; its part of a core is in the result. A link may also fail, for a while:
`Lab.inflict` and `benchmarks.link_faults`.

Namespaces live by this process's file descriptors, so they end with it, however it ends. A process
on a host has to see to that itself; `peer.demo.cast` does it.
"""

import argparse
import contextlib
import ctypes
import fcntl
import heapq
import json
import math
import os
import platform
import random
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

from benchmarks.link_faults import LinkFault
from benchmarks.machine import facts

Result = TypeVar("Result")

NETWORK = "10.77.0"
_DEVICE = "link0"
_TUN = "/dev/net/tun"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MAX_PACKET_BYTES = 65536
_PACKETS_AT_ONCE = 64
"""Taken from one host before the others get their turn."""
_WANDER_S = 0.1
"""A delay with jitter is on its way from one random length to the next for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How a host is connected."""

    up_bps: float = 10e6
    down_bps: float = 10e6
    delay_s: float = 0.0075
    """One way from the host to the middle, and as much back: a round trip takes four of these."""
    loss_frac: float = 0.0
    """Of the packets that leave the host."""
    queue_s: float = 0.1
    """What may wait in front of either rate, in seconds at that rate."""
    jitter_s: float = 0.0
    """What the delay of packets that leave the host wanders by: it is up to so much longer."""
    congestion: str | None = None
    """TCP's congestion control of what the host sends; None for that of the laboratory. Not to be
    changed while packets travel."""


@dataclass(slots=True)
class Traffic:
    """What a host's link has carried so far, in whole IP packets."""

    sent_bytes: int = 0
    received_bytes: int = 0
    lost_packets: int = 0
    """By chance."""
    dropped_packets: int = 0
    """In front of a full queue."""


class Pipe:
    """A rate with a queue in front of it.

    Args:
        bps: Bits per second.
        queue_s: The longest wait in the queue.
    """

    def __init__(self, bps: float, queue_s: float) -> None:
        self.set(bps, queue_s)
        self._free_at_s = -math.inf

    def set(self, bps: float, queue_s: float) -> None:
        """Changes the rate and the queue; what waits already keeps its time."""
        self._bps = bps
        self._queue_s = queue_s

    def through_at_s(self, now_s: float, size_bytes: int) -> float | None:
        """Returns when a packet that comes now is through; None if the queue is full."""
        begins_s = max(self._free_at_s, now_s)
        if begins_s - now_s > self._queue_s:
            return None
        self._free_at_s = begins_s + 8 * size_bytes / self._bps
        return self._free_at_s


class Wander:
    """A number between 0 and 1 that moves on a straight line from one random place to the next.

    Args:
        seed: Of the places.
    """

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)
        self._leg = -1
        self._ends = (0.0, 0.0)

    def at(self, now_s: float) -> float:
        """Returns the place at a time, not before that of the call before."""
        way = now_s / _WANDER_S
        if self._leg < math.floor(way):
            is_next = self._leg + 1 == math.floor(way)
            begin = self._ends[1] if is_next else self._rng.random()
            self._ends = begin, self._rng.random()
            self._leg = math.floor(way)
        return self._ends[0] + (way - self._leg) * (self._ends[1] - self._ends[0])


class Carrier:
    """Decides which packet arrives where and when; knows neither a clock nor a device.

    Args:
        links: By host.
        seed: Of losses and jitter.
    """

    def __init__(self, links: Mapping[str, Link], *, seed: int = 0) -> None:
        self.traffic = {host: Traffic() for host in links}
        self._links = dict(links)
        self._up = {host: Pipe(link.up_bps, link.queue_s) for host, link in links.items()}
        self._down = {host: Pipe(link.down_bps, link.queue_s) for host, link in links.items()}
        self._rng = random.Random(seed)
        self._wander = {host: Wander(f"{seed} {host}") for host in links}
        self._last_due_s: dict[tuple[str, str], float] = {}
        self._faults: tuple[LinkFault, ...] = ()
        self._heap: list[tuple[float, int, str, bytes, bool]] = []
        self._count = 0

    def change(self, host: str, link: Link) -> None:
        """Connects a host in another way; what has left it already keeps its time."""
        self._links[host] = link
        self._up[host].set(link.up_bps, link.queue_s)
        self._down[host].set(link.down_bps, link.queue_s)

    def inflict(self, fault: LinkFault) -> None:
        """From now on packets meet this fault, after those that are there already."""
        self._faults = (*self._faults, fault)

    def lift(self, fault: LinkFault) -> None:
        """Ends a fault."""
        self._faults = tuple(other for other in self._faults if other is not fault)

    def take(self, src: str, dst: str, packet: bytes, *, now_s: float) -> None:
        """A packet leaves a host."""
        for fault in self._faults:
            changed = fault.meet(src, dst, packet)
            if changed is None:
                return
            packet = changed
        link, traffic = self._links[src], self.traffic[src]
        through_s = self._up[src].through_at_s(now_s, len(packet))
        if through_s is None:
            traffic.dropped_packets += 1
            return
        traffic.sent_bytes += len(packet)
        if link.loss_frac and self._rng.random() < link.loss_frac:
            traffic.lost_packets += 1
            return
        due_s = through_s + link.delay_s + self._links[dst].delay_s
        if link.jitter_s:
            due_s += link.jitter_s * self._wander[src].at(now_s)
        due_s = max(due_s, self._last_due_s.get((src, dst), due_s))
        self._last_due_s[src, dst] = due_s
        self._later(due_s, dst, packet)

    def arrivals(self, *, now_s: float) -> Iterator[tuple[str, bytes]]:
        """Yields the packets that are due, and their hosts, in the order of their times."""
        while self._heap and self._heap[0][0] <= now_s:
            due_s, _, dst, packet, is_through = heapq.heappop(self._heap)
            if is_through:
                self.traffic[dst].received_bytes += len(packet)
                yield dst, packet
            elif (through_s := self._down[dst].through_at_s(due_s, len(packet))) is not None:
                self._later(through_s, dst, packet, is_through=True)
            else:
                self.traffic[dst].dropped_packets += 1

    def next_s(self) -> float | None:
        """Returns when there is something to do again."""
        return self._heap[0][0] if self._heap else None

    def _later(self, due_s: float, dst: str, packet: bytes, *, is_through: bool = False) -> None:
        self._count += 1
        heapq.heappush(self._heap, (due_s, self._count, dst, packet, is_through))


@dataclass(frozen=True, slots=True)
class _Host:
    address: str
    namespace_fd: int
    tun_fd: int


class Lab:
    """Hosts and their links; a context in which packets travel.

    Args:
        links: By host, at most 254.
        congestion: TCP's congestion control on hosts whose link names none; None for this
            machine's default.
        seed: Of losses and jitter.

    Raises:
        OSError, subprocess.CalledProcessError: on entry, if this machine cannot do it; see
            `why_not`.
    """

    def __init__(
        self, links: Mapping[str, Link], *, congestion: str | None = None, seed: int = 0
    ) -> None:
        self._links = dict(links)
        self._congestion = congestion
        self._carrier = Carrier(links, seed=seed)
        self._hosts: dict[str, _Host] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack:  # what was opened is closed if anything goes wrong
            for number, name in enumerate(self._links, start=1):
                congestion = self._links[name].congestion or self._congestion
                self._hosts[name] = self._open(f"{NETWORK}.{number}", congestion)
            wake_fd, end_fd = os.pipe()
            self._stack.callback(os.close, wake_fd)
            thread = threading.Thread(target=self._carry, args=(wake_fd,), daemon=True)
            thread.start()
            self._stack.callback(thread.join)
            self._stack.callback(os.close, end_fd)  # which wakes the thread
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def address(self, name: str) -> str:
        """Returns the IP address of a host."""
        return self._hosts[name].address

    def change(self, name: str, link: Link) -> None:
        """Connects a host in another way from now on, but for the congestion control."""
        self._carrier.change(name, link)

    def inflict(self, fault: LinkFault) -> None:
        """From now on packets that leave their host meet this fault."""
        self._carrier.inflict(fault)

    def lift(self, fault: LinkFault) -> None:
        """Ends a fault; what has met it already stays as it is."""
        self._carrier.lift(fault)

    def traffic(self, name: str) -> Traffic:
        """Returns what a host's link has carried so far."""
        return replace(self._carrier.traffic[name])

    def command(self, name: str, *command: str) -> list[str]:
        """Returns the command line that becomes `command` on a host, with the same process id."""
        path = f"/proc/{os.getpid()}/fd/{self._hosts[name].namespace_fd}"
        return [shutil.which("nsenter") or "nsenter", f"--net={path}", "--", *command]

    def on(self, name: str, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns on a thread of ours on a host.

        Sockets that it opens are on that host wherever they are used later.
        """
        namespace_fd = self._hosts[name].namespace_fd

        def there() -> Result:
            _call("setns", namespace_fd, _CLONE_NEWNET)
            return work()

        return _on_new_thread(there)

    def _open(self, address: str, congestion: str | None) -> _Host:
        namespace_fd = _on_new_thread(_new_namespace)
        self._stack.callback(os.close, namespace_fd)
        control = ("congctl", congestion) if congestion else ()

        def connect() -> int:
            _call("setns", namespace_fd, _CLONE_NEWNET)
            tun_fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
            self._stack.callback(os.close, tun_fd)
            request = struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(tun_fd, _TUNSETIFF, request)
            _ip("link", "set", "lo", "up")
            _ip("address", "add", f"{address}/32", "dev", _DEVICE)
            _ip("link", "set", _DEVICE, "up")
            route = (f"{NETWORK}.0/24", "dev", _DEVICE, "src", address)
            _ip("route", "add", *route, *control)
            return tun_fd

        return _Host(address, namespace_fd, _on_new_thread(connect))

    def _carry(self, wake_fd: int) -> None:
        with contextlib.suppress(PermissionError):  # cables wait for nobody's processor
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        carrier, clock = self._carrier, time.monotonic
        name_of = {host.tun_fd: name for name, host in self._hosts.items()}
        fd_of = {name: host.tun_fd for name, host in self._hosts.items()}
        host_at = {socket.inet_aton(host.address): name for name, host in self._hosts.items()}
        while True:
            next_s = carrier.next_s()
            wait_s = None if next_s is None else max(0.0, next_s - clock())
            readable, _, _ = select.select([*name_of, wake_fd], (), (), wait_s)
            if wake_fd in readable:
                return
            for fd in readable:
                for packet in _packets(fd):
                    dst = host_at.get(packet[16:20])
                    if packet[0] >> 4 == 4 and dst is not None:
                        carrier.take(name_of[fd], dst, packet, now_s=clock())
            for dst, packet in carrier.arrivals(now_s=clock()):
                with contextlib.suppress(BlockingIOError):  # as a network card would
                    os.write(fd_of[dst], packet)


def why_not(congestion: str | None = None) -> str | None:
    """Returns why there can be no laboratory on this machine, or None if there can.

    Args:
        congestion: TCP's congestion control that its hosts must have; None for any.
    """
    if platform.system() != "Linux":
        return f"link laboratories need Linux, not {platform.system()}"
    if os.geteuid() != 0:
        return "link laboratories need root, for network namespaces; nothing outside them changes"
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            return f"link laboratories need the command `{tool}`, of the package {package}"
    try:
        with Lab({"trial": Link()}):
            pass
    except OSError as error:
        return f"no network namespaces or no {_TUN} here: {error}"
    except subprocess.CalledProcessError as error:
        return f"`{' '.join(error.cmd)}` failed here: {error.stderr.decode().strip()}"
    try:
        with Lab({"trial": Link()}, congestion=congestion):
            return None
    except subprocess.CalledProcessError:
        return f"this kernel has no congestion control {congestion!r}; `modprobe tcp_{congestion}`?"


def _new_namespace() -> int:
    _call("unshare", _CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _on_new_thread(work: Callable[[], Result]) -> Result:
    """Namespaces are entered by threads, and this one ends with it; children start where it is."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc[name](*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _packets(fd: int) -> Iterator[bytes]:
    for _ in range(_PACKETS_AT_ONCE):
        try:
            yield os.read(fd, _MAX_PACKET_BYTES)
        except BlockingIOError:
            return


# ---- measuring the links themselves


def goodput_bps(lab: Lab, src: str, dst: str, num_bytes: int) -> float:
    """Returns the rate at which one TCP connection carries so many bytes, its start included."""
    server = lab.on(dst, lambda: socket.create_server((lab.address(dst), 0)))
    with server, ThreadPoolExecutor(1) as sender:
        address = server.getsockname()
        began_s = time.monotonic()
        client = lab.on(src, lambda: socket.create_connection(address))
        connection, _ = server.accept()

        def send() -> None:
            with client:
                client.sendall(bytes(num_bytes))

        sending, received = sender.submit(send), 0
        with connection:
            while chunk := connection.recv(1 << 16):
                received += len(chunk)
        sending.result()
    return 8 * received / (time.monotonic() - began_s)


def echoes_s(
    lab: Lab, src: str, dst: str, num_packets: int, *, patience_s: float = 0.5
) -> list[float]:
    """Returns the round trips of small packets sent one after the other; those lost are missing."""
    kinds = (socket.AF_INET, socket.SOCK_DGRAM)
    with (
        lab.on(src, lambda: socket.socket(*kinds)) as near,
        lab.on(dst, lambda: socket.socket(*kinds)) as far,
    ):
        far.bind((lab.address(dst), 0))
        round_trips_s: list[float] = []
        for number in range(num_packets):
            question, began_s = number.to_bytes(8, "big"), time.monotonic()
            near.sendto(question, far.getsockname())
            for asked, answers in ((far, True), (near, False)):
                asked.settimeout(patience_s)
                try:
                    data, sender = asked.recvfrom(8)
                except TimeoutError:
                    break
                if answers:
                    asked.sendto(data, sender)
                else:
                    round_trips_s.append(time.monotonic() - began_s)
    return round_trips_s


def main() -> None:
    """Measures the links of two hosts, and prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links")
    parser.add_argument("--up-mbps", type=float, default=10.0)
    parser.add_argument("--down-mbps", type=float, default=10.0)
    parser.add_argument("--round-trip-ms", type=float, default=30.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="one way")
    parser.add_argument("--loss", type=float, default=0.0, help="part of the packets")
    parser.add_argument("--congestion", help="TCP's congestion control; default as everywhere here")
    parser.add_argument("--mib", type=float, default=4.0, help="to send over one TCP connection")
    options = parser.parse_args()
    if reason := why_not(options.congestion):
        sys.exit(reason)
    link = Link(
        up_bps=options.up_mbps * 1e6,
        down_bps=options.down_mbps * 1e6,
        delay_s=options.round_trip_ms / 4e3,
        loss_frac=options.loss,
        jitter_s=options.jitter_ms / 1e3,
    )
    machine = facts()
    with Lab({"a": link, "b": link}, congestion=options.congestion) as lab:
        echoed_s = echoes_s(lab, "a", "b", 100)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        bps = goodput_bps(lab, "a", "b", round(options.mib * (1 << 20)))
        cpu_frac = (time.process_time() - began_cpu_s) / (time.monotonic() - began_s)
        result: dict[str, Any] = {
            "benchmark": "links",
            "machine": machine,
            "link": asdict(link),
            "congestion": options.congestion,
            "round_trip_s": round(statistics.median(echoed_s), 5) if echoed_s else None,
            "echoes_lost": 100 - len(echoed_s),
            "goodput_mbps": round(bps / 1e6, 2),
            "cpu_frac": round(cpu_frac, 2),
            "traffic": {name: asdict(lab.traffic(name)) for name in ("a", "b")},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
