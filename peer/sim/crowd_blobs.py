"""The bulk data of a peer of a crowd: what it has, who may have it, and how it travels.

Blobs have sizes, and a contribution to a pair's average has a value, one number. As in
`peer.mixing` and `peer.driver`, only the newest contribution and the averages of the last two
exchanges are there, and requests for anything else wait for a while: it may be in the making.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from peer.sim.crowd_sizes import BULK_FACTOR, REQUEST_BYTES
from peer.sim.network import Action
from protocol.exchange import Failure
from protocol.identity import PeerId
from protocol.machine import BlobRef, Fetch, Offer

if TYPE_CHECKING:
    from peer.sim.crowd_peer import CrowdPeer

KEPT_EXCHANGES = 2

State = tuple[int, bytes, float, float]
"""Round and digest of an anchor, value and momentum."""


class CrowdBlobs:
    """See the module docstring.

    Args:
        peer: Whose they are.

    Attributes:
        exchange_id: Of the newest offer; empty if it was discarded.
        value: Our contribution to it.
        average: The pair's, as far as it is known.
    """

    __slots__ = ("_averages", "_members", "_peer", "_waiting", "average", "exchange_id", "value")

    def __init__(self, peer: "CrowdPeer") -> None:
        self.exchange_id = b""
        self.value = 0.0
        self.average = 0.0
        self._peer = peer
        self._members: tuple[PeerId, ...] = ()
        self._averages: dict[bytes, set[int]] = {}
        self._waiting: dict[tuple[PeerId, BlobRef], tuple[CrowdPeer, Fetch]] = {}

    # ---- what is there

    def offer(self, effect: Offer, value: float) -> None:
        """Makes our contribution available to the members of the exchange."""
        self.exchange_id, self._members, self.value = effect.exchange_id, effect.members, value
        self._serve_waiting()

    def add_average(self, ref: BlobRef) -> None:
        """Makes an average available."""
        parts = self._averages.get(ref.exchange_id)
        if parts is None:
            parts = self._averages[ref.exchange_id] = set()
            while len(self._averages) > KEPT_EXCHANGES:
                del self._averages[next(iter(self._averages))]
        parts.add(ref.part)
        self._serve_waiting()

    def discard(self, exchange_id: bytes) -> None:
        """Takes away what belongs to an exchange."""
        if exchange_id == self.exchange_id:
            self.exchange_id = b""
        self._averages.pop(exchange_id, None)

    def _has(self, ref: BlobRef) -> bool:
        if ref.kind == "part":
            return ref.exchange_id == self.exchange_id
        return ref.part in self._averages.get(ref.exchange_id, ())

    # ---- fetching

    def fetch(self, effect: Fetch) -> None:
        """Asks for a blob; our peer learns how it ends."""
        self._ask(effect.src, partial(self._asked, effect))

    def fetch_state(
        self, src: PeerId, took: Callable[[State], None], failed: Callable[[], None]
    ) -> None:
        """Gets anchor and outer state of another peer; calls one of the two."""
        crowd, us = self._peer.crowd, self._peer.peer_id

        def ask() -> None:
            other = crowd.peers.get(src)
            if other is None:
                self._miss(src, failed)
            elif other.machine is None:
                crowd.network.note(src, us, REQUEST_BYTES, failed)
            else:
                self._peer.tally.bulk_bytes += crowd.spec.state_bytes * BULK_FACTOR
                arrive = partial(took, other.state)
                num_bytes = crowd.spec.state_bytes * BULK_FACTOR
                crowd.network.chunk(src, us, num_bytes, arrive, left=_nothing)

        self._ask(src, ask)

    def _ask(self, src: PeerId, ask: Action) -> None:
        self._peer.crowd.network.note(self._peer.peer_id, src, REQUEST_BYTES, ask)

    def _asked(self, effect: Fetch) -> None:
        other = self._peer.crowd.peers.get(effect.src)
        if other is None:
            self._miss(effect.src, partial(self._failed, effect, failure=Failure.BROKEN))
        else:
            other.blobs.on_request(self._peer, effect)

    def _miss(self, src: PeerId, notice: Action) -> None:
        self._peer.crowd.clock.after(self._peer.notes.silence_s(src), notice)

    def _failed(self, effect: Fetch, *, failure: Failure) -> None:
        self._peer.on_fetch_failed(effect, failure=failure)

    def _arrive(self, effect: Fetch, value: float) -> None:
        if effect.src not in self._peer.crowd.peers:  # it died on the way, and so did the stream
            self._miss(effect.src, partial(self._failed, effect, failure=Failure.BROKEN))
            return
        if effect.ref.kind == "average":
            self.add_average(effect.ref)
        elif effect.ref.exchange_id == self.exchange_id:
            self.average = (self.value + value) / 2
        self._peer.on_fetched(effect)

    # ---- serving

    def on_request(self, asker: "CrowdPeer", effect: Fetch) -> None:
        """Serves a blob, at once or as soon as it is there."""
        crowd, our_id, ref = self._peer.crowd, self._peer.peer_id, effect.ref
        if not self._has(ref):
            self._waiting[asker.peer_id, ref] = asker, effect
            hold_s = crowd.spec.progress_s / 2
            crowd.clock.after(hold_s, partial(self._give_up, asker, effect))
        elif ref.kind == "part" and asker.peer_id not in self._members:
            self._refuse(asker, effect)
        else:
            num_bytes = crowd.spec.part_bytes * _share(effect) * BULK_FACTOR
            asker.tally.bulk_bytes += num_bytes
            arrive = partial(asker.blobs._arrive, effect, self.value)
            crowd.network.chunk(our_id, asker.peer_id, num_bytes, arrive, left=_nothing)

    def _serve_waiting(self) -> None:
        if self._waiting:
            for key in [key for key in self._waiting if self._has(key[1])]:
                self.on_request(*self._waiting.pop(key))

    def _give_up(self, asker: "CrowdPeer", effect: Fetch) -> None:
        request = self._waiting.get((asker.peer_id, effect.ref))
        if request is not None and request[1] is effect:
            del self._waiting[asker.peer_id, effect.ref]
            self._refuse(asker, effect)

    def _refuse(self, asker: "CrowdPeer", effect: Fetch) -> None:
        crowd, our_id = self._peer.crowd, self._peer.peer_id
        refused = partial(asker.blobs._failed, effect, failure=Failure.ABSENT)
        crowd.network.note(our_id, asker.peer_id, REQUEST_BYTES, refused)


def _share(effect: Fetch) -> float:
    return effect.terms.shares[effect.ref.part] / sum(effect.terms.shares)


def _nothing() -> None:
    """The uplink is free again."""
