"""Signs of life: when something last came from each peer, and how long it takes to answer."""

from protocol.identity import PeerId

SMOOTHING = 0.25
"""Weight of the newest round trip."""


class Signs:
    """What a wire notices by the way. Times are those of the event loop."""

    def __init__(self) -> None:
        self._heard_at_s: dict[PeerId, float] = {}
        self._trip_s: dict[PeerId, float] = {}

    def hear(self, peer: PeerId, now_s: float) -> None:
        """Something came from this peer."""
        self._heard_at_s[peer] = now_s

    def answer(self, peer: PeerId, trip_s: float, now_s: float) -> None:
        """This peer answered something small, after `trip_s`."""
        self.hear(peer, now_s)
        before_s = self._trip_s.get(peer, trip_s)
        self._trip_s[peer] = before_s + SMOOTHING * (trip_s - before_s)

    def heard_at_s(self, peer: PeerId) -> float:
        """Returns when something came last; long ago if nothing ever did."""
        return self._heard_at_s.get(peer, float("-inf"))

    def trip_s(self, peer: PeerId) -> float:
        """Returns the smoothed round trip of something small; 0 while it is unknown."""
        return self._trip_s.get(peer, 0.0)

    def forget(self, peer: PeerId) -> None:
        """Nothing is known of this peer any more."""
        self._heard_at_s.pop(peer, None)
        self._trip_s.pop(peer, None)
