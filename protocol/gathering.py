"""The fetches of one group exchange: parts to reduce, then averages to land.

A member first collects its own part from every other member (`of_member`), unless that is empty; a
late peer only fetches the averages, from one who has them (`of_listener`). Whoever answers that it
does not have something *yet* is asked again every `retry_s`, but not for ever: it may have given
the exchange up. Where a transfer breaks, another is tried, and then the source is left out; and at
once if it does not even answer a ping. The average of a reducer that left us is looked for at the
other members, who are asked in turn: they have it, or will not get it either, and say so at once
if they know that (`expects`). Nothing is applied before everything is here.

A member whose own part is empty asks for averages from the beginning, and so long before they can
be there: to it a reducer has given up only once it has said several times that it is READY anew.
"""

from collections import Counter
from dataclasses import dataclass, field

from protocol.exchange import ExchangeConfig, Failure
from protocol.identity import PeerId
from protocol.machine import BlobRef, Effect, Fetch, Reduce
from protocol.messages import Member, Roster
from protocol.roster import is_quorum
from protocol.terms import Terms

MAX_SILENT_TRIES = 2
"""A peer that is silent so often in a row is dead or frozen to us."""
MAX_VAIN_TRIES = 12
"""A peer that says so often that it has nothing has given the exchange up."""
MAX_READY = 3
"""So has one that is READY anew so often; a single READY may have crossed with the roster."""


@dataclass(slots=True)
class _Want:
    """One blob that we need, and whom to ask for it."""

    ref: BlobRef
    sources: list[PeerId]
    tokens: int = 0
    retry_at_s: float | None = None
    is_flying: bool = False
    silent: dict[PeerId, int] = field(default_factory=dict)
    vain: dict[PeerId, int] = field(default_factory=dict)

    is_last_resort: bool = False
    """Its reducer is not among the sources any more."""

    @property
    def source(self) -> PeerId:
        return self.sources[0]

    def ask_in_turn(self, *, now_s: float) -> None:
        """Who is not its reducer has it, or will not get it: so ask them all, not one for long."""
        if self.is_last_resort and len(self.sources) > 1:
            last = self.sources.pop(0)
            self.sources.append(last)
            if self.vain.get(self.source, 0) < self.vain.get(last, 0):
                self.retry_at_s = now_s


class Gathering:
    """See the module docstring."""

    def __init__(
        self, exchange_id: bytes, terms: Terms, config: ExchangeConfig, *, now_s: float
    ) -> None:
        self.exchange_id = exchange_id
        self.terms = terms
        self.failure: str | None = None
        self.unresponsive: set[PeerId] = set()
        self.silent: set[PeerId] = set()
        """Those of them that did not even answer a ping."""
        self.partners: tuple[PeerId, ...] = ()
        self.is_member = False
        self._config = config
        self._deadline_s = now_s + config.exchange_s
        self._wants: dict[tuple[BlobRef, PeerId | None], _Want] = {}
        self._effects: list[Effect] = []
        self._roster: Roster | None = None
        self._num_live = 1
        self._num_reduced = 1
        self._left_out: set[PeerId] = set()
        """Members whose contribution to our own part did not come."""
        self.is_reducing = False
        """Our own average is still to be made, so nobody can have it."""
        self._is_patient = False
        """Our own part is empty, and nobody is known to have the averages yet."""
        self._times_ready: Counter[PeerId] = Counter()

    @classmethod
    def of_member(
        cls, roster: Roster, config: ExchangeConfig, *, num_live: int, now_s: float
    ) -> "Gathering":
        """The exchange of a member of `roster`, who knows `num_live` live peers."""
        gathering = cls(roster.exchange_id, roster.terms, config, now_s=now_s)
        gathering._roster, gathering.is_member = roster, True
        gathering._num_live = num_live
        gathering.partners = tuple(peer for peer in roster.peer_ids if peer != config.our_id)
        ours = roster.peer_ids.index(config.our_id)
        if not roster.shares[ours]:
            gathering._is_patient = True
            gathering._ask_for_averages(roster)
            return gathering
        gathering.is_reducing = True
        for member in roster.members:
            if member.peer_id != config.our_id:
                ref = gathering._ref("part", ours)
                want = _Want(ref, [member.peer_id], member.tokens)
                gathering._wants[ref, member.peer_id] = want
                gathering._ask(want)
        gathering._reduce_if_ready()
        return gathering

    @classmethod
    def of_listener(
        cls,
        exchange_id: bytes,
        terms: Terms,
        holder: PeerId,
        config: ExchangeConfig,
        *,
        now_s: float,
    ) -> "Gathering":
        """The replay of an exchange that `holder` has landed."""
        gathering = cls(exchange_id, terms, config, now_s=now_s)
        gathering.partners = (holder,)
        for part in terms.parts:
            ref = gathering._ref("average", part)
            gathering._wants[ref, None] = want = _Want(ref, [holder])
            gathering._ask(want)
        return gathering

    @property
    def is_complete(self) -> bool:
        """Whether every average is here."""
        return not self._wants and not self.is_reducing and self.failure is None

    @property
    def brought(self) -> tuple[Member, ...]:
        """The other members, less those whose contribution we did without; of a replay nobody."""
        return tuple(
            member
            for member in (self._roster.members if self._roster else ())
            if member.peer_id != self._config.our_id and member.peer_id not in self._left_out
        )

    def is_stuck_without(self, src: PeerId) -> bool:
        """Whether nobody can complete it, now that member `src` is in another exchange.

        Our own average is missing; or we make none, and that of `src` is.
        """
        roster = self._roster
        if self.is_reducing or not roster:
            return self.is_reducing
        return self._is_patient and bool(roster.shares[roster.peer_ids.index(src)])

    def expects(self, ref: BlobRef) -> bool:
        """Whether this average may still be made here, or come from its reducer."""
        reducers = self._roster.peer_ids if self._roster else ()
        return ref.part >= len(reducers) or reducers[ref.part] not in self.unresponsive

    def waiting_for(self) -> tuple[PeerId, ...]:
        """Whose bytes are missing."""
        return tuple(dict.fromkeys(want.source for want in self._wants.values()))

    def drain(self) -> list[Effect]:
        """Returns the effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def on_fetched(self, src: PeerId, ref: BlobRef, *, now_s: float) -> None:
        """A part was collected or an average kept."""
        if ref.kind == "part":
            if self._wants.pop((ref, src), None):
                self._num_reduced += 1
                self._reduce_if_ready()
        else:
            self._wants.pop((ref, None), None)

    def on_fetch_failed(self, src: PeerId, ref: BlobRef, *, failure: Failure, now_s: float) -> None:
        """Ask again, ask another, or go on without."""
        want = self._wants.get((ref, src if ref.kind == "part" else None))
        if not want or not want.is_flying or want.source != src:
            return
        want.is_flying = False
        want.retry_at_s = now_s + self._config.retry_s
        is_absent = failure is Failure.ABSENT
        if is_absent:
            want.silent.pop(src, None)
        if is_absent and self._is_patient_with(want):
            return
        tries, most = (want.vain, MAX_VAIN_TRIES) if is_absent else (want.silent, MAX_SILENT_TRIES)
        tries[src] = tries.get(src, 0) + 1
        if failure is Failure.SILENT:
            self.silent.add(src)
            for other in self._wants.values():  # it is no help with anything else, either
                other.sources[1:] = [peer for peer in other.sources[1:] if peer != src]
        elif tries[src] < most:
            want.ask_in_turn(now_s=now_s)
            return
        if failure is Failure.SILENT or want.is_last_resort:
            want.retry_at_s = now_s  # the next one is asked at once
        if not is_absent:
            self.unresponsive.add(src)
        self._drop_source(want)

    def on_ready(self, peer: PeerId, *, now_s: float) -> None:
        """This member is READY for our round: anew, or it has not got the roster."""
        self._times_ready[peer] += 1
        if self._times_ready[peer] < MAX_READY:
            return
        for want in self._wants.values():
            if want.source == peer and self._is_patient_with(want):
                want.is_flying, want.retry_at_s = False, now_s
                self._drop_source(want)
                if self.failure:
                    return
        self.on_timer(now_s=now_s)

    def on_holder(self, holder: PeerId, *, now_s: float) -> None:
        """This peer has landed the exchange, so it has every average."""
        for want in self._wants.values():
            if want.ref.kind == "average":
                if self._is_patient_with(want):
                    want.vain = self._last_tries(want.source, want.sources)
                want.vain.pop(holder, None)
                self.unresponsive.discard(holder)
                self.silent.discard(holder)
                if holder not in want.sources:
                    want.sources.append(holder)
        self._is_patient = False
        self.on_timer(now_s=now_s)

    def on_timer(self, *, now_s: float) -> None:
        """Repeat the fetches whose pause is over."""
        if now_s >= self._deadline_s and not self.is_complete:
            self.unresponsive |= set(self.waiting_for())
            self.failure = self.failure or f"not done after {self._config.exchange_s:g} s"
            return
        for want in self._wants.values():
            if want.retry_at_s is not None and now_s >= want.retry_at_s:
                self._ask(want)

    def next_deadline_s(self) -> float:
        """The next repetition, or the end of all patience."""
        retries = [want.retry_at_s for want in self._wants.values() if want.retry_at_s is not None]
        return min([*retries, self._deadline_s])

    def _ref(self, kind: str, part: int) -> BlobRef:
        return BlobRef(kind, self._config.fragment, self.exchange_id, part)

    def _ask(self, want: _Want) -> None:
        want.retry_at_s, want.is_flying = None, True
        self._effects.append(Fetch(want.source, want.ref, self.terms, want.tokens))

    def _is_patient_with(self, want: _Want) -> bool:
        reducers = self._roster.peer_ids if self._roster and self._is_patient else ()
        return bool(reducers) and reducers[want.ref.part] == want.source

    def _drop_source(self, want: _Want) -> None:
        src = want.sources.pop(0)
        want.sources = [peer for peer in want.sources if peer not in self.silent]
        if not want.is_last_resort:
            want.is_last_resort, want.vain = True, self._last_tries(src, want.sources)
        if not want.sources:
            self._go_without(want, src)

    def _go_without(self, want: _Want, src: PeerId) -> None:
        if want.ref.kind == "average":
            reducer = self._roster.peer_ids[want.ref.part] if self._roster else src
            self.failure = f"{reducer} does not give its average, and nobody else has it"
            return
        del self._wants[want.ref, src]
        self._left_out.add(src)
        self._reduce_if_ready()

    def _reduce_if_ready(self) -> None:
        if not self._roster or any(ref.kind == "part" for ref, _ in self._wants):
            return
        if not is_quorum(self._num_reduced, self._num_live, self._config.quorum_frac):
            self.failure = f"only {self._num_reduced} of {self._num_live} peers brought their part"
            return
        self.is_reducing = False
        ours = self._roster.peer_ids.index(self._config.our_id)
        tokens = self._roster.members[ours].tokens
        self._effects.append(Reduce(self._ref("average", ours), tokens))
        self._ask_for_averages(self._roster)

    def _ask_for_averages(self, roster: Roster) -> None:
        for part in self.terms.parts:
            peer = roster.peer_ids[part]
            if peer != self._config.our_id:
                others = [other for other in self.partners if other != peer]
                ref = self._ref("average", part)
                if peer in self.unresponsive and others:
                    others = [other for other in others if other not in self.silent] or others
                    vain = self._last_tries(peer, others)
                    want = _Want(ref, others, vain=vain, is_last_resort=True)
                else:
                    want = _Want(ref, [peer, *others])
                self._wants[ref, None] = want
                self._ask(want)

    def _last_tries(self, reducer: PeerId, sources: list[PeerId]) -> dict[PeerId, int]:
        """Those who are not the reducer have its average already, or will never have it.

        To all of us it may not be silent, so others wait for it; but who has no hope says so.
        """
        return dict.fromkeys(sources, MAX_VAIN_TRIES - (1 if reducer in self.silent else 2))
