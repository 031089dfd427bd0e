"""How wrong this machine's clock is, as the nodes of the directory say.

The swarm's time is the median of all clocks, so one that is an hour off takes part all the same.
What no median can mend are certificates.
"""

from collections.abc import Iterator
from statistics import median

from peer.doctor.finding import Finding
from peer.net.swarm_clock import LONGEST_TRIP_S, SwarmClock
from peer.net.tls import LEAF_LIFETIME
from peer.units import format_duration
from protocol.identity import PeerId

POOR_S = 10.0
BEHIND_S, AHEAD_S = 86400.0, LEAF_LIFETIME.total_seconds()
"""A peer's certificate is valid from a day before it was made (`peer.net.tls`)."""
FIXES = {
    "linux": "sudo timedatectl set-ntp true",
    "darwin": "sudo sntp -sS time.apple.com",
    "win32": "w32tm /resync",
}


class WatchedClock(SwarmClock):
    """A swarm's clock that keeps what each node's own clock said.

    The swarm's time is the median of all clocks, ours among them, so it hides what we ask for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ahead_s: dict[PeerId, float] = {}

    def learn(self, peer: PeerId, their_unix_s: float, *, asked_s: float) -> bool:
        """Takes a node's vote, see `SwarmClock`."""
        now_s = self.steady_s()
        if 0 <= now_s - asked_s <= LONGEST_TRIP_S:
            middle_unix_s = self.own_unix_s() - (now_s - asked_s) / 2
            self._ahead_s[peer] = middle_unix_s - their_unix_s
        return super().learn(peer, their_unix_s, asked_s=asked_s)

    @property
    def ahead_s(self) -> tuple[float, ...]:
        """By how much our clock is ahead of each node's."""
        return tuple(self._ahead_s.values())


def clock(ahead_s: tuple[float, ...], system: str) -> Iterator[Finding]:
    """Whether our clock agrees with the others'.

    Args:
        ahead_s: By how much ours is ahead of each node's.
        system: As `sys.platform`.
    """
    if not ahead_s:
        yield Finding("clock", "unknown", "nobody said what time it is")
        return
    error_s = median(ahead_s)
    side = "ahead of" if error_s > 0 else "behind"
    votes = "one node's" if len(ahead_s) == 1 else f"{len(ahead_s)} nodes'"
    found = f"{format_duration(abs(error_s))} {side} {votes} clock{'s' * (len(ahead_s) > 1)}"
    if abs(error_s) <= POOR_S:
        yield Finding("clock", "good", found)
        return
    fix = FIXES.get(system, "set the clock by NTP")
    if -BEHIND_S <= error_s <= AHEAD_S:
        why = "where few clocks are right, one that is not moves the time by which cards expire"
        yield Finding("clock", "poor", found, why, fix)
    else:
        why = (
            f"the clock is {format_duration(abs(error_s))} {side} the others', so their "
            "certificates count as not yet valid, or not any more"
        )
        yield Finding("clock", "fatal", found, why, fix)
