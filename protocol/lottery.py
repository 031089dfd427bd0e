"""Who goes first, drawn so that nobody can choose: hashes of run, fragment, round and peers."""

import hashlib
from collections.abc import Iterable, Mapping

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


def duty_order(peers: Iterable[PeerId], *, run_id: str, duty: str) -> tuple[PeerId, ...]:
    """Returns `peers` in the order in which a duty falls to them, in whatever round.

    Who comes or goes leaves the order of the others as it is.
    """
    return tuple(sorted(peers, key=lambda peer: (_draw(run_id, duty, peer), peer)))


def _draw(*fields: object) -> bytes:
    return hashlib.sha256("|".join(map(str, fields)).encode()).digest()


def donor_order(
    ours: PeerId, rounds: Mapping[PeerId, int], *, run_id: str, slack_frac: float
) -> tuple[PeerId, ...]:
    """Returns the peers in the order in which we would ask them for the run's state.

    Those who are farthest come first, each newcomer asking them in another order: a crowd of
    newcomers must not all take gigabytes from one home.

    Args:
        ours: This peer.
        rounds: How far each of the others is.
        run_id: The run.
        slack_frac: Who is behind the farthest by no more than this part of its rounds is as good.
    """
    enough = (1 - slack_frac) * max(rounds.values(), default=0)

    def rank(peer: PeerId) -> tuple[bool, int, bytes, PeerId]:
        is_near = rounds[peer] >= enough
        return not is_near, 0 if is_near else -rounds[peer], _draw(run_id, ours, peer), peer

    return tuple(sorted(rounds, key=rank))
