"""Peers that let us down: for how long to do without them."""

from protocol.identity import PeerId

SHUN_S = 5.0, 120.0
"""The first and the longest pause."""


class Shunning:
    """Peers that speak, but do not give what they should; one may dial, and not be dialled.

    The pause doubles each time, or else their every note would draw us into an exchange in vain.
    """

    def __init__(self) -> None:
        self._until_s: dict[PeerId, tuple[float, float]] = {}
        """Until when we do without, and how long that pause is."""

    def __bool__(self) -> bool:
        """Whether there is, or was, anybody."""
        return bool(self._until_s)

    def add(self, peer: PeerId, *, now_s: float) -> None:
        """This peer let us down, once more; others that have long ceased to are forgiven."""
        self._until_s = {
            other: (until_s, pause_s)
            for other, (until_s, pause_s) in self._until_s.items()
            if until_s + pause_s > now_s
        }
        _, pause_s = self._until_s.get(peer, (0.0, SHUN_S[0] / 2))
        pause_s = min(2 * pause_s, SHUN_S[1])
        self._until_s[peer] = now_s + pause_s, pause_s

    def forgive(self, peer: PeerId) -> None:
        """This peer did what it should."""
        self._until_s.pop(peer, None)

    def holds(self, peer: PeerId, *, now_s: float) -> bool:
        """Whether we do without this peer now."""
        return now_s < self._until_s.get(peer, (0.0, 0.0))[0]
