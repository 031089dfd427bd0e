"""One of the two processes of `benchmarks.large`: a peer without a trainer and a directory.

    python -m benchmarks.large_end '{"ours": 0, ...}'      # started by `benchmarks.large`

It obeys lines of JSON on standard input, and answers each with one.
"""

import asyncio
import json
import logging
import os
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvloop

from benchmarks.large_meter import Meter, resident_bytes
from benchmarks.large_trainer import StandIn, in_turn
from peer.catch_up import CatchingUp, agreed
from peer.driver import Driver
from peer.method import mixing_of
from peer.mixing import Mixing, digest_of
from peer.net.config import WireConfig
from peer.net.sockets import SocketMeter
from peer.net.wire import GrpcWire
from peer.settings import method_settings
from peer.status import PeerStatus
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest, manifest_from

IDENTITIES = (Identity(b"a" * 32), Identity(b"b" * 32))
CODECS = {"streaming": "e3m0"}
"""Where it is not the preset's own; this one is the paper's."""
STAGES = ("offer", "encode", "collect", "reduce", "land", "load_state_blob")
PROBLEMS = ("exchange_failed", "transfer_failed", "transfer_refused", "note_lost", "catching_up")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What both processes are told.

    Attributes:
        ours: Which of the two we are.
        parameters, fragments, preset: Of the run.
        most_in_flight: Fragments at a time.
    """

    ours: int
    parameters: int
    fragments: int
    preset: str
    most_in_flight: int

    def manifest(self) -> Manifest:
        """Returns the run's manifest: one block of the model a fragment, and the embeddings."""
        schedule = {"fragments": self.fragments, "interval_steps": max(100, self.fragments)}
        method: dict[str, Any] = {"preset": self.preset, "schedule": schedule}
        if codec := CODECS.get(self.preset):
            method["codec"] = {"name": codec}
        return manifest_from(
            {
                "founder": IDENTITIES[0].peer_id,
                "model": _model(self.parameters, layers=self.fragments - 1),
                "method": method_settings(method),
            }
        )


def _model(parameters: int, *, layers: int) -> dict[str, int]:
    """Returns the shape of a transformer of about so many parameters, most of them in blocks."""
    heads = max(1, round((parameters / layers / 12) ** 0.5 / 64))
    dim = 64 * heads
    ffn_dim = round(((parameters - 257 * dim) / layers - 4 * dim**2 - 2 * dim) / (3 * dim))
    return {"dim": dim, "heads": heads, "layers": layers, "ffn_dim": max(1, ffn_dim)}


class Journal:
    """Counts a driver's events."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def write(self, event: str, **fields: Any) -> None:
        """Keeps one event; see `peer.telemetry.EventLog`."""
        self.counts[event] += 1
        if event in PROBLEMS:
            self.reasons[f"{event}: {fields.get('reason')}"] += 1


class End:
    """One peer; make it with `start`.

    Args:
        setup: What it was told.
    """

    wire: GrpcWire

    def __init__(self, setup: Setup) -> None:
        began_s = time.perf_counter()
        self.meter = Meter()
        bare_bytes = resident_bytes()
        manifest, identity = setup.manifest(), IDENTITIES[setup.ours]
        self.mixing: Mixing = mixing_of(manifest, identity.peer_id)
        self.num_elements = self.mixing.layout.num_elements
        self.fragment_bytes = 4 * max(len(span) for span in self.mixing.layout.fragments)
        self.start = {
            "start_s": time.perf_counter() - began_s,
            "bare_bytes": bare_bytes,
            "ready_bytes": resident_bytes(),
            "start_peak_bytes": self.meter.peak_bytes(),
        }
        self.trainer = StandIn(self.mixing, seed=setup.ours, most_in_flight=setup.most_in_flight)
        self.journal, self.status = Journal(), PeerStatus()
        self.driver = Driver(
            identity.peer_id,
            secrets.token_hex(8),
            manifest,
            self.mixing,
            events=self.journal,
            status=self.status,
        )
        self.meter.watch(self.mixing, STAGES)
        self._manifest, self._identity = manifest, identity
        self._their_id = IDENTITIES[1 - setup.ours].peer_id
        self._their_port = 0
        self._sockets = SocketMeter([os.getpid()])
        self._rest_bytes = 0

    async def listen(self) -> dict[str, Any]:
        """Starts the wire; returns how the start went."""
        limits = self._manifest.limits
        config = WireConfig(
            run_id=self._manifest.run_id,
            chunk_bytes=limits.chunk_bytes,
            max_message_bytes=limits.max_message_bytes,
            progress_s=self._manifest.round.progress_s,
            max_streams_per_peer=limits.max_streams_per_peer,
            num_fragments=len(self.mixing.outer),
        )
        self.wire = await GrpcWire.start(
            self._identity, config, inbox=self.driver, addresses=self._addresses
        )
        return {
            **self.start,
            "port": self.wire.listen_port,
            "parameters": self.num_elements,
            "fragment_bytes": self.fragment_bytes,
        }

    async def meet(self, port: int) -> dict[str, Any]:
        """Makes the other end known, and notes what is resident before the first exchange."""
        self._their_port = port
        self.driver.begin(self.trainer.port, self.wire)
        await self.wire.hello(self._their_id)
        self.driver.on_members((self._their_id,))
        self._sockets.sample()
        self._rest_bytes = resident_bytes()
        return {"rest_bytes": self._rest_bytes}

    async def exchange(self, fragments: list[int], in_flight: int) -> dict[str, Any]:
        """Exchanges these fragments, and returns what it took."""
        sent_before, received_before = self._sockets.sample()
        self.journal.counts.clear()
        self.journal.reasons.clear()
        self.meter.restart()
        before_bytes = resident_bytes()
        began_s, began_cpu_s = time.perf_counter(), self._cpu_s()
        times = await in_turn(self.trainer, fragments, in_flight=in_flight)
        wall_s, cpu_s = time.perf_counter() - began_s, self._cpu_s() - began_cpu_s
        peak_bytes, num = self.meter.peak_bytes(), len(fragments)
        sent, received = self._sockets.sample()
        return {
            "in_flight": in_flight,
            "exchanges": num,
            "seconds": statistics.median(times),
            "most_seconds": max(times),
            "wall_s": wall_s / num,
            "cpu_s": cpu_s / num,
            "sent_mb": (sent - sent_before) / num / 1e6,
            "received_mb": (received - received_before) / num / 1e6,
            "peak": self._in_fragments(peak_bytes - before_bytes),
            "kept": self._in_fragments(resident_bytes() - self._rest_bytes),
            "stages": self._stages(num, before_bytes),
            "problems": dict(self.journal.reasons),
            "connections": self.wire._bundle(self._their_id).width.wanted,
        }

    async def fetch_state(self, fragment: int) -> dict[str, Any]:
        """Takes a fragment's state from the other end, as a newcomer does."""
        self.meter.restart()
        before_bytes, began_s = resident_bytes(), time.perf_counter()
        catching_up = CatchingUp(
            self.mixing, self.wire, progress_s=self._manifest.round.progress_s, events=self.journal
        )
        survey = await catching_up.survey(fragment, [self._their_id])
        state = await catching_up.fetch(fragment, survey)
        fetched_s = time.perf_counter() - began_s
        index = agreed(survey)
        await asyncio.to_thread(
            self.mixing.load_state_blob,
            *(fragment, state.whole(), index.round),
            lineage=index.lineage,
        )
        peak_bytes = self.meter.peak_bytes()
        return {
            "fetch_s": fetched_s,
            "load_s": time.perf_counter() - began_s - fetched_s,
            "peak": self._in_fragments(peak_bytes - before_bytes),
        }

    async def end(self) -> dict[str, Any]:
        """Closes everything; returns the digests of what landed, and how long hashing one takes."""
        await self.wire.close()
        await self.driver.close()
        await self.trainer.port._channel.close()
        began_s = time.thread_time()
        for outer in self.mixing.landed:
            if digest_of(outer.anchor) != outer.digest:
                raise RuntimeError("an anchor has changed since it landed")
        digest_s = (time.thread_time() - began_s) / len(self.mixing.landed)
        return {
            "digests": [outer.digest.hex() for outer in self.mixing.landed],
            "rounds": [outer.round for outer in self.mixing.landed],
            "digest_s": digest_s,
        }

    def _addresses(self, peer: PeerId) -> Sequence[str]:
        return (f"127.0.0.1:{self._their_port}",)

    def _cpu_s(self) -> float:
        return time.process_time() - self.trainer.cpu_s

    def _in_fragments(self, num_bytes: int) -> float:
        return round(num_bytes / self.fragment_bytes, 3)

    def _stages(self, num: int, before_bytes: int) -> dict[str, dict[str, float]]:
        return {
            name: {
                "wall_s": round(stage.wall_s / num, 4),
                "cpu_s": round(stage.cpu_s / num, 4),
                "peak": self._in_fragments(stage.peak_bytes - before_bytes),
            }
            for name, stage in self.meter.stages.items()
        }


async def obey(setup: Setup) -> None:
    """Does what the lines on standard input say."""
    end = End(setup)
    training = asyncio.create_task(end.trainer.run(end.driver))
    failing = asyncio.create_task(end.driver.wait())
    say(await end.listen())
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, arguments = json.loads(line)
        work = asyncio.create_task(getattr(end, name)(**arguments))
        await asyncio.wait((work, training, failing), return_when=asyncio.FIRST_COMPLETED)
        for task in (failing, training):
            if task.done() and not task.cancelled() and name != "end":
                task.result()
        say(await work)


def say(answer: dict[str, Any]) -> None:
    """Writes one line."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    Path("/proc/self/oom_score_adj").write_text("1000")  # rather us than anybody else
    torch.set_num_threads(1)
    uvloop.run(obey(Setup(**json.loads(sys.argv[1]))))
