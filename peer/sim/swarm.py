"""A simulated swarm: the product's peers on virtual machines, under a virtual clock.

Equal seeds give equal runs, event by event.
"""

import asyncio
import hashlib
import random

from peer.sim.clock import VirtualClock
from peer.sim.directory import Board
from peer.sim.loop import VirtualLoop
from peer.sim.network import VirtualNetwork
from peer.sim.peer import Seat, SimPeer
from peer.sim.task import Task
from peer.sim.trace import Trace
from peer.sim.wire import Internet
from protocol.identity import PeerId, peer_id_of


class SimSwarm:
    """See the module docstring. Use as a context manager.

    Args:
        task: What is trained, and by which run's rules.
        seed: Of everything that is drawn.
        byte_scale: Bulk data weighs so many times its length.
        evaluate_every_rounds, evaluation_bytes: Of each peer; 0 rounds is never.
        max_steps: Where training ends; None is never.
    """

    def __init__(
        self,
        task: Task,
        *,
        seed: int,
        byte_scale: float = 1.0,
        evaluate_every_rounds: int = 0,
        evaluation_bytes: int = 4096,
        max_steps: int | None = None,
    ) -> None:
        self.task = task
        self.seed = seed
        self.evaluate_every_rounds = evaluate_every_rounds
        self.evaluation_bytes = evaluation_bytes
        self.max_steps = max_steps
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)  # type: ignore[abstract]
        self.rng = random.Random(seed)
        self.network = VirtualNetwork(self.clock, self.rng)
        self.internet = Internet(self.loop, self.network, byte_scale=byte_scale)
        self.board = Board(self.network)
        self.trace = Trace()
        self.peers: dict[PeerId, SimPeer] = {}
        """All that there ever were, in the order in which they came."""
        self._failures: list[BaseException] = []

    def __enter__(self) -> "SimSwarm":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    # ---- peers come and go

    def join(self, seat: Seat | None = None) -> SimPeer:
        """Starts a new peer now."""
        seat = seat or Seat()
        digest = hashlib.sha256(f"peer {len(self.peers)} of {self.seed}".encode()).digest()
        peer_id = peer_id_of(digest)
        host = self.network.add(peer_id, seat.link, region=seat.region)
        peer = self.peers[peer_id] = SimPeer(self, peer_id, seat, host)
        peer.start()
        return peer

    def crash(self, peer: SimPeer, *, is_silent: bool = False) -> None:
        """Kills a peer in the middle of whatever it does.

        Args:
            peer: Which one.
            is_silent: The machine is gone with it, so nothing answers for it.
        """
        if peer.ended_at_s is None:
            peer.host.is_silent = is_silent
            peer.wire.die()
            peer.host.die()
            peer.ended_at_s = self.clock.now_s

    def freeze(self, peer: SimPeer, duration_s: float) -> None:
        """Stops a peer's processes for so long."""
        peer.host.freeze(duration_s)
        peer.frozen_s += duration_s

    def leave(self, peer: SimPeer) -> None:
        """Makes a peer leave in order."""
        peer.stop()

    def running(self) -> list[SimPeer]:
        """Returns the peers that train or enter now."""
        return [peer for peer in self.peers.values() if peer.is_running]

    # ---- time

    def run(self, until_s: float) -> None:
        """Lets the swarm live until then.

        Raises:
            Exception: whatever broke a peer in a way that nobody foresaw.
        """
        self.loop.run_until(until_s)
        self.check()

    def check(self) -> None:
        """Raises what broke a peer."""
        if self._failures:
            raise self._failures[0]
        for problem in self.loop.problems:
            error = problem.get("exception")
            raise error if error is not None else RuntimeError(problem["message"])

    def close(self) -> None:
        """Ends all tasks and frees all memory; the trace is over."""
        self.trace.is_over = True
        for peer in self.peers.values():
            peer.host.release()
        self.loop.close()

    def on_ended(self, task: "asyncio.Task[None]") -> None:
        """A peer's life is over."""
        if not task.cancelled() and (error := task.exception()) is not None:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._failures.append(error)
