"""How fast does one blob travel over the wire, and how large may it be?

    python -m benchmarks.wire --mib 256 --repeats 5
    python -m benchmarks.wire --mib 2049 --repeats 1     # a model of 2 GiB and more passes

Two ends in one process on loopback, with mutual TLS as always, beside a bare TCP transfer of
the same bytes in the same run, one after the other. Ends with one JSON object.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time

import numpy as np
import uvloop

from benchmarks.machine import facts
from peer.net.config import WireConfig
from peer.net.wire import GrpcWire
from peer.ports import Source
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note

RUN_ID = RunId("ab" * 32)
REF = BlobRef("state")
MIB = 1 << 20
GRAIN_BYTES = 256 * 1024


class Shelf:
    """Serves one blob to everybody; implements `peer.ports.Inbox` and `Source`."""

    round = 0
    grain_bytes = GRAIN_BYTES

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.size_bytes = len(data)

    def on_note(self, src: PeerId, note: Note) -> None:
        """Nobody sends any."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns the blob."""
        return self

    async def read(self, start: int, stop: int) -> bytes:
        """Returns bytes of it."""
        return bytes(self._data[start:stop])


class Tray:
    """Takes a blob in, and keeps its last grain; implements `peer.ports.Sink`."""

    grain_bytes = GRAIN_BYTES

    is_divisible = True

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.received_bytes = 0
        self.last = b""

    def missing(self) -> list[tuple[int, int]]:
        """Returns all of it."""
        return [(0, self.size_bytes)]

    def begin(self, round: int) -> None:
        """Does nothing."""

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Counts a grain."""
        self.received_bytes += len(data)
        if start + len(data) == self.size_bytes:
            self.last = bytes(data)


async def wire_s(
    data: memoryview, repeats: int, most_connections: int
) -> list[tuple[float, float]]:
    """Returns seconds and CPU seconds of each transfer over the wire."""
    config = WireConfig(run_id=RUN_ID, most_connections=most_connections)
    ports: dict[PeerId, int] = {}

    def addresses(peer_id: PeerId) -> list[str]:
        return [f"127.0.0.1:{ports[peer_id]}"]

    wires = []
    for seed in (b"a", b"b"):
        identity = Identity(seed * 32)
        wire = await GrpcWire.start(identity, config, inbox=Shelf(data), addresses=addresses)
        ports[identity.peer_id] = wire.listen_port
        wires.append(wire)
    source = next(iter(ports))
    times = []
    for _ in range(repeats):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        tray = Tray(len(data))
        await wires[1].fetch(source, REF, tray)
        times.append((time.perf_counter() - began_s, time.process_time() - began_cpu_s))
        if tray.received_bytes != len(data) or tray.last[-1] != data[-1]:
            raise SystemExit("the blob arrived damaged")
    for wire in wires:
        await wire.close()
    return times


async def tcp_s(data: memoryview, repeats: int) -> list[tuple[float, float]]:
    """Returns the same for a bare TCP connection, without encryption."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(data), 256 * 1024):
            writer.write(data[at : at + 256 * 1024])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    times = []
    for _ in range(repeats):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        received = 0
        while chunk := await reader.read(256 * 1024):
            received += len(chunk)
        writer.close()
        times.append((time.perf_counter() - began_s, time.process_time() - began_cpu_s))
        if received != len(data):
            raise SystemExit("the bare transfer lost bytes")
    server.close()
    return times


def figures(times: list[tuple[float, float]], num_bytes: int) -> dict[str, float]:
    """Returns medians as rates."""
    seconds = statistics.median(wall_s for wall_s, _ in times)
    cpu_s = statistics.median(cpu_s for _, cpu_s in times)
    return {
        "seconds": round(seconds, 3),
        "mb_per_s": round(num_bytes / seconds / 1e6, 1),
        "cpu_s_per_gib": round(cpu_s * (1 << 30) / num_bytes, 2),
    }


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16, help="at most, to one partner")
    options = parser.parse_args()
    num_bytes = options.mib * MIB + 5
    machine = facts()
    print(f"filling {options.mib} MiB", file=sys.stderr)
    data = memoryview(np.random.default_rng(0).bytes(num_bytes))
    print("over the wire", file=sys.stderr)
    wire = uvloop.run(wire_s(data, options.repeats, options.connections))
    print("over bare TCP", file=sys.stderr)
    tcp = uvloop.run(tcp_s(data, options.repeats))
    result = {
        "benchmark": "wire",
        "machine": machine,
        "num_bytes": num_bytes,
        "most_connections": options.connections,
        "wire": figures(wire, num_bytes),
        "bare_tcp": figures(tcp, num_bytes),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
