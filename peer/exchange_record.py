"""The last exchanges of a peer, and what they came to: for people, and for its contribution.

The driver tells of each beginning, end and landing as it happens; that costs a few assignments.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from peer.contribution import Tally
from protocol.identity import PeerId
from protocol.machine import Land, Tell
from protocol.report import Exchanged, Outcome
from protocol.report_limits import MAX_EXCHANGES, MAX_PARTNERS

_BEGINNINGS = ("exchange_begins", "replay_begins")


@dataclass(slots=True)
class _Exchange:
    fragment: int
    round: int
    partners: tuple[PeerId, ...]
    began_s: float
    outcome: Outcome = "under way"
    reason: str = ""
    ended_s: float | None = None


class ExchangeRecord:
    """See the module docstring.

    Args:
        clock: The event loop's, in seconds.
        num_fragments: Of the model.
        tally: Where contributions count.
    """

    def __init__(self, clock: Callable[[], float], num_fragments: int, tally: Tally) -> None:
        self._clock = clock
        self._num_fragments = num_fragments
        self._tally = tally
        self._under_way: dict[int, _Exchange] = {}
        """By fragment: a machine is in one at a time."""
        self._ended: deque[_Exchange] = deque(maxlen=MAX_EXCHANGES)

    def hear(self, effect: Tell) -> None:
        """A machine says something."""
        fragment, reason = effect.fields.get("fragment"), str(effect.fields.get("reason", ""))
        if not isinstance(fragment, int):
            return
        if effect.event in _BEGINNINGS:
            self._end(fragment, "failed", "given up for another one")
            self._begin(fragment, effect)
        elif effect.event == "exchange_failed":
            self._end(fragment, "failed", reason)
            self._tally.refused(reason)

    def landed(self, effect: Land, own_tokens: int, *, had_work: bool) -> None:
        """An average landed.

        Args:
            effect: Which one.
            own_tokens: Of ours in it.
            had_work: Whether we had something to give to it.
        """
        self._end(effect.fragment, "landed")
        self._tally.landed(own_tokens, effect.members, num_fragments=self._num_fragments)
        if effect.rebase_on_anchor and had_work:
            self._tally.late()

    def passed_by(self, rounds: int) -> None:
        """So many averages came with another peer's state, and we had something to give to them."""
        self._tally.late(max(0, rounds))

    def refused(self, reason: str) -> None:
        """Somebody refused us what an exchange needs."""
        self._tally.refused(reason)

    def last(self, now_unix_s: float) -> tuple[Exchanged, ...]:
        """Returns the last exchanges and those under way, the newest last."""
        now_s = self._clock()
        known = [*self._ended, *self._under_way.values()]
        newest = sorted(known, key=lambda each: each.began_s)[-MAX_EXCHANGES:]
        return tuple(
            Exchanged(
                fragment=each.fragment,
                round=each.round,
                partners=each.partners,
                outcome=each.outcome,
                reason=each.reason,
                began_unix_s=now_unix_s - (now_s - each.began_s),
                took_s=(now_s if each.ended_s is None else each.ended_s) - each.began_s,
            )
            for each in newest
        )

    def _begin(self, fragment: int, effect: Tell) -> None:
        partners, round = effect.fields.get("partners"), effect.fields.get("round")
        if not isinstance(partners, list | tuple) or not isinstance(round, int):
            return
        if partners:  # else it is a step of ours alone
            named = tuple(PeerId(str(peer)) for peer in partners[:MAX_PARTNERS])
            self._under_way[fragment] = _Exchange(fragment, round, named, self._clock())

    def _end(self, fragment: int, outcome: Outcome, reason: str = "") -> None:
        exchange = self._under_way.pop(fragment, None)
        if exchange is not None:
            exchange.outcome, exchange.reason = outcome, reason
            exchange.ended_s = self._clock()
            self._ended.append(exchange)
