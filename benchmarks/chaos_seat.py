"""Where one peer of `benchmarks.chaos` sits: a host, a small disk, and a clock that can be wrong.

Who sits there is `thinwire join`, with nothing changed but what `chaos_site` says. Whoever dies or
ends is started again from the folder, as a supervisor would do it.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.chaos_disk import Disk
from benchmarks.chaos_processes import descendants, role_of
from peer.run_folder import TICKET

if TYPE_CHECKING:
    from benchmarks.chaos_swarm import Swarm

AGAIN_S = 2.0
"""A peer that ended by itself is started again after so long, as a supervisor does."""
STUCK_S = 180.0
"""Whoever has not made a step so long after its start is started anew."""


class Seat:
    """Where one peer sits.

    Attributes:
        name: Of the seat and of its host.
        is_up: It trains, as far as we have seen: it has made a step since it was started.
        is_frozen: We have stopped all its processes.
        strikes: Faults that have it in their hands now.
        life: How often it was started.
        lost_trainers: How many of its trainers we have ended.
        is_expected: Whether it shall be there at the end.
    """

    def __init__(self, name: str, swarm: "Swarm", *, is_spare: bool) -> None:
        self.name = name
        self.is_spare = is_spare
        self.is_up = False
        self.is_frozen = False
        self.strikes: set[int] = set()
        self.life = 0
        self.lost_trainers = 0
        self.is_expected = not is_spare
        self.disk = Disk(swarm.places.peer(name), swarm.disk_bytes)
        self._swarm = swarm
        self._is_wanted = False
        self._again_s: float | None = None
        self._started_s = 0.0
        self._left_from_s: float | None = None
        self._steps = swarm.places.steps(name)
        self._read_bytes = 0
        self.set_clock(0.0)

    @property
    def folder(self) -> Path:
        """The peer's own."""
        return self._swarm.places.peer(self.name)

    @property
    def pid(self) -> int:
        """Of the wire process."""
        return self._swarm.cast.actors[self.name].pid

    @property
    def is_alive(self) -> bool:
        """Whether there is a process."""
        actor = self._swarm.cast.actors.get(self.name)
        return actor is not None and actor.is_alive

    @property
    def is_empty(self) -> bool:
        """Nobody sits here, and nobody is to."""
        return not self.is_alive and not self._is_wanted

    def pids(self, *roles: str) -> list[int]:
        """Returns the processes of these roles, or all."""
        if not self.is_alive:
            return []
        pids = [self.pid, *descendants(self.pid)]
        return [pid for pid in pids if not roles or role_of(pid) in roles]

    def set_clock(self, offset_s: float) -> None:
        """Sets its wall clock wrong by so much."""
        path = self._swarm.places.clock(self.name)
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(f"{offset_s}\n")
        temporary.rename(path)

    def start(self, ticket: Path | None = None) -> None:
        """Starts the peer, from its last checkpoint if there is one.

        Args:
            ticket: What it joins with if it has none of its own; None is the bootstrap node's.
        """
        swarm, has_checkpoint = self._swarm, any(self.folder.glob("checkpoints/step-*[0-9]"))
        own = self.folder / TICKET
        if has_checkpoint:
            who = ["--resume", str(self.folder)]
        else:
            given = own if own.exists() else ticket or swarm.places.run / TICKET
            who = [str(given), "--dir", str(self.folder)]
        command = [sys.executable, "-m", "thinwire", "join", *who, *swarm.options(self.name)]
        self.life += 1
        self.is_up, self._again_s, self._is_wanted = False, None, True
        self._started_s = time.monotonic()
        swarm.start(self.name, command)
        how = "resume" if has_checkpoint else "join"
        swarm.chronicle.write("started", seat=self.name, life=self.life, pid=self.pid, how=how)

    def kill(self) -> list[int]:
        """Ends all processes at once with SIGKILL; returns which."""
        pids = self.pids()
        self._is_wanted = False
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._swarm.cast.actors[self.name].kill()
        self._swarm.chronicle.write("killed", seat=self.name, life=self.life, pids=pids)
        self.is_up = False
        return pids

    def interrupt(self) -> None:
        """Does what Ctrl+C does."""
        self._is_wanted = self.is_up = False
        self._left_from_s = time.monotonic()
        self._swarm.cast.actors[self.name].interrupt()

    def has_no_trainer(self) -> None:
        """Its trainer was ended; it is up again when the next one has made a step."""
        self.lost_trainers += 1
        self.is_up, self._started_s = False, time.monotonic()

    def look(self) -> None:
        """Sees whether it has made a step, or has ended; starts it again if that is due."""
        if self._left_from_s is not None and not self.is_alive:
            took_s = round(time.monotonic() - self._left_from_s, 2)
            self._swarm.chronicle.write("gone", seat=self.name, life=self.life, took_s=took_s)
            self._left_from_s = None
        if self._is_wanted and not self.is_up and self.is_alive and self._has_stepped():
            self.is_up = True
            took_s = round(time.monotonic() - self._started_s, 2)
            self._swarm.chronicle.write("up", seat=self.name, life=self.life, took_s=took_s)
        now_s = time.monotonic()
        if not self._is_wanted:
            return
        if self._again_s is not None:
            if now_s >= self._again_s:
                self.start()
        elif not self.is_alive:
            actor = self._swarm.cast.actors[self.name]
            self.is_up, self._again_s = False, now_s + AGAIN_S
            self._swarm.chronicle.write(
                "ended",
                seat=self.name,
                life=self.life,
                exit_code=actor.exit_code,
                tail=actor.tail(),
            )
        elif not self.is_up and not self.is_frozen and now_s - self._started_s > STUCK_S:
            self._swarm.chronicle.write("stuck", seat=self.name, life=self.life)
            self.kill()
            self._is_wanted, self._again_s = True, now_s + AGAIN_S

    def _has_stepped(self) -> bool:
        if not self._steps.exists():
            return False
        with self._steps.open() as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole, _, _ = new.rpartition("\n")
        self._read_bytes += len(whole) + 1 if whole else 0
        return bool(whole) and float(whole.rpartition("\n")[2].split()[1]) > self._started_s
