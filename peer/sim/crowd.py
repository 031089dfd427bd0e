"""A crowd: thousands of peers of which only the protocol is real, under a virtual clock.

The exchange machines and the rooms are the product's; see `peer.sim.crowd_peer` for what stands in
for the rest. A run of ten thousand peers shows what `peer.sim.swarm` cannot: how much membership
costs at that size, how often peers stay alone, and how fast two average spreads.
"""

import gc
import hashlib
import math
import random
import struct
from dataclasses import dataclass, field

from peer.sim.clock import VirtualClock
from peer.sim.crowd_directory import CrowdDirectory
from peer.sim.crowd_peer import CrowdPeer
from peer.sim.crowd_tally import Tally
from peer.sim.network import LinkSpec, VirtualNetwork
from protocol.exchange import ExchangeConfig
from protocol.identity import PeerId, peer_id_of
from protocol.manifest import RunId

GARBAGE = 1_000_000
"""Objects made before Python looks for cycles among them; a crowd makes hardly any."""

Entry = tuple[float, PeerId, str, bytes]
"""Time, peer, event, exchange: it departs, asks, begins, fetches, lands, fails or dies."""
_HASHED = ("lands", "dies")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdSpec:
    """A crowd and its run."""

    num_peers: int
    mixing: str = "pairs"
    momentum: float = 0.5
    gamma: float = 0.7
    interval_steps: int = 50
    step_s: float = 1.0
    step_cv: float = 0.1
    """Standard deviation of a step's time over its mean; times are log-normal."""
    pace_cv: float = 0.2
    """The same of the peers' mean step times."""
    step_tokens: int = 1000
    is_blocking: bool = False
    """Trainers wait for the landing before they go on, as in papers."""
    part_bytes: float = 2e6
    """Of a whole contribution."""
    state_bytes: float = 4e6
    link: LinkSpec = field(
        default_factory=lambda: LinkSpec(
            up_bps=20e6, down_bps=100e6, latency_s=0.02, latency_cv=0.5
        )
    )
    entry_s: float = 50.0
    """The founders come one after the other, all within this time."""
    refresh_s: float = 25.0
    lifetime_s: float = 75.0
    """Of a record in the directory."""
    churn_frac: float = 0.0
    """So many die in an interval, and as many come, one at a time."""
    silent_frac: float = 0.5
    """Of the dead, those whose machines are gone with them."""
    exchange_s: float = 60.0
    progress_s: float = 10.0
    quorum_frac: float = 0.5
    grace_s: float = 1.0

    @property
    def interval_s(self) -> float:
        """The mean time of an interval of H inner steps."""
        return self.interval_steps * self.step_s


class Crowd:
    """See the module docstring. Equal seeds give equal runs, event by event.

    Args:
        spec: What it is like.
        seed: Of everything that is drawn.
        keeps_journal: Whether to keep every step of every exchange.

    Attributes:
        peers: The living.
        departed: What the dead had done.
        journal: See `keeps_journal`.
        is_over: Set it, and no snapshot departs any more.
    """

    def __init__(self, spec: CrowdSpec, *, seed: int, keeps_journal: bool = False) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self.rng = random.Random(seed)
        self.network = VirtualNetwork(self.clock, self.rng)
        self.directory = CrowdDirectory()
        self.run_id = RunId(hashlib.sha256(f"crowd {seed}".encode()).hexdigest())
        self.peers: dict[PeerId, CrowdPeer] = {}
        self.departed = Tally()
        self.journal: list[Entry] | None = [] if keeps_journal else None
        self.is_over = False
        self._seats: list[CrowdPeer] = []
        self._seed = seed
        self._num_ever = 0
        self._digest = hashlib.blake2b(digest_size=32)
        for number in range(spec.num_peers):
            self.clock.at(spec.entry_s * number / spec.num_peers, self._found)
        if spec.churn_frac:
            self.clock.at(spec.entry_s, self._churn)

    # ---- peers come and go

    def join(self) -> CrowdPeer:
        """Starts a newcomer now, who takes over the state of somebody here."""
        peer = self._new_peer()
        peer.enter()
        return peer

    def kill(self, peer: CrowdPeer, *, is_silent: bool) -> None:
        """Kills a peer in the middle of whatever it does.

        Args:
            peer: Which one.
            is_silent: The machine is gone with it, so nothing answers for it.
        """
        peer.end()
        host = self.network.hosts[peer.peer_id]
        host.is_dead, host.is_silent = True, is_silent
        del self.peers[peer.peer_id]
        last = self._seats.pop()
        if last is not peer:
            self._seats[peer.seat], last.seat = last, peer.seat
        self.departed.add(peer.tally)
        self.write(peer.peer_id, "dies", b"")

    def config_of(self, peer_id: PeerId) -> ExchangeConfig:
        """Returns the configuration of a peer's machine."""
        spec = self.spec
        return ExchangeConfig(
            our_id=peer_id,
            life=f"life {self.clock.now_s:.9f}",
            run_id=self.run_id,
            fragment=0,
            quorum_frac=spec.quorum_frac,
            grace_s=spec.grace_s,
            exchange_s=spec.exchange_s,
        )

    def _new_peer(self) -> CrowdPeer:
        name = f"peer {self._num_ever} of {self._seed}"
        self._num_ever += 1
        peer_id = peer_id_of(hashlib.sha256(name.encode()).digest())
        self.network.add(peer_id, self.spec.link)
        peer = self.peers[peer_id] = CrowdPeer(self, peer_id)
        peer.seat = len(self._seats)
        self._seats.append(peer)
        return peer

    def _found(self) -> None:
        self._new_peer().found(self.rng.gauss(0, 1))

    def _churn(self) -> None:
        spec = self.spec
        if self._seats:
            victim = self._seats[self.rng.randrange(len(self._seats))]
            self.kill(victim, is_silent=self.rng.random() < spec.silent_frac)
            self.join()
        rate = spec.churn_frac * spec.num_peers / spec.interval_s
        self.clock.after(self.rng.expovariate(rate), self._churn)

    # ---- time

    def run(self, until_s: float) -> None:
        """Lets the crowd live until then."""
        thresholds = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(GARBAGE, *thresholds[1:])
        try:
            self.clock.run(until_s)
        finally:
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    # ---- what is seen from outside

    def write(self, peer_id: PeerId, event: str, exchange_id: bytes) -> None:
        """Takes a step of an exchange into the journal; its landing also into the digest."""
        now_s = self.clock.now_s
        if event in _HASHED:
            what = f"{peer_id} {event} ".encode()
            self._digest.update(struct.pack("<d", now_s) + what + exchange_id)
        if self.journal is not None:
            self.journal.append((now_s, peer_id, event, exchange_id))

    def digest(self) -> str:
        """Returns the hash of all landings and deaths, and of when they were."""
        return self._digest.copy().hexdigest()

    def total(self) -> Tally:
        """Returns what all did that ever were here."""
        total = Tally()
        total.add(self.departed)
        for peer in self._seats:
            total.add(peer.tally)
        return total

    def pending_tokens(self) -> int:
        """Returns the tokens that the living have trained and that are in no average."""
        return sum(peer.trainer.tokens for peer in self._seats)

    def mean(self) -> float:
        """Returns the mean of where all values would come to rest; an exchange does not move it."""
        rests = [peer.value.rest for peer in self._entered()]
        return math.fsum(rests) / len(rests)

    def spread(self) -> float:
        """Returns the standard deviation of all values; NaN if nobody is here."""
        values = [peer.value.phi for peer in self._entered()]
        if not values:
            return math.nan
        mean = math.fsum(values) / len(values)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))

    def _entered(self) -> list[CrowdPeer]:
        """Returns those who have parameters already."""
        return [peer for peer in self._seats if peer.machine is not None]
