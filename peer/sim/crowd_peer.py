"""One peer of a crowd: the product's exchange machine and membership, and hardly anything else.

It is a driver (see `protocol.machine`), as `peer.driver` is. But what it moves has only a size, its
trainer is only a pace, and its parameters are one number. Exchanges land between two inner steps.
Connections are always there; of the dead, a process refuses, and a machine that is gone says
nothing.
"""

import hashlib
import math
from functools import partial
from typing import TYPE_CHECKING

from peer.exchanges import new_exchange
from peer.sim.crowd_blobs import CrowdBlobs, State
from peer.sim.crowd_member import CrowdMember
from peer.sim.crowd_notes import CrowdNotes
from peer.sim.crowd_tally import Tally
from peer.sim.crowd_trainer import CrowdTrainer
from peer.sim.crowd_value import CrowdValue
from peer.sim.network import log_normal
from protocol.exchange import Exchange, Failure, Phase
from protocol.identity import PeerId
from protocol.lineage import Lineage
from protocol.machine import (
    CatchUp,
    Discard,
    Effect,
    Fetch,
    Land,
    Offer,
    Reduce,
    Send,
    Tell,
)
from protocol.messages import DIGEST_BYTES, MAX_ROUND, Note

if TYPE_CHECKING:
    from peer.sim.crowd import Crowd

ONE_BRANCH = Lineage({}, horizon=MAX_ROUND)
"""Sizes alone cannot go two ways."""
_FIRST: State = 0, bytes(DIGEST_BYTES), 0.0, 0.0


class CrowdPeer:
    """See the module docstring.

    Args:
        crowd: Where it lives.
        peer_id: Who it is.

    Attributes:
        notes, blobs: What it says, and what it serves and fetches.
        machine: Its exchange machine, once it has entered.
        value: Its parameters.
        trainer: Its pace.
        is_gone: It has died.
        seat: Its place in the crowd's list.
    """

    __slots__ = (
        *("crowd", "peer_id", "machine", "value", "is_gone", "seat", "tally", "notes", "blobs"),
        *("trainer", "_member", "_offered_tokens", "_timer_at_s"),
    )

    def __init__(self, crowd: "Crowd", peer_id: PeerId) -> None:
        spec = crowd.spec
        self.crowd = crowd
        self.peer_id = peer_id
        self.machine: Exchange | None = None
        self.value = CrowdValue(momentum=spec.momentum, gamma=spec.gamma)
        self.is_gone = False
        self.seat = 0
        self.tally = Tally()
        self.notes = CrowdNotes(self)
        self.blobs = CrowdBlobs(self)
        interval_s = log_normal(crowd.rng, spec.interval_steps * spec.step_s, spec.pace_cv)
        interval_cv = spec.step_cv / math.sqrt(spec.interval_steps)
        self.trainer = CrowdTrainer(
            partial(log_normal, crowd.rng, interval_s, interval_cv),
            interval_steps=spec.interval_steps,
            step_tokens=spec.step_tokens,
            tally=self.tally,
        )
        self._member = CrowdMember(crowd, peer_id, tally=self.tally, on_change=self._on_members)
        self._offered_tokens = 0
        self._timer_at_s = math.inf

    # ---- its life

    def found(self, value: float) -> None:
        """Enters with parameters of its own."""
        self._member.refresh()
        self._begin((*_FIRST[:2], value, 0.0))

    def enter(self) -> None:
        """Enters with the parameters of somebody whom it knows."""
        self._member.refresh()
        donors = sorted(self._member.known)
        self.crowd.rng.shuffle(donors)
        self._begin_like(donors)

    def end(self) -> None:
        """Dies, and what it has not contributed is lost."""
        self.is_gone = True
        self._member.leave()
        self.trainer.count(self.crowd.clock.now_s)
        self.tally.lost_tokens += self.trainer.tokens

    @property
    def state(self) -> State:
        """What others may catch up with."""
        assert self.machine is not None, "it has not entered yet"
        return self.machine.round, self.machine.anchor_digest, self.value.phi, self.value.delta

    @property
    def num_known(self) -> int:
        """How many others it knows."""
        return len(self._member.known)

    def _begin_like(self, donors: list[PeerId]) -> None:
        if self.is_gone:
            return
        if not donors:
            self._begin(_FIRST)
            return
        failed = partial(self._begin_like, donors[1:])
        self.blobs.fetch_state(donors[0], self._begin, failed)

    def _begin(self, state: State) -> None:
        if self.is_gone:
            return
        crowd, now_s = self.crowd, self.crowd.clock.now_s
        round, digest, self.value.phi, self.value.delta = state
        config = crowd.config_of(self.peer_id)
        machine = new_exchange(crowd.spec.mixing, config, round=round, anchor_digest=digest)
        machine.lineage = ONE_BRANCH
        machine.on_members(tuple(self._member.known), now_s=now_s)
        self.machine = machine
        crowd.clock.at(self.trainer.begin(now_s), self._on_interval)

    def _on_members(self) -> None:
        if self.machine is not None:
            now_s = self.crowd.clock.now_s
            self.machine.on_members(tuple(self._member.known), now_s=now_s)
            self._settle(self.machine)

    # ---- the trainer

    def _on_interval(self) -> None:
        machine, trainer, crowd = self.machine, self.trainer, self.crowd
        if self.is_gone or machine is None:
            return
        trainer.end()
        self.tally.intervals += 1
        if trainer.has_snapshot:
            self.tally.alone += 1
        elif not crowd.is_over:
            trainer.has_snapshot = True
            crowd.write(self.peer_id, "departs", b"")
            self._settle(machine)
        if not crowd.spec.is_blocking:
            crowd.clock.at(trainer.begin(crowd.clock.now_s), self._on_interval)

    # ---- the contract: feed one event, perform the effects, arm one timer

    def _settle(self, machine: Exchange) -> None:
        for effect in machine.drain():
            self._perform(effect)
        trainer, clock = self.trainer, self.crowd.clock
        if trainer.has_snapshot and machine.phase is Phase.IDLE:
            machine.on_departed(trainer.tokens, now_s=clock.now_s)
            for effect in machine.drain():
                self._perform(effect)
        due_s = machine.next_deadline_s()
        if due_s is not None and due_s < self._timer_at_s:
            self._timer_at_s = due_s
            clock.at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        machine, now_s = self.machine, self.crowd.clock.now_s
        if self.is_gone or machine is None or now_s < self._timer_at_s:
            return
        self._timer_at_s = math.inf
        due_s = machine.next_deadline_s()
        if due_s is None:
            return
        if due_s <= now_s:
            machine.on_timer(now_s=now_s)
            self._settle(machine)
        else:
            self._timer_at_s = due_s
            self.crowd.clock.at(due_s, self._on_timer)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self.notes.send(effect)
            case Fetch():
                self.blobs.fetch(effect)
            case Tell():
                self.tally.failed += effect.event == "exchange_failed"
            case Offer():
                self._offer(effect)
            case Reduce():
                if effect.is_shared:
                    self.blobs.add_average(effect.ref)
            case Land():
                clock = self.crowd.clock
                clock.at(self.trainer.step_end_s(clock.now_s), partial(self._land, effect))
            case Discard():
                self.crowd.write(self.peer_id, "fails", effect.exchange_id)
                self.blobs.discard(effect.exchange_id)
            case CatchUp():
                failed = partial(self._catch_up, (-1, *_FIRST[1:]))
                self.blobs.fetch_state(effect.donors[0], self._catch_up, failed)

    # ---- what others say

    def on_note(self, src: PeerId, note: Note) -> None:
        """Hears what another says, if we know who it is."""
        if self.machine is None:
            return
        if src in self._member.known:
            self.machine.on_note(src, note, now_s=self.crowd.clock.now_s)
            self._settle(self.machine)
        else:
            self.tally.notes_from_strangers += 1
            self._member.look_again()

    def on_unreachable(self, dst: PeerId) -> None:
        """Somebody whom we told something is dead."""
        if not self.is_gone and self.machine is not None:
            self.machine.on_unreachable(dst, now_s=self.crowd.clock.now_s)
            self._settle(self.machine)

    # ---- exchanges

    def _offer(self, effect: Offer) -> None:
        self.crowd.write(self.peer_id, "begins", effect.exchange_id)
        self.tally.begun += 1
        self.trainer.count(self.crowd.clock.now_s)
        self._offered_tokens = self.trainer.tokens
        self.blobs.offer(effect, self.value.phi)

    def on_fetched(self, effect: Fetch) -> None:
        """A blob is here."""
        if not self.is_gone and self.machine is not None:
            self.crowd.write(self.peer_id, "fetches", effect.ref.exchange_id)
            self.machine.on_fetched(effect.src, effect.ref, now_s=self.crowd.clock.now_s)
            self._settle(self.machine)

    def on_fetch_failed(self, effect: Fetch, *, failure: Failure) -> None:
        """A blob could not be had."""
        if not self.is_gone and self.machine is not None:
            self.machine.on_fetch_failed(
                effect.src, effect.ref, failure=failure, now_s=self.crowd.clock.now_s
            )
            self._settle(self.machine)

    def _land(self, effect: Land) -> None:
        machine, trainer, crowd = self.machine, self.trainer, self.crowd
        if self.is_gone or machine is None:
            return
        spec, now_s = crowd.spec, crowd.clock.now_s
        if spec.mixing == "pairs":
            self.value.step(self.blobs.average)
        if not effect.rebase_on_anchor:
            trainer.has_snapshot = False
            trainer.tokens -= self._offered_tokens
            self.tally.landed_tokens += self._offered_tokens
            if spec.is_blocking:
                crowd.clock.at(trainer.begin(now_s), self._on_interval)
        self.tally.done += 1
        crowd.write(self.peer_id, "lands", effect.exchange_id)
        digest = hashlib.sha256(effect.exchange_id).digest()
        machine.on_landed(effect.round + 1, digest, now_s=now_s)
        self._settle(machine)

    def _catch_up(self, state: State) -> None:
        machine = self.machine
        if self.is_gone or machine is None:
            return
        round, digest = machine.round, machine.anchor_digest
        if state[0] >= round:
            round, digest, self.value.phi, self.value.delta = state
        machine.on_caught_up(round, digest, now_s=self.crowd.clock.now_s)
        self._settle(machine)
