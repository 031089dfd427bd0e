"""A virtual network: hosts behind access links, and paths between them that can be cut.

What is sent leaves by the sender's uplink, crosses the network, and arrives by the receiver's
downlink. Bulk data queues for both links chunk by chunk, so streams that share a link share its
rate; notes are small, and pass by. Under loss TCP repeats what was lost: a note comes later, and
one connection's rate is bounded (Mathis et al. 1997), however wide the links are. While a path is
cut, what was sent waits for it as in TCP's buffers, and goes on after a retransmission timeout.

All randomness is drawn from one seeded generator, and every fault that really happened is counted.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial

from peer.sim.clock import VirtualClock
from protocol.identity import PeerId

SEGMENT_BYTES = 1448
HEADERS_FRAC = 0.055
"""IP and TCP headers, and acknowledgements of the other direction: they take time, but are not
counted as bytes of sockets."""
MATHIS = 1.22
"""Rate = MATHIS * segment / (round trip * sqrt(loss)), for a connection that halves its window."""
WINDOW_CHUNKS = 2
"""Of one stream may queue for the receiver's downlink, so that streams share it."""
RETRANSMIT_S = 0.2
"""TCP's least retransmission timeout on Linux."""

Action = Callable[[], object]
Path = tuple[PeerId, PeerId]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """How one host is connected."""

    up_bps: float = 100e6
    down_bps: float = 100e6
    latency_s: float = 0.01
    """The mean one-way delay from the host to the middle of the network."""
    latency_cv: float = 0.0
    """Standard deviation of a delay over its mean; delays are log-normal."""
    loss_frac: float = 0.0
    """Of packets, on this host's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What happens to anything on its way, while it lasts."""

    lose_frac: float = 0.0
    """Of notes that never arrive, since their connection broke."""
    duplicate_frac: float = 0.0
    """Of notes that arrive twice."""
    reorder_s: float = 0.0
    """Notes come up to so much later, so they overtake each other."""
    corrupt_frac: float = 0.0
    """Of chunks of bulk data that arrive altered."""


class VirtualHost:
    """One machine: its link, and whether it runs."""

    __slots__ = (
        *("host_id", "link", "region", "is_dead", "is_silent", "is_hidden", "clock_offset_s"),
        *("sent_bytes", "received_bytes", "up_free_at_s", "down_free_at_s"),
        *("_clock", "_died_at_s", "_thaw_at_s", "_held"),
    )

    def __init__(self, host_id: PeerId, link: LinkSpec, clock: VirtualClock) -> None:
        self.host_id = host_id
        self.link = link
        self.region = ""
        self.is_dead = False
        self.is_silent = False
        """Dead, and nothing answers for it: the machine is gone, not only the process."""
        self.is_hidden = False
        """Nobody can dial it, though it can dial everybody: a home router."""
        self.clock_offset_s = 0.0
        """How far its wall clock is ahead of true time."""
        self.sent_bytes = 0.0
        self.received_bytes = 0.0
        self.up_free_at_s = 0.0
        self.down_free_at_s = 0.0
        self._clock = clock
        self._died_at_s = -1.0
        self._thaw_at_s = 0.0
        self._held: list[Action] = []

    @property
    def is_frozen(self) -> bool:
        """Whether its processes are stopped now."""
        return self._thaw_at_s > self._clock.now_s

    def admits(self, callback: Action) -> bool:
        """Whether a callback may run now; a frozen host runs it later, a dead one never."""
        if self.is_dead:
            if self._clock.now_s == self._died_at_s:  # or tasks that it wakes would never end
                self._held.append(callback)
            return False
        if self.is_frozen:
            self._held.append(callback)
            return False
        return True

    def die(self) -> None:
        """Ends its processes, in the middle of whatever they do."""
        self.is_dead = True
        self._died_at_s = self._clock.now_s

    def freeze(self, duration_s: float) -> None:
        """Stops its processes for so long; what is due meanwhile runs afterwards."""
        self._thaw_at_s = max(self._thaw_at_s, self._clock.now_s + duration_s)
        self._clock.at(self._thaw_at_s, self.thaw)

    def thaw(self) -> None:
        """Runs what was held, in order, if the time has come."""
        if not self.is_frozen:
            held, self._held = self._held, []
            for callback in held:
                self._clock.after(0, callback)

    def release(self) -> None:
        """Lets everything run again: the simulation is over, and tasks are to be cancelled."""
        self.is_dead, self._thaw_at_s = False, 0.0
        self.thaw()


class Flow:
    """What keeps a stream in order: no piece of it arrives before the one that was sent first."""

    __slots__ = ("arrives_at_s",)

    def __init__(self) -> None:
        self.arrives_at_s = 0.0


class VirtualNetwork:
    """See the module docstring.

    Args:
        clock: The time.
        rng: The only randomness. Mutated.
    """

    def __init__(self, clock: VirtualClock, rng: random.Random) -> None:
        self.clock = clock
        self.rng = rng
        self.hosts: dict[PeerId, VirtualHost] = {}
        self.weather = Weather()
        """The worst of what lasts now."""
        self.distance_s: dict[frozenset[str], float] = {}
        """One-way delay between two regions, on top of the links'."""
        self.fired: Counter[str] = Counter()
        self._cuts: list[frozenset[Path]] = []
        self._storms: list[Weather] = []
        self._waiting: list[tuple[PeerId, PeerId, Action]] = []

    def add(self, host_id: PeerId, link: LinkSpec, *, region: str = "") -> VirtualHost:
        """Adds a host, or puts a new machine in the place of a dead one."""
        host = self.hosts[host_id] = VirtualHost(host_id, link, self.clock)
        host.region = region
        return host

    # ---- paths

    def cut(self, paths: Iterable[Path]) -> Action:
        """Closes paths, each in one direction; call what is returned to open them again."""
        closed = frozenset(paths)
        self._cuts.append(closed)

        def heal() -> None:
            if closed in self._cuts:
                self._cuts.remove(closed)
            waiting, self._waiting = self._waiting, []
            for src, dst, action in waiting:
                self._cross(src, dst, action, RETRANSMIT_S)

        return heal

    @property
    def is_split(self) -> bool:
        """Whether any path is cut."""
        return bool(self._cuts)

    def is_open(self, src: PeerId, dst: PeerId) -> bool:
        """Whether packets pass from `src` to `dst` now, whatever the hosts do."""
        return not self._cuts or not any((src, dst) in closed for closed in self._cuts)

    def round_trip_s(self, one: PeerId, other: PeerId) -> float:
        """Returns the mean round trip between two hosts, without queues."""
        return 2 * self._mean_s(self.hosts[one], self.hosts[other])

    def storm(self, weather: Weather) -> Action:
        """Makes the weather worse; call what is returned to end that."""
        self._storms.append(weather)
        self._look_out()

        def end() -> None:
            self._storms.remove(weather)
            self._look_out()

        return end

    def _look_out(self) -> None:
        storms = [asdict(storm) for storm in (Weather(), *self._storms)]
        self.weather = Weather(**{name: max(s[name] for s in storms) for name in storms[0]})

    # ---- carrying

    def note(
        self,
        src: PeerId,
        dst: PeerId,
        num_bytes: float,
        deliver: Action,
        *,
        is_repeatable: bool = False,
    ) -> None:
        """Carries something small: late or not at all, if the weather is such.

        Args:
            src: Where it comes from.
            dst: Where it goes.
            num_bytes: How much.
            deliver: Called on arrival.
            is_repeatable: It may also come twice.
        """
        one, other = self.hosts[src], self.hosts[dst]
        weather, rng = self.weather, self.rng
        one.sent_bytes += num_bytes
        delay_s = 8 * num_bytes * (1 / one.link.up_bps + 1 / other.link.down_bps)
        arrive = partial(self._arrive, one, other, num_bytes, deliver)
        if not self._storms:  # as nearly always, and there are millions of notes
            delay_s += self._retransmissions_s(one, other)
            self.clock.after(self._latency_s(one, other) + delay_s, arrive)
            return
        if weather.lose_frac and rng.random() < weather.lose_frac:
            self.fired["lose"] += 1
            return
        copies = 1
        if is_repeatable and weather.duplicate_frac and rng.random() < weather.duplicate_frac:
            self.fired["duplicate"] += 1
            copies = 2
        for _ in range(copies):
            late_s = delay_s + self._retransmissions_s(one, other)
            if weather.reorder_s:
                self.fired["reorder"] += 1
                late_s += rng.random() * weather.reorder_s
            self.clock.after(self._latency_s(one, other) + late_s, arrive)

    def chunk(
        self,
        src: PeerId,
        dst: PeerId,
        num_bytes: float,
        deliver: Action,
        *,
        left: Action,
        flow: Flow | None = None,
    ) -> None:
        """Carries a piece of a stream.

        Args:
            src: Where it comes from.
            dst: Where it goes.
            num_bytes: How much.
            deliver: Called on arrival.
            left: Called when the uplink is free for the next piece, and the receiver keeps up.
            flow: The stream, if it has several pieces.
        """
        one, other, now_s = self.hosts[src], self.hosts[dst], self.clock.now_s
        rate_bps = min(one.link.up_bps, self._connection_bps(one, other))
        begins_s = max(now_s, one.up_free_at_s)
        num_bits = 8 * num_bytes * (1 + HEADERS_FRAC)
        one.up_free_at_s = begins_s + num_bits / one.link.up_bps
        left_at_s = begins_s + num_bits / rate_bps
        one.sent_bytes += num_bytes

        def leave() -> None:
            latency_s = self._latency_s(one, other)
            # The first bytes arrive while the last have not left yet.
            took_s = num_bits / other.link.down_bps
            starts_s = max(begins_s + latency_s, other.down_free_at_s)
            other.down_free_at_s = starts_s + took_s
            arrives_s = max(other.down_free_at_s, self.clock.now_s + latency_s)
            if flow is not None:
                arrives_s = flow.arrives_at_s = max(arrives_s, flow.arrives_at_s)
            self.clock.at(arrives_s, arrive)
            # No window is so large that a fast sender fills a slow receiver's link for long.
            self.clock.at(arrives_s - latency_s - WINDOW_CHUNKS * took_s, left)

        def arrive() -> None:
            other.received_bytes += num_bytes
            deliver()

        self.clock.at(left_at_s, lambda: self._pass(src, dst, leave))

    def _arrive(
        self, one: VirtualHost, other: VirtualHost, num_bytes: float, deliver: Action
    ) -> None:
        """Delivers a note, now, or when the path is open again."""
        if self._cuts and not self.is_open(one.host_id, other.host_id):
            again = partial(self._arrive, one, other, num_bytes, deliver)
            self._pass(one.host_id, other.host_id, again)
            return
        other.received_bytes += num_bytes
        deliver()

    def _cross(self, src: PeerId, dst: PeerId, action: Action, extra_s: float) -> None:
        delay_s = self._latency_s(self.hosts[src], self.hosts[dst]) + extra_s
        self.clock.after(delay_s, lambda: self._pass(src, dst, action))

    def _pass(self, src: PeerId, dst: PeerId, action: Action) -> None:
        """Does it now, or when the path is open again."""
        if self.is_open(src, dst):
            action()
        else:
            self.fired["held"] += 1
            self._waiting.append((src, dst, action))

    # ---- what links do to packets

    def _mean_s(self, one: VirtualHost, other: VirtualHost) -> float:
        mean_s = one.link.latency_s + other.link.latency_s
        if self.distance_s:
            mean_s += self.distance_s.get(frozenset((one.region, other.region)), 0.0)
        return mean_s

    def _latency_s(self, one: VirtualHost, other: VirtualHost) -> float:
        mean_s, cv = self._mean_s(one, other), max(one.link.latency_cv, other.link.latency_cv)
        return log_normal(self.rng, mean_s, cv) if cv else mean_s

    def _loss_frac(self, one: VirtualHost, other: VirtualHost) -> float:
        return 1 - (1 - one.link.loss_frac) * (1 - other.link.loss_frac)

    def _retransmissions_s(self, one: VirtualHost, other: VirtualHost) -> float:
        """Returns what a single packet is late because it was lost, perhaps repeatedly."""
        if not (one.link.loss_frac or other.link.loss_frac):
            return 0.0
        loss_frac = self._loss_frac(one, other)
        late_s, timeout_s = 0.0, max(RETRANSMIT_S, 2 * self._mean_s(one, other))
        while self.rng.random() < loss_frac:
            self.fired["loss"] += 1
            late_s += timeout_s
            timeout_s *= 2
        return late_s

    def _connection_bps(self, one: VirtualHost, other: VirtualHost) -> float:
        loss_frac = self._loss_frac(one, other)
        if not loss_frac:
            return math.inf
        trip_s = max(1e-3, 2 * self._mean_s(one, other))
        return MATHIS * 8 * SEGMENT_BYTES / (trip_s * math.sqrt(loss_frac))


def log_normal(rng: random.Random, mean: float, cv: float) -> float:
    """Returns a log-normal draw with this mean, and standard deviation `cv` times the mean."""
    return mean * math.exp(rng.gauss(*_shape_of(cv)))


@lru_cache(maxsize=256)
def _shape_of(cv: float) -> tuple[float, float]:
    """Returns mean and standard deviation of the logarithm, for a mean of 1."""
    variance = math.log1p(cv * cv)
    return -variance / 2, math.sqrt(variance)
