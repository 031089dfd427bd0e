"""The boundaries that a swarm crosses while it runs, and the blade that cuts it at one of them.

Equal seeds give equal runs, so boundaries can be counted in one run and cut at in the next ones: a
boundary is where a message or a piece of a blob leaves or arrives, a fetch or a job begins or ends,
an effect is performed, or a line passes between trainer and wire. The cut is the death of the one
end, or of the other, or a path between them that carries nothing for a while; at boundaries inside
of a peer, its death, or that nobody reaches it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import permutations
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

from peer.driver import Driver
from peer.sim.loop import _HOST
from peer.sim.network import VirtualHost
from peer.sim.swarm import SimSwarm
from peer.sim.trainer import Lines
from peer.sim.wire import SimWire
from peer.train.lines import Hello, Message, Progress
from protocol.identity import PeerId
from protocol.machine import BlobRef, Effect, Send
from protocol.messages import Note

APART_S = 6.0
"""So long a cut path carries nothing."""

Kind = Literal["src", "dst", "apart"]


class Boundary(NamedTuple):
    """Where a run can be cut."""

    what: str
    src: PeerId
    dst: PeerId | None
    """None inside of one peer."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """How a run can be cut there."""
        return ("src", "apart") if self.dst is None else ("src", "dst", "apart")


class Cut(NamedTuple):
    """A run that is cut."""

    scene: str
    """Its name; see `tests.sim.cuts`."""
    number: int
    boundary: Boundary
    kind: Kind


class Blade:
    """Counts boundaries, and cuts at one of them.

    Args:
        swarm: Where.
        from_s, until_s: When boundaries count.
        cut: Where to cut; None only counts.

    Attributes:
        crossed: All boundaries, as far as there was no cut.
        fired_s: When it was cut.
    """

    def __init__(self, swarm: SimSwarm, from_s: float, until_s: float, cut: Cut | None) -> None:
        self.crossed: list[Boundary] = []
        self.fired_s: float | None = None
        self._swarm = swarm
        self._from_s = from_s
        self._until_s = until_s
        self._cut = cut

    def cross(self, what: str, src: PeerId, dst: PeerId | None = None) -> None:
        """A boundary is reached."""
        now_s = self._swarm.clock.now_s
        if self.fired_s is not None or not self._from_s <= now_s < self._until_s:
            return
        boundary = Boundary(what, src, dst)
        self.crossed.append(boundary)
        if self._cut and len(self.crossed) > self._cut.number:
            self.fired_s = now_s
            assert boundary == self._cut.boundary, f"{boundary}, and not {self._cut}"
            self._strike(self._cut)

    def _strike(self, cut: Cut) -> None:
        swarm, (_, src, dst) = self._swarm, cut.boundary
        if cut.kind == "apart":
            ends = [src, dst] if dst else list(swarm.peers)
            paths = [path for path in permutations(ends, 2) if src in path]
            swarm.clock.after(APART_S, swarm.network.cut(paths))
            swarm.network.fired["halves"] += 1
            return
        victim = dst if cut.kind == "dst" and dst else src
        # Every other one takes its machine along, which then does not even refuse.
        swarm.crash(swarm.peers[victim], is_silent=bool(cut.number % 2))
        swarm.network.fired["crash"] += 1


# ---- where boundaries are


@contextmanager
def hooked(
    blade: Blade, swarm: SimSwarm, on_effect: Callable[[PeerId, Effect], None]
) -> Iterator[None]:
    """Lets a blade know of each boundary, and somebody of each effect."""
    with ExitStack() as stack:
        for owner, name, hook in (
            *_network_hooks(blade, swarm),
            *_driver_hooks(blade, on_effect),
            *_wire_hooks(blade),
            *_trainer_hooks(blade),
        ):
            stack.enter_context(patch.object(owner, name, hook))
        yield


Hook = tuple[Any, str, Callable[..., Any]]


def _network_hooks(blade: Blade, swarm: SimSwarm) -> Iterator[Hook]:
    network = swarm.network
    note, chunk = network.note, network.chunk

    def passing(what: str, src: PeerId, dst: PeerId, action: Callable[[], object]) -> Any:
        def pass_on() -> None:
            blade.cross(what, src, dst)
            action()

        return pass_on

    def hooked_note(src: PeerId, dst: PeerId, num_bytes: float, deliver: Any, **more: Any) -> None:
        blade.cross("note leaves", src, dst)
        if not _has_died(network.hosts[src]):
            note(src, dst, num_bytes, passing("note arrives", src, dst, deliver), **more)

    def hooked_chunk(
        src: PeerId, dst: PeerId, num_bytes: float, deliver: Any, *, left: Any, **more: Any
    ) -> None:
        blade.cross("chunk leaves", src, dst)
        if not _has_died(network.hosts[src]):
            deliver = passing("chunk arrives", src, dst, deliver)
            chunk(src, dst, num_bytes, deliver, left=left, **more)

    yield network, "note", hooked_note
    yield network, "chunk", hooked_chunk


def _has_died(host: VirtualHost) -> bool:
    """Whether what is running here now belongs to a dead process, and only ends its turn."""
    return host.is_dead and _HOST.get() is host


def _driver_hooks(blade: Blade, on_effect: Callable[[PeerId, Effect], None]) -> Iterator[Hook]:
    perform, job = Driver._perform, Driver._job

    def hooked_perform(driver: Driver, effect: Effect) -> None:
        end = effect.dst if isinstance(effect, Send) else getattr(effect, "src", None)
        blade.cross(f"effect {type(effect).__name__}", driver._our_id, end)
        on_effect(driver._our_id, effect)
        perform(driver, effect)

    def hooked_job(driver: Driver, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        name = function.__qualname__.partition(".<locals>")[0]

        def hooked_function() -> Any:
            blade.cross(f"job begins, {name}", driver._our_id)
            result = function()
            blade.cross(f"job ends, {name}", driver._our_id)
            return result

        return job(driver, hooked_function)

    yield Driver, "_perform", hooked_perform
    yield Driver, "_job", hooked_job


def _wire_hooks(blade: Blade) -> Iterator[Hook]:
    send, fetch = SimWire.send, SimWire.fetch

    async def hooked_send(wire: SimWire, dst: PeerId, note: Note) -> None:
        blade.cross(f"{type(note).__name__} is sent", wire._our_id, dst)
        await send(wire, dst, note)
        blade.cross(f"{type(note).__name__} is taken", wire._our_id, dst)

    async def hooked_fetch(wire: SimWire, src: PeerId, ref: BlobRef, sink: Any) -> None:
        blade.cross(f"fetch of {ref.kind} begins", wire._our_id, src)
        await fetch(wire, src, ref, sink)
        blade.cross(f"fetch of {ref.kind} ends", wire._our_id, src)

    yield SimWire, "send", hooked_send
    yield SimWire, "fetch", hooked_fetch


def _trainer_hooks(blade: Blade) -> Iterator[Hook]:
    send, answer = Lines.send, Lines.answer

    def cross(message: Message, where: str) -> None:
        host = _HOST.get()
        if isinstance(host, VirtualHost) and not isinstance(message, Hello | Progress):
            blade.cross(f"{type(message).__name__} {where}", host.host_id)

    def hooked_send(channel: Lines, message: Message) -> None:
        cross(message, "to the trainer")
        send(channel, message)

    def hooked_answer(channel: Lines, message: Message) -> None:
        cross(message, "from the trainer")
        answer(channel, message)

    yield Lines, "send", hooked_send
    yield Lines, "answer", hooked_answer
