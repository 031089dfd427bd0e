"""Whom a READY peer asks next: first those who asked it in vain, then whom the lottery drew.

Most peers are not READY when they are asked, but whoever asks is. So who had to say no remembers
the asker, a *suitor*, and asks it first as soon as it can. Who let us down in this round comes
last, and who could not be fetched from is not asked for a while.
"""

from collections.abc import Iterable

from protocol.exchange import ExchangeConfig
from protocol.identity import PeerId
from protocol.lottery import partner_order
from protocol.shunning import Shunning

SUITOR_LIFE = 5.0
"""Whoever asked us in vain is believed to be still READY for so many times `resend_s`."""
MAX_SUITORS = 8


class Candidates:
    """See the module docstring.

    Attributes:
        failed: Who let us down in this round.
        shunned: Who is not asked for a while.
    """

    __slots__ = ("_config", "_drawn", "_suitors", "failed", "shunned")

    def __init__(self, config: ExchangeConfig, shunned: Shunning) -> None:
        self.failed: set[PeerId] = set()
        self.shunned = shunned
        self._config = config
        self._suitors: dict[PeerId, float] = {}
        """The newest last, with the time when each asked."""
        self._drawn: list[PeerId] | None = None
        """Those who are still to be asked, the next one last; None before the draw."""

    def restart(self) -> None:
        """From now on everybody may be asked once more."""
        self._drawn = None

    def remember(self, suitor: PeerId, *, now_s: float) -> None:
        """This one asked us in vain."""
        if suitor in self.failed:
            return
        self._suitors.pop(suitor, None)
        self._suitors[suitor] = now_s
        if len(self._suitors) > MAX_SUITORS:
            del self._suitors[next(iter(self._suitors))]

    def next_suitor(self, *, now_s: float) -> PeerId | None:
        """Returns the one who asked last, and forgets it: it says so again if need be."""
        oldest_s = now_s - SUITOR_LIFE * self._config.resend_s
        while self._suitors:
            suitor, asked_at_s = self._suitors.popitem()
            if asked_at_s >= oldest_s and not self._is_barred(suitor, now_s):
                return suitor
        return None

    def next_drawn(
        self, others: Iterable[PeerId], unreachable: set[PeerId], *, round: int, now_s: float
    ) -> PeerId | None:
        """Returns the next in the lottery's order; None when all have been asked.

        Args:
            others: Who is believed to live.
            unreachable: Who did not get our last note; they come last, as those who failed.
            round: Ours.
            now_s: The time.
        """
        if self._drawn is None:
            config, last = self._config, self.failed | unreachable
            order = partner_order(
                config.our_id, others, run_id=config.run_id, fragment=config.fragment, round=round
            )
            self._drawn = sorted(order, key=lambda peer: peer in last)[::-1]
        while self._drawn:
            if not self.shunned.holds(peer := self._drawn.pop(), now_s=now_s):
                return peer
        return None

    def _is_barred(self, peer: PeerId, now_s: float) -> bool:
        return peer in self.failed or self.shunned.holds(peer, now_s=now_s)
