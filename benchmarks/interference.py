"""Does the network slow the training loop?

    python -m benchmarks.interference [--params 0.8M] [--codec int8] [--pairs 9] [--window-s 4]

Measures the time of an inner step with exchanges in flight, divided by the time without, in pairs
of neighbouring windows whose order alternates. Progress goes to standard error, and one JSON object
to standard output. Linux only, for the CPU times in /proc.

The picture is the product's: this process is the wire process (uvloop, `GrpcWire` with TLS,
`Mixing`), and a real trainer process with one torch thread trains in shared memory. The partner is
a third process with a wire and a mixing, but without a trainer. The schedule has H = 1, so the
trainer leaves a snapshot whenever it may.

Without: the wire process idles. With: exchanges follow each other without a pause, each with the
newest snapshot, and an anchor is landed whenever the trainer is done with the one before. That is
more than any run can do, so the ratio is the worst case, and `at_interval` says what remains of it
when an exchange happens every H steps.

What limits each mode:

    process    cores and memory. The partner, too, sits on this machine, which it does not in a
               run: with fewer than three free cores it takes time from the trainer. `--own-core`
               gives the trainer a core for itself, and the other processes the rest.
    --thread   the GIL in addition: the same wire and mixing as a thread of the trainer's process.

Step times come from the trainer's own clock, from reports that lie within a window, and include
what it does for exchanges between steps. `cpu_ratio` is the same for the trainer's CPU time: it
leaves out the wait for a core, and with it the partner and whatever else runs here; what remains is
contention for caches and memory, and landings. As a thread, the wire's CPU time counts as well.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import uvloop

from benchmarks.exchange_end import OURS, THEIRS, ExchangeEnd, Pair
from benchmarks.machine import facts
from benchmarks.windows import Log, Window, summary_of
from optim.presets import PRESETS
from peer.net.sockets import SocketMeter
from peer.run_folder import MANIFEST
from peer.train.channel import AsyncLineChannel, LineChannel
from peer.train.config import TrainerConfig
from peer.train.data import load_text
from peer.train.interchange import Interchange
from peer.train.replica import Replica
from peer.train.trainer import Trainer
from peer.trainer_port import TrainerPort
from protocol.identity import PeerId
from protocol.manifest import Manifest, manifest_from

MODELS = {
    "0.8M": {"dim": 128, "layers": 4, "heads": 4, "ffn_dim": 352},
    "5M": {"dim": 256, "layers": 6, "heads": 4, "ffn_dim": 704},
    "25M": {"dim": 512, "layers": 8, "heads": 8, "ffn_dim": 1408},
}
CORES = sorted(os.sched_getaffinity(0))
"""Those that we may use; with `--own-core` the last one is the trainer's."""
_PORT = "port"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    params: str
    codec: str
    pairs: int
    window_s: float
    thread: bool
    own_core: bool

    def manifest(self, founder: PeerId) -> Manifest:
        """Returns the run: preset diloco, but with a departure after each step."""
        diloco = PRESETS["diloco"]
        outer = dict(diloco["outer"])
        return manifest_from(
            {
                "founder": founder,
                "model": MODELS[self.params],
                # So many outer steps on so few inner ones must not drive the model away.
                "inner": {"lr": 1e-4, "warmup_steps": 0},
                "method": {
                    "mixing": diloco["mixing"],
                    "schedule": {"interval_steps": 1},
                    "codec": {"name": self.codec},
                    "outer": {"rule": outer.pop("rule"), "constants": outer},
                },
                "round": {"progress_s": 30.0},  # a busy machine is no reason to give up
            }
        )


# ---- the three processes: partner, trainer, and this one


async def be_partner(folder: Path) -> None:
    """Answers each proposal with an exchange, until standard input ends."""
    end = await ExchangeEnd.start(Pair.read(folder), THEIRS)
    end.their_port = int((folder / _PORT).read_text())
    anchor = end.mixing.outer[0].anchor
    theta = anchor + 0.01 * torch.randn(len(anchor), generator=torch.Generator().manual_seed(0))
    one_at_a_time = asyncio.Lock()

    async def answer(exchange_id: bytes) -> None:
        async with one_at_a_time:
            await end.exchange(exchange_id, theta)

    async with asyncio.TaskGroup() as group:

        def begin(exchange_id: bytes) -> None:
            group.create_task(answer(exchange_id))

        end.on_proposal = begin
        print(end.wire.listen_port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await end.close()


@contextlib.asynccontextmanager
async def partner_process(pair: Pair, end: ExchangeEnd) -> AsyncIterator[int]:
    """Starts the partner, and yields its process id."""
    (pair.folder / _PORT).write_text(str(end.wire.listen_port))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.interference", "--partner", str(pair.folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        end.their_port = int(await process.stdout.readline())
        yield process.pid
    finally:
        process.stdin.close()
        await process.wait()


@contextlib.asynccontextmanager
async def trainer_process(pair: Pair, end: ExchangeEnd, log: Log) -> AsyncIterator[TrainerPort]:
    """Starts a trainer as a peer does."""
    config = TrainerConfig(
        manifest=str(pair.folder / MANIFEST),
        run_id=pair.manifest.run_id,
        peer_id=pair.manifest.founder,
        device="cpu",
        threads=1,
    )
    trainer = await TrainerPort.launch(config, pair.folder, end.mixing.layout, on_news=log.on_news)
    try:
        yield trainer
    finally:
        await trainer.close()


@dataclass(frozen=True, slots=True)
class InProcess:
    """Both ends of what a trainer and its wire share, when they are threads of one process."""

    interchange: Interchange
    wire_sock: socket.socket

    @contextlib.asynccontextmanager
    async def trainer(self, end: ExchangeEnd, log: Log) -> AsyncIterator[TrainerPort]:
        """Returns the port to the trainer in the main thread."""
        channel = await AsyncLineChannel.open(self.wire_sock)
        no_process = cast("subprocess.Popen[bytes]", None)  # only `TrainerPort.close` needs it
        layout = end.mixing.layout
        try:
            yield TrainerPort(no_process, channel, self.interchange, layout, on_news=log.on_news)
        finally:
            await channel.close()


# ---- the measurement


async def exchange_on(
    end: ExchangeEnd, trainer: TrainerPort, log: Log, stop: asyncio.Event
) -> None:
    """Exchanges without a pause until `stop`; then waits for the last landing."""
    theta = trainer.snapshot(0).clone()
    landing: asyncio.Task[None] | None = None

    async def land(round: int, anchor: torch.Tensor) -> None:
        await trainer.land(0, round, anchor, base=None, is_planned=True)
        log.landings += 1

    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            began_s = time.monotonic()
            new = await end.exchange(await end.propose(), theta)
            log.exchange_s.append(time.monotonic() - began_s)
            if trainer.has_snapshot(0) and (landing is None or landing.done()):
                theta.copy_(trainer.snapshot(0))
                landing = group.create_task(land(new.round, new.anchor))


async def watch(
    options: Options, end: ExchangeEnd, trainer: TrainerPort, log: Log, *, is_with: bool
) -> Window:
    """Returns one window, with or without exchanges."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        if is_with:
            group.create_task(exchange_on(end, trainer, log, stop))
        window = await log.window(is_with=is_with, window_s=options.window_s)
        stop.set()
    return window


async def measure(
    options: Options, end: ExchangeEnd, trainer: TrainerPort, log: Log
) -> dict[str, Any]:
    """Returns the result, without facts about the machine."""
    await trainer.start([end.mixing.outer[0].anchor], step=0, tokens=0)
    await log.has_departed.wait()
    say("warming up")
    await watch(options, end, trainer, log, is_with=True)
    meter = SocketMeter([os.getpid()])
    before, num_before = _traffic(end, meter), len(log.exchange_s)
    windows: list[Window] = []
    for index in range(2 * options.pairs):
        is_with = index % 4 in (1, 2)
        windows.append(await watch(options, end, trainer, log, is_with=is_with))
        say(f"{index + 1} of {2 * options.pairs}: {json.dumps(windows[-1].to_json())}")
    after, num_exchanges = _traffic(end, meter), len(log.exchange_s) - num_before
    bytes_each = {name: round((after[name] - before[name]) / num_exchanges) for name in after}
    return summary_of(windows) | {"bytes_per_exchange": bytes_each}


def _traffic(end: ExchangeEnd, meter: SocketMeter) -> dict[str, int]:
    counters = end.wire.counters
    sent, received = meter.sample()
    return {
        "sent_payload": counters.total_sent,
        "received_payload": counters.total_received,
        "sent_by_sockets": sent,
        "received_by_sockets": received,
    }


# ---- putting it together


async def run(options: Options, pair: Pair, in_process: InProcess | None) -> dict[str, Any]:
    """Runs the wire's side of the measurement, and returns its result."""
    log = Log()
    async with contextlib.AsyncExitStack() as stack:
        end = await ExchangeEnd.start(pair, OURS)
        stack.push_async_callback(end.close)
        partner_pid = await stack.enter_async_context(partner_process(pair, end))
        trainer = await stack.enter_async_context(
            in_process.trainer(end, log) if in_process else trainer_process(pair, end, log)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(trainer.run())
            hello = await trainer.hello
            log.pids = {"trainer": hello.pid, "partner": partner_pid}
            if not in_process:
                log.pids["wire"] = os.getpid()
            if options.own_core:
                os.sched_setaffinity(hello.pid, CORES[-1:])
            result = await measure(options, end, trainer, log)
            await trainer.leave()
        return {"parameters": _parameters(options, end, hello.data)} | result


def run_in_trainers_process(options: Options, pair: Pair) -> dict[str, Any]:
    """Like `run`, in a thread, while this one trains."""
    torch.set_num_threads(1)
    data = pair.manifest.data
    corpus = load_text(data.recipe, data.validation_frac)
    replica = Replica(
        pair.manifest,
        corpus,
        peer_id=pair.manifest.founder,
        device=torch.device("cpu"),
    )
    interchange = Interchange.create(replica.layout.num_elements)
    wire_sock, trainer_sock = socket.socketpair()
    channel = LineChannel(trainer_sock)
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="wire") as threads:
        in_process = InProcess(interchange, wire_sock)
        result = threads.submit(in_loop, run(options, pair, in_process))
        try:
            Trainer(replica, interchange, channel, data=corpus.description).run()
        finally:
            channel.close()
        return result.result()


def in_loop(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Returns what `work` returns, on an event loop like the product's."""
    result: dict[str, Any] = uvloop.run(work)
    return result


def say(line: str) -> None:
    """Tells people how it goes."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Runs the benchmark, or its partner process."""
    arguments = _parse()
    partner: Path | None = arguments.pop("partner")
    if partner is not None:
        uvloop.run(be_partner(partner))
        return
    options = Options(**arguments)
    result = {"benchmark": "interference", "machine": facts()}
    if options.own_core:
        os.sched_setaffinity(0, CORES[:-1])
    with tempfile.TemporaryDirectory(prefix="thinwire-") as folder:
        pair = Pair.create(Path(folder), options.manifest)
        if options.thread:
            result |= run_in_trainers_process(options, pair)
        else:
            result |= in_loop(run(options, pair, None))
    print(json.dumps(result))


def _parameters(options: Options, end: ExchangeEnd, data: str) -> dict[str, Any]:
    return asdict(options) | {
        "num_elements": end.mixing.layout.num_elements,
        "wire_torch_threads": torch.get_num_threads(),
        "data": data,
    }


def _parse() -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interference")
    parser.add_argument("--params", choices=MODELS, default="0.8M", help="size of the model")
    parser.add_argument("--codec", choices=("int8", "bf16", "fp32"), default="int8")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of windows, at least 2")
    parser.add_argument("--window-s", type=float, default=4.0)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--thread", action="store_true", help="the wire in the trainer's process")
    where.add_argument("--own-core", action="store_true", help="a core for the trainer alone")
    parser.add_argument("--partner", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments: dict[str, Any] = vars(parser.parse_args())
    if arguments["pairs"] < 2:
        parser.error("--pairs: at least 2")
    if arguments["own_core"] and len(CORES) < 2:
        parser.error("--own-core: this machine has but one core")
    return arguments


if __name__ == "__main__":
    main()
