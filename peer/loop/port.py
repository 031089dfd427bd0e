"""The loop's end of the lines to its wire process, and the process itself."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from peer.train import lines
from peer.train.channel import LineChannel
from peer.train.interchange import Interchange
from protocol.errors import ConfigError, ThinwireError

LOG = "peer.log"
MAX_NOTICES = 100


def launch(interchange: Interchange, folder: Path) -> "WirePort":
    """Start the wire process of this process, in a session of its own: Ctrl+C is for the loop.

    Args:
        interchange: The shared buffers, of the model's size.
        folder: The peer's; what the process says on its own goes to peer.log there.

    Raises:
        ConfigError: the folder cannot be used, or no process can be started.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "peer.loop.wire_process"]
        command += ["--socket-fd", str(theirs.fileno()), "--buffers-fd", str(interchange.fd)]
        command += ["--parent-pid", str(os.getpid())]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("ab") as log:
                process = subprocess.Popen(
                    command,
                    pass_fds=(theirs.fileno(), interchange.fd),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise ConfigError(f"cannot use the folder {folder}: {error.strerror}") from None
    return WirePort(process, LineChannel(ours))


class WirePort:
    """A `peer.train.trainer.Port` that keeps what is said to the loop, and passes on the rest.

    Args:
        process: The wire process.
        channel: The lines to it.

    Attributes:
        found: The run, once it is known.
        news: The last that the wire process said of itself.
        notices: What it wanted the user to know, the newest last.
        failure: Why it has ended, if it said so.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", channel: LineChannel) -> None:
        self.process = process
        self.found: lines.Found | None = None
        self.news = lines.News()
        self.notices: list[str] = []
        self.failure: ThinwireError | None = None
        self._channel = channel
        self._kept: list[lines.Message] = []

    @property
    def is_closed(self) -> bool:
        """The wire process is gone, or about to be."""
        return self._channel.is_closed

    @property
    def backlog_bytes(self) -> int:
        """What the wire process has not taken yet."""
        return self._channel.backlog_bytes

    def send(self, message: lines.Message) -> None:
        """Queue a message without waiting."""
        self._channel.send(message)

    def poll(self, *, wait_s: float = 0.0) -> list[lines.Message]:
        """Return what has come for the trainer, waiting at most so long for the first line."""
        self.look(wait_s=0.0 if self._kept else wait_s)
        kept, self._kept = self._kept, []
        return kept

    def look(self, *, wait_s: float = 0.0) -> None:
        """Read what has come; what is for the trainer waits until it polls."""
        for message in self._channel.poll(wait_s=wait_s):
            match message:
                case lines.Found():
                    self.found = message
                case lines.News():
                    self.news = message
                    self.notices += message.notices
                    del self.notices[:-MAX_NOTICES]
                case lines.Failed():
                    kind = ConfigError if message.is_config else ThinwireError
                    self.failure = kind(message.reason)
                case _:
                    self._kept.append(message)

    def ask_to_leave(self) -> None:
        """Let the wire process leave in order, whatever it does now."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, *, wait_s: float) -> None:
        """Close the lines; wait until the process has ended, and end it if that takes too long."""
        self._channel.close()
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
