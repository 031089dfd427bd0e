"""Who goes first, drawn so that nobody can choose: hashes of run, fragment, round and peers."""

import hashlib
from collections.abc import Iterable

from protocol.identity import PeerId


def leader_order(
    peers: Iterable[PeerId], *, run_id: str, fragment: int, round: int
) -> tuple[PeerId, ...]:
    """Returns `peers` in the order in which they may close this round's roster."""
    return tuple(sorted(peers, key=lambda peer: (_draw(run_id, fragment, round, peer), peer)))


def partner_order(
    ours: PeerId, peers: Iterable[PeerId], *, run_id: str, fragment: int, round: int
) -> tuple[PeerId, ...]:
    """Returns `peers` in the order in which we would mix with them in this round.

    The draw is the same from both ends, so two peers of one round who are each other's first choice
    find each other at once.
    """

    def draw(peer: PeerId) -> tuple[bytes, PeerId]:
        low, high = sorted((ours, peer))
        return _draw(run_id, fragment, round, low, high), peer

    return tuple(sorted((peer for peer in peers if peer != ours), key=draw))


def _draw(*fields: object) -> bytes:
    return hashlib.sha256("|".join(map(str, fields)).encode()).digest()
