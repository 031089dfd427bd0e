"""The actors: processes with a folder and a log, all of which end with the demo.

Each actor has a session of its own. So Ctrl+C reaches only the demo, which then decides; and an
actor that is killed takes its trainer and its libp2p daemon along, as a power cut would.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import peer
from peer.demo import leash
from protocol.errors import LocalProtocolError, ThinwireError

_TAIL_LINES = 12


class ActorDied(ThinwireError):
    """An actor ended although nobody had told it to; the message is one sentence."""

    def __init__(self, actor: "Actor") -> None:
        self.actor = actor
        super().__init__(
            f"{actor.name} ended unexpectedly with exit code {actor.exit_code}; "
            f"its whole log is {actor.log_path}"
        )


class Actor:
    """One process.

    Args:
        name: For people, and of its folder.
        folder: For its log and whatever it writes; made if it is not there.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.log_path = folder / "log.txt"
        self.output_path = folder / "output.txt"
        self.fate = ""
        """What we did to it, for people; nothing as long as it should live."""
        self.may_finish = False
        """Whether its work has an end of its own, so that exit code 0 is no accident."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str]) -> None:
        """Start the command; call it on the main thread, whose end counts as the demo's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]
        with self.log_path.open("ab") as log, self.output_path.open("ab") as output:
            self._process = subprocess.Popen(
                leashed,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process, which leads a session of its own.

        Raises:
            LocalProtocolError: it was not started.
        """
        if self._process is None:
            raise LocalProtocolError(f"{self.name} was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """As `subprocess` has it: negative is a signal, None while it lives or was not started."""
        return None if self._process is None else self._process.poll()

    @property
    def is_alive(self) -> bool:
        """It was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it, and all that it started, with SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def interrupt(self) -> None:
        """Do what Ctrl+C does: ask it to leave."""
        if self._process is not None and self.is_alive:
            self._process.send_signal(signal.SIGINT)

    def tail(self) -> str:
        """Returns the last lines of what it wrote, errors first if there are any."""
        for path in (self.log_path, self.output_path):
            text = path.read_text(errors="replace").strip() if path.exists() else ""
            if text:
                return "\n".join(text.splitlines()[-_TAIL_LINES:])
        return ""


class Cast:
    """All actors of one demo; a context that leaves none of them alive.

    Args:
        directory: Each actor's folder is in it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.actors: dict[str, Actor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for actor in self.actors.values():
            actor.kill()

    def start(self, name: str, command: Sequence[str]) -> Actor:
        """Returns a new actor that runs the command."""
        actor = self.actors[name] = Actor(name, self._directory / name)
        actor.start(command)
        return actor

    def check(self) -> None:
        """Do nothing if all is well.

        Raises:
            ActorDied: one ended although nobody had told it to.
        """
        for actor in self.actors.values():
            code = actor.exit_code
            is_finished = actor.may_finish and code == 0
            if not actor.fate and code is not None and not is_finished:
                raise ActorDied(actor)

    def dismiss(self, names: Sequence[str], *, within_s: float) -> dict[str, int | None]:
        """Ask these actors to leave as Ctrl+C does, and wait.

        Returns:
            By name the exit code, None for one that did not leave in time and was killed.
        """
        leaving = [self.actors[name] for name in names if name in self.actors]
        for actor in leaving:
            actor.fate = actor.fate or "left"
            actor.interrupt()
        give_up_at_s = time.monotonic() + within_s
        while any(actor.is_alive for actor in leaving) and time.monotonic() < give_up_at_s:
            time.sleep(0.05)
        codes = {actor.name: actor.exit_code for actor in leaving}
        for actor in leaving:
            actor.kill()
        return codes


def _environment() -> dict[str, str]:
    """Returns the environment of an actor: this very code, and one thread for each process."""
    root = str(Path(peer.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **one_thread, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
