"""The wire process, played by a test: what it says is queued before the loop asks."""

import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, cast

from peer.loop.port import WirePort
from peer.run_folder import MANIFEST
from peer.train import lines
from peer.train.channel import LineChannel
from peer.train.interchange import Interchange
from protocol.manifest import Manifest


class FakeProcess:
    """A process that leaves in order when it is asked to, unless it is `deaf`."""

    def __init__(self, far: "FarEnd") -> None:
        self.signals: list[int] = []
        self.waited_s: list[float | None] = []
        self.is_deaf = False
        self.is_killed = False
        self._far = far

    @property
    def is_over(self) -> bool:
        return self.is_killed or (bool(self.signals) and not self.is_deaf)

    def poll(self) -> int | None:
        return 0 if self.is_over else None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        if not self.is_deaf:
            self._far.say(lines.Leave())

    def wait(self, timeout: float | None = None) -> int:
        self.waited_s.append(timeout)
        if not self.is_over:
            raise subprocess.TimeoutExpired("wire process", timeout or 0.0)
        return 0

    def kill(self) -> None:
        self.is_killed = True


class FarEnd:
    """Both ends of the lines; `port` is the loop's."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.process = FakeProcess(self)
        self.port = WirePort(cast("subprocess.Popen[bytes]", self.process), LineChannel(ours))
        self.interchange: Interchange | None = None
        self._channel = LineChannel(theirs)
        self._heard: list[lines.Message] = []

    def say(self, *messages: lines.Message) -> None:
        for message in messages:
            self._channel.send(message)

    def find(self, folder: Path, manifest: Manifest) -> None:
        path = str(folder / MANIFEST)
        self.say(lines.News(phase="starting"), lines.Found(manifest=path, run_id=manifest.run_id))

    def start(self, step: int = 0, tokens: int = 0) -> None:
        self.say(lines.Start(step=step, tokens=tokens))

    def heard(self, kind: type[Any]) -> list[Any]:
        self._heard += self._channel.poll()
        return [message for message in self._heard if isinstance(message, kind)]

    def die(self) -> None:
        self.process.is_killed = True
        self._channel.close()

    @property
    def was_asked_to_leave(self) -> bool:
        return signal.SIGTERM in self.process.signals
