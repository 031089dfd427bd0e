"""Pairs: two peers average with each other and with nobody else (NoLoCo's mixing).

Theory of operation
-------------------
A peer whose trainer left a snapshot is READY: it asks the live peers, in the order that the lottery
drew for this round, until one accepts; whoever has been asked in vain stays READY and accepts the
first that asks it. Most are not READY when they are asked, but they remember who asked them and ask
them first as soon as they are; so after a no there is a short pause before the next question. The
two fetch each other's contribution, and each takes its own outer step.

    IDLE -departed-> READY -answer: yes / we accept-> EXCHANGING -fetched-> LANDING -landed-> IDLE
                       ^---- no answer in time, a no: next ------|
                       ^---- the partner died, froze or left ----|

Timers: `resend_s` bounds the wait for an answer, and is about the pause before the list is gone
through again; `exchange_s` bounds an exchange. Who asks is busy for others, but only for half a
`resend_s`: the dead must not keep the living apart. A crash at any point costs the other side this
partner, not its contribution: it is READY again and asks the next. Notes that were lost, or came
too late, leave one side in an exchange alone: an answer to what we do not want any more is answered
with a no, and a partner that has nothing for us is asked once more whether it is in the exchange.
Who accepts and then cannot be fetched from is shunned for a while, or one that can dial and not be
dialled would keep the others busy for ever. A departure while READY refreshes the snapshot.

Codec: each knows which suits its link; a question names the asker's, a yes the cheaper one of both,
and that is used. Whoever has begun and asks once more names that one. Should the two have begun
with different ones all the same, the exchange is given up.

Safety: a peer is in one exchange at a time, and an exchange id is used once: a contribution is in
at most one average of each side. One side may land and the other not (the last fetch fails); the
replicas then lie a little further apart, which the next exchanges shrink.
Liveness: while two peers that can reach each other are READY, they pair within a few `resend_s`.
"""

import hashlib
from collections import deque
from dataclasses import dataclass

from protocol.errors import LocalProtocolError
from protocol.exchange import Exchange, ExchangeConfig, Failure, Phase
from protocol.identity import PeerId
from protocol.lottery import partner_order
from protocol.machine import BlobRef, Discard, Fetch, Land, Offer, Reduce, Send
from protocol.messages import Answer, Member, Note, Propose
from protocol.terms import Terms

PAUSE_FRAC = 1.0
"""After a no, about so many times `resend_s` pass before the next question."""
SUITOR_LIFE = 5.0
"""Whoever asked us in vain is believed to be still READY for so many times `resend_s`."""
MAX_SUITORS = 8
MAX_FETCH_TRIES = 12
"""A contribution is made between two steps of the partner's trainer, which may take seconds."""
RECENT_PARTNERS = 6
"""They come last: suitors would make the same pairs again, and the swarm would mix more slowly."""
REMEMBERED_EXCHANGES = 256
"""A proposal that comes late must not open an exchange that is over."""

_REASONS = {
    Failure.ABSENT: "does not have it",
    Failure.BROKEN: "does not answer",
    Failure.SILENT: "does not even answer a ping",
}


@dataclass(slots=True)
class _Pair:
    partner: PeerId
    exchange_id: bytes
    own_tokens: int
    """As the partner knows them: a departure in between does not change them."""
    tokens: int
    deadline_s: float
    codec: int = 0
    tries: int = 0
    retry_at_s: float | None = None


class PairExchange(Exchange):
    """See the module docstring."""

    __slots__ = (
        *("_tokens", "_candidates", "_has_drawn", "_asked", "_last_question", "_pair"),
        *(
            "_ask_again_at_s",
            "_suitors",
            "_failed_partners",
            "_entered",
            "_last_landed",
            "_recent",
        ),
    )

    def __init__(self, config: ExchangeConfig, *, round: int, anchor_digest: bytes) -> None:
        super().__init__(config, round=round, anchor_digest=anchor_digest)
        self._tokens = 0
        self._candidates: list[PeerId] = []
        self._has_drawn = True
        """Whether the candidates are those that the lottery drew, and no more will come."""
        self._asked: _Pair | None = None
        self._last_question = hashlib.sha256(config.our_id.encode()).digest()
        """The exchange id in it; at first some bytes of ours."""
        self._pair: _Pair | None = None
        self._ask_again_at_s: float | None = None
        self._suitors: dict[PeerId, float] = {}
        """Who asked us in vain, and when."""
        self._failed_partners: set[PeerId] = set()
        self._entered: deque[bytes] = deque(maxlen=REMEMBERED_EXCHANGES)
        self._last_landed = b""
        self._recent: deque[PeerId] = deque(maxlen=RECENT_PARTNERS)

    def waiting_for(self) -> tuple[PeerId, ...]:
        """The partner, or the one who was asked."""
        pair = self._pair or self._asked
        return (pair.partner,) if pair else ()

    def on_departed(self, tokens: int, *, now_s: float) -> None:
        """A new snapshot: look for a partner, or refresh what we bring."""
        if self.is_using_snapshot:
            raise LocalProtocolError("a departure while the last snapshot is in use")
        self._tokens = tokens
        if self.phase is Phase.IDLE:
            self.phase = Phase.READY
            self._failed_partners.clear()
            self._start_asking(now_s)

    def on_note(self, src: PeerId, note: Note, *, now_s: float) -> None:
        """Propose and Answer; the notes of other mixings are not for us."""
        if not self._hears(src, note):
            return
        match note:
            case Propose():
                self._on_propose(src, note, now_s)
            case Answer():
                self._on_answer(src, note, now_s)
            case _:
                pass

    def on_fetched(self, src: PeerId, ref: BlobRef, *, now_s: float) -> None:
        """The partner's contribution is here."""
        if self.phase is not Phase.EXCHANGING or not self._pair:
            return
        if (src, ref.exchange_id) != (self._pair.partner, self._pair.exchange_id):
            return
        self.phase = Phase.LANDING
        average = BlobRef("average", self.config.fragment, ref.exchange_id)
        self._do(Reduce(average, self._pair.own_tokens, is_shared=False))
        terms, partner = Terms(codec=self._pair.codec), Member(src, self._pair.tokens)
        where = self.config.fragment, self.round
        self._do(Land(*where, ref.exchange_id, terms, members=(partner,)))

    def on_fetch_failed(self, src: PeerId, ref: BlobRef, *, failure: Failure, now_s: float) -> None:
        """Ask a living partner again soon; give up one that does not answer."""
        pair = self._pair
        if self.phase is not Phase.EXCHANGING or not pair or ref.exchange_id != pair.exchange_id:
            return
        pair.tries += 1
        if failure is Failure.ABSENT and pair.tries < MAX_FETCH_TRIES:
            pair.retry_at_s = now_s + self.config.retry_s
            # Late, or not in this exchange at all: an answer may have been lost, or come too late.
            self._do(Send(src, self._proposal(pair, begun=True)))
            return
        self._shunned.add(src, now_s=now_s, is_silent=failure is Failure.SILENT)
        self._give_up(_REASONS[failure], now_s)

    def on_landed(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """The outer step was taken; train on."""
        if self._pair:
            self._shunned.forgive(self._pair.partner)
            self._last_landed = self._pair.exchange_id
            self._recent.append(self._pair.partner)
        self.round, self.anchor_digest = round, anchor_digest
        self.phase, self._pair = Phase.IDLE, None

    def on_caught_up(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """We have somebody else's anchor, which is newer; our delta is on top of it."""
        self.round, self.anchor_digest = round, anchor_digest
        self.phase, self._is_old = Phase.IDLE, False

    def on_slept(self, *, now_s: float) -> None:
        """Whoever says yes to what we asked before is told no."""
        super().on_slept(now_s=now_s)
        self._asked = None
        self._pause(self.config.resend_s, now_s)

    def _renew(self) -> None:
        self._asked = self._ask_again_at_s = None
        super()._renew()

    def on_leaving(self, *, now_s: float) -> None:
        """Ask nobody any more, accept nobody; whoever says yes to our last question finds us."""
        super().on_leaving(now_s=now_s)
        self._ask_again_at_s = None

    def on_timer(self, *, now_s: float) -> None:
        """Unanswered question, pause over, fetch to repeat, or exchange too long."""
        if self.phase is Phase.READY:
            if self._asked and now_s >= self._asked.deadline_s:
                self._asked = None
                self._ask_next(now_s)
            elif self._ask_again_at_s is not None and now_s >= self._ask_again_at_s:
                if self._candidates or not self._has_drawn:
                    self._ask_next(now_s)
                else:
                    self._start_asking(now_s)
        elif self.phase is Phase.EXCHANGING and self._pair:
            if now_s >= self._pair.deadline_s:
                self._shunned.add(self._pair.partner, now_s=now_s)
                self._give_up("too slow", now_s)
            elif self._pair.retry_at_s is not None and now_s >= self._pair.retry_at_s:
                self._pair.retry_at_s = None
                self._fetch(self._pair)

    def next_deadline_s(self) -> float | None:
        """The earliest of the timers of this phase."""
        if self.phase is Phase.READY:
            return self._asked.deadline_s if self._asked else self._ask_again_at_s
        if self.phase is Phase.EXCHANGING and self._pair:
            if self._pair.retry_at_s is not None:
                return min(self._pair.retry_at_s, self._pair.deadline_s)
            return self._pair.deadline_s
        return None

    def _start_asking(self, now_s: float) -> None:
        """Suitors come first, for they are READY, too."""
        oldest_s = now_s - SUITOR_LIFE * self.config.resend_s
        self._suitors = {peer: at_s for peer, at_s in self._suitors.items() if at_s >= oldest_s}
        newest_first = sorted(self._suitors, key=self._suitors.__getitem__, reverse=True)
        newest_first.sort(key=self._recent.__contains__)
        self._candidates = [
            peer
            for peer in newest_first
            if peer not in self._failed_partners and not self._shunned.holds(peer, now_s=now_s)
        ]
        self._has_drawn = False
        self._ask_next(now_s)

    def _draw(self, now_s: float) -> list[PeerId]:
        """Returns all but the suitors in the lottery's order; whoever failed us is the last."""
        config, rest = self.config, self._others
        if self._suitors or self._shunned:
            rest = tuple(
                peer
                for peer in rest
                if peer not in self._suitors and not self._shunned.holds(peer, now_s=now_s)
            )
        order = partner_order(
            config.our_id, rest, run_id=config.run_id, fragment=config.fragment, round=self.round
        )
        last = self._failed_partners | self._unreachable | {*self._recent}
        return sorted(order, key=last.__contains__) if last else list(order)

    def _ask_next(self, now_s: float) -> None:
        if self._is_leaving:
            return
        if self._is_old:
            self._pause(self.config.resend_s, now_s)
            return
        if not self._candidates and not self._has_drawn:
            self._candidates, self._has_drawn = self._draw(now_s), True
        if not self._candidates:
            if self._is_on_its_own:
                self._asked = self._ask_again_at_s = None
                self._step_alone(self._tokens)
            else:
                self._pause(self.config.resend_s, now_s)
            return
        self._ask_again_at_s = None
        partner = self._candidates.pop(0)
        exchange_id = self._last_question = self._new_exchange_id()
        until_s = now_s + self.config.resend_s
        self._asked = asked = _Pair(
            partner, exchange_id, self._tokens, 0, until_s, self.wanted_codec
        )
        self._do(Send(partner, self._proposal(asked)))

    def _proposal(self, pair: _Pair, *, begun: bool = False) -> Propose:
        fields = pair.own_tokens, pair.exchange_id, pair.codec, begun
        return Propose(self.config.fragment, self.round, *fields)

    def _on_no(self, who: PeerId, now_s: float) -> None:
        """Most others are not READY; those who will be soon find us sooner than we them.

        A suitor that refuses is asking somebody itself, and two or three could go on so for ever.
        """
        has_suitor = self._candidates and self._candidates[0] in self._suitors
        if has_suitor and who not in self._suitors:
            self._ask_next(now_s)
        elif self._candidates or not self._has_drawn:
            self._pause(PAUSE_FRAC * self.config.resend_s, now_s)
        else:
            self._pause(self.config.resend_s, now_s)

    def _pause(self, about_s: float, now_s: float) -> None:
        """Asks nobody for a while, and accepts whoever asks us."""
        if self._is_leaving:
            return
        # Peers in step, each asking while it is asked, would refuse each other for ever; so they
        # fall out of it by what is as good as drawn.
        wait = 0.5 + int.from_bytes(self._last_question[:2]) / (1 << 16)
        self._ask_again_at_s = now_s + wait * about_s

    def _on_propose(self, src: PeerId, note: Propose, now_s: float) -> None:
        if note.exchange_id == self._last_landed:
            return  # we are through, and they can still fetch our contribution
        asked, pair = self._asked, self._pair
        codec = note.codec if note.begun else max(note.codec, self.wanted_codec)
        if pair and (pair.partner, pair.exchange_id) == (src, note.exchange_id):
            accepted, codec = True, pair.codec  # our answer was lost or the note came twice
        elif self.phase is not Phase.READY or self._is_refused(src, note, now_s):
            accepted = False
        elif asked and asked.partner == src:
            # Both asked at once: the smaller id's question counts, and the other one's is dropped.
            accepted = src < self.config.our_id
            if not accepted:
                return
        else:
            # Whoever has not answered for so long is probably dead, and one who is here is better.
            accepted = asked is None or now_s >= asked.deadline_s - self.config.resend_s / 2
        answer = self.config.fragment, note.exchange_id, accepted, self._tokens, codec
        self._do(Send(src, Answer(*answer)))
        if not accepted and not self._is_refused(src, note, now_s):
            self._remember(src, now_s)
        if accepted and self.phase is Phase.READY:
            begun = _Pair(src, note.exchange_id, self._tokens, note.tokens, 0.0, codec)
            self._begin(begun, now_s)

    def _remember(self, suitor: PeerId, now_s: float) -> None:
        """We shall ask this one first, when we can."""
        if suitor in self._failed_partners or suitor not in self._others:
            return
        self._suitors.pop(suitor, None)
        self._suitors[suitor] = now_s
        if len(self._suitors) > MAX_SUITORS:
            oldest = next(iter(self._suitors))
            del self._suitors[oldest]
            if oldest in self._candidates:
                self._candidates.remove(oldest)
        if suitor in self._candidates:
            self._candidates.remove(suitor)
        self._candidates.insert(0, suitor)

    def _is_refused(self, src: PeerId, note: Propose, now_s: float) -> bool:
        is_stale = note.tokens == 0 or note.exchange_id in self._entered
        has_no_use = self._is_leaving or self._is_old
        return is_stale or has_no_use or self._shunned.holds(src, now_s=now_s)

    def _on_answer(self, src: PeerId, note: Answer, now_s: float) -> None:
        asked, pair = self._asked, self._pair
        if asked and (src, note.exchange_id) == (asked.partner, asked.exchange_id):
            self._asked = None
            if note.accepted and note.tokens > 0 and note.codec >= asked.codec:
                asked.tokens, asked.codec = note.tokens, note.codec
                self._begin(asked, now_s)
            else:
                self._on_no(src, now_s)
        elif pair and (src, note.exchange_id) == (pair.partner, pair.exchange_id):
            if note.accepted and note.tokens > 0 and note.codec == pair.codec:
                pair.tokens = note.tokens  # they may have begun later than we, with more
            elif self.phase is Phase.EXCHANGING:
                other = note.accepted and note.codec != pair.codec
                self._give_up("uses another codec" if other else "is not in it", now_s)
        elif note.accepted and note.exchange_id not in self._entered:
            # We have gone on without them: they need not wait for us.
            no = Answer(self.config.fragment, note.exchange_id, False, self._tokens)
            self._do(Send(src, no))

    def _begin(self, pair: _Pair, now_s: float) -> None:
        pair.deadline_s = now_s + self.config.exchange_s
        self._entered.append(pair.exchange_id)
        self.phase, self._pair, self._asked, self._ask_again_at_s = (
            Phase.EXCHANGING,
            pair,
            None,
            None,
        )
        self._tell("exchange_begins", partners=[pair.partner], exchange_id=pair.exchange_id.hex())
        self._do(
            Offer(
                fragment=self.config.fragment,
                round=self.round,
                exchange_id=pair.exchange_id,
                terms=Terms(codec=pair.codec),
                members=(pair.partner,),
            )
        )
        self._fetch(pair)

    def _fetch(self, pair: _Pair) -> None:
        ref = BlobRef("part", self.config.fragment, pair.exchange_id)
        self._do(Fetch(pair.partner, ref, Terms(codec=pair.codec), pair.tokens))

    def _give_up(self, reason: str, now_s: float) -> None:
        if not self._pair:
            raise LocalProtocolError("nothing to give up")
        pair, self._pair = self._pair, None
        self._failed_partners.add(pair.partner)
        self._tell(
            "exchange_failed",
            partners=[pair.partner],
            exchange_id=pair.exchange_id.hex(),
            reason=f"{pair.partner} {reason}",
        )
        self._do(Discard(self.config.fragment, pair.exchange_id))
        self.phase = Phase.READY
        self._start_asking(now_s)
