"""Who goes first, drawn so that nobody can choose: hashes of run, fragment, round and peers."""

import hashlib
from collections.abc import Iterable

from protocol.identity import PeerId

_DRAW_BYTES = 16


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
    # The round is in the key: a candidate costs one short hash, and there may be thousands.
    keyed = hashlib.blake2b(key=_draw(run_id, fragment, round), digest_size=_DRAW_BYTES)

    def draw(peer: PeerId) -> tuple[bytes, PeerId]:
        drawn = keyed.copy()
        drawn.update(f"{ours}|{peer}".encode() if ours < peer else f"{peer}|{ours}".encode())
        return drawn.digest(), peer

    return tuple(sorted((peer for peer in peers if peer != ours), key=draw))


def _draw(*fields: object) -> bytes:
    return hashlib.sha256("|".join(map(str, fields)).encode()).digest()


def jitter(*fields: object) -> float:
    """Returns a number in [0, 1) that differs from peer to peer, so that they fall out of step."""
    return int.from_bytes(_draw(*fields)[:4]) / (1 << 32)
