"""What goes wrong in a simulated swarm, as data: when, what, to how many, for how long.

A fault strikes peers that are drawn when it comes. `VirtualNetwork.fired` counts what really
happened, a victim at a time, so nobody need believe that a fault was survived which never came.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from peer.sim.network import Weather
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from protocol.identity import PeerId

Frac = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Fault(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    at_s: Seconds
    """When it strikes."""

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Makes it happen.

        Args:
            swarm: Where.
            seats: On which of these newcomers sit.
        """
        raise NotImplementedError


class Crash(_Fault):
    """Processes are killed in the middle of whatever they do."""

    kind: Literal["crash"] = "crash"
    count: Count = 1
    is_silent: bool = False
    """The machines go with them: nothing answers for them, not even by refusing."""

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Kills them."""
        for peer in _victims(swarm, self.count):
            swarm.crash(peer, is_silent=self.is_silent)
            swarm.network.fired["vanish" if self.is_silent else "crash"] += 1


class Freeze(_Fault):
    """Processes are stopped for a while, as by a laptop's lid."""

    kind: Literal["freeze"] = "freeze"
    count: Count = 1
    for_s: Seconds

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Stops them."""
        for peer in _victims(swarm, self.count):
            swarm.freeze(peer, self.for_s)
            swarm.network.fired["freeze"] += 1


class Slow(_Fault):
    """Steps take longer for a while: somebody plays a game."""

    kind: Literal["slow"] = "slow"
    count: Count = 1
    for_s: Seconds
    times: Annotated[float, Field(ge=1)] = 4.0
    """Steps take so many times as long."""

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Slows them down."""
        for peer in _victims(swarm, self.count):
            peer.slowness *= self.times
            swarm.network.fired["slow"] += 1
            swarm.clock.after(self.for_s, lambda peer=peer: self._end(peer))  # type: ignore[misc]

    def _end(self, peer: SimPeer) -> None:
        peer.slowness /= self.times


class Partition(_Fault):
    """Some paths carry nothing for a while.

    It is drawn among those who run when it comes; whoever comes later sees everybody.

    Shapes: `halves` cannot reach each other; `bridge` are halves between which one peer alone sees
    all; `one-way` is one peer that nobody hears, though it hears everybody.
    """

    kind: Literal["partition"] = "partition"
    shape: Literal["halves", "bridge", "one-way"] = "halves"
    for_s: Seconds

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Cuts the paths, and opens them again later."""
        peers = [peer.peer_id for peer in swarm.running()]
        if len(peers) < 2:
            return
        swarm.rng.shuffle(peers)
        paths = self._paths(peers)
        if paths:
            swarm.network.fired[self.shape] += 1
            swarm.clock.after(self.for_s, swarm.network.cut(paths))

    def _paths(self, peers: list[PeerId]) -> list[tuple[PeerId, PeerId]]:
        if self.shape == "one-way":
            return [(peers[0], other) for other in peers[1:]]
        sides = peers if self.shape == "halves" else peers[1:]
        left = set(sides[: len(sides) // 2])
        return [pair for pair in permutations(sides, 2) if (pair[0] in left) != (pair[1] in left)]


class ClockJump(_Fault):
    """Wall clocks are suddenly wrong, until somebody sets them right."""

    kind: Literal["clock"] = "clock"
    count: Count = 1
    for_s: Seconds | None = None
    """None: nobody ever does."""
    offset_s: float

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Sets them wrong, and right again later."""
        for peer in _victims(swarm, self.count):
            peer.host.clock_offset_s += self.offset_s
            swarm.network.fired["clock"] += 1
            if self.for_s is not None:
                swarm.clock.after(self.for_s, lambda peer=peer: self._end(peer))  # type: ignore[misc]

    def _end(self, peer: SimPeer) -> None:
        peer.host.clock_offset_s -= self.offset_s


class Storm(_Fault):
    """Notes are lost, doubled or overtaken, and bulk data is altered, for a while."""

    kind: Literal["storm"] = "storm"
    for_s: Seconds
    lose_frac: Frac = 0.0
    duplicate_frac: Frac = 0.0
    reorder_s: Seconds = 0.0
    corrupt_frac: Frac = 0.0

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Changes the weather, and changes it back later."""
        weather = Weather(
            lose_frac=self.lose_frac,
            duplicate_frac=self.duplicate_frac,
            reorder_s=self.reorder_s,
            corrupt_frac=self.corrupt_frac,
        )
        swarm.clock.after(self.for_s, swarm.network.storm(weather))
        swarm.network.fired["storm"] += 1


class Join(_Fault):
    """Newcomers, all at once."""

    kind: Literal["join"] = "join"
    count: Count = 1

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Starts them."""
        for _ in range(self.count):
            swarm.join(swarm.rng.choice(seats))
            swarm.network.fired["join"] += 1


class Leave(_Fault):
    """Peers leave in order, all at once."""

    kind: Literal["leave"] = "leave"
    count: Count = 1

    def strike(self, swarm: SimSwarm, seats: Sequence[Seat]) -> None:
        """Asks them to go."""
        for peer in _victims(swarm, self.count):
            swarm.leave(peer)
            swarm.network.fired["leave"] += 1


Fault = Annotated[
    Crash | Freeze | Slow | Partition | ClockJump | Storm | Join | Leave,
    Field(discriminator="kind"),
]


def schedule(faults: Sequence[Fault], swarm: SimSwarm, seats: Sequence[Seat]) -> None:
    """Sets all faults on the swarm's clock."""
    for fault in faults:
        swarm.clock.at(
            fault.at_s,
            lambda fault=fault: fault.strike(swarm, seats),  # type: ignore[misc]
        )


def _victims(swarm: SimSwarm, count: int) -> list[SimPeer]:
    running = swarm.running()
    return swarm.rng.sample(running, min(count, len(running)))
