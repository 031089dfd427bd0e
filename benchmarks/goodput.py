"""How much of a link does one blob get, beside bare TCP on the same link?

    python -m benchmarks.goodput [--mib 64 --mbps 100 --round-trip-ms 100 --loss 0 .001 .01]

One host of `benchmarks.links` fetches a blob from another, with the product's wire (mutual TLS,
gRPC) and over bare TCP connections in turn, which is the ceiling: they send without an end, and
whoever is faster carries more. Goodput is the blob's bits over the seconds, as a part of the link's
rate; with headers, IP leaves room for 96.5 %. `cold` begins with dialling, `warm` is the last of
`--warm` transfers after it over the same connections. What takes longer than `--at-most-s` counts
as far as it came. Prints a table and one JSON object; needs what `benchmarks.links` needs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import uvloop

from benchmarks.links import Lab, Link, why_not
from benchmarks.machine import cpu_s_of, facts
from peer.net.config import WireConfig
from peer.net.wire import GrpcWire
from peer.ports import Source
from protocol.errors import TransportError
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note

RUN_ID = RunId("ab" * 32)
REF = BlobRef("state")
GRAIN_BYTES = 256 * 1024
PROGRESS_S = 30.0
GIVER, TAKER = Identity(b"g" * 32), Identity(b"t" * 32)
REST_S = 0.5
"""So long after a transfer is what it left on the link gone."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the taker is told to do."""

    connections: int
    """Over bare TCP; 0 for the wire, which decides itself."""
    size_bytes: int
    at_most_s: float
    warm: int
    """Transfers after the first."""


# ---- the end that gives


class Shelf:
    """Serves a blob of any size to everybody; implements `peer.ports.Inbox`."""

    def __init__(self, size_bytes: int) -> None:
        self._blob = Noise(size_bytes)

    def on_note(self, src: PeerId, note: Note) -> None:
        """Nobody sends any."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns the blob."""
        return self._blob


class Noise:
    """What cannot be compressed; implements `peer.ports.Source`."""

    round = 0
    grain_bytes = GRAIN_BYTES

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._grain = os.urandom(GRAIN_BYTES)

    async def read(self, start: int, stop: int) -> bytes:
        """Returns some bytes."""
        return self._grain[: stop - start]


async def give(host: str, size_bytes: int) -> None:
    """Serves both ways until standard input ends."""
    wire = await GrpcWire.start(
        GIVER,
        WireConfig(run_id=RUN_ID, listen_host=host, progress_s=PROGRESS_S),
        inbox=Shelf(size_bytes),
        addresses=lambda _: [],
    )
    server = await asyncio.start_server(_pour, host, 0)
    say({"wire": wire.listen_port, "tcp": server.sockets[0].getsockname()[1]})
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    await wire.close()


async def _pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    block = bytes(1 << 20)
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(block)
            await writer.drain()


# ---- the end that takes


class Bin:
    """Counts what comes, and keeps nothing; implements `peer.ports.Sink`."""

    grain_bytes = GRAIN_BYTES
    is_divisible = True

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.received_bytes = 0

    def missing(self) -> list[tuple[int, int]]:
        """Returns everything."""
        return [(0, self.size_bytes)]

    def begin(self, round: int) -> None:
        """It begins."""

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes some bytes."""
        self.received_bytes += len(data)


class Drain(asyncio.BufferedProtocol):
    """One bare connection; all share an account.

    Args:
        account: Counts what comes, and says when it is enough.
    """

    def __init__(self, account: "Account") -> None:
        self._account = account
        self._buffer = bytearray(1 << 18)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sees to it that the giver stops at once when we do."""
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def get_buffer(self, sizehint: int) -> bytearray:
        """Returns where to put it."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Counts."""
        self._account.add(nbytes)


class Account:
    """Bytes so far, and how many are wanted."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self._wanted_bytes = 0
        self._enough = asyncio.Event()

    def add(self, num_bytes: int) -> None:
        """So many came."""
        self.received_bytes += num_bytes
        if self.received_bytes >= self._wanted_bytes:
            self._enough.set()

    async def get(self, num_bytes: int) -> None:
        """Waits until so many more have come."""
        self._wanted_bytes = self.received_bytes + num_bytes
        self._enough.clear()
        await self._enough.wait()


async def take(host: str, ports: dict[str, int]) -> None:
    """Answers each request on standard input with the rates of two transfers, cold and warm."""
    wire = await GrpcWire.start(
        TAKER,
        WireConfig(run_id=RUN_ID, progress_s=PROGRESS_S),
        inbox=Shelf(0),
        addresses=lambda _: [f"{host}:{ports['wire']}"],
    )
    say({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = Request(**json.loads(line))
        if request.connections:
            say(await _take_bare(request, host, ports["tcp"]))
        else:
            say(await _take_wire(request, wire))
    await wire.close()


async def _take_wire(request: Request, wire: GrpcWire) -> list[float]:
    await wire.forget(GIVER.peer_id)
    rates_bps = []
    for _ in range(1 + request.warm):
        account, began_s = Bin(request.size_bytes), time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.at_most_s):
                await wire.fetch(GIVER.peer_id, REF, account)
        rates_bps.append(8 * account.received_bytes / (time.monotonic() - began_s))
    return rates_bps


async def _take_bare(request: Request, host: str, port: int) -> list[float]:
    loop, account, rates_bps = asyncio.get_running_loop(), Account(), []
    transports: list[asyncio.BaseTransport] = []

    async def dial() -> None:
        transport, _ = await loop.create_connection(lambda: Drain(account), host, port)
        transports.append(transport)

    began_s, began_bytes = time.monotonic(), 0
    dialling = [loop.create_task(dial()) for _ in range(request.connections)]
    for _ in range(1 + request.warm):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.at_most_s):
                await account.get(request.size_bytes)
        now_s, now_bytes = time.monotonic(), account.received_bytes
        rates_bps.append(8 * (now_bytes - began_bytes) / (now_s - began_s))
        began_s, began_bytes = now_s, now_bytes
    await asyncio.gather(*dialling)
    for transport in transports:
        transport.close()
    return rates_bps


# ---- the measurement


class Ends:
    """The two processes, on two hosts of a laboratory; a context in which they answer."""

    def __init__(self, lab: Lab, size_bytes: int) -> None:
        self._lab = lab
        self._size_bytes = size_bytes
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        giver_host = self._lab.address("giver")
        with self._stack:
            self._giver = self._start("giver", giver_host, str(self._size_bytes))
            ports = self._giver.readline()
            self._taker = self._start("taker", giver_host, ports.strip())
            self._taker.readline()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, request: Request) -> dict[str, float]:
        """Returns the rates of one request, in bit/s, and what it cost beside."""
        before_cpu_s, before = self._cpu_s(), self._lab.traffic("giver")
        self._taker.tell(asdict(request))
        rates_bps: list[float] = json.loads(self._taker.readline())
        time.sleep(REST_S)
        after = self._lab.traffic("giver")
        sent_bytes = after.sent_bytes - before.sent_bytes
        return {
            "cold": rates_bps[0],
            "warm": rates_bps[-1],
            "cpu_s": self._cpu_s() - before_cpu_s,
            "sent_bytes": sent_bytes,
            "lost_packets": after.lost_packets - before.lost_packets,
            "dropped_packets": after.dropped_packets - before.dropped_packets,
        }

    def _cpu_s(self) -> float:
        return cpu_s_of(self._giver.pid) + cpu_s_of(self._taker.pid)

    def _start(self, name: str, *arguments: str) -> "End":
        command = [sys.executable, "-m", "benchmarks.goodput", f"--{name}", *arguments]
        return self._stack.enter_context(_process(self._lab.command(name, *command)))


class End:
    """One of the two processes; it speaks in lines of JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def tell(self, message: Any) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def readline(self) -> str:
        """Returns the next line."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise TransportError(f"an end of the link ended with {self._process.wait()}")


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[End]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield End(process)
        finally:
            process.terminate()


def measure(
    link: Link, congestion: str, connections: list[int], request: Request, repeats: int
) -> list[dict[str, Any]]:
    """Returns a row for the wire and one for each number of bare connections, all interleaved."""
    asked: dict[int, list[dict[str, float]]] = {number: [] for number in (0, *connections)}
    with (
        Lab({"giver": link, "taker": link}, congestion=congestion) as lab,
        Ends(lab, request.size_bytes) as ends,
    ):
        for _ in range(repeats):
            for number, answers in asked.items():
                answers.append(ends.ask(replace(request, connections=number)))
    return [
        {
            "over": "wire" if number == 0 else f"tcp x{number}",
            "congestion": congestion,
            "loss": link.loss_frac,
            "cold_frac": _median([answer["cold"] / link.up_bps for answer in answers]),
            "warm_frac": _median([answer["warm"] / link.up_bps for answer in answers]),
            "warm_fracs": [round(answer["warm"] / link.up_bps, 3) for answer in answers],
            "cpu_s_per_gib": _median([_cpu_s_per_gib(answer) for answer in answers], 1),
            "lost_packets": sum(int(answer["lost_packets"]) for answer in answers),
            "dropped_packets": sum(int(answer["dropped_packets"]) for answer in answers),
        }
        for number, answers in asked.items()
    ]


def _cpu_s_per_gib(answer: dict[str, float]) -> float:
    return answer["cpu_s"] * (1 << 30) / max(1, answer["sent_bytes"])


def _median(values: list[float], digits: int = 3) -> float:
    return round(statistics.median(values), digits)


def say(message: Any) -> None:
    """Answers with a line."""
    print(json.dumps(message), flush=True)


def main() -> None:
    """Measures, or is one of the two ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goodput")
    parser.add_argument("--mib", type=float, default=64)
    parser.add_argument("--mbps", type=float, default=100)
    parser.add_argument("--round-trip-ms", type=float, default=100)
    parser.add_argument("--jitter-ms", type=float, default=0)
    parser.add_argument("--loss", type=float, nargs="+", default=[0, 0.001, 0.01])
    parser.add_argument("--congestion", nargs="+", default=["cubic", "bbr"])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--at-most-s", type=float, default=20)
    parser.add_argument("--giver", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--taker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.giver:
        uvloop.run(give(options.giver[0], int(options.giver[1])))
        return
    if options.taker:
        uvloop.run(take(options.taker[0], json.loads(options.taker[1])))
        return
    for congestion in options.congestion:
        if reason := why_not(congestion):
            sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    machine, rows = facts(), []
    request = Request(0, round(options.mib * (1 << 20)), options.at_most_s, options.warm)
    for congestion in options.congestion:
        for loss_frac in options.loss:
            link = Link(
                up_bps=options.mbps * 1e6,
                down_bps=options.mbps * 1e6,
                delay_s=options.round_trip_ms / 4e3,
                jitter_s=options.jitter_ms / 1e3,
                loss_frac=loss_frac,
            )
            for row in measure(link, congestion, options.connections, request, options.repeats):
                rows.append(row)
                words = "{congestion:6} loss {loss:<6} {over:7} cold {cold_frac:6.1%}"
                words += " warm {warm_frac:6.1%} {cpu_s_per_gib:5} CPU s/GiB"
                print(words.format(**row), file=sys.stderr, flush=True)
    settings = {
        name: value for name, value in vars(options).items() if name[1:] not in ("iver", "aker")
    }
    print(
        json.dumps({"benchmark": "goodput", "machine": machine, "options": settings, "rows": rows})
    )


if __name__ == "__main__":
    main()
