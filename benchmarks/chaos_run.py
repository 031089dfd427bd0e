"""One run of `benchmarks.chaos`: a swarm trains, faults strike it, and all is written down."""

import contextlib
import heapq
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos_faults import ALONE, AWAY, FAULTS, whom
from benchmarks.chaos_plan import Places
from benchmarks.chaos_play import Play
from benchmarks.chaos_processes import marked, role_of, vitals_of
from benchmarks.chaos_schedule import KINDS, Planned
from benchmarks.chaos_seat import Seat
from benchmarks.chaos_swarm import Swarm, mark
from benchmarks.machine import busy_cpu_s
from peer.run_folder import TICKET
from peer.train.checkpoint import OUTER
from protocol.errors import ThinwireError

TICK_S = 0.05
SAMPLE_S = 5.0
ANCHOR_S = 10.0
START_S = 180.0
"""Founding and joining may take so long."""
LEAVE_S = 30.0
SETTLE_S = 5.0


class Stage:
    """A swarm while faults strike it.

    Args:
        swarm: Whose seats are empty yet.
    """

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._plays: list[tuple[float, int, Play, Planned, list[Seat]]] = []
        self._waiting: list[Planned] = []
        self._growth = swarm.places.growth.open("w", buffering=1)
        self._sample_s = self._anchor_s = 0.0
        self._num_anchors = 0

    def assemble(self) -> None:
        """Starts the bootstrap nodes and all peers but the spare ones, and waits for their steps.

        Raises:
            ThinwireError: they did not come.
        """
        swarm = self._swarm
        for node in swarm.plan.node_names:
            swarm.start_node(node)
            self._wait_for(f"{node}", (swarm.places.node(node) / TICKET).exists)
        for number, seat in enumerate(seat for seat in swarm.seats if not seat.is_spare):
            seat.start()
            if number % 2:  # as many as there are cores
                self._wait_for(f"{seat.name}", lambda seat=seat: seat.is_up)
        base = [seat for seat in swarm.seats if not seat.is_spare]
        self._wait_for("the peers", lambda: all(seat.is_up for seat in base))
        self.last(SETTLE_S)

    def measure(self, duration_s: float, planned: Sequence[Planned]) -> None:
        """Lets time pass, and faults strike."""
        chronicle = self._swarm.chronicle
        chronicle.write("begins", duration_s=duration_s, faults=len(planned), busy_s=busy_cpu_s())
        began_s = time.monotonic()
        coming = list(planned)
        latest_s = max((fault.at_s + fault.for_s for fault in planned), default=0.0)
        while (passed_s := time.monotonic() - began_s) < duration_s:
            while coming and coming[0].at_s <= passed_s:
                self._waiting.append(coming.pop(0))
            if passed_s < latest_s:
                self._strike(latest_s - passed_s)
            self.tick()
        for fault in self._waiting:
            chronicle.write("not_fired", number=fault.number, kind=fault.kind)
        chronicle.write("ends", busy_s=busy_cpu_s())

    def last(self, for_s: float) -> None:
        """Lets time pass."""
        end_s = time.monotonic() + for_s
        while time.monotonic() < end_s:
            self.tick()

    def tick(self) -> None:
        """Looks once at everything that is to be looked at; sleeps a little."""
        now_s = time.monotonic()
        while self._plays and self._plays[0][0] <= now_s:
            _, number, play, fault, seats = heapq.heappop(self._plays)
            self._go_on(number, play, fault, seats)
        self._swarm.look()
        if now_s >= self._sample_s:
            self._sample_s = now_s + SAMPLE_S
            self._sample()
        if now_s >= self._anchor_s:
            self._anchor_s = now_s + ANCHOR_S
            self._keep_anchor()
        time.sleep(TICK_S)

    def end(self) -> None:
        """Lets all leave, looks for what stays, and gathers what they have written."""
        swarm, chronicle = self._swarm, self._swarm.chronicle
        alive = [seat for seat in swarm.seats if seat.is_alive]
        chronicle.write(
            "final",
            up=[seat.name for seat in swarm.seats if seat.is_up],
            expected=[seat.name for seat in swarm.seats if seat.is_expected],
        )
        for _, _, play, _, _ in self._plays:
            play.close()
        for seat in alive:
            seat.interrupt()
        end_s = time.monotonic() + LEAVE_S
        while any(seat.is_alive for seat in alive) and time.monotonic() < end_s:
            swarm.look()
            time.sleep(TICK_S)
        swarm.look()
        codes = swarm.cast.dismiss([*(seat.name for seat in alive), *swarm.nodes], within_s=LEAVE_S)
        time.sleep(1.0)
        leaked = [{"pid": pid, "role": role_of(pid)} for pid in marked(mark())]
        chronicle.write("left", exit_codes=codes, leaked=leaked)
        self._growth.close()
        for seat in swarm.seats:
            self._gather(seat)

    # ---- faults

    def _strike(self, room_s: float) -> None:
        for planned in list(self._waiting):
            if KINDS[planned.kind].shortest_s > room_s + TICK_S:
                continue  # too short to be seen
            if (seats := whom(self._swarm, planned)) is None:
                continue
            self._waiting.remove(planned)
            fault = planned.within(room_s)
            for seat in seats:
                if fault.kind in ALONE | AWAY | {"join-storm"}:
                    seat.strikes.add(fault.number)
            names = [seat.name for seat in seats]
            if fault.kind in ("halves", "bridge"):
                names = []
            self._swarm.chronicle.write(
                "strikes",
                number=fault.number,
                kind=fault.kind,
                seats=names,
                for_s=round(fault.for_s, 2),
            )
            play = FAULTS[fault.kind](self._swarm, fault, seats)
            self._go_on(fault.number, play, fault, seats)

    def _go_on(self, number: int, play: Play, fault: Planned, seats: list[Seat]) -> None:
        try:
            rest_s = next(play)
        except StopIteration as stop:
            for seat in seats:
                seat.strikes.discard(number)
            self._swarm.chronicle.write("struck", number=number, kind=fault.kind, **stop.value)
            say(f"{fault.kind:15}{' '.join(seat.name for seat in seats[:3]):24}{stop.value}")
        else:
            entry = (time.monotonic() + rest_s, number, play, fault, seats)
            heapq.heappush(self._plays, entry)

    # ---- looking

    def _sample(self) -> None:
        processes = []
        for seat in self._swarm.seats:
            for pid in seat.pids():
                if vitals := vitals_of(pid):
                    facts = {"seat": seat.name, "pid": pid, "role": role_of(pid)}
                    processes.append(facts | asdict(vitals))
        line = {"t_mono_s": time.monotonic(), "busy_s": busy_cpu_s(), "processes": processes}
        self._growth.write(json.dumps(line) + "\n")

    def _keep_anchor(self) -> None:
        """Copies the newest anchor of one peer, another one each time."""
        up = self._swarm.up
        if up:
            seat = up[self._num_anchors % len(up)]
            self._num_anchors += 1
            _keep(seat.folder, self._swarm.places, f"{time.monotonic():.1f}-{seat.name}")

    def _gather(self, seat: Seat) -> None:
        """Takes from a peer's disk what is to stay."""
        logs = self._swarm.places.logs / seat.name
        for name in ("events.jsonl", "peer.log", "ticket.txt"):
            path = seat.folder / name
            if path.exists():
                logs.mkdir(exist_ok=True)
                (logs / name).write_bytes(path.read_bytes())
        if seat.life:
            _keep(seat.folder, self._swarm.places, f"final-{seat.name}")

    def _wait_for(self, what: str, is_here: Any) -> None:
        give_up_s = time.monotonic() + START_S
        while not is_here():
            if time.monotonic() > give_up_s:
                raise ThinwireError(f"waited for {what} in vain, for {START_S:g} s")
            self.tick()


def _keep(folder: Path, places: Places, name: str) -> None:
    """Copies the newest anchor of a peer, with when it was written."""
    checkpoints = sorted(folder.glob("checkpoints/step-*[0-9]"))
    with contextlib.suppress(OSError):  # it has just been removed; the next time, then
        for checkpoint in checkpoints[-1:]:
            wrong_s = time.time() - time.monotonic()
            written_s = (checkpoint / "checkpoint.json").stat().st_mtime - wrong_s
            data = (checkpoint / OUTER).read_bytes()
            info = (checkpoint / "checkpoint.json").read_text()
            (places.anchors / f"{name}.safetensors").write_bytes(data)
            facts = {"t_mono_s": written_s, "checkpoint": json.loads(info)}
            (places.anchors / f"{name}.json").write_text(json.dumps(facts))


@contextlib.contextmanager
def staged(swarm: Swarm) -> Iterator[Stage]:
    """Yields a stage, and ends it, whatever happens."""
    stage = Stage(swarm)
    try:
        yield stage
    finally:
        stage.end()


def say(line: str) -> None:
    """Tells people how it goes."""
    print(line, file=sys.stderr, flush=True)
