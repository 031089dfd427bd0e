"""The driver of the exchange machines: it feeds them, and does what they say.

Between the machines (`protocol`), the mathematics (`peer.mixing`), the trainer process and the
other peers, this is the one place where all meet. Every effect becomes a task or a job:

    tasks   whatever waits for a peer or the trainer; cancelled when the driver stops
    jobs    the mathematics, on one worker thread, in the order in which they were asked for,
            so that an offer is encoded before its reduction, and that before the landing

A task reports to its machine how it ended, and that is the machine's next event.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from peer.blobs import FrameSink, FrameSource
from peer.budget import Budget
from peer.catch_up import CatchingUp
from peer.contribution import Tally
from peer.exchange_record import ExchangeRecord
from peer.exchange_waits import ExchangeWaits
from peer.exchanges import new_exchange
from peer.mixing import Mixing
from peer.moves import Moves
from peer.net.refusals import RefusalLog
from peer.pins import Pins
from peer.ports import Source, Wire
from peer.recovery import Recovery
from peer.status import PeerStatus
from peer.telemetry import EventLog
from peer.train import lines
from peer.trainer_port import TrainerPort
from peer.vigil import Vigil, failure_of
from protocol.errors import NotAvailable, PeerGone, RemoteError, TransportError
from protocol.exchange import Exchange, ExchangeConfig, Failure, Phase
from protocol.identity import PeerId
from protocol.machine import (
    BlobRef,
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
from protocol.manifest import Manifest
from protocol.messages import MAX_BPS, Note

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

Key = tuple[int, bytes]
"""Fragment and exchange: ids come from others, who may use one twice."""

REMEMBERED_OFFERS = 64
MIN_HOLD_S = 0.1
QUIET_S = 0.5
"""Whoever leaves waits so long for what others were about to begin with it, or still fetch."""
FINISH_POLL_S = 0.05


class Driver:
    """Implements `peer.ports.Inbox`. See the module docstring.

    Args:
        our_id: This peer.
        life: Drawn anew at each start.
        manifest: The run.
        mixing: Our outer side.
        events, status: Where to report.
        tally: Where contributions count; by default one of its own.
        steps_alone: Whether a peer that knows of nobody else lands by itself, also in mixings that
            wait for company otherwise.
    """

    def __init__(
        self,
        our_id: PeerId,
        life: str,
        manifest: Manifest,
        mixing: Mixing,
        *,
        events: EventLog,
        status: PeerStatus,
        tally: Tally | None = None,
        steps_alone: bool = False,
    ) -> None:
        self.mixing = mixing
        self._steps_alone = steps_alone
        self._our_id = our_id
        self._manifest = manifest
        self._events = events
        self._status = status
        self._life = life
        self._machines: list[Exchange] = []
        self._timers: dict[int, asyncio.TimerHandle] = {}
        loop = asyncio.get_running_loop()
        self._budget = Budget(mixing, manifest)
        self._pins = Pins(mixing, loop.time)
        self._listed = ExchangeWaits(status.waits)
        self.record = ExchangeRecord(loop.time, len(mixing.outer), tally or Tally())
        """The last exchanges, and what became of our work."""
        self._moves = Moves(mixing, self._make, lambda: status.step, self._on_grain)
        self._newest_task: dict[Key, asyncio.Task[None]] = {}
        """Of each exchange: offer, reduction and landing follow one another."""
        self._begun: dict[Key, asyncio.Event] = {}
        """Of each exchange that we offer to: set once it is known what."""
        self._offers: OrderedDict[Key, frozenset[PeerId]] = OrderedDict()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._fetches: dict[Key, dict[asyncio.Task[None], None]] = {}
        """Dictionaries and not sets, so that under a virtual clock equal seeds give equal runs."""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mixing")
        self._refusals = RefusalLog(logger)
        self._made = asyncio.Event()
        self._failed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._wire: Wire | None = None
        self._is_leaving = self._has_entered = False
        self.on_landed: Callable[[int], None] = lambda round: None
        """Called with the round whenever all fragments have landed once more."""
        self.knows: Callable[[PeerId], bool] = lambda peer: peer in status.members
        """Whether we could answer this peer."""
        self.on_stranger: Callable[[PeerId], None] = lambda peer: None
        """Called when somebody speaks whom we do not know as a member."""

    def begin(self, trainer: TrainerPort, wire: Wire) -> None:
        """Makes the machines, at the rounds of the mixing; from now on events count."""
        self._wire = wire
        progress_s = self._manifest.round.progress_s
        self._vigil = Vigil(wire, progress_s=progress_s)
        catching_up = CatchingUp(self.mixing, wire, progress_s=progress_s, events=self._events)
        self._recovery = Recovery(self.mixing, self._moves, catching_up, self._events)
        self._moves.begin(trainer)
        self.mixing.landed = list(self.mixing.outer)
        for fragment, outer in enumerate(self.mixing.outer):
            config = ExchangeConfig(
                our_id=self._our_id,
                life=self._life,
                run_id=self._manifest.run_id,
                fragment=fragment,
                quorum_frac=self._manifest.round.quorum_frac,
                grace_s=self._manifest.round.grace_s,
                exchange_s=self._manifest.round.exchange_s,
                num_codecs=self.mixing.num_codecs,
                group_size=self._manifest.method.group_size,
                steps_alone=self._steps_alone,
            )
            mixing = self._manifest.method.mixing
            machine = new_exchange(mixing, config, round=outer.round, anchor_digest=outer.digest)
            machine.lineage = outer.lineage
            self._machines.append(machine)

    async def wait(self) -> None:
        """Waits until a task fails in a way that nobody foresaw, and raises that."""
        await self._failed

    async def finish(self, limit_s: float) -> None:
        """Begins no more exchanges, and waits for the end of those that others count us in.

        Args:
            limit_s: So long at most.
        """
        self._is_leaving = True
        for fragment in range(len(self._machines)):
            self._feed(fragment, lambda machine, now_s: machine.on_leaving(now_s=now_s))
        if not self._status.members:
            return
        quiet_since_s = self._loop.time()
        deadline_s = quiet_since_s + limit_s
        while self._loop.time() < min(deadline_s, quiet_since_s + QUIET_S):
            await asyncio.sleep(FINISH_POLL_S)
            if any(machine.is_counted_in for machine in self._machines):
                quiet_since_s = self._loop.time()

    async def close(self) -> None:
        """Stops all tasks and jobs; no landing reaches the trainer any more."""
        for timer in self._timers.values():
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pins.close()
        self._machines.clear()
        self._listed.close()
        self._worker.shutdown(wait=False, cancel_futures=True)
        if not self._failed.done():
            self._failed.cancel()

    # ---- events

    def on_members(
        self,
        others: tuple[PeerId, ...],
        holders: tuple[PeerId, ...] = (),
        left: tuple[PeerId, ...] = (),
    ) -> None:
        """These other peers are believed to live; holders train no more, but want each anchor."""
        self._status.members = others
        self._pins.expire()
        for fragment in range(len(self._machines)):
            self._feed(
                fragment,
                lambda machine, now_s: machine.on_members(others, holders, left, now_s=now_s),
            )
            if (others or holders) and not self._has_entered:
                self._feed(fragment, lambda machine, now_s: machine.on_entered())
        self._has_entered |= bool(self._machines and (others or holders))

    def on_slept(self, slept_s: float) -> None:
        """This machine was away: what it has is old, and perhaps of no use to others any more."""
        for fragment in range(len(self._machines)):
            self._feed(fragment, lambda machine, now_s: machine.on_slept(now_s=now_s))

    @property
    def has_nothing_to_give(self) -> bool:
        """Whether no contribution of ours waits for an exchange, or is in one."""
        return all(machine.phase is Phase.IDLE for machine in self._machines)

    def on_departed(self, departed: lines.Departed) -> None:
        """The trainer left a snapshot."""
        self._moves.on_departed(departed)
        self._budget.on_departed(departed, now_s=self._loop.time())
        if self._machines:
            self._offer_snapshot(departed.fragment)

    def on_note(self, src: PeerId, note: Note) -> None:
        """Another peer's machine says something."""
        if not self._machines:
            return
        if not self.knows(src):
            self.on_stranger(src)  # whom we could not reach yet; it will say it again
            return
        try:
            self._feed(
                note.fragment, lambda machine, now_s: machine.on_note(src, note, now_s=now_s)
            )
        except Exception as error:  # noqa: BLE001 - boundary: gRPC would only answer with it
            self._fail(error)

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns what a peer may have of us; waits a little for what is to be made."""
        if not self._machines or ref.fragment >= len(self._machines):
            raise NotAvailable("this peer has only just started")
        if ref.kind == "index":
            index = await self._pins.index(ref.fragment, ref.exchange_id)
            self._events.write("state_offered", to=src, fragment=ref.fragment, round=index.round)
            return index
        if ref.kind == "state":
            return self._pins.state(ref.fragment, ref.exchange_id)
        if ref.kind == "part" and self._is_kept_from(src, ref):
            raise NotAvailable("this contribution is for others")
        hold_s = max(MIN_HOLD_S, self._manifest.round.progress_s / 2)
        try:
            async with asyncio.timeout(hold_s):
                while (made := self.mixing.made(ref)) is None:
                    if ref.kind == "average" and not self._machines[ref.fragment].expects(ref):
                        raise NotAvailable("not here, nor will it be")
                    await self._made.wait()
        except TimeoutError:
            raise NotAvailable("not here, or not yet") from None
        if ref.kind == "average" and self.mixing.is_past(ref):
            self._pins.touch(ref.fragment)
        members = self._offers.get(_key_of(ref)) if ref.kind == "part" else None
        if members is not None and src not in members:  # known only since it is offered
            raise NotAvailable("this contribution is for others")
        return FrameSource(made, self._made.wait, hold_s)

    def _is_kept_from(self, src: PeerId, ref: BlobRef) -> bool:
        """Whether a contribution is for others; one that is not offered yet may be for anybody."""
        members = self._offers.get(_key_of(ref))
        return src not in members if members is not None else self.mixing.made(ref) is not None

    def phases(self) -> list[Phase]:
        """Returns where the exchange of each fragment stands."""
        return [machine.phase for machine in self._machines]

    def waiting_for(self) -> str:
        """Returns in words what the exchange is at, for people."""
        if not self._machines:
            return self._status.phase
        machine = next((m for m in self._machines if m.phase is not Phase.IDLE), self._machines[0])
        names = ", ".join(peer[-6:] for peer in machine.waiting_for())
        words = machine.phase.value
        return f"{words}, waiting for {names}" if names else words

    # ---- the contract: feed one event, perform the effects, arm one timer

    def _feed(self, fragment: int, event: Callable[[Exchange, float], None]) -> None:
        machine, loop = self._machines[fragment], self._loop
        machine.up_bps = min(int(self._net.up_bps), MAX_BPS - 1)
        of_link = self._budget.codec(machine.up_bps)
        machine.wanted_codec = self.mixing.widening.wanted(fragment, of_link)
        machine.replayable_from = self.mixing.replayable_from(fragment)
        event(machine, loop.time())
        for effect in machine.drain():
            self._perform(effect)
        self._listed.follow(machine)
        if fragment in self._timers:
            self._timers.pop(fragment).cancel()
        due_s = machine.next_deadline_s()
        if due_s is not None:
            self._timers[fragment] = loop.call_at(due_s, self._on_timer, fragment)
        self._offer_snapshot(fragment)

    def _on_timer(self, fragment: int) -> None:
        try:
            self._feed(fragment, lambda machine, now_s: machine.on_timer(now_s=now_s))
        except Exception as error:  # noqa: BLE001 - boundary: the event loop would only log it
            self._fail(error)

    def _offer_snapshot(self, fragment: int) -> None:
        """A snapshot in our hands is always the machine's as soon as it can use it."""
        machine, tokens = self._machines[fragment], self._moves.tokens(fragment)
        if tokens and machine.phase is Phase.IDLE and not self._is_leaving:
            self._feed(fragment, lambda machine, now_s: machine.on_departed(tokens, now_s=now_s))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._spawn(self._send(effect))
            case Offer():
                key = effect.fragment, effect.exchange_id
                self._offers[key] = frozenset(effect.members)
                while len(self._offers) > max(REMEMBERED_OFFERS, 2 * len(self._machines)):
                    self._offers.popitem(last=False)
                self.mixing.open(*key, effect.terms, anew=True)
                begun = self._begun[key] = asyncio.Event()
                self._spawn_after(key, lambda: self._moves.offer(effect, begun.set))
            case Reduce():
                key = effect.ref.fragment, effect.ref.exchange_id
                self._spawn_after(key, lambda: self._make(lambda: self._reduce(effect)))
            case Discard():
                key = effect.fragment, effect.exchange_id
                self._newest_task.pop(key, None)
                self._end_fetches(key)
                bench = self.mixing.drop(*key)
                self._spawn(self._moves.discard(effect, bench))
            case Fetch():
                task = self._spawn(self._fetch(effect))
                tasks = self._fetches.setdefault(_key_of(effect.ref), {})
                tasks[task] = None
                task.add_done_callback(lambda task: tasks.pop(task, None))
            case Land():
                key = effect.fragment, effect.exchange_id
                self._end_fetches(key)
                self._spawn_after(key, lambda: self._land(effect))
            case CatchUp():
                self._spawn(self._catch_up(effect))
            case Tell():
                self._tell(effect)

    def _end_fetches(self, key: Key) -> None:
        """Nothing more is collected for this exchange."""
        self._begun.pop(key, None)
        for task in self._fetches.pop(key, ()):
            task.cancel()

    async def _send(self, effect: Send) -> None:
        try:
            with self._listed.send(effect):
                await self._vigil.send(effect.dst, effect.note)
        except (TransportError, RemoteError) as error:
            self._events.write("note_lost", to=effect.dst, reason=str(error))
            is_gone = isinstance(error, PeerGone)
            self._feed(
                effect.note.fragment,
                lambda machine, now_s: machine.on_unreachable(
                    effect.dst, is_gone=is_gone, now_s=now_s
                ),
            )

    async def _make(self, job: Callable[[], Result]) -> Result:
        result = await self._job(job)
        self._wake()
        return result

    def _wake(self) -> None:
        """Whoever waits for something to serve looks again; the next one waits for the next."""
        self._made.set()
        self._made.clear()

    def _on_grain(self) -> None:
        self._loop.call_soon_threadsafe(self._wake)

    def _reduce(self, effect: Reduce) -> None:
        self.mixing.reduce(effect, self._on_grain)

    async def _fetch(self, effect: Fetch) -> None:
        src, ref = effect.src, effect.ref
        try:
            if begun := self._begun.get(_key_of(ref)):
                await begun.wait()  # parameters are decoded as what lies near ours
            sink = FrameSink(
                self.mixing.grains(ref, effect.terms),
                self.mixing.missing(effect),
                lambda grain, frame: self._collect(effect, grain, frame),
            )
            with self._listed.fetch(effect, self._manifest.round.exchange_s, sink.progress):
                await self._vigil.fetch(src, ref, sink)
        except (TransportError, RemoteError) as error:
            failure = failure_of(error)
            if isinstance(error, RemoteError):
                self._refusals.refuse(src, type(error).__name__, str(error))
                self.record.refused(str(error))
                self._events.write("transfer_refused", src=src, blob=ref.kind, reason=str(error))
            elif failure is not Failure.ABSENT:
                self._events.write("transfer_failed", src=src, blob=ref.kind, reason=str(error))
            self._feed(
                ref.fragment,
                lambda machine, now_s: machine.on_fetch_failed(
                    src, ref, failure=failure, now_s=now_s
                ),
            )
            self._wake()  # others may have waited for it to come from us
            return
        self._feed(ref.fragment, lambda machine, now_s: machine.on_fetched(src, ref, now_s=now_s))

    async def _collect(self, effect: Fetch, grain: int, frame: bytes | memoryview) -> None:
        # Here and not as a job: it takes a fraction of a millisecond, and a thread's turn longer.
        self.mixing.collect(effect, grain, frame)
        if effect.ref.kind == "average":
            self._wake()  # others may want it from us

    async def _land(self, effect: Land) -> None:
        had_work = self._moves.tokens(effect.fragment) > 0
        new, tokens = await self._moves.land(effect)
        self.record.landed(effect, tokens, had_work=had_work)
        self._count_rounds()
        status = self._status
        status.exchanges_done += 1
        if not effect.rebase_on_anchor:
            status.contributions += 1
            status.contributed_tokens += tokens
        self._events.write(
            "landed",
            fragment=effect.fragment,
            round=new.round,
            exchange_id=effect.exchange_id.hex(),
            digest=new.digest.hex(),
            contributed=not effect.rebase_on_anchor,
            step=status.step,
        )
        if (heard := self.mixing.widening.heard(effect.fragment)).is_noticeable:
            self._events.write(
                "out_of_reach",
                fragment=effect.fragment,
                exchange_id=effect.exchange_id.hex(),
                missed_frac=round(heard.missed_frac, 3),
            )

        def report(machine: Exchange, now_s: float) -> None:
            machine.lineage = new.lineage
            machine.on_landed(new.round, new.digest, now_s=now_s)

        self._feed(effect.fragment, report)

    async def _catch_up(self, effect: CatchUp) -> None:
        fragment, members = effect.fragment, self._status.members
        is_changed: bool | None = None
        before, had_work = self.mixing.outer[fragment].round, self._moves.tokens(fragment) > 0
        try:
            with self._listed.catch_up(effect, self._recovery.progress):
                async with asyncio.timeout(self._manifest.round.exchange_s):
                    is_changed = await self._recovery.recover(effect, members)
        except TimeoutError:  # what came is kept, and the next attempt goes on
            self._events.write("catching_up_failed", src=effect.donors[0], reason="took too long")
        except (TransportError, RemoteError) as error:
            self._events.write("catching_up_failed", src=effect.donors[0], reason=str(error))
        self._count_rounds()
        new = self.mixing.outer[fragment]
        if had_work and self.mixing.is_common:
            self.record.passed_by(new.round - before)

        def report(machine: Exchange, now_s: float) -> None:
            if is_changed is None:
                machine.on_not_caught_up(now_s=now_s)
            elif is_changed:
                machine.lineage = new.lineage
                machine.on_caught_up(new.round, new.digest, now_s=now_s)
            else:
                machine.on_kept(now_s=now_s)

        self._feed(fragment, report)

    def _count_rounds(self) -> None:
        """Says when all fragments have landed once more."""
        round = min(outer.round for outer in self.mixing.landed)
        if round > self._status.round:
            self._status.round = round
            self.on_landed(round)

    def _tell(self, effect: Tell) -> None:
        self._listed.hear(effect)
        self.record.hear(effect)
        if effect.event == "exchange_failed":
            self._status.exchanges_failed += 1
        if effect.event == "exchange_begins":
            partners = effect.fields["partners"]
            self._status.partners = tuple(partners) if isinstance(partners, list | tuple) else ()
        self._events.write(effect.event, **effect.fields)

    # ---- plumbing

    @property
    def _net(self) -> Wire:
        assert self._wire is not None, "begin() comes first"
        return self._wire

    def _job(self, function: Callable[[], Result]) -> "asyncio.Future[Result]":
        return asyncio.get_running_loop().run_in_executor(self._worker, function)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._on_task_done)
        return task

    def _spawn_after(self, key: Key, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts a task of an exchange once the one before it is done, if that went well."""
        before = self._newest_task.get(key)

        async def in_turn() -> None:
            if before is not None:
                await asyncio.wait((before,))
                if before.cancelled() or before.exception() is not None:
                    return
                if key not in self._newest_task:  # discarded meanwhile
                    return
            await work()
            if self._newest_task.get(key) is task:
                del self._newest_task[key]

        task = self._newest_task[key] = self._spawn(in_turn())

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)


def _key_of(ref: BlobRef) -> Key:
    return ref.fragment, ref.exchange_id
