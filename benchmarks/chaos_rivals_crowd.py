"""The replicas of `benchmarks.chaos_rivals`, their coordinator, and what strikes them.

Killed and stopped is a whole process group, or tree, at once. The coordinator is back when it
listens again; for a replica it is the first step that counts.
"""

import contextlib
import heapq
import itertools
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from benchmarks.chaos_plan import BOOTSTRAP, Chronicle, Places, Plan
from benchmarks.chaos_processes import descendants, state_of
from benchmarks.chaos_rivals_process import Part
from benchmarks.chaos_run import say
from benchmarks.chaos_schedule import CALM_S, Planned
from peer.demo.cast import Cast

AGAIN_S = 2.0
TICK_S = 0.05
START_S = 120.0
SETTLE_S = 12.0


class Replica:
    """One replica, whoever is it now.

    Attributes:
        name: In all files.
        is_up: It has made a step since it was started.
        is_struck: A fault has it in its hands.
    """

    def __init__(self, part: Part, crowd: "Crowd") -> None:
        self.name = part.name
        self.is_up = self.is_struck = False
        self._part = part
        self._crowd = crowd
        self._again_s: float | None = None
        self._num_read = 0
        self._stopped: list[int] = []

    @property
    def _pid(self) -> int:
        return self._crowd.cast.actors[self.name].pid

    def start(self) -> None:
        """Starts it."""
        self._again_s = None
        self._num_read = self._num_steps()
        pid = self._crowd.start(self._part, self._crowd.coordinator)
        self._crowd.chronicle.write("started", seat=self.name, pid=pid)

    def kill(self) -> None:
        """Ends it, and all that it started, with SIGKILL."""
        self.is_up = False
        self._crowd.cast.actors[self.name].kill()
        self._crowd.chronicle.write("killed", seat=self.name)

    def stop(self) -> None:
        """Stops all its processes, as a laptop sleeps."""
        self._stopped = [self._pid, *descendants(self._pid)]
        self._send(signal.SIGSTOP)

    def go_on(self) -> bool:
        """Lets its processes go on; returns whether all were stopped."""
        states = {state_of(pid) for pid in self._stopped}
        self._send(signal.SIGCONT)
        return states == {"T"}

    def look(self) -> None:
        """Sees whether it has made a step, or has ended; starts it again if that is due."""
        actor = self._crowd.cast.actors[self.name]
        if self._again_s is not None:
            if time.monotonic() >= self._again_s:
                self.start()
        elif actor.is_alive:
            self.is_up = self.is_up or self._num_steps() > self._num_read
        elif not self.is_struck:
            self.is_up, self._again_s = False, time.monotonic() + AGAIN_S
            code, tail = actor.exit_code, actor.tail()
            actor.kill()  # what it had started
            self._crowd.chronicle.write("ended", seat=self.name, exit_code=code, tail=tail)
            say(f"{self.name} ended by itself with {code}: {_last_line(tail)}")

    def _send(self, number: int) -> None:
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _num_steps(self) -> int:
        return self._part.steps.read_bytes().count(b"\n") if self._part.steps.exists() else 0


class Crowd:
    """The coordinator and all replicas of a rival; a context that leaves no process behind.

    Attributes:
        replicas: All.
        coordinator: Its address, as it has said it.
    """

    def __init__(self, rival: str, plan: Plan, places: Places, timeouts: dict[str, float]) -> None:
        for name in ("addresses", "rounds"):
            (places.folder / name).mkdir()
        self.cast = Cast(places.logs)
        self.chronicle = Chronicle(places.chronicle)
        self.places = places
        names = (BOOTSTRAP, *plan.names[: plan.peers])
        self._parts = [
            Part(
                rival=rival,
                name=name,
                port=port,
                folder=str(places.folder),
                peers=plan.peers,
                interval_steps=plan.interval_steps,
                step_s=plan.step_s,
                timeouts=timeouts,
            )
            for name, port in zip(names, _free_ports(len(names)), strict=True)
        ]
        self.replicas = [Replica(part, self) for part in self._parts[1:]]
        self.coordinator = ""
        self._returning: Planned | None = None
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.cast.actors.values():
            actor.kill()
        self.chronicle.close()

    def start(self, part: Part, *arguments: str) -> int:
        """Starts a process, and returns its id."""
        module = ["-m", "benchmarks.chaos_rivals_process"]
        command = [sys.executable, *module, json.dumps(asdict(part)), *arguments]
        return self.cast.start(part.name, command).pid

    def start_coordinator(self) -> None:
        """Starts it, or starts it again at its address."""
        self.start(self._parts[0])

    def assemble(self) -> None:
        """Starts everybody, and waits for steps and first rounds."""
        self.start_coordinator()
        self._wait_for("the coordinator", self._parts[0].address.exists)
        self.coordinator = self._parts[0].address.read_text()
        for replica in self.replicas:
            replica.start()
        self._wait_for("replicas", lambda: all(replica.is_up for replica in self.replicas))
        self._last(SETTLE_S)

    def measure(self, duration_s: float, planned: list[Planned]) -> None:
        """Lets time pass, and faults strike."""
        self.chronicle.write("begins", duration_s=duration_s, load=os.getloadavg())
        began_s = time.monotonic()
        coming, waiting = list(planned), list[Planned]()
        stormy_s = duration_s - min(CALM_S, duration_s / 3)
        while (passed_s := time.monotonic() - began_s) < duration_s:
            while coming and coming[0].at_s <= passed_s:
                waiting.append(coming.pop(0))
            for fault in list(waiting):
                if passed_s < stormy_s and self._strike(fault, stormy_s - passed_s):
                    waiting.remove(fault)
            self.tick()
        for fault in waiting:
            self.chronicle.write("not_fired", number=fault.number, kind=fault.kind)
        self.chronicle.write("ends", load=os.getloadavg())

    def tick(self) -> None:
        """Looks at everybody, does what is due, sleeps a little."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        if self._returning:
            self._look_for_coordinator(self._returning)
        for replica in self.replicas:
            if replica.name in self.cast.actors:
                replica.look()
        time.sleep(TICK_S)

    def _strike(self, fault: Planned, room_s: float) -> bool:
        """Strikes, if there is somebody to be struck, and not half of all are away."""
        replica = None
        if fault.kind == "kill-bootstrap":
            if not self._parts[0].address.exists():
                return False
        else:
            numbers = [number for number in fault.order if number < len(self.replicas)]
            free = [self.replicas[n] for n in numbers if self.replicas[n].is_up]
            free = [each for each in free if not each.is_struck]
            num_away = len(self.replicas) - len(free)
            if not free or num_away + 1 > len(self.replicas) // 2:
                return False
            replica = free[0]
            replica.is_struck = True
        for_s = fault.for_s if math.isinf(fault.for_s) else min(fault.for_s, room_s)
        seats = [replica.name] if replica else []
        facts = {"number": fault.number, "kind": fault.kind, "seats": seats, "for_s": for_s}
        self.chronicle.write("strikes", **facts)
        say(f"{fault.kind:15}{' '.join(seats):10}{for_s:.1f} s")
        if replica is None:
            self.cast.actors[BOOTSTRAP].kill()
            self._parts[0].address.unlink()
        elif fault.kind == "freeze":
            replica.stop()
        else:
            replica.kill()
        end = (time.monotonic() + for_s, next(self._order), lambda: self._end(fault, replica))
        heapq.heappush(self._later, end)
        return True

    def _end(self, fault: Planned, replica: Replica | None) -> None:
        if replica is None:
            self.start_coordinator()
            self._returning = fault
            return
        replica.is_struck = False
        if fault.kind == "freeze":
            self._tell_end(fault, has_fired=replica.go_on())
        else:
            replica.start()
            self._tell_end(fault)

    def _look_for_coordinator(self, fault: Planned) -> None:
        actor = self.cast.actors[BOOTSTRAP]
        if self._parts[0].address.exists():
            self._tell_end(fault)
            self._returning = None
        elif not actor.is_alive:
            self.chronicle.write("coordinator_ended", tail=actor.tail())
            self.start_coordinator()

    def _tell_end(self, fault: Planned, *, has_fired: bool = True) -> None:
        self.chronicle.write("struck", number=fault.number, kind=fault.kind, fired=has_fired)

    def _last(self, for_s: float) -> None:
        end_s = time.monotonic() + for_s
        while time.monotonic() < end_s:
            self.tick()

    def _wait_for(self, what: str, is_here: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + START_S
        while not is_here():
            if time.monotonic() > give_up_s:
                raise SystemExit(f"waited for {what} in vain, for {START_S:g} s")
            self.tick()


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""
