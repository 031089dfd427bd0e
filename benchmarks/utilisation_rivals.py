"""What others make of the same thin links as `benchmarks.utilisation`.

    python -m benchmarks.utilisation_rivals [--capacities 1 .3 .1] [--rivals torchft hivemind]

Two replicas on links of the same capacity, delay and loss, with the same number of parameters and
inner steps of the same length, which are spent asleep. What they synchronise, and how, is their
own:

    torchft     DiLoCo over Gloo, fp32 (its quantization needs a GPU): with `fragment_sync_delay` 0,
                and with the longest that it allows, one step less than the interval
    hivemind    `hivemind.Optimizer` with local updates and averaging in the background, fp16

Utilisation is inner steps per second over those with nothing to synchronise, before. Rounds of
hivemind are its epochs, which go on when an averaging fails; `sent_bits` shows that. What is not
installed, or not through in time, has a reason in its place.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.links import Lab, Link, why_not
from benchmarks.machine import facts
from benchmarks.utilisation_swarm import FAST, MIN_QUEUE_BITS, MIN_QUEUE_S

COORDINATOR = "coordinator"
COORDINATOR_PORT = 29510
REPLICAS = ("replica-1", "replica-2")
ALONE_STEPS = 50
WIDTH = 1024


@dataclass(frozen=True, slots=True)
class Part:
    """What one process is told, on its command line."""

    rival: str
    name: str
    host: str
    coordinator: str
    """Its address, as its first line said."""
    num_parameters: int
    interval_steps: int
    step_s: float
    delay_steps: int
    intervals: int

    @property
    def model(self) -> nn.Module:
        """A model of that size."""
        torch.manual_seed(0)
        return nn.Linear(WIDTH, self.num_parameters // WIDTH, bias=False)


@dataclass(frozen=True, slots=True)
class Pace:
    """Inner steps that end when they should, or later."""

    step_s: float

    def train(self, optimizer: torch.optim.Optimizer, num_steps: int) -> list[float]:
        """Returns when each step ended, whatever its optimizer did after it included."""
        ends_s = []
        for _ in range(num_steps):
            time.sleep(self.step_s)
            optimizer.step()
            ends_s.append(time.monotonic())
        return ends_s


# ---- torchft


def coordinate_torchft(host: str) -> None:
    """Is the lighthouse, until standard input ends."""
    from torchft.coordination import LighthouseServer

    server = LighthouseServer(
        bind=f"{host}:{COORDINATOR_PORT}", min_replicas=len(REPLICAS), join_timeout_ms=60_000
    )
    say(f"http://{host}:{COORDINATOR_PORT}")
    sys.stdin.read()
    server.shutdown()


def replicate_torchft(part: Part) -> dict[str, float]:
    """Returns what became of a replica."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not said to be public
    from torchft import Manager, ProcessGroupGloo
    from torchft.local_sgd import DiLoCo

    patience = timedelta(seconds=300)
    model, pace = part.model, Pace(part.step_s)
    inner = torch.optim.SGD(model.parameters(), lr=0.0)
    outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    alone_s = pace.train(inner, ALONE_STEPS)
    store = TCPStore(part.host, 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=patience),
        load_state_dict=None,
        state_dict=None,
        min_replica_size=len(REPLICAS),
        use_async_quorum=False,
        timeout=patience,
        quorum_timeout=patience,
        rank=0,
        world_size=1,
        store_addr=part.host,
        store_port=store.port,
        lighthouse_addr=part.coordinator,
        replica_id=part.name,
        hostname=part.host,
        init_sync=False,  # equal seeds; checkpoints would be served under the machine's name
    )
    diloco = DiLoCo(
        manager,
        [model],
        inner,
        outer,
        sync_every=part.interval_steps,
        fragment_sync_delay=part.delay_steps,
    )
    _wait_for_go()
    with diloco:
        ends_s = pace.train(inner, (part.intervals + 1) * part.interval_steps + part.delay_steps)
    began_s = ends_s[part.interval_steps + part.delay_steps - 1]  # the first includes the meeting
    committed = manager.current_step()
    manager.shutdown(wait=False)
    steps_per_s = part.intervals * part.interval_steps / (ends_s[-1] - began_s)
    return {
        "utilisation": steps_per_s / _steps_per_s(alone_s),
        "rounds_due": part.intervals,
        "rounds_done": committed - 1,
        "longest_step_s": max(_gaps(ends_s)),
    }


# ---- hivemind


def coordinate_hivemind(host: str) -> None:
    """Is the first node of the DHT, until standard input ends."""
    import hivemind

    dht = hivemind.DHT(host_maddrs=[f"/ip4/{host}/tcp/{COORDINATOR_PORT}"], start=True)
    say(str(dht.get_visible_maddrs()[0]))
    sys.stdin.read()
    dht.shutdown()


def replicate_hivemind(part: Part) -> dict[str, float]:
    """Returns what became of a replica."""
    import hivemind
    from hivemind.compression import Float16Compression

    model, pace = part.model, Pace(part.step_s)
    inner = torch.optim.SGD(model.parameters(), lr=0.0)
    alone_s = pace.train(inner, ALONE_STEPS)
    dht = hivemind.DHT(
        initial_peers=[part.coordinator], host_maddrs=[f"/ip4/{part.host}/tcp/0"], start=True
    )
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="rivals",
        params=model.parameters(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        batch_size_per_step=1,
        target_batch_size=len(REPLICAS) * part.interval_steps,
        use_local_updates=True,
        delay_state_averaging=True,
        delay_optimizer_step=False,
        matchmaking_time=1.0,
        averaging_timeout=300.0,
        state_averaging_compression=Float16Compression(),
    )
    _wait_for_go()
    ends_s: list[float] = []
    epochs: list[int] = []
    for _ in range((part.intervals + 1) * part.interval_steps):
        ends_s += pace.train(optimizer, 1)
        epochs.append(optimizer.local_epoch)
    first = epochs.index(epochs[0] + 1)  # the first includes the meeting
    steps_per_s = (len(ends_s) - 1 - first) / (ends_s[-1] - ends_s[first])
    rounds_done = epochs[-1] - epochs[first]
    # No shutdown: it waits for an averaging that the other replica may have left.
    return {
        "utilisation": steps_per_s / _steps_per_s(alone_s),
        "rounds_due": (len(ends_s) - 1 - first) // part.interval_steps,
        "rounds_done": rounds_done,
        "longest_step_s": max(_gaps(ends_s)),
    }


COORDINATE = {"torchft": coordinate_torchft, "hivemind": coordinate_hivemind}
REPLICATE = {"torchft": replicate_torchft, "hivemind": replicate_hivemind}


# ---- the measurement


def measure(part: Part, capacity: float, options: argparse.Namespace) -> dict[str, Any]:
    """Returns a row of the table: means over the two replicas, or why there are none."""
    rate_bps = capacity * part.num_parameters / part.step_s
    link = Link(
        up_bps=rate_bps,
        down_bps=rate_bps,
        delay_s=options.round_trip_s / 4,
        loss_frac=options.loss,
        queue_s=max(MIN_QUEUE_S, MIN_QUEUE_BITS / rate_bps),
    )
    row: dict[str, Any] = {
        "rival": part.rival,
        "delay_steps": part.delay_steps,
        "capacity": capacity,
        "rate_bps": rate_bps,
    }
    links = dict.fromkeys((COORDINATOR, *REPLICAS), FAST)
    with Lab(links, congestion=options.congestion) as lab, contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-m", "benchmarks.utilisation_rivals", *arguments]
            return stack.enter_context(_process(lab.command(name, *command)))

        host = lab.address(COORDINATOR)
        address = _line(start(COORDINATOR, "--coordinate", part.rival, host))
        replicas = [
            start(name, "--replicate", json.dumps(asdict(part) | more))
            for name in REPLICAS
            for more in ({"name": name, "host": lab.address(name), "coordinator": address},)
        ]
        for replica in replicas:
            _line(replica)
        for name in REPLICAS:
            lab.change(name, link)
        sent_bytes = lab.traffic(REPLICAS[0]).sent_bytes
        for replica in replicas:
            assert replica.stdin is not None
            replica.stdin.write("go\n")
            replica.stdin.flush()
        signal.alarm(options.at_most_s)
        try:
            results = [json.loads(_line(replica)) for replica in replicas]
        except TimeoutError:
            return row | {"utilisation": None, "reason": f"not through in {options.at_most_s} s"}
        finally:
            signal.alarm(0)
        steps = (part.intervals + 1) * part.interval_steps
        sent_bits = 8 * (lab.traffic(REPLICAS[0]).sent_bytes - sent_bytes)
    return (
        row
        | {name: sum(result[name] for result in results) / 2 for name in results[0]}
        | {"sent_bits": sent_bits / part.num_parameters / steps}
    )


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "link0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith("> "):
            return line[2:].strip()
    raise RuntimeError(f"a process ended with {process.wait()}")


def say(line: str) -> None:
    """Answers; rivals write to standard output, too."""
    print(f"> {line}", flush=True)


def _wait_for_go() -> None:
    say("ready")
    sys.stdin.readline()


def _gaps(ends_s: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(ends_s)]


def _steps_per_s(ends_s: list[float]) -> float:
    return (len(ends_s) - 1) / (ends_s[-1] - ends_s[0])


def _give_up(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    """Measures, or is one of the processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.utilisation_rivals")
    parser.add_argument("--rivals", nargs="+", default=list(REPLICATE), choices=list(REPLICATE))
    parser.add_argument("--capacities", type=float, nargs="+", default=[1.0, 0.3, 0.1])
    parser.add_argument("--round-trip-s", type=float, default=0.02)
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--congestion", default="cubic")
    parser.add_argument("--parameters", type=int, default=1_672_448)
    parser.add_argument("--interval-steps", type=int, default=100)
    parser.add_argument("--interval-s", type=float, default=6.0)
    parser.add_argument("--intervals", type=int, default=2)
    parser.add_argument("--at-most-s", type=int, default=180)
    parser.add_argument("--coordinate", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--replicate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.coordinate:
        rival, host = options.coordinate
        COORDINATE[rival](host)
    elif options.replicate:
        part = Part(**json.loads(options.replicate))
        say(json.dumps(REPLICATE[part.rival](part)))
        os._exit(0)  # whatever threads a rival has left
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    if reason := why_not(options.congestion):
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGALRM, _give_up)
    machine, rows = facts(), []
    for rival in options.rivals:
        try:
            machine["packages"][rival] = version(rival)
        except PackageNotFoundError:
            rows.append({"rival": rival, "utilisation": None, "reason": "not installed"})
            continue
        H = options.interval_steps
        for delay_steps in (0, H - 1) if rival == "torchft" else (0,):
            step_s = options.interval_s / H
            part = Part(
                *(rival, "", "", "", options.parameters, H, step_s, delay_steps, options.intervals)
            )
            for capacity in options.capacities:
                rows.append(measure(part, capacity, options))
                print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "utilisation_rivals", "machine": machine, "rows": rows}))


if __name__ == "__main__":
    main()
