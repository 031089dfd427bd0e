"""A real peer whose inner steps last as long as they are told to; see `benchmarks.reality`.

So many trainers on so few cores would have no stable pace of their own. The peer is the product's,
but for three names that are patched: how its trainer is started, where its events go, and who
counts its payload.
"""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

import uvloop
from torch import Tensor

from peer.app import Peer
from peer.cli.join import leave_on_signals
from peer.config import PeerConfig
from peer.net.counters import ByteCounters
from peer.run_folder import read_ticket
from peer.status import PeerStatus
from peer.telemetry import Events
from peer.train import worker
from peer.train.interchange import Interchange
from peer.train.launch import TrainerProcess
from peer.train.replica import Replica

BEGIN = "begin"
"""The file that holds the time at which training begins."""
STEPS = "steps.txt"
"""The file in which a peer's trainer writes when each inner step ended, one time a line."""
NEVER = 1 << 30
"""Rounds or seconds: no evaluations and no checkpoints while we measure."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a peer and its trainer are told, on their command lines."""

    folder: str
    """Its own, in that of the measurement."""
    host: str
    step_s: float
    starts_after_s: float

    def command(self, option: str, *more: str) -> list[str]:
        """Returns the command line of a process in this role."""
        role = json.dumps(asdict(self))
        return [sys.executable, "-m", "benchmarks.paced", option, role, *more]

    @property
    def measurement(self) -> Path:
        """The folder of the measurement."""
        return Path(self.folder).parent

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the role in a command line."""
        return cls(**json.loads(text))


class PacedReplica(Replica):
    """A replica of which every step lasts `step_s`, the first one from a common instant on."""

    def __init__(self, *arguments: Any, role: Role, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._role = role
        self._begin_path = role.measurement / BEGIN
        self._steps = (Path(role.folder) / STEPS).open("w", buffering=1)

    def train_step(self) -> Tensor:
        """Makes one inner step."""
        if self.step == 0:
            self._wait_for_begin()
        ends_s = time.monotonic() + self._role.step_s
        step_loss = super().train_step()
        time.sleep(max(0.0, ends_s - time.monotonic()))
        self._steps.write(f"{time.monotonic():.6f}\n")
        return step_loss

    def _wait_for_begin(self) -> None:
        while not self._begin_path.exists():
            time.sleep(0.01)
        begin_s = float(self._begin_path.read_text()) + self._role.starts_after_s
        time.sleep(max(0.0, begin_s - time.monotonic()))


class MeasuredEvents(Events):
    """Adds to each report what a measurement has to know beside it."""

    def __init__(
        self, *arguments: Any, counters: ByteCounters, status: PeerStatus, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self._counters = counters
        self._status = status

    def write(self, event: str, **fields: Any) -> None:
        """Writes one event."""
        if event == "progress":
            fields["payload_sent_bytes"] = self._counters.total_sent
            fields["payload_received_bytes"] = self._counters.total_received
            fields["num_members"] = len(self._status.members)
        super().write(event, **fields)


async def be_peer(role: Role) -> None:
    """Does what `thinwire join` does, with a trainer that keeps pace."""
    config = PeerConfig(
        ticket=read_ticket(role.measurement / "run"),
        directory=Path(role.folder),
        device="cpu",
        threads=1,
        listen_host=role.host,
        evaluate_every_rounds=NEVER,
        checkpoint_every_s=NEVER,
    )
    peer, counters = Peer(config), ByteCounters()
    events = partial(MeasuredEvents, counters=counters, status=peer.status)
    leave_on_signals(peer.leave)
    with (
        mock.patch("peer.net.wire.ByteCounters", return_value=counters),
        mock.patch("peer.app.Events", events),
        mock.patch("peer.trainer_port.launch_trainer", partial(launch_paced_trainer, role)),
    ):
        await peer.live()


def launch_paced_trainer(role: Role, config_path: Path, interchange: Interchange) -> TrainerProcess:
    """Does what `peer.train.launch.launch_trainer` does, with a trainer in this role."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = role.command("--as-trainer", "--config", str(config_path))
        command += ["--socket-fd", str(theirs.fileno()), "--buffers-fd", str(interchange.fd)]
        command += ["--parent-pid", str(os.getpid())]
        fds = (theirs.fileno(), interchange.fd)
        process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
    return TrainerProcess(process, ours)


def be_trainer(role: Role, arguments: list[str]) -> int:
    """Does what `peer.train.worker` does, as if it had a GPU: nobody takes a core from it."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with mock.patch.object(worker, "Replica", partial(PacedReplica, role=role)):
        return worker.main(arguments)


def main() -> None:
    """Is one of the processes in a scenario."""
    option, role, *rest = sys.argv[1:]
    if option == "--as-peer":
        logging.basicConfig(level=logging.INFO)
        uvloop.run(be_peer(Role.parse(role)))
    else:
        sys.exit(be_trainer(Role.parse(role), rest))


if __name__ == "__main__":
    main()
