"""Starting the trainer process, from the wire process's side."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from peer.train.interchange import Interchange


@dataclass(frozen=True, slots=True)
class TrainerProcess:
    """A running trainer; it exits by itself when `sock` is closed."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    """Our end of the lines; `peer.train.channel.AsyncLineChannel.open` takes it over."""


def launch_trainer(config_path: Path, interchange: Interchange) -> TrainerProcess:
    """Start `peer.train.worker` with the shared memory and one end of a new socketpair.

    Call it on a thread that lives as long as the trainer should, as a rule the main thread: Linux
    takes the end of the starting thread for the end of the parent.

    Args:
        config_path: What `TrainerConfig.write` wrote.
        interchange: The shared buffers, of this manifest's size.

    Raises:
        OSError: no process can be started.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "peer.train.worker", "--config", str(config_path)]
        command += ["--socket-fd", str(theirs.fileno()), "--buffers-fd", str(interchange.fd)]
        command += ["--parent-pid", str(os.getpid())]
        try:
            process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(), interchange.fd), stdin=subprocess.DEVNULL
            )
        except OSError:
            ours.close()
            raise
    return TrainerProcess(process, ours)
