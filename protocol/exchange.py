"""What every exchange machine has: a round, a place for effects, and news of other peers.

One machine serves one fragment. `GroupExchange` averages with everybody, `PairExchange` with one
partner at a time, `CircleExchange` with a few; the driver treats them alike.
"""

import abc
import enum
import hashlib
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.lineage import EMPTY
from protocol.lottery import partner_order
from protocol.machine import BlobRef, CatchUp, Effect, Land, Offer, Reduce, Tell
from protocol.messages import EXCHANGE_ID_BYTES, Note
from protocol.shunning import Shunning
from protocol.terms import Terms

MAX_RENEWALS = 3
"""After so many attempts in vain what we have is used, however old."""
MAX_DONORS = 8
"""Asked for a state where anchors are nobody else's; the one that is farthest gives it."""


class Phase(enum.Enum):
    """Where an exchange stands, in words that a user can read."""

    IDLE = "training"
    READY = "looking for others"
    EXCHANGING = "exchanging"
    LANDING = "taking the outer step"
    CATCHING_UP = "catching up"


class Failure(enum.Enum):
    """Why a blob could not be had."""

    ABSENT = "has it not"
    """It answered that it has it not, or not yet."""
    BROKEN = "broke off"
    """The transfer did; there may be another way."""
    SILENT = "is silent"
    """It does not even answer a ping: its process is frozen, or its machine gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """What the machines of one fragment need to know; equal on all peers but for `our_id`."""

    our_id: PeerId
    life: str
    """Drawn anew at each start: exchanges of an earlier life of this peer are not ours."""
    run_id: str
    fragment: int
    quorum_frac: float
    """A roster needs more than this part of the live peers."""
    grace_s: float
    """After quorum, how long a roster stays open for the others."""
    exchange_s: float
    """After which an exchange is given up."""
    num_codecs: int = 1
    """How many the run has: its own, and the cheaper ones."""
    group_size: int = 4
    """Of mixing groups: at most so many average together."""
    steps_alone: bool = False
    """Of pairs and groups: whether a peer that knows of nobody else lands by itself; else it waits
    for somebody, and its delta grows."""
    resend_s: float = 1.0
    """How often a note that may have been lost is repeated."""
    retry_s: float = 0.25
    """How soon to ask again for a blob that is being made."""
    takeover_s: float = 2.0
    """How long the next in line waits for a leader that does not close its roster."""


class Exchange(abc.ABC):
    """Base of the three machines. The driver calls the `on_...` methods; see `protocol.machine`."""

    __slots__ = (
        *("config", "round", "anchor_digest", "lineage", "phase", "up_bps", "wanted_codec"),
        "replayable_from",
        *("_others", "_audience", "_unreachable", "_gone", "_effects", "_num_exchange_ids"),
        *("_has_refused", "_is_informed", "_is_leaving", "_shunned", "_is_old", "_renewals_left"),
    )

    def __init__(self, config: ExchangeConfig, *, round: int, anchor_digest: bytes) -> None:
        self.config = config
        self.round = round
        self.anchor_digest = anchor_digest
        self.lineage = EMPTY
        """What is in our anchor, if anchors are common. The driver says it with each anchor."""
        self.phase = Phase.IDLE
        self.up_bps = 0
        """What we can send, for the leader of a roster; 0: unknown. The driver says it any time."""
        self.wanted_codec = 0
        """Which of the run's codecs suits our link; as `up_bps`."""
        self.replayable_from = 0
        """The first round whose averages we still have, for late peers; as `up_bps`."""
        self._others: tuple[PeerId, ...] = ()
        self._audience: tuple[PeerId, ...] = ()
        """Whoever wants to hear what we have: the others, and the holders."""
        self._gone: set[PeerId] = set()
        """Members whose process does not run, as their machines say, and that have not spoken."""
        self._unreachable: set[PeerId] = set()
        """Members that our last note did not reach and that have not spoken since."""
        self._shunned = Shunning()
        """Who let us down, and is done without for a while."""
        self._effects: list[Effect] = []
        self._num_exchange_ids = 0
        self._has_refused = False
        self._is_leaving = False
        self._is_informed = False
        """We were told who else lives."""
        self._is_old = False
        """What we have is to be replaced once others are known; till then we mix with none."""
        self._renewals_left = 0

    @property
    def is_using_snapshot(self) -> bool:
        """Whether a new departure must wait, because the last one is on its way."""
        return self.phase in (Phase.EXCHANGING, Phase.LANDING, Phase.CATCHING_UP)

    @property
    def is_counted_in(self) -> bool:
        """Whether others wait for us, as they would not if we left afterwards."""
        return self.phase in (Phase.EXCHANGING, Phase.LANDING)

    def drain(self) -> list[Effect]:
        """Returns the effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def on_members(
        self,
        others: tuple[PeerId, ...],
        holders: tuple[PeerId, ...] = (),
        left: tuple[PeerId, ...] = (),
        *,
        now_s: float,
    ) -> None:
        """These other peers are believed to live.

        Args:
            others: Who may contribute.
            holders: Who contributes no more, but keeps the anchor: nothing waits for them.
            left: Who said goodbye lately.
            now_s: The time.
        """
        self._is_informed = True
        self._others = tuple(sorted(peer for peer in others if peer != self.config.our_id))
        self._audience = self._others
        if holders:
            self._audience = tuple(sorted({*self._others, *holders} - {self.config.our_id}))
        if self._is_old and self._others and not self.is_using_snapshot:
            self._renew()
        self.on_timer(now_s=now_s)

    def on_unreachable(self, peer: PeerId, *, is_gone: bool = False, now_s: float) -> None:
        """A note could not be delivered: until this peer speaks, nothing waits for it.

        It remains a member: who cannot be reached still counts for the quorum; unless it is known
        that its process does not run any more (`is_gone`).
        """
        if is_gone:
            self._gone.add(peer)
        if peer in self._others and peer not in self._unreachable:
            self._unreachable.add(peer)
            self.on_timer(now_s=now_s)

    def on_entered(self) -> None:  # noqa: B027 - not all mixings have anything to ask
        """Others are known for the first time: ask them where they are."""

    def on_slept(self, *, now_s: float) -> None:
        """This machine was away for long. Whoever has a round in common with others sees it there.

        Others would go half the way back to our old parameters: we take theirs first.
        """
        self._is_old, self._renewals_left = True, MAX_RENEWALS

    def on_not_caught_up(self, *, now_s: float) -> None:
        """A `CatchUp` failed; ours is as it was."""
        self.on_caught_up(self.round, self.anchor_digest, now_s=now_s)
        self._is_old = self._renewals_left > 0

    def _renew(self) -> None:
        """Takes a state of others; our own work stays on top."""
        config = self.config
        self._renewals_left -= 1
        self.phase = Phase.CATCHING_UP
        donors = partner_order(
            config.our_id,
            self._others,
            run_id=config.run_id,
            fragment=config.fragment,
            round=self.round,
        )
        self._tell("catching_up", partners=list(donors[:MAX_DONORS]))
        self._do(CatchUp(donors[:MAX_DONORS], config.fragment))

    @property
    def _is_on_its_own(self) -> bool:
        """Whether there is nobody to wait for."""
        return self.config.steps_alone and self._is_informed and not self._others

    def _step_alone(self, tokens: int) -> None:
        """Lands our own contribution, as an average of one."""
        config, exchange_id = self.config, self._new_exchange_id()
        terms = Terms(codec=self.wanted_codec)
        self._tell("exchange_begins", partners=[], exchange_id=exchange_id.hex())
        self._do(Offer(config.fragment, self.round, exchange_id, terms, ()))
        average = BlobRef("average", config.fragment, exchange_id)
        self._do(Reduce(average, tokens, is_shared=False))
        self._do(Land(config.fragment, self.round, exchange_id, terms))
        self.phase = Phase.LANDING

    def on_leaving(self, *, now_s: float) -> None:
        """This peer leaves soon: it begins nothing, but takes part where others count it in."""
        self._is_leaving = True

    @abc.abstractmethod
    def waiting_for(self) -> tuple[PeerId, ...]:
        """The peers without whom this exchange does not go on; for people."""

    @abc.abstractmethod
    def on_departed(self, tokens: int, *, now_s: float) -> None:
        """The trainer left a snapshot, after `tokens` tokens that no average contains yet."""

    @abc.abstractmethod
    def on_note(self, src: PeerId, note: Note, *, now_s: float) -> None:
        """Another peer's machine says something; stale and doubled notes are harmless."""

    @abc.abstractmethod
    def on_fetched(self, src: PeerId, ref: BlobRef, *, now_s: float) -> None:
        """A `Fetch` succeeded, and its content made sense."""

    @abc.abstractmethod
    def on_fetch_failed(self, src: PeerId, ref: BlobRef, *, failure: Failure, now_s: float) -> None:
        """A `Fetch` failed."""

    def expects(self, ref: BlobRef) -> bool:
        """Whether we may still come to have an `average` that somebody asks us for."""
        return True

    @abc.abstractmethod
    def on_landed(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """The outer step of a `Land` was taken."""

    @abc.abstractmethod
    def on_caught_up(self, round: int, anchor_digest: bytes, *, now_s: float) -> None:
        """A `CatchUp` ended; `round` is the old one when it failed."""

    def on_kept(self, *, now_s: float) -> None:
        """A `CatchUp` ended: ours is the anchor that counts, and theirs will follow."""
        self.on_caught_up(self.round, self.anchor_digest, now_s=now_s)

    @abc.abstractmethod
    def on_timer(self, *, now_s: float) -> None:
        """The named deadline has come, or any other time."""

    @abc.abstractmethod
    def next_deadline_s(self) -> float | None:
        """When to call `on_timer`."""

    def _hears(self, src: PeerId, note: Note) -> bool:
        """Whether a note makes sense in this run; whoever speaks can be reached, at any rate."""
        self._unreachable.discard(src)
        self._gone.discard(src)
        self._shunned.hear(src)
        if note.codec < self.config.num_codecs:
            return True
        if not self._has_refused:
            self._has_refused = True
            self._tell("note_refused", partners=[src], reason=f"there is no codec {note.codec}")
        return False

    def _new_exchange_id(self) -> bytes:
        self._num_exchange_ids += 1
        config = self.config
        text = f"{config.our_id}|{config.life}|{config.fragment}|{self._num_exchange_ids}"
        return hashlib.sha256(text.encode()).digest()[:EXCHANGE_ID_BYTES]

    def _do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _tell(self, event: str, **fields: object) -> None:
        self._do(Tell(event, {"fragment": self.config.fragment, "round": self.round, **fields}))
