"""Groups: up to `group_size` peers that happen to be READY average with each other.

Between `pairs` and `all`: as with pairs there is no barrier and no common anchor, and `round`
counts a peer's own outer steps; as with all, the work is divided.

Theory of operation
-------------------
A peer whose trainer left a snapshot is READY. It opens a *circle*, whose host it is, and invites
others (Propose): its suitors, and whom the lottery drew (`protocol.candidates`). Who accepts
(Answer) is its guest. When the circle is full, when all who live are in it, or `grace_s` after the
last guest came, the host closes it: the guests get a Roster, and all scatter-reduce and gather as
with mixing all (`protocol.gathering`), with two differences: any two contributions are enough for
an average, and nobody replays what it missed.

    IDLE -departed-> READY as host  -circle closes-> EXCHANGING -all averages-> LANDING -> IDLE
                     |    ^  | a yes to an invitation  ^   |
                     |    |  v                         |   | attempt failed: READY again
                     |   READY as guest ---roster------+   |
                     +----<--no, silence, host dead--<-----+

Two hosts invite each other, or ten in a ring. A host that has guests declines; one that has none
gives its circle up for one with a smaller exchange id, for one whose host has just declined its
own invitation, and for any once all that it asked have answered. So of all circles without guests
that know of each other the smallest id grows. Who declines as a host invites the asker in return.

A yes is good until the guest says no, so a guest belongs to one circle. It repeats its yes every
`resend_s`: that brings back an answer or a roster that was lost, and a no from a host that has gone
on without it. A roster is also repeated by whoever misses a member's contribution.

A crash. Of a host whose circle is open: its guests learn it when they repeat their yes. Of a guest,
or a member in the exchange: the others reduce without its contribution. Its average is looked for
at those who may have it; if nobody has it, the attempt fails, and the survivors, who tell each
other, are each other's suitors. Who does not answer, or has nothing for us so often that it cannot
be bad luck, is shunned for a while; so is a host that makes rosters of peers whom we do not know,
for we could not fetch from them.

Safety: a peer is in one circle at a time, and an exchange id is used once: a contribution is in at
most one average of each landing, and lands once at its owner. As with pairs some may land where
others fail; replicas then lie a little further apart, which the next exchanges shrink.
Liveness: while two peers that can reach each other are READY, they find somebody within a few
`resend_s`, and a circle is open for `group_size - 1` times `grace_s` at most. An exchange ends at
`exchange_s`, and nothing else waits for anybody.
"""

import hashlib
from collections import Counter, deque

from protocol.candidates import Candidates
from protocol.circle import Circle, Place, place_of
from protocol.errors import LocalProtocolError
from protocol.exchange import Exchange, ExchangeConfig, Failure, Phase
from protocol.gathering import MAX_VAIN_TRIES, Gathering
from protocol.identity import PeerId
from protocol.machine import BlobRef, Discard, Land, Offer, Send
from protocol.messages import Answer, Note, Propose, Ready, Roster
from protocol.shares import are_fair

ENOUGH = 2
"""Contributions in an average, ours included."""
REMEMBERED_EXCHANGES = 256
"""An invitation that comes late must not lead into an exchange that is over."""


class CircleExchange(Exchange):
    """See the module docstring."""

    __slots__ = (
        *("_candidates", "_circle", "_entered", "_gathering", "_invite_at_s", "_last_roster"),
        *("_num_pauses", "_place", "_roster", "_tokens", "_vain"),
    )

    def __init__(self, config: ExchangeConfig, *, round: int, anchor_digest: bytes) -> None:
        super().__init__(config, round=round, anchor_digest=anchor_digest)
        self._tokens = 0
        self._candidates = Candidates(config, self._shunned)
        self._circle: Circle | None = None
        self._place: Place | None = None
        self._invite_at_s: float | None = None
        self._num_pauses = 0
        self._roster: Roster | None = None
        self._gathering: Gathering | None = None
        self._vain: Counter[PeerId] = Counter()
        """How often each member had nothing for us, in this exchange."""
        self._entered: deque[bytes] = deque(maxlen=REMEMBERED_EXCHANGES)
        self._last_roster: Roster | None = None
        """Of the exchange that landed last."""

    def waiting_for(self) -> tuple[PeerId, ...]:
        """Whose bytes are missing, who was invited, or the host."""
        if self._gathering:
            return self._gathering.waiting_for()
        if self._place:
            return (self._place.host,)
        return tuple(self._circle.invited) if self._circle else ()

    def on_departed(self, tokens: int, *, now_s: float) -> None:
        """A new snapshot: look for others, or refresh what we bring."""
        if self.is_using_snapshot:
            raise LocalProtocolError("a departure while the last snapshot is in use")
        self._tokens = tokens
        if self.phase is Phase.IDLE:
            self._candidates.failed.clear()
            self._be_ready(now_s)

    def on_note(self, src: PeerId, note: Note, *, now_s: float) -> None:
        """Propose, Answer and Roster; the notes of other mixings are not for us."""
        if not self._hears(src, note):
            return
        match note:
            case Propose():
                self._on_propose(src, note, now_s)
            case Answer():
                self._on_answer(src, note, now_s)
            case Roster():
                self._on_roster(src, note, now_s)
            case _:
                pass

    @property
    def is_counted_in(self) -> bool:
        """Whether others wait for us: in an exchange, or in a circle."""
        has_guests = self._circle is not None and bool(self._circle.guests)
        return super().is_counted_in or self._place is not None or has_guests

    def on_unreachable(self, peer: PeerId, *, is_gone: bool = False, now_s: float) -> None:
        """A note could not be delivered: neither host nor guests are waited for."""
        super().on_unreachable(peer, is_gone=is_gone, now_s=now_s)
        if self._place and self._place.host == peer:
            self._be_ready(now_s)
        elif self._circle and (peer in self._circle.invited or peer in self._circle.guests):
            self._circle.lose(peer)

    def on_fetched(self, src: PeerId, ref: BlobRef, *, now_s: float) -> None:
        """A part or an average is here."""
        if self._gathering and ref.exchange_id == self._gathering.exchange_id:
            self._gathering.on_fetched(src, ref, now_s=now_s)
            self._advance(now_s)

    def on_fetch_failed(self, src: PeerId, ref: BlobRef, *, failure: Failure, now_s: float) -> None:
        """A part or an average could not be had from this peer."""
        if self._gathering and self._roster and ref.exchange_id == self._gathering.exchange_id:
            is_absent = failure is Failure.ABSENT
            self._vain[src] += is_absent and self._averages_a_part
            if is_absent and ref.kind == "part":
                self._do(Send(src, self._roster))  # it may wait for it
            self._gathering.on_fetch_failed(src, ref, failure=failure, now_s=now_s)
            self._advance(now_s)

    def expects(self, ref: BlobRef) -> bool:
        """Not of an exchange that we are not in, or from a reducer that is dead."""
        gathering = self._gathering
        if gathering is None or ref.exchange_id != gathering.exchange_id:
            return False
        return gathering.expects(ref)

    def on_landed(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """The outer step was taken; train on."""
        if self._gathering:
            for peer in set(self._gathering.partners) - self._gathering.unresponsive:
                self._shunned.forgive(peer)
            for peer in self._gathering.silent:
                self._shunned.add(peer, now_s=now_s, is_silent=True)
        self._last_roster, self._roster, self._gathering = self._roster, None, None
        self.round, self.anchor_digest, self.phase = round, anchor_digest, Phase.IDLE

    def on_caught_up(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """We have somebody else's anchor, which is newer; our delta is on top of it."""
        self.round, self.anchor_digest = round, anchor_digest
        self.phase, self._is_old = Phase.IDLE, False

    def on_slept(self, *, now_s: float) -> None:
        """Host and guests are left; whoever counts on us hears that we are not in it."""
        super().on_slept(now_s=now_s)
        self._circle = self._place = self._invite_at_s = None

    def _renew(self) -> None:
        self._circle = self._place = self._invite_at_s = None
        super()._renew()

    def on_leaving(self, *, now_s: float) -> None:
        """Invite nobody any more, go on with the guests that are here, or stay one to the end."""
        super().on_leaving(now_s=now_s)
        self._invite_at_s = None
        if self._circle and self._circle.guests:
            self._close(self._circle, now_s)

    def on_timer(self, *, now_s: float) -> None:
        """Invite, repeat a yes, close the circle, or go on with the exchange."""
        if self.phase is Phase.EXCHANGING and self._gathering:
            self._gathering.on_timer(now_s=now_s)
            self._advance(now_s)
        elif self.phase is Phase.READY and self._place:
            if now_s >= self._place.until_s:
                self._decline(self._place.host, self._place.exchange_id)
                self._be_ready(now_s)
            elif now_s >= self._place.repeat_at_s:
                self._accept(self._place, now_s)
        elif self.phase is Phase.READY:
            if self._circle and self._is_over(self._circle, now_s):
                self._close(self._circle, now_s)
            elif self._invite_at_s is not None and now_s >= self._invite_at_s:
                self._invite(now_s)

    def next_deadline_s(self) -> float | None:
        """The earliest of the timers of this phase."""
        if self.phase is Phase.EXCHANGING and self._gathering:
            return self._gathering.next_deadline_s()
        if self.phase is not Phase.READY:
            return None
        if self._place:
            return min(self._place.until_s, self._place.repeat_at_s)
        times = self._invite_at_s, self._circle.closes_at_s if self._circle else None
        return min((time_s for time_s in times if time_s is not None), default=None)

    # ---- as a host

    def _be_ready(self, now_s: float) -> None:
        self.phase, self._circle, self._place = Phase.READY, None, None
        self._candidates.restart()
        self._invite(now_s)

    def _invite(self, now_s: float) -> None:
        """Invites as many as have room, suitors first; others after a while."""
        if self._is_leaving or self._is_old:
            return
        if self._is_on_its_own:
            self._circle = self._invite_at_s = None
            self._step_alone(self._tokens)
            return
        circle = self._circle = self._circle or Circle(self._new_exchange_id())
        circle.expire(now_s=now_s)
        self._invite_suitors(circle, now_s)
        self._invite_drawn(circle, now_s)
        # Peers in step, each asking while it is asked, would decline each other for ever; so they
        # fall out of it by what is as good as drawn.
        self._num_pauses += 1
        drawn = hashlib.sha256(f"{self.config.our_id}|{self._num_pauses}".encode()).digest()
        pause = 0.5 + int.from_bytes(drawn[:2]) / (1 << 16)
        self._invite_at_s = now_s + pause * self.config.resend_s

    def _invite_suitors(self, circle: Circle, now_s: float) -> None:
        while (
            not (self._is_leaving or self._is_old) and circle.num_free(self.config.group_size) > 0
        ):
            suitor = self._candidates.next_suitor(now_s=now_s)
            if suitor is None:
                return
            self._propose(circle, suitor, now_s)

    def _invite_drawn(self, circle: Circle, now_s: float) -> None:
        drawn = self._candidates.next_drawn
        while circle.num_free(self.config.group_size) > 0:
            peer = drawn(self._others, self._unreachable, round=self.round, now_s=now_s)
            if peer is None:
                self._candidates.restart()  # for the next time
                return
            self._propose(circle, peer, now_s)

    def _propose(self, circle: Circle, peer: PeerId, now_s: float) -> None:
        """Invites this one, unless it is here or has been invited."""
        if peer in circle.invited or peer in circle.guests or peer not in self._others:
            return
        circle.invited[peer] = now_s + self.config.resend_s
        fields = self.config.fragment, self.round, self._tokens, circle.exchange_id
        self._do(Send(peer, Propose(*fields, self.wanted_codec)))

    def _is_over(self, circle: Circle, now_s: float) -> bool:
        if not circle.guests:
            return False
        if self._is_leaving or len(circle.guests) >= self.config.group_size - 1:
            return True
        shunned = self._shunned
        missing = set(self._others) - self._unreachable - set(circle.guests)
        is_complete = all(shunned.holds(peer, now_s=now_s) for peer in missing)
        return is_complete or (circle.closes_at_s is not None and now_s >= circle.closes_at_s)

    def _close(self, circle: Circle, now_s: float) -> None:
        config = self.config
        what = self._tokens, self.anchor_digest, self.up_bps, self.wanted_codec
        roster = circle.roster(config.our_id, Ready(config.fragment, self.round, *what))
        for peer in circle.guests:
            self._do(Send(peer, roster))
        self._begin(roster, now_s)

    def _on_answer(self, src: PeerId, note: Answer, now_s: float) -> None:
        circle, place, gathering = self._circle, self._place, self._gathering
        is_yes = note.accepted and note.tokens > 0
        if circle and note.exchange_id == circle.exchange_id:
            if is_yes and src in self._others:
                self._seat(circle, src, note, now_s)
            else:
                circle.lose(src)
                circle.declined.add(src)
                self._invite_suitors(circle, now_s)
        elif place and (src, note.exchange_id) == (place.host, place.exchange_id):
            if not is_yes:
                self._be_ready(now_s)
        elif gathering and self._roster and note.exchange_id == gathering.exchange_id:
            if not is_yes:
                self._on_leaves(gathering, src, now_s)
            elif src in gathering.partners:
                self._do(Send(src, self._roster))  # it waits for it
            else:
                self._decline(src, note.exchange_id)
        elif is_yes and not self._landed_with(src, note.exchange_id):
            self._decline(src, note.exchange_id)  # we have gone on: they need not wait for us

    def _seat(self, circle: Circle, guest: PeerId, note: Answer, now_s: float) -> None:
        is_new = circle.seat(guest, note, closes_at_s=now_s + self.config.grace_s)
        if self._is_over(circle, now_s):
            self._close(circle, now_s)
        elif is_new:
            self._invite(now_s)  # where one is READY, others may be

    # ---- as a guest

    def _on_propose(self, src: PeerId, note: Propose, now_s: float) -> None:
        if note.exchange_id in self._entered:
            return
        place = self._place
        if place and (src, note.exchange_id) == (place.host, place.exchange_id):
            self._accept(place, now_s)
        elif self._is_welcome(src, note, now_s):
            self._circle = self._invite_at_s = None
            self._place = place_of(src, note.exchange_id, self.config, now_s=now_s)
            self._accept(self._place, now_s)
        else:
            self._decline(src, note.exchange_id)
            self._court(src, note, now_s)
            self._doubt(src, now_s)

    def _is_welcome(self, src: PeerId, note: Propose, now_s: float) -> bool:
        """Whether we go there, and give up our own circle for it."""
        if self.phase is not Phase.READY or not self._is_serious(src, note, now_s):
            return False
        if self._is_leaving or self._is_old:
            return False
        if self._place:
            return src == self._place.host  # which has begun anew
        circle = self._circle
        if not circle or not circle.awaits_answers(now_s=now_s):
            return not circle or not circle.guests
        has_priority = note.exchange_id < circle.exchange_id or src in circle.declined
        return has_priority and not circle.guests

    def _is_serious(self, src: PeerId, note: Propose, now_s: float) -> bool:
        is_shunned = self._shunned.holds(src, now_s=now_s)
        return note.tokens > 0 and src in self._others and not is_shunned

    def _court(self, suitor: PeerId, note: Propose, now_s: float) -> None:
        """Whom we had to decline we invite as soon as we can."""
        if not self._is_serious(suitor, note, now_s):
            return
        self._candidates.remember(suitor, now_s=now_s)
        if self._circle and suitor not in self._circle.declined:  # or it would go on for ever
            self._invite_suitors(self._circle, now_s)

    def _doubt(self, member: PeerId, now_s: float) -> None:
        """Who invites us anew has given our exchange up, unless its note was long on the way."""
        if self.phase is Phase.EXCHANGING and self._gathering:
            if member in self._gathering.partners:
                self._gathering.on_ready(member, now_s=now_s)
            self._advance(now_s)

    def _accept(self, place: Place, now_s: float) -> None:
        place.repeat_at_s = now_s + self.config.resend_s
        fields = self.config.fragment, place.exchange_id, True, self._tokens
        self._do(Send(place.host, Answer(*fields, self.wanted_codec, self.up_bps)))

    def _decline(self, peer: PeerId, exchange_id: bytes) -> None:
        self._do(Send(peer, Answer(self.config.fragment, exchange_id, False, self._tokens)))

    def _on_roster(self, src: PeerId, note: Roster, now_s: float) -> None:
        place = self._place
        if place and note.exchange_id == place.exchange_id:
            if self._is_sound(note, src, place.host):
                self._begin(note, now_s)
                return
            self._shunned.add(place.host, now_s=now_s)
            for peer in dict.fromkeys((src, place.host)):
                self._decline(peer, note.exchange_id)
            self._be_ready(now_s)
        elif self._roster and note.exchange_id == self._roster.exchange_id:
            return
        elif not self._landed_with(src, note.exchange_id):
            self._decline(src, note.exchange_id)  # we did not wait so long

    def _is_sound(self, roster: Roster, src: PeerId, host: PeerId) -> bool:
        us, members = self.config.our_id, set(roster.peer_ids)
        return (
            {us, src, host} <= members <= {us, *self._others}
            and len(members) <= self.config.group_size
            and are_fair(roster.shares)
        )

    def _landed_with(self, src: PeerId, exchange_id: bytes) -> bool:
        last = self._last_roster
        return last is not None and last.exchange_id == exchange_id and src in last.peer_ids

    # ---- the exchange itself

    def _begin(self, roster: Roster, now_s: float) -> None:
        self.phase, self._roster = Phase.EXCHANGING, roster
        self._circle = self._place = self._invite_at_s = None
        self._entered.append(roster.exchange_id)
        self._vain.clear()
        others = tuple(peer for peer in roster.peer_ids if peer != self.config.our_id)
        self._tell("exchange_begins", partners=others, exchange_id=roster.exchange_id.hex())
        self._do(
            Offer(
                fragment=self.config.fragment,
                round=self.round,
                exchange_id=roster.exchange_id,
                terms=roster.terms,
                members=others,
            )
        )
        self._gathering = Gathering.of_member(roster, self.config, num_live=ENOUGH, now_s=now_s)
        self._advance(now_s)

    @property
    def _averages_a_part(self) -> bool:
        """If not, we ask for the others' averages long before they can be there."""
        roster, our_id = self._roster, self.config.our_id
        return roster is not None and roster.shares[roster.peer_ids.index(our_id)] > 0

    def _advance(self, now_s: float) -> None:
        gathering = self._gathering
        if not gathering or self.phase is not Phase.EXCHANGING:
            return
        for effect in gathering.drain():
            self._do(effect)
        if gathering.failure:
            withheld = {peer for peer, times in self._vain.items() if times >= MAX_VAIN_TRIES}
            for peer in gathering.unresponsive | withheld:
                self._candidates.failed.add(peer)
                is_silent = peer in gathering.silent
                self._shunned.add(peer, now_s=now_s, is_silent=is_silent)
            self._fail(gathering, gathering.failure, now_s)
        elif gathering.is_complete:
            self.phase = Phase.LANDING
            self._do(
                Land(
                    self.config.fragment,
                    self.round,
                    gathering.exchange_id,
                    gathering.terms,
                    members=gathering.brought,
                )
            )

    def _on_leaves(self, gathering: Gathering, src: PeerId, now_s: float) -> None:
        """Without its average nobody lands; once may be bad luck, twice in a round is not."""
        if self.phase is not Phase.EXCHANGING or src not in gathering.waiting_for():
            return
        if src in self._candidates.failed:
            self._shunned.add(src, now_s=now_s)
        self._candidates.failed.add(src)
        self._fail(gathering, f"{src} is not in it", now_s)

    def _fail(self, gathering: Gathering, reason: str, now_s: float) -> None:
        exchange_id, partners = gathering.exchange_id, gathering.partners
        self._tell(
            "exchange_failed",
            partners=list(partners),
            exchange_id=exchange_id.hex(),
            reason=reason,
        )
        self._do(Discard(self.config.fragment, exchange_id))
        for peer in partners:
            self._decline(peer, exchange_id)
            self._candidates.remember(peer, now_s=now_s)
        self._gathering = self._roster = None
        self._be_ready(now_s)
