"""The processes of `benchmarks.chaos_rivals`: torchft's and hivemind's.

    coordinator     torchft's lighthouse; hivemind's first node of the DHT
    replica         a tiny model, H paced inner steps, and whatever the rival synchronises with

A replica notes when each inner step ended, and what became of each of its rounds, in files. It does
nothing about errors: it ends with them, and is started again, as a supervisor would do it.
"""

import itertools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

WIDTH, HEIGHT = 256, 512
_HOST = "127.0.0.1"

TIMEOUTS: dict[str, dict[str, dict[str, float]]] = {
    "torchft": {
        # The lighthouse's own and its README's; those of examples/diloco; the manager's own.
        "documented": {
            "heartbeat_s": 5.0,
            "join_s": 10.0,
            "gloo_s": 5.0,
            "manager_s": 30.0,
            "quorum_s": 60.0,
            "quorum_retries": 0,
        },
        # For so short an interval; but whoever waits out of step for longer than `join_s` makes
        # the quorum leave out the last of the others, so that must be more than the interval.
        "short": {
            "heartbeat_s": 1.5,
            "join_s": 10.0,
            "gloo_s": 5.0,
            "manager_s": 10.0,
            "quorum_s": 60.0,
            "quorum_retries": 10,
        },
    },
    "hivemind": {
        # What `hivemind.Optimizer` has, and for matchmaking what it advises on small local runs.
        "documented": {"matchmaking_s": 3.0, "averaging_s": 60.0, "load_state_s": 600.0},
        "short": {"matchmaking_s": 1.0, "averaging_s": 10.0, "load_state_s": 10.0},
    },
}


@dataclass(frozen=True, slots=True)
class Part:
    """What a process is told, on its command line."""

    rival: str
    name: str
    port: int
    """Where it listens, of those that others have to find again."""
    folder: str
    """Of the measurement."""
    peers: int
    interval_steps: int
    step_s: float
    timeouts: dict[str, float]

    @property
    def address(self) -> Path:
        """The file that says where it listens, for others."""
        return Path(self.folder) / "addresses" / self.name

    @property
    def steps(self) -> Path:
        """The file of its inner steps: process, time, number."""
        return Path(self.folder) / "steps" / self.name

    @property
    def rounds(self) -> Path:
        """The file of its rounds: time, `landed` or `failed`, with how many or why."""
        return Path(self.folder) / "rounds" / self.name

    def publish(self, address: str) -> None:
        """Says to the others where it listens."""
        self.address.write_text(address)

    def note(self, outcome: str, detail: object) -> None:
        """Notes what became of a round."""
        with self.rounds.open("a") as file:
            file.write(f"{time.monotonic():.3f} {outcome} {detail}\n")

    def train(self, step: Callable[[], object]) -> NoReturn:
        """Makes inner steps that last as long as they should, or longer."""
        with self.steps.open("a", buffering=1) as file:
            for number in itertools.count(1):
                began_s = time.monotonic()
                step()
                time.sleep(max(0.0, began_s + self.step_s - time.monotonic()))
                file.write(f"{os.getpid()} {time.monotonic():.3f} {number}\n")
        raise AssertionError("steps do not run out")


# ---- torchft


def coordinate_torchft(part: Part) -> None:
    """Is the lighthouse."""
    from torchft.coordination import LighthouseServer

    timeouts = part.timeouts
    server = LighthouseServer(
        bind=f"{_HOST}:{part.port}",
        min_replicas=1,
        join_timeout_ms=int(1000 * timeouts["join_s"]),
        quorum_tick_ms=100,
        heartbeat_timeout_ms=int(1000 * timeouts["heartbeat_s"]),
    )
    part.publish(f"http://{_HOST}:{part.port}")
    signal.pause()
    server.shutdown()


def replicate_torchft(part: Part, coordinator: str) -> None:
    """Is a replica with DiLoCo over Gloo."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not said to be public
    from torchft import Manager, ProcessGroupGloo
    from torchft.local_sgd import DiLoCo

    timeouts = part.timeouts
    model = _model()
    inner = torch.optim.SGD(model.parameters(), lr=1e-3)
    outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["inner"])

    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=timeouts["gloo_s"])),
        load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "inner": inner.state_dict()},
        min_replica_size=1,
        use_async_quorum=False,
        timeout=timedelta(seconds=timeouts["manager_s"]),
        quorum_timeout=timedelta(seconds=timeouts["quorum_s"]),
        quorum_retries=int(timeouts["quorum_retries"]),
        rank=0,
        world_size=1,
        store_addr=_HOST,
        store_port=store.port,
        lighthouse_addr=coordinator,
        replica_id=part.name,
        hostname=_HOST,
    )
    decide = manager.should_commit

    def noted(timeout: timedelta | None = None) -> bool:
        has_landed = bool(decide(timeout))
        part.note(*(("landed", manager.num_participants()) if has_landed else ("failed", "commit")))
        return has_landed

    manager.should_commit = noted
    with DiLoCo(manager, [model], inner, outer, sync_every=part.interval_steps):
        part.train(inner.step)


# ---- hivemind


def coordinate_hivemind(part: Part) -> None:
    """Is the first node of the DHT; a later one is as the first was, and finds the others."""
    _join(part)
    signal.pause()


def replicate_hivemind(part: Part, coordinator: str) -> None:
    """Is a replica with local updates and averaging in the background."""
    import hivemind

    timeouts = part.timeouts
    model = _model()
    logging.getLogger("hivemind.optim.state_averager").addHandler(_Rounds(part))
    optimizer = hivemind.Optimizer(
        dht=_join(part),
        run_id="chaos",
        params=model.parameters(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
        batch_size_per_step=1,
        target_batch_size=part.peers * part.interval_steps,
        use_local_updates=True,
        delay_state_averaging=True,
        delay_optimizer_step=False,
        matchmaking_time=timeouts["matchmaking_s"],
        averaging_timeout=timeouts["averaging_s"],
        load_state_timeout=timeouts["load_state_s"],
        averager_opts={"request_timeout": timeouts["matchmaking_s"] / 2},
        verbose=True,  # or the logger would not be told how an averaging ended
    )
    part.train(optimizer.step)


def _join(part: Part) -> Any:
    """Returns a node of the DHT, which everybody knows by the same name after a new start."""
    import hivemind

    others = [path.read_text() for path in part.address.parent.iterdir() if path != part.address]
    dht = hivemind.DHT(
        initial_peers=others,
        host_maddrs=[f"/ip4/{_HOST}/tcp/{part.port}"],
        identity_path=str(Path(part.folder) / f"identity-{part.name}"),
        start=True,
    )
    part.publish(str(dht.get_visible_maddrs()[0]))
    return dht


class _Rounds(logging.Handler):
    """Reads from hivemind's log what it tells nobody else: how its averagings ended."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Averaged parameters with "):
            self._part.note("landed", message.split()[3])
        elif message.startswith(("Averaging failed", "Aborted")):
            self._part.note("failed", message)


# ---- both


COORDINATE = {"torchft": coordinate_torchft, "hivemind": coordinate_hivemind}
REPLICATE = {"torchft": replicate_torchft, "hivemind": replicate_hivemind}


def _model() -> nn.Module:
    """Returns a model of as many parameters as that of `benchmarks.chaos`, about."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return nn.Linear(WIDTH, HEIGHT, bias=False)


def main() -> None:
    """Is the process that the command line says: PART, and for a replica the coordinator."""
    logging.basicConfig(level=logging.INFO)
    part = Part(**json.loads(sys.argv[1]))
    if len(sys.argv) > 2:
        REPLICATE[part.rival](part, sys.argv[2])
    else:
        COORDINATE[part.rival](part)


if __name__ == "__main__":
    main()
