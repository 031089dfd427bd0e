"""A virtual network with loss, delay, reordering, duplicates, cuts and frozen hosts.

Faults are drawn from one seeded generator, and those that really happened are counted, so a test
can assert that its fault fired.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from peer.sim.clock import VirtualClock
from protocol.identity import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """How every link behaves."""

    latency_s: float = 0.02
    jitter_s: float = 0.0
    """Up to so much is added to each note, so notes overtake each other."""
    loss_frac: float = 0.0
    duplicate_frac: float = 0.0
    bandwidth_bps: float = 100e6


class VirtualNetwork:
    """Carries notes and blobs between hosts that may be dead, frozen or cut off."""

    def __init__(self, clock: VirtualClock, rng: random.Random, link: LinkSpec) -> None:
        self.clock = clock
        self.link = link
        self.fired: Counter[str] = Counter()
        self._rng = rng
        self._dead: set[PeerId] = set()
        self._thaw_at_s: dict[PeerId, float] = {}
        self._cuts: set[frozenset[PeerId]] = set()
        self._undialable: set[PeerId] = set()

    def kill(self, peer: PeerId) -> None:
        """From now on nothing reaches or leaves this host."""
        self._dead.add(peer)
        self.fired["kill"] += 1

    def freeze(self, peer: PeerId, duration_s: float) -> None:
        """Until then nothing reaches or leaves this host; what was sent to it comes afterwards."""
        self._thaw_at_s[peer] = self.clock.now_s + duration_s
        self.fired["freeze"] += 1

    def cut(self, one: PeerId, other: PeerId) -> None:
        """These two cannot reach each other until `heal`."""
        self._cuts.add(frozenset((one, other)))
        self.fired["cut"] += 1

    def hide(self, peer: PeerId) -> None:
        """From now on nobody can dial this host, though it can dial everybody: a home router."""
        self._undialable.add(peer)
        self.fired["hide"] += 1

    def heal(self) -> None:
        """Mends all cuts."""
        self._cuts.clear()

    def is_running(self, peer: PeerId) -> bool:
        """Returns whether this host does anything now."""
        return peer not in self._dead and not self._is_frozen(peer)

    def dials(self, src: PeerId, dst: PeerId) -> bool:
        """Returns whether `src` can call a running `dst` now."""
        is_barred = frozenset((src, dst)) in self._cuts or dst in self._undialable
        return self.is_running(src) and self.is_running(dst) and not is_barred

    def carry(self, src: PeerId, dst: PeerId, deliver: Callable[[], None]) -> None:
        """Sends one note: it may come late, twice or not at all."""
        if not self.is_running(src) or dst in self._dead or dst in self._undialable:
            return
        if frozenset((src, dst)) in self._cuts:
            return
        if self._rng.random() < self.link.loss_frac:
            self.fired["loss"] += 1
            return
        copies = 1
        if self._rng.random() < self.link.duplicate_frac:
            self.fired["duplicate"] += 1
            copies = 2
        for _ in range(copies):
            delay_s = self.link.latency_s + self._rng.random() * self.link.jitter_s
            self.clock.after(delay_s, lambda: self.when_running(dst, deliver))

    def when_running(self, peer: PeerId, action: Callable[[], None]) -> None:
        """Runs `action` now, or when this host thaws, or never if it is dead."""
        if peer in self._dead:
            return
        if self._is_frozen(peer):
            wait_s = self._thaw_at_s[peer] - self.clock.now_s
            self.clock.after(wait_s, lambda: self.when_running(peer, action))
            return
        action()

    def transfer_s(self, num_bytes: int) -> float:
        """Returns how long a blob takes, request included."""
        return 2 * self.link.latency_s + 8 * num_bytes / self.link.bandwidth_bps

    def _is_frozen(self, peer: PeerId) -> bool:
        return self._thaw_at_s.get(peer, 0.0) > self.clock.now_s
