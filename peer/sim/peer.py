"""One simulated peer: the product's life, driver, mixing and trainer, on a virtual machine."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peer.birth import Birth
from peer.driver import Driver
from peer.life import Life, Parts
from peer.method import method_of_run
from peer.mixing import Mixing
from peer.net.config import WireConfig
from peer.presence import Presence
from peer.sim.directory import SimDirectory
from peer.sim.ledger import Ledger
from peer.sim.loop import host_context
from peer.sim.network import LinkSpec, VirtualHost, log_normal
from peer.sim.trainer import SimTrainer
from peer.sim.wire import SimWire, scaled_chunk_bytes
from peer.status import PeerStatus
from protocol.card import LIFE_BYTES
from protocol.identity import PeerId
from protocol.rooms import Rooms

if TYPE_CHECKING:
    from peer.sim.swarm import SimSwarm

ENTER_WAIT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where a peer sits: its machine and its link."""

    link: LinkSpec = field(default_factory=LinkSpec)
    region: str = ""
    step_s: float = 0.1
    """The mean time of an inner step."""
    step_cv: float = 0.0
    """Standard deviation of a step's time over its mean; times are log-normal."""


class SimPeer:
    """See the module docstring.

    Args:
        swarm: Where it lives.
        peer_id: Who it is.
        seat: Its machine.
        host: The same, in the network.

    Attributes:
        status: As a real peer's.
        began_at_s, trained_from_s, ended_at_s: When it was started, when its first step began,
            and when it left or died.
        busy_s: Spent on inner steps.
        slowness: Steps take so many times as long now.
    """

    def __init__(self, swarm: "SimSwarm", peer_id: PeerId, seat: Seat, host: VirtualHost) -> None:
        self.peer_id = peer_id
        self.seat = seat
        self.host = host
        self.status = PeerStatus()
        self.began_at_s = swarm.clock.now_s
        self.trained_from_s: float | None = None
        self.ended_at_s: float | None = None
        self.ledger = Ledger(swarm.clock.now_s)
        self.is_leaving = False
        self.busy_s = 0.0
        self.frozen_s = 0.0
        self.slowness = 1.0
        self.context = host_context(host)
        self._swarm = swarm
        self._task: asyncio.Task[None] | None = None
        self._make()

    def _make(self) -> None:
        task = self._swarm.task
        method = method_of_run(task.manifest)
        self.mixing = Mixing(
            task.layout,
            method.outer,
            method.codecs,
            task.anchor(),
            our_id=self.peer_id,
            is_common=method.mixing == "all",
            grain_bytes=scaled_chunk_bytes(
                task.manifest.limits.chunk_bytes, self._swarm.internet.byte_scale
            ),
        )
        self.learner = task.learner(self.peer_id)

    @property
    def is_running(self) -> bool:
        """Whether its processes are there, not stopped, and not about to end."""
        return self.ended_at_s is None and not (self.host.is_frozen or self.is_leaving)

    @property
    def rounds(self) -> list[int]:
        """The round of each fragment's anchor."""
        return [outer.round for outer in self.mixing.outer]

    def start(self) -> None:
        """Switches the machine on."""
        self._task = self._swarm.loop.create_task(self._live(), context=self.context)
        self._task.add_done_callback(self._swarm.on_ended)

    def stop(self) -> None:
        """Asks the peer to leave in order, once."""
        if self._task is not None and not self.is_leaving:
            self.is_leaving = True
            self._swarm.loop.call_soon(self._task.cancel, context=self.context)

    async def _live(self) -> None:
        parts, trainer = self._assemble()
        life = self._life = Life(parts, evaluate_every_rounds=self._swarm.evaluate_every_rounds)
        training = asyncio.create_task(trainer.run())
        trainer_life = asyncio.create_task(trainer.port.run())
        try:
            await trainer.port.hello
            await life.enter(wait_s=ENTER_WAIT_S)
            self.trained_from_s = self._swarm.clock.now_s
            await life.train(trainer_life)
        except asyncio.CancelledError:
            await life.finish()
            await life.leave()
        finally:
            if self.ended_at_s is None:
                self.ended_at_s = self._swarm.clock.now_s
            await self._end(parts, trainer, training, trainer_life)

    def _assemble(self) -> tuple[Parts, SimTrainer]:
        swarm = self._swarm
        manifest = swarm.task.manifest
        events = swarm.trace.of(self.host, swarm.loop.time)
        trainer = self.trainer = SimTrainer(
            self.learner,
            lambda: self.next_step_s(),
            on_news=lambda news: self._life.on_news(news),
            max_steps=swarm.max_steps,
            evaluation_bytes=swarm.evaluation_bytes,
        )
        named = hashlib.sha256(f"{self.peer_id} {self.began_at_s:.9f}".encode())
        birth = Birth(named.hexdigest()[: 2 * LIFE_BYTES], self.began_at_s)
        driver = self.driver = Driver(
            self.peer_id,
            birth.life,
            manifest,
            self.mixing,
            events=events,
            status=self.status,
        )
        config = WireConfig(
            run_id=manifest.run_id,
            chunk_bytes=manifest.limits.chunk_bytes,
            max_message_bytes=manifest.limits.max_message_bytes,
            progress_s=manifest.round.progress_s,
            max_streams_per_peer=manifest.limits.max_streams_per_peer,
            num_fragments=manifest.method.schedule.fragments,
            max_peers=manifest.limits.max_peers,
        )
        wire = self.wire = SimWire(swarm.internet, self.host, self.context, config, inbox=driver)
        parts = Parts(
            our_id=self.peer_id,
            birth=birth,
            manifest=manifest,
            mixing=self.mixing,
            driver=driver,
            trainer=trainer.port,
            wire=wire,
            presence=self._presence(),
            status=self.status,
            events=events,
            addresses=lambda: ("virtual:1",),
            clock=swarm.loop.time,
        )
        return parts, trainer

    def _presence(self) -> Presence:
        manifest = self._swarm.task.manifest
        is_pairs = manifest.method.mixing == "pairs"
        rooms = Rooms(self.peer_id, manifest.run_id) if is_pairs else None
        return Presence(SimDirectory(self._swarm.board, self.host), self.peer_id, rooms)

    async def _end(self, parts: Parts, trainer: SimTrainer, *tasks: "asyncio.Task[None]") -> None:
        await parts.wire.close()
        await parts.driver.close()
        await trainer.port.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def next_step_s(self) -> float:
        """Returns how long the next inner step takes."""
        seat = self.seat
        own_s = log_normal(self._swarm.rng, seat.step_s, seat.step_cv)
        step_s = own_s * self.slowness
        self.busy_s += step_s
        self.ledger.begin_step(self._swarm.clock.now_s, own_s, step_s)
        return step_s
