"""All the peers of `benchmarks.chaos`, and the bootstrap nodes: real processes of the product."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import benchmarks
from benchmarks.chaos_plan import PORT, Chronicle, Places, Plan
from benchmarks.chaos_processes import descendants, state_of
from benchmarks.chaos_seat import Seat
from benchmarks.links import Lab
from bootstrap.found import found
from peer.demo.cast import Cast
from peer.run_folder import TICKET

SITE = Path(benchmarks.__file__).parent / "chaos_site"
MARK = "CHAOS_MARK"
"""Every process of a measurement, and whatever it starts, has this in its environment."""


class Swarm:
    """All seats, and the bootstrap nodes; make it with `swarm_of`."""

    def __init__(
        self, plan: Plan, places: Places, cast: Cast, lab: Lab | None, *, disk_bytes: int
    ) -> None:
        self.plan = plan
        self.places = places
        self.cast = cast
        self.lab = lab
        self.disk_bytes = disk_bytes
        self.chronicle = Chronicle(places.chronicle)
        self.seats = [
            Seat(name, self, is_spare=number >= plan.peers)
            for number, name in enumerate(plan.names)
        ]

    @property
    def up(self) -> list[Seat]:
        """Who trains."""
        return [seat for seat in self.seats if seat.is_up and not seat.is_frozen]

    @property
    def hosts(self) -> list[str]:
        """All that can be cut off."""
        return [*self.plan.node_names, *self.plan.names]

    @property
    def nodes(self) -> list[str]:
        """The bootstrap nodes whose process lives."""
        actors = self.cast.actors
        return [name for name in self.plan.node_names if name in actors and actors[name].is_alive]

    def start_node(self, name: str) -> None:
        """Starts a bootstrap node, or starts it again; all but the first enter by the first."""
        folder = self.places.node(name)
        which = [str(folder)]
        if not folder.exists():
            which = [str(self.places.run / TICKET), "--dir", str(folder)]
        serve = [sys.executable, "-m", "thinwire", "bootstrap", *which]
        self.start(name, [*serve, "--listen", self._address(name)])
        self.chronicle.write("started", seat=name, pid=self.cast.actors[name].pid)

    def kill_node(self, name: str) -> list[int]:
        """Ends a bootstrap node with SIGKILL; returns its processes."""
        actor = self.cast.actors[name]
        pids = [actor.pid, *descendants(actor.pid)]
        actor.kill()
        return pids

    def options(self, name: str) -> list[str]:
        """Returns what a peer is told beside whom it joins."""
        plan = self.plan
        every = ("--checkpoint-every", f"{plan.checkpoint_every_s:g}")
        never = ("--evaluate-every", str(1 << 30))
        cpu = ("--device", "cpu", "--threads", "1", "--plain")
        return ["--listen", self._address(name), *cpu, *every, *never]

    def start(self, name: str, command: list[str]) -> None:
        """Starts a process on a host."""
        places, env = self.places, shutil.which("env") or "env"
        variables = {
            "CHAOS_CLOCK": places.clock(name),
            "CHAOS_STEPS": places.steps(name),
            "CHAOS_STEP_S": self.plan.step_s,
        }
        if name in self.plan.node_names:
            variables = {}
        command = [env, *(f"{key}={value}" for key, value in variables.items()), *command]
        self.cast.start(name, self.lab.command(name, *command) if self.lab else command)

    def look(self) -> None:
        """Sees how everybody is."""
        for seat in self.seats:
            seat.look()

    def _address(self, name: str) -> str:
        return f"{self.lab.address(name)}:{PORT}" if self.lab else "127.0.0.1"


@contextlib.contextmanager
def swarm_of(plan: Plan, places: Places, *, has_lab: bool, has_disks: bool) -> Iterator[Swarm]:
    """Yields a founded run and empty seats; nothing of it lives afterwards.

    Args:
        plan: Which swarm.
        places: Where its files are.
        has_lab: Whether each peer has a host of its own.
        has_disks: Whether each peer has a disk of its own.
    """
    found(plan.settings, places.run)
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    path = os.pathsep.join(filter(None, (str(SITE), os.environ.get("PYTHONPATH"))))
    before = {name: os.environ.get(name) for name in (MARK, "PYTHONPATH")}
    os.environ |= {MARK: mark, "PYTHONPATH": path}
    links = dict.fromkeys((*plan.node_names, *plan.names), plan.link)
    with contextlib.ExitStack() as stack:
        stack.callback(_restore, before)
        lab = None
        if has_lab:
            lab = stack.enter_context(Lab(links, congestion=plan.congestion, seed=plan.seed))
        cast = Cast(places.logs)
        swarm = Swarm(plan, places, cast, lab, disk_bytes=plan.disk_bytes if has_disks else 0)
        stack.callback(swarm.chronicle.close)
        for seat in swarm.seats:
            stack.callback(seat.disk.close)
        stack.enter_context(cast)
        yield swarm


def mark() -> str:
    """Returns the words that all processes of this measurement have in their environment."""
    return f"{MARK}={os.environ[MARK]}"


def are_gone(pids: list[int]) -> bool:
    """Whether none of these processes lives."""
    return not any(state_of(pid) for pid in pids)


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
