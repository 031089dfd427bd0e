"""What the peers of a swarm have done in all: who goes takes nothing along."""

from peer.watch.view import SwarmView

MAX_REMEMBERED = 4096
"""Peers; of those that are gone longest only the sums are kept."""


class Sums:
    """Tokens and bytes of all who are, or were, in the views that it was shown."""

    def __init__(self) -> None:
        self._of_peer: dict[str, tuple[int, int]] = {}
        """Each peer's tokens and sent bytes; who is gone longest is the first."""
        self._tokens = self._sent_bytes = 0
        """Of those who are forgotten, and of former lives."""

    def count(self, view: SwarmView) -> tuple[int, int]:
        """Returns tokens and sent bytes in all, once a view is counted, too.

        A peer goes on from a checkpoint with fewer tokens than it had; those that it trains again
        count once. The bytes that it sends are counted from nothing in each life.
        """
        for peer in view.peers:
            tokens, sent_bytes = self._of_peer.pop(peer.peer_id, (0, 0))
            if peer.has_report and peer.sent_bytes < sent_bytes:
                self._sent_bytes += sent_bytes
                sent_bytes = 0
            self._of_peer[peer.peer_id] = (
                max(tokens, peer.tokens),
                max(sent_bytes, peer.sent_bytes),
            )
        while len(self._of_peer) > MAX_REMEMBERED:
            tokens, sent_bytes = self._of_peer.pop(next(iter(self._of_peer)))
            self._tokens += tokens
            self._sent_bytes += sent_bytes
        return (
            self._tokens + sum(tokens for tokens, _ in self._of_peer.values()),
            self._sent_bytes + sum(sent_bytes for _, sent_bytes in self._of_peer.values()),
        )
