"""All: everybody who is ready averages with everybody else who is (DiLoCo's mixing).

Theory of operation
-------------------
All anchors of a run start equal and stay equal, round by round; `round` counts outer steps. A peer
whose trainer left a snapshot is READY and tells all live peers. When enough are ready, the first in
the lottery's order closes the roster (`protocol.roster`) and sends it. Each member i then

    offers its contribution in as many parts as there are members, sized by their upload rates,
    fetches part i from every other member, and averages it, weighted by tokens     (scatter-reduce)
    fetches the average of every other part, encoded once by its reducer                  (gather)
    and takes the outer step.

Sizes and codec are the leader's decision (`protocol.terms`), in the roster and, for replays, in
COMMITTED. A member that is too slow to average anything has an empty part, and only serves its
contribution and fetches averages.

    IDLE -departed-> READY -roster-> EXCHANGING -all averages-> LANDING -landed-> IDLE
                      ^------- attempt failed -------|
    IDLE/READY -others are ahead-> EXCHANGING as a listener, or CATCHING_UP -> IDLE

A crash before the roster closes: the next in the order closes it. Views differ, so two may close
one at a time; whoever is in both moves to the larger. A member that dies or freezes in
the exchange: reducers leave out what of its contribution has not come; its own average is looked
for at the others, and if nobody has it, the attempt fails and all are READY again with what they
brought. A peer that was late, or failed where others did not, hears that they committed and replays
their averages from the bytes they applied, round by round as far as they still have them; what is
older it fetches as a state. Its own contribution stays in its delta and leaves with the next
departure, with the weight of one round: the delta is longer already.

Safety: one round has at most one result among peers that can reach each other and agree on who
lives, because a reducer needs parts from a quorum of the live peers that it knew when it accepted
the roster, and a peer is in one roster at a time: it leaves one for a larger only while that cannot
be completed, for want of its own average or of that of whoever left before it. All apply the same
decoded bytes, so equal rounds have equal anchors. There is no consensus: a member that got the last
average and was cut off before it could pass it on has landed alone, and two parts that lost sight
of each other both go on. The digests in READY and COMMITTED show that as soon as they meet, and
`protocol.branches` says which anchor counts. Who has lost sight of everybody lands nothing for
`ALONE_S`: its delta keeps growing, and it is merely late when it comes back.
Liveness: while a quorum is ready and can reach each other, some attempt succeeds.
"""

from collections import OrderedDict

from protocol.errors import LocalProtocolError
from protocol.exchange import Exchange, ExchangeConfig, Failure, Phase
from protocol.gathering import Gathering
from protocol.identity import PeerId
from protocol.lottery import leader_order
from protocol.machine import BlobRef, CatchUp, Discard, Land, Offer, Send
from protocol.messages import MAX_TOKENS, Committed, Note, Ready, Roster
from protocol.ready_peers import ReadyPeers
from protocol.roster import RosterDecision, RosterView, decide_roster, is_quorum, roster_of
from protocol.shares import are_fair
from protocol.terms import Terms

READY_LIFE = 3.5
"""A READY is believed for so many times `resend_s`, so that losing one or two does no harm."""


MAX_LEFT = 3
"""So often in a round we leave a roster for a larger one: each costs encoding and fetching anew."""
ALONE_S = 600.0
"""So long whoever has lost all the others lands nothing alone."""
JUDGED_S = 5.0
"""For so long two anchors that were compared are not compared again."""
AMBIGUOUS_RESENDS = 2.0
"""When equal rounds have unequal anchors, so many times `resend_s` pass until it is known who is
where: the two camps are weighed."""
MAX_JOURNAL = 64
"""Rounds; the driver knows whose averages are still here."""
FRESH_READY = 1.5
"""The same for a peer that has only just become ready itself: the others may have closed a roster
without it, and it must not close another one."""


class GroupExchange(Exchange):
    """See the module docstring."""

    def __init__(self, config: ExchangeConfig, *, round: int, anchor_digest: bytes) -> None:
        super().__init__(config, round=round, anchor_digest=anchor_digest)
        self._tokens = 0
        self._ready = ReadyPeers()
        self._given_up: set[bytes] = set()
        """Exchanges of this round that we left; we never enter one again."""
        self._num_left = 0
        """Rosters that we left for larger ones, in this round."""
        self._complete_since_s: float | None = None
        self._quorum_since_s: float | None = None
        self._resend_at_s: float | None = None
        self._roster: Roster | None = None
        self._gathering: Gathering | None = None
        self._replayed: Committed | None = None
        self._catching_up_from: tuple[PeerId, ...] = ()
        self._journal: OrderedDict[int, Committed] = OrderedDict()
        """By the round that it led to, each exchange since our anchor came some other way."""
        self._rounds_missed = 0
        """Landed by others while the contribution in our hands grew."""
        self._usual_tokens = 0
        """What we brought to the last average: late or not, we bring that much if we can."""
        self._far_ahead: tuple[PeerId, int, bytes] | None = None
        """Somebody beyond the next round, and its anchor."""
        self._behind_since_s: float | None = None
        """When we first heard of one, in this round."""
        self._alone_since_s: float | None = None
        self._differs_since_s: float | None = None
        """When we first heard, in this round, of another anchor in its place."""
        self._judged: dict[bytes, float] = {}
        """Anchors that ours was compared with, and until when that holds."""

    def waiting_for(self) -> tuple[PeerId, ...]:
        """Whose contribution or average is missing, or who is not ready yet."""
        if self._gathering:
            return self._gathering.waiting_for()
        if self.phase is Phase.READY:
            candidates = self._candidates()
            return tuple(peer for peer in self._others if peer not in candidates)
        return ()

    def on_members(
        self,
        others: tuple[PeerId, ...],
        holders: tuple[PeerId, ...] = (),
        left: tuple[PeerId, ...] = (),
        *,
        now_s: float,
    ) -> None:
        """These other peers are believed to live; whoever is in none of them is out of sight."""
        if others:
            self._alone_since_s = None
        elif set(self._others) - {*holders, *left} - self._gone:
            self._alone_since_s = now_s
        super().on_members(others, holders, left, now_s=now_s)

    def on_departed(self, tokens: int, *, now_s: float) -> None:
        """A new snapshot: tell the others, or refresh what we bring."""
        if self.is_using_snapshot:
            raise LocalProtocolError("a departure while the last snapshot is in use")
        self._tokens = tokens
        if self.phase is Phase.IDLE:
            self._ready.forget_silent(now_s - FRESH_READY * self.config.resend_s)
        self.phase = Phase.READY
        self._announce(now_s)
        self.on_timer(now_s=now_s)

    def on_note(self, src: PeerId, note: Note, *, now_s: float) -> None:
        """Ready, Roster and Committed; the notes of other mixings are not for us."""
        if not self._hears(src, note):
            return
        match note:
            case Ready():
                self._on_ready(src, note, now_s)
            case Roster():
                self._on_roster(src, note, now_s)
            case Committed():
                self._on_committed(src, note, now_s)
            case _:
                pass

    def on_fetched(self, src: PeerId, ref: BlobRef, *, now_s: float) -> None:
        """A part or an average is here."""
        if self._gathering and ref.exchange_id == self._gathering.exchange_id:
            self._gathering.on_fetched(src, ref, now_s=now_s)
            self._advance(now_s)

    def on_fetch_failed(self, src: PeerId, ref: BlobRef, *, failure: Failure, now_s: float) -> None:
        """A part or an average could not be had from this peer."""
        if self._gathering and ref.exchange_id == self._gathering.exchange_id:
            is_absent = failure is Failure.ABSENT
            if is_absent and self._roster and self._gathering.is_reducing:
                self._do(Send(src, self._roster))  # perhaps it is in another one
            self._gathering.on_fetch_failed(src, ref, failure=failure, now_s=now_s)
            self._advance(now_s)

    def expects(self, ref: BlobRef) -> bool:
        """Not of an exchange that we are not in, or from a reducer that is dead."""
        gathering = self._gathering
        if gathering is None or ref.exchange_id != gathering.exchange_id:
            return False
        return gathering.expects(ref)

    def on_landed(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """The outer step was taken; let the others know, in case they missed it."""
        gathering, replayed, base = self._gathering, self._replayed, self.anchor_digest
        kept = set(gathering.partners) - gathering.unresponsive if gathering else set()
        if gathering:
            id, terms, tokens = gathering.exchange_id, gathering.terms, self._tokens_in_average()
            where = self.config.fragment, round, anchor_digest
            self._journal[round] = Committed(*where, id, terms.shares, terms.codec, base, tokens)
            while len(self._journal) > MAX_JOURNAL:
                self._journal.popitem(last=False)
        self._rounds_missed = self._rounds_missed + 1 if replayed else 0
        if self._roster:
            ours = self._roster.peer_ids.index(self.config.our_id)
            self._usual_tokens, self._tokens = self._roster.members[ours].tokens, 0
        self._enter_round(round, anchor_digest, now_s)
        if replayed and gathering and replayed.anchor_digest != anchor_digest:
            self._differ(gathering.partners[0], replayed.anchor_digest, now_s)
            self._compare(gathering.partners[0], round, replayed.anchor_digest, now_s)
            return
        for peer in kept:
            self._shunned.forgive(peer)
        for peer in self._audience:
            self._do(Send(peer, self._committed()))

    def on_caught_up(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """We have somebody else's anchor, or an average of both; our delta is on top of it."""
        if (round, anchor_digest) != (self.round, self.anchor_digest):
            self._journal.clear()
            if self._tokens:  # else there is no delta yet that could have grown meanwhile
                self._rounds_missed += max(0, round - self.round)
            for peer in self._catching_up_from:
                self._shunned.forgive(peer)
        else:
            self._judged.clear()
            for peer in self._catching_up_from:
                self._shun(peer, now_s)
        self._enter_round(round, anchor_digest, now_s)

    def on_entered(self) -> None:
        """Say where we are: who is farther answers with what came since."""
        for peer in self._audience:
            self._ask_what_we_missed(peer)

    def on_slept(self, *, now_s: float) -> None:
        """Rounds are common, so we shall hear that we are behind."""

    def on_kept(self, *, now_s: float) -> None:
        """Ours is the anchor that counts; whoever is at theirs will hear of it, and come."""
        told, self._catching_up_from = self._catching_up_from, ()
        self._enter_round(self.round, self.anchor_digest, now_s)
        for peer in told:
            self._do(Send(peer, self._committed()))

    def on_leaving(self, *, now_s: float) -> None:
        """Take our READY back; a roster that was closed before they hear it still finds us."""
        super().on_leaving(now_s=now_s)
        if self.phase is Phase.READY:
            self._announce(now_s)

    def on_timer(self, *, now_s: float) -> None:
        """Repeat what may be lost, close the roster, or go on with the exchange."""
        if self._far_ahead and not self.is_using_snapshot and not self._waits_for_replays(now_s):
            ahead, self._far_ahead = self._far_ahead, None
            if not self._shunned.holds(ahead[0], now_s=now_s):
                self._compare(*ahead, now_s)
        if self.phase is Phase.READY and not self._is_leaving:
            if self._resend_at_s is not None and now_s >= self._resend_at_s:
                self._announce(now_s)
                self._ready.forget_silent(now_s - READY_LIFE * self.config.resend_s)
            if self._decide(now_s).close:
                self._close_roster(now_s)
        elif self.phase is Phase.EXCHANGING and self._gathering:
            self._gathering.on_timer(now_s=now_s)
            self._advance(now_s)

    def next_deadline_s(self) -> float | None:
        """The earliest of the timers of this phase."""
        if self.phase is Phase.EXCHANGING and self._gathering:
            return self._gathering.next_deadline_s()
        times: list[float | None] = []
        if self.phase is Phase.READY and not self._is_leaving:
            times += [self._resend_at_s, self._decide(None).wake_at_s]
        if self._far_ahead and self._behind_since_s is not None and not self.is_using_snapshot:
            times.append(self._behind_since_s + self.config.resend_s)
        return min((time for time in times if time is not None), default=None)

    # ---- becoming ready, closing the roster

    def _announce(self, now_s: float) -> None:
        self._resend_at_s = now_s + self.config.resend_s
        for peer in self._audience:
            self._do(Send(peer, self._our_ready()))

    def _our_ready(self) -> Ready:
        where = self.config.fragment, self.round
        # A delta is as long as the time in which it grew. Were it to weigh as much more, too, one
        # late peer would move everybody as if all had been late.
        tokens = -(-self._tokens // (1 + self._rounds_missed))
        tokens = 0 if self._is_leaving else max(tokens, min(self._tokens, self._usual_tokens))
        return Ready(
            *where, tokens, self.anchor_digest, self.up_bps, self.wanted_codec, self._is_leaving
        )

    def _on_ready(self, src: PeerId, note: Ready, now_s: float) -> None:
        if note.round < self.round:
            self._on_behind(src, note, now_s)
            return
        if self._shunned.holds(src, now_s=now_s):
            return
        if note.is_leaving:  # nothing waits for it any more
            self._ready.forget(src)
            self.on_unreachable(src, now_s=now_s)
            return
        self._ready.hear(src, note, now_s=now_s)
        if note.round > self.round:
            self._ask_what_we_missed(src)
        elif note.anchor_digest != self.anchor_digest:
            self._differ(src, note.anchor_digest, now_s)
            self._compare(src, note.round, note.anchor_digest, now_s)
        elif self._roster and self._roster.round == self.round:
            if src in self._roster.peer_ids:
                self._do(Send(src, self._roster))
                if self._gathering:
                    self._gathering.on_ready(src, now_s=now_s)
                    self._advance(now_s)
        else:
            self.on_timer(now_s=now_s)

    def _ask_what_we_missed(self, peer: PeerId) -> None:
        """Says where we are: they answer with what comes next, or that they do not have it."""
        if not self.is_using_snapshot:
            self._do(Send(peer, self._our_ready()))

    def _on_behind(self, src: PeerId, note: Ready, now_s: float) -> None:
        """Tells them what they missed; unless they went another way."""
        replay = self._journal.get(note.round + 1)
        if (
            replay
            and note.round >= self.replayable_from - 1
            and replay.base_digest == note.anchor_digest
        ):
            self._do(Send(src, replay))
            return
        self._do(Send(src, self._committed()))
        if self._shunned.holds(src, now_s=now_s):
            return  # what it has could not be had
        if not self.lineage.knows(note.round, note.anchor_digest) and note.round:
            self._ready.hear(src, note, now_s=now_s)
            self._differ(src, note.anchor_digest, now_s)
            self._compare(src, note.round, note.anchor_digest, now_s)

    def _candidates(self) -> dict[PeerId, Ready]:
        """Who else could be in this round's roster."""
        return self._ready.like_us(self._our_ready(), self._others)

    @property
    def _num_live(self) -> int:
        """Live peers, ourselves included, as far as we know."""
        return 1 + sum(peer not in self._gone for peer in self._others)

    def _decide(self, now_s: float | None) -> RosterDecision:
        """Asks `decide_roster`; without a time only the wake-up counts."""
        config = self.config
        ready = [*self._candidates(), config.our_id]
        num_live = self._num_live
        if now_s is not None:
            if self._is_out_of_sight(now_s):
                self._quorum_since_s = self._complete_since_s = None
                return RosterDecision(False, "the others are out of sight")
            quorum = is_quorum(len(ready), num_live, config.quorum_frac)
            self._quorum_since_s = _since(self._quorum_since_s, quorum, now_s)
            missing = set(self._others) - self._unreachable - set(ready)
            complete = all(self._shunned.holds(peer, now_s=now_s) for peer in missing)
            self._complete_since_s = _since(self._complete_since_s, complete, now_s)
        view = RosterView(
            order=leader_order(
                ready, run_id=config.run_id, fragment=config.fragment, round=self.round
            ),
            our_id=config.our_id,
            num_live=num_live,
            complete_since_s=self._complete_since_s,
            quorum_since_s=self._quorum_since_s,
            grace_s=config.grace_s,
            takeover_s=config.takeover_s,
        )
        return decide_roster(view, now_s=float("-inf") if now_s is None else now_s)

    def _is_out_of_sight(self, now_s: float) -> bool:
        """Whether we have lost all the others, and they may go on somewhere without us."""
        return self._alone_since_s is not None and now_s < self._alone_since_s + ALONE_S

    def _close_roster(self, now_s: float) -> None:
        candidates = self._candidates()
        ready = {**candidates, self.config.our_id: self._our_ready()}
        roster = roster_of(ready, self._new_exchange_id())
        for peer in candidates:
            self._do(Send(peer, roster))
        self._accept(roster, now_s)

    def _on_roster(self, src: PeerId, note: Roster, now_s: float) -> None:
        if note.round != self.round or note.exchange_id in self._given_up:
            return
        if src not in note.peer_ids or self.config.our_id not in note.peer_ids:
            return
        if not are_fair(note.shares):
            return  # whoever averages most of it decides most of it
        if self.phase is Phase.READY:
            self._accept(note, now_s)
        elif self._roster and self._roster.exchange_id != note.exchange_id:
            self._choose(src, note, now_s)

    def _choose(self, src: PeerId, other: Roster, now_s: float) -> None:
        """Two closed a roster at once, and a member of ours is in the other: the larger one counts.

        Ours can be left while nobody can complete it.
        """
        ours, gathering = self._roster, self._gathering
        if not ours or not gathering or src not in ours.peer_ids:
            return
        if not gathering.is_stuck_without(src):
            return
        strangers = set(other.peer_ids) - {*self._others, self.config.our_id}
        if strangers or self._num_left >= MAX_LEFT:
            return  # somebody plays with us
        if _rank(other) < _rank(ours):
            self._do(Send(src, ours))
            return
        self._do(Discard(self.config.fragment, ours.exchange_id))
        self._given_up.add(ours.exchange_id)
        self._num_left += 1
        self._tell("roster_left", partners=list(ours.peer_ids))
        for peer in gathering.partners:
            if peer != src and peer in other.peer_ids:
                self._do(Send(peer, other))
        self._accept(other, now_s)

    def _accept(self, roster: Roster, now_s: float) -> None:
        self.phase, self._roster = Phase.EXCHANGING, roster
        for peer in roster.peer_ids:  # should this come to nothing, they will say so anew
            self._ready.forget(peer)
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
        self._gathering = Gathering.of_member(
            roster, self.config, num_live=self._num_live, now_s=now_s
        )
        self._advance(now_s)

    # ---- the exchange itself

    def _advance(self, now_s: float) -> None:
        gathering = self._gathering
        if not gathering:
            return
        for effect in gathering.drain():
            self._do(effect)
        if gathering.failure:
            self._fail(gathering, now_s)
        elif gathering.is_complete and self.phase in (Phase.EXCHANGING, Phase.CATCHING_UP):
            self.phase = Phase.LANDING
            self._do(
                Land(
                    self.config.fragment,
                    self.round,
                    gathering.exchange_id,
                    gathering.terms,
                    rebase_on_anchor=not gathering.is_member,
                    tokens=self._tokens_in_average(),
                    members=gathering.brought,
                )
            )

    def _fail(self, gathering: Gathering, now_s: float) -> None:
        self._tell(
            "exchange_failed",
            partners=list(gathering.partners),
            exchange_id=gathering.exchange_id.hex(),
            reason=gathering.failure,
        )
        self._do(Discard(self.config.fragment, gathering.exchange_id))
        self._given_up.add(gathering.exchange_id)
        self._gathering = self._roster = self._replayed = None
        if not gathering.is_member:  # the averages are gone: fetch the state instead
            self._catch_up(gathering.partners)
            return
        for peer in gathering.unresponsive:
            self._shun(peer, now_s, is_silent=peer in gathering.silent)
        self.phase = Phase.READY
        self._quorum_since_s = self._complete_since_s = None
        self._announce(now_s)
        self.on_timer(now_s=now_s)  # the others may be ready again already

    def _enter_round(self, round: int, anchor_digest: bytes, now_s: float) -> None:
        if round != self.round:
            self._given_up.clear()
            self._num_left = 0
            self._differs_since_s = self._behind_since_s = self._far_ahead = None
        self.round, self.anchor_digest = round, anchor_digest
        self.phase = Phase.IDLE
        self._roster = self._gathering = self._replayed = None
        self._quorum_since_s = self._complete_since_s = self._resend_at_s = None
        self._ready.forget_before(round)
        if ahead := self._ready.ahead_of(round):
            self._ask_what_we_missed(ahead)

    # ---- others are ahead, or elsewhere

    def _shun(self, peer: PeerId, now_s: float, *, is_silent: bool = False) -> None:
        """Without a READY of this peer nothing draws us to its round, or into a roster with it."""
        self._ready.forget(peer)
        self._shunned.add(peer, now_s=now_s, is_silent=is_silent)

    def _committed(self) -> Committed:
        plain = Committed(self.config.fragment, self.round, self.anchor_digest)
        return self._journal.get(self.round, plain)

    def _tokens_in_average(self) -> int:
        """Returns what the average of the exchange under way, or just landed, stands for."""
        if self._replayed:
            return self._replayed.tokens
        members = self._roster.members if self._roster else ()
        return min(MAX_TOKENS - 1, sum(member.tokens for member in members))

    def _on_committed(self, src: PeerId, note: Committed, now_s: float) -> None:
        if note.round < self.round or self._shunned.holds(src, now_s=now_s):
            return
        if any(note.exchange_id == past.exchange_id for past in self._journal.values()):
            return  # it took us to where we are, and nowhere else
        gathering = self._gathering
        if gathering and self.phase is Phase.EXCHANGING:
            if note.exchange_id == gathering.exchange_id:
                gathering.on_holder(src, now_s=now_s)
                self._advance(now_s)
                return
            if not gathering.is_member:
                return
        elif self.is_using_snapshot:
            return
        is_next = note.round == self.round + 1 and bool(note.exchange_id)
        if is_next and note.base_digest == self.anchor_digest:
            self._replay(src, note, now_s)
        elif gathering is None and (note.round, note.anchor_digest) != self._place:
            self._on_elsewhere(src, note, now_s)

    @property
    def _place(self) -> tuple[int, bytes]:
        return self.round, self.anchor_digest

    def _on_elsewhere(self, src: PeerId, note: Committed, now_s: float) -> None:
        """They are at an anchor to which nothing leads from ours that we know of."""
        if note.round > self.round + 1:
            if self._waits_for_replays(now_s):
                self._far_ahead = src, note.round, note.anchor_digest
                return
        elif note.round == self.round or note.exchange_id:
            self._differ(src, note.anchor_digest, now_s)
        self._compare(src, note.round, note.anchor_digest, now_s)

    def _waits_for_replays(self, now_s: float) -> bool:
        """Whether somebody may yet have what comes next for us: a state weighs more."""
        if self._behind_since_s is None:
            self._behind_since_s = now_s
            for peer in self._audience:
                self._ask_what_we_missed(peer)
        return now_s < self._behind_since_s + self.config.resend_s

    def _replay(self, src: PeerId, note: Committed, now_s: float) -> None:
        if self._gathering:  # our own attempt of this round came to nothing
            self._do(Discard(self.config.fragment, self._gathering.exchange_id))
            self._given_up.add(self._gathering.exchange_id)
        self.phase, self._roster, self._replayed = Phase.EXCHANGING, None, note
        self._tell("replay_begins", partners=[src], exchange_id=note.exchange_id.hex())
        terms = Terms(note.shares, note.codec)
        self._gathering = Gathering.of_listener(
            note.exchange_id, terms, src, self.config, now_s=now_s
        )
        self._advance(now_s)

    def _compare(self, src: PeerId, round: int, digest: bytes, now_s: float) -> None:
        """They are at another anchor: we are behind, or one of us went another way."""
        if self.is_using_snapshot:
            return  # we hear of it again when this has ended
        if now_s < self._judged.get(digest, now_s):
            return
        their_camp = {src, *self._ready.at(round, digest)}
        elsewhere = {*self._ready.not_at(self.round, self.anchor_digest)} | their_camp
        our_camp = 1 + len(set(self._others) - elsewhere - self._unreachable)
        if self._differs_since_s is not None and abs(round - self.round) <= 1:
            until_s = self._differs_since_s + AMBIGUOUS_RESENDS * self.config.resend_s
            if now_s < until_s:  # who is where decides, and not all have spoken yet
                return
        self._judged = {key: until_s for key, until_s in self._judged.items() if until_s > now_s}
        self._judged[digest] = now_s + JUDGED_S
        self._far_ahead = None
        self._tell("catching_up", partners=sorted(their_camp))
        first = (src, *sorted(their_camp - {src}))
        self._catch_up(first, our_camp=our_camp, their_camp=len(their_camp))

    def _catch_up(
        self, donors: tuple[PeerId, ...], *, our_camp: int = 1, their_camp: int = 1
    ) -> None:
        self.phase, self._catching_up_from = Phase.CATCHING_UP, donors
        self._do(CatchUp(donors, self.config.fragment, our_camp, their_camp))

    def _differ(self, src: PeerId, theirs: bytes, now_s: float) -> None:
        """Two anchors for one place: the driver tells people, the judge decides."""
        if self._differs_since_s is None:
            self._differs_since_s = now_s
            digests = {"ours": self.anchor_digest.hex()[:12], "theirs": theirs.hex()[:12]}
            self._tell("anchor_differs", partners=[src], **digests)


def _rank(roster: Roster) -> tuple[int, bytes]:
    return len(roster.members), roster.exchange_id


def _since(since_s: float | None, holds: bool, now_s: float) -> float | None:
    if not holds:
        return None
    return now_s if since_s is None else since_s
