"""The composition root of a peer: everything is made here, in order, and ended in reverse."""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import torch

from peer.birth import Birth
from peer.config import PeerConfig
from peer.contribution import ContributionFile
from peer.delivered import delivered_since
from peer.domains.stay import Stay
from peer.driver import Driver
from peer.entry import check_run, find_run, places
from peer.fetch_files import fetch_before_joining, spelled
from peer.identity_file import load_identity
from peer.keeper import Keeper, step_of
from peer.life import SOFTWARE, AnotherLife, Life, Parts
from peer.memory import return_large_blocks
from peer.method import mixing_of
from peer.net.address_book import PEERS, AddressBook
from peer.net.config import WireConfig
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.rates import read_rates, write_rates
from peer.net.sockets import SocketMeter
from peer.net.wire import GrpcWire
from peer.ports import Inbox
from peer.presence import Presence, wire_addresses
from peer.reporting import Reporting
from peer.run_files import FilesInbox, files_folder
from peer.run_folder import IDENTITY, MANIFEST, Run, TicketFile, read_run, write_run
from peer.status import PeerStatus
from peer.telemetry import Events
from peer.train.config import TrainerConfig
from peer.trainer_port import Launched, TrainerGone, Trainers
from peer.watch.observer import Observer
from peer.watch.view import SwarmView
from peer.watchdog import Watchdog
from protocol.card import Card
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest
from protocol.rooms import Rooms
from protocol.ticket import Ticket

logger = logging.getLogger(__name__)

LEAVE_S = 4.0
"""Leaving in order may take so long; what is not done then is dropped."""
TALLY_EVERY_S = 10.0
PROGRESS_EVENT_S = 2.0
SHOW_S = 0.5
COMPANY = "anybody else of the run"


class Peer:
    """One peer's life: `await peer.live()`; `peer.leave()` ends it in order.

    Args:
        config: What the operator wants.
        status: Where to say how it goes; by default one of its own.
        trainers: Where to have a trainer from; by default it is a process of this one.
    """

    def __init__(
        self,
        config: PeerConfig,
        status: PeerStatus | None = None,
        *,
        trainers: Trainers | None = None,
    ) -> None:
        self.config = config
        self._trainers: Trainers = trainers or Launched()
        self.status = status or PeerStatus()
        self.ticket = config.ticket
        """From `live` on, one that lists our own address."""
        self._ticket_file = TicketFile(config.directory)
        self._leave = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._our_id = PeerId("")
        self.checkpoint_step: int | None = None
        """What another life would go on from; None before this one has a checkpoint."""
        self._met: set[PeerId] = set()
        self._forgetting: set[asyncio.Task[None]] = set()
        self._stay: Stay | None = None
        """Of a run with domains."""
        self._is_listening = False
        self._own_card: Callable[[], Card] = self._card
        self._observer: Observer | None = None

    @property
    def view(self) -> SwarmView | None:
        """The swarm as we see it; None while we do not watch it. Any thread may ask."""
        return self._observer.view if self._observer is not None else None

    def leave(self) -> None:
        """Ends `live` in order, with a last checkpoint."""
        self._leave.set()

    async def live(self) -> None:
        """Joins, trains and leaves.

        Raises:
            ConfigError: something that the operator can change.
            TrainerGone: the trainer process died; another life may go on from the last checkpoint.
        """
        async with self._stack:
            try:
                if await self._unless_leaving(self._start()):
                    await (self._train_and_leave() if self._trains else self._wait_for_work())
            except TrainerGone as error:
                self._report_death(error)
                raise

    async def _train_and_leave(self) -> None:
        try:
            await self._unless_leaving(self._train())
            self.status.phase = "leaving"
            await self._life.finish()
            if self._stay is not None and self._stay.has_finished:
                await self._stay.keep_final(self._mixing.outer)
                await self._life.say_goodbye()  # which says what we keep now
        except AnotherLife:
            raise  # without a goodbye: it would be the other one's
        except TrainerGone:
            if not self._trainers.comes_back:
                await self._life.say_goodbye()
            raise
        except Exception:  # whatever it was, the others need not wait for us
            await self._life.say_goodbye()
            raise
        finally:  # also when something broke: what was trained is worth a checkpoint
            self.status.phase = "leaving"
            await self._end_training()

    # ---- starting, step by step; the phase says what we wait for

    async def _start(self) -> None:
        config, status = self.config, self.status
        status.begin_life()
        self._hold_folder(config.directory)
        identity = load_identity(config.directory / IDENTITY)
        self._our_id = identity.peer_id
        self._birth = Birth.after_last(config.directory, now_unix_s=time.time())
        status.phase = f"entering the swarm at {places(config)}"
        directory = await HivemindDirectory.start(
            identity,
            config.ticket.run_id,
            listen_host=config.listen_host,
            listen_port=config.listen_port + 1 if config.listen_port else 0,
            last_port=_last_port(config.ticket, identity.peer_id),
            announce_host=config.announce_host,
            bootstrap=config.ticket.addresses,
            book=AddressBook.read(config.directory / PEERS),
            on_notice=status.notices.append,
        )
        self._stack.push_async_callback(directory.close)
        directory.waits = status.waits
        self._presence = Presence(directory, identity.peer_id)
        self._directory = directory
        self._folder = config.directory
        run = await self._find_run(identity)
        if run.manifest.method.mixing == "pairs" and not run.manifest.domains:
            # Whoever averages with one need not know all.
            self._presence.rooms = Rooms(self._our_id, run.manifest.run_id)
        self._renew_ticket()
        self._events = self._open_events()
        self._stack.callback(self._events.close)
        self._contributions = ContributionFile(
            config.directory, run_id=run.manifest.run_id, peer_id=self._our_id
        )
        self._tally = self._contributions.read()
        watching = asyncio.create_task(Watchdog(status, self._events).run())
        self._stack.push_async_callback(_cancel, watching)

        self._manifest = run.manifest
        if run.manifest.domains:
            await self._choose_domain(run.manifest)
        self._meter = SocketMeter([os.getpid()])
        status.is_counted_by_kernel = SocketMeter.is_supported()
        if self._trains:
            if run.manifest.files:
                await self._fetch_files(identity, run)
            await self._start_parts(identity, run)
            await self._start_training()
        else:
            await self._start_wire(identity, run, None)

    @property
    def _trains(self) -> bool:
        """Whether there is something to train in this life."""
        return self._stay is None or bool(self._stay.domain)

    @property
    def goes_on(self) -> bool:
        """Whether another life is to begin after this one, in another domain."""
        return self._stay is not None and self._stay.goes_on

    async def _find_run(self, identity: Identity) -> Run:
        config = self.config
        run = read_run(config.directory, config.ticket)
        if run is None:
            with self.status.waits.on("somebody who knows the run", within_s=config.wait_s):
                run = await find_run(identity, config, self._presence)
        check_run(run, config)
        write_run(config.directory, run)
        self._trainers.on_found(config.directory / MANIFEST, run.manifest.run_id)
        return run

    async def _choose_domain(self, manifest: Manifest) -> None:
        config, status = self.config, self.status
        status.phase = "looking for a domain that needs this machine"
        self._stay = await Stay.begin(
            manifest, config, self._presence, self._card, status=status, events=self._events
        )
        if self._stay.domain:
            self._coming = asyncio.create_task(self._stay.keep_coming(self._card))
            self._stack.push_async_callback(_cancel, self._coming)
            self._manifest, self._folder = self._stay.child(config.directory)
            self._events.domain = self._stay.domain
            self._events.write("domain_chosen")

    async def _fetch_files(self, identity: Identity, run: Run) -> None:
        """Gets what the parts are made from, before there is anything that others could ask for."""
        config, status = self.config, self.status
        status.phase = "reading the run's files"
        come = (0, 0)

        def on_progress(name: str, here_bytes: int, size_bytes: int) -> None:
            nonlocal come
            come = here_bytes, size_bytes
            status.phase = spelled(name, here_bytes, size_bytes)

        with status.waits.on("the run's files", until="they are here", progress=lambda: come):
            await fetch_before_joining(
                *(run, config.directory, identity, self._presence),
                secret=config.ticket.secret,
                wait_s=config.wait_s,
                down=config.down,
                on_progress=on_progress,
            )

    async def _start_parts(self, identity: Identity, run: Run) -> None:
        config, status, manifest = self.config, self.status, self._manifest
        status.phase = "building the model"
        return_large_blocks()
        torch.set_num_threads(1)  # one core is enough for the mixing; the others are the trainer's
        mixing = mixing_of(manifest, self._our_id, files_folder(self._folder))
        self._keeper = Keeper(
            self._folder,
            manifest.run_id,
            identity,
            mixing,
            keep=config.keep_checkpoints,
            notify=self._notice,
        )
        self._mixing = mixing
        goes_on = self._keeper.has_checkpoint
        if config.resume is False or (config.resume and self._stay is None):
            goes_on = config.resume
        if goes_on and self._stay is not None and self._stay.is_behind(self._keeper.newest_step):
            goes_on = False
        self._checkpoint_folder = None
        if goes_on:
            self._checkpoint_folder = self._keeper.load()
            self.checkpoint_step = step_of(self._checkpoint_folder)
        self._trainer = await self._trainers.open(
            self._trainer_config(),
            self._folder,
            mixing.layout,
            on_news=lambda news: self._life.on_news(news),
            waits=status.waits,
        )
        self._stack.push_async_callback(self._trainer.close)
        self._trainer_life = asyncio.create_task(self._trainer.run())
        self._stack.push_async_callback(_cancel, self._trainer_life)
        self._driver = Driver(
            self._our_id,
            self._birth.life,
            manifest,
            mixing,
            events=self._events,
            status=status,
            tally=self._tally,
            steps_alone=self._stay is not None,  # its domain's expert is to be there in any case
        )
        self._stack.push_async_callback(self._driver.close)
        await self._start_wire(identity, run, self._driver)
        reach = self._wire.reach
        parts = Parts(
            our_id=self._our_id,
            birth=self._birth,
            manifest=manifest,
            mixing=mixing,
            driver=self._driver,
            trainer=self._trainer,
            wire=self._wire,
            presence=self._presence,
            status=status,
            events=self._events,
            addresses=lambda: reach.listed(self._addresses()),
            reach=lambda: (reach.reachability, reach.relays),
            dress=lambda card: card if self._stay is None else self._stay.guide.dressed(card),
        )
        self._life = Life(parts, evaluate_every_rounds=config.evaluate_every_rounds)

    async def _start_wire(self, identity: Identity, run: Run, driver: Driver | None) -> None:
        inbox: Inbox | None = driver if self._stay is None else self._stay.desk(driver)
        assert inbox is not None, "only a run with domains has peers that train nothing"
        self._wire = await GrpcWire.start(
            identity,
            self._wire_config(run),
            inbox=FilesInbox(inbox, run.manifest, self.config.directory),
            addresses=self._presence.addresses,
        )
        self._is_listening = True
        self._stack.push_async_callback(self._wire.close)
        reach = self._wire.reach
        reach.relays_of = self._presence.relays
        reach.on_change = self._presence.look_again
        reach.on_cards(self._presence.cards, self._addresses())
        read_rates(self.config.directory, self._wire.rates)
        self._stack.callback(self._keep_rates)
        self._stack.push_async_callback(self._forget_all)
        self._tell_how_we_are(identity, run, driver)
        if self._stay is not None:
            self._stay.follow(self._wire, self._card)
            await self._stay.guide.announce(self._card())  # what we keep can be fetched from now on

    def _tell_how_we_are(self, identity: Identity, run: Run, driver: Driver | None) -> None:
        reporting = Reporting(
            *(identity, run.manifest.run_id),
            status=self.status,
            tally=self._tally,
            ties=lambda: self._wire.ties,
            record=driver.record if driver is not None else None,
        )
        self._wire.answer_reports(reporting.answer)
        if self.config.watches_swarm:
            self._observer = Observer(
                *(run.manifest, self._presence, self._wire),
                own=lambda: (self._own_card(), reporting.signed()),
            )
            watching = asyncio.create_task(self._observer.run())
            self._stack.push_async_callback(_cancel, watching)

    def _card(self) -> Card:
        """Returns our card when there is no life yet, or none that trains."""
        reach = self._wire.reach if self._is_listening else None
        return Card(
            wire_addresses=reach.listed(self._addresses()) if reach else (),
            multiaddrs=tuple(self._directory.multiaddrs()),
            role="peer",
            software=SOFTWARE,
            reach=reach.reachability if reach else "direct",
            relays=reach.relays if reach else (),
            life=self._birth.life,
            began_unix_s=self._birth.began_unix_s,
        )

    async def _start_training(self) -> None:
        status = self.status
        status.phase = "loading the text"
        with status.waits.on("the trainer to load", until="model and text are loaded"):
            hello = await self._trainer.hello
        if hello.validation_problem:
            status.notices.append(hello.validation_problem)
            logger.info("%s", hello.validation_problem)  # the screen shows the notice
        ticket = str(self.ticket) if not self.ticket.secret else "(secret)"
        if self._checkpoint_folder is not None:
            status.phase = f"resuming from {self._checkpoint_folder}"
            delivered = await asyncio.to_thread(self._delivered, self._checkpoint_folder)
            await self._life.resume(
                self._checkpoint_folder, delivered, device=hello.device, ticket=ticket
            )
            return
        step = 0 if self._stay is None else await self._stay.prepare(self._mixing)
        num_fragments = len(self._mixing.outer)
        total = sum(self._mixing.state_bytes(fragment) for fragment in range(num_fragments))
        showing = asyncio.create_task(self._show_fetch(total))
        try:
            with status.waits.on(
                "the model",
                until="the trainer starts from it",
                progress=lambda: (self._wire.counters.received["state"], total),
            ):
                await self._life.enter(
                    wait_s=self.config.wait_s, step=step, device=hello.device, ticket=ticket
                )
        finally:
            await _cancel(showing)

    def _delivered(self, checkpoint: Path) -> list[int]:
        """Returns the fragments of which the swarm has the checkpoint's own work already."""
        if self._mixing.goes_ahead:  # there, what is on its way is part of the outer state
            return []
        rounds = [outer.round for outer in self._mixing.outer]
        events = self.config.directory / "events.jsonl"
        return delivered_since(events, checkpoint, rounds, domain=self._events.domain)

    async def _show_fetch(self, total: int) -> None:
        while True:
            received_frac = self._wire.counters.received["state"] / total
            self.status.phase = f"fetching the model from another peer: {received_frac:.0%}"
            await asyncio.sleep(SHOW_S)

    def _hold_folder(self, folder: Path) -> None:
        """Two peers with one identity would harm each other, so a folder has one user at a time."""
        path = folder / "in-use.lock"
        try:
            file = self._stack.enter_context(path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another peer runs in {folder}; end it first, or choose another folder with --dir"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot use {path}: {error.strerror}") from None

    def _open_events(self) -> Events:
        path = self.config.directory / "events.jsonl"
        try:
            return Events(path, run_id=self.config.ticket.run_id, peer_id=self._our_id)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    def _trainer_config(self) -> TrainerConfig:
        config, manifest = self.config, self._manifest
        budget = None if self._stay is None else manifest.inner.total_steps
        ends = [steps for steps in (config.max_steps, budget) if steps is not None]
        return TrainerConfig(
            manifest=str(self._folder / MANIFEST),
            run_id=manifest.run_id,
            peer_id=self._our_id,
            device=config.device,
            threads=config.threads,
            max_steps=min(ends, default=None),
            evaluation_bytes=config.evaluation_bytes,
        )

    def _wire_config(self, run: Run) -> WireConfig:
        limits = run.manifest.limits
        return WireConfig(
            run_id=run.manifest.run_id,
            manifest_bytes=run.manifest.to_bytes(),
            manifest_signature=run.signature,
            secret=self.config.ticket.secret,
            listen_host=self.config.listen_host,
            listen_port=self.config.listen_port,
            chunk_bytes=limits.chunk_bytes,
            max_message_bytes=limits.max_message_bytes,
            progress_s=run.manifest.round.progress_s,
            max_streams_per_peer=limits.max_streams_per_peer,
            num_fragments=self._manifest.method.schedule.fragments,
            domain="" if self._stay is None else self._stay.domain,
            max_peers=limits.max_peers,
            software=SOFTWARE,
            up=self.config.up,
            down=self.config.down,
        )

    # ---- training

    async def _train(self) -> None:
        self._own_card = self._life.card
        self._tally.begin_life(self.status.tokens)
        self._stack.callback(self._keep_tally)
        self._life.on_refresh = self._on_refresh
        beside = [
            self._report(),
            self._checkpoint_now_and_then(),
            self._keep_tally_now_and_then(),
        ]
        if self._stay is not None:
            await _cancel(self._coming)  # from here on it is the life that announces us
            beside.append(self._leave_after(self._stay.train(self._life.card, self._driver)))
        await self._life.train(self._trainer_life, *beside)

    async def _wait_for_work(self) -> None:
        """Lives without training: gives and fetches experts, until a domain needs us."""
        assert self._stay is not None, "other runs always have something to train"
        await self._unless_leaving(self._stay.idle(self._card, self._on_refresh))

    async def _leave_after(self, work: Coroutine[Any, Any, None]) -> None:
        await work
        self.leave()

    def _on_refresh(self) -> None:
        presence = self._presence
        if presence.cards:
            self.status.waits.end(COMPANY)
        else:  # we train all the same
            self.status.waits.begin(COMPANY, COMPANY, until="somebody answers")
        self._wire.reach.on_cards(presence.cards, self._addresses())
        self._renew_ticket()
        for peer in self._met - presence.reachable:
            task = asyncio.create_task(self._wire.forget(peer))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)
        self._met = set(presence.reachable)

    def _renew_ticket(self) -> None:
        """Keeps the ticket up to date: whoever we know lets us and others in again."""
        self.ticket = self._presence.ticket(self.ticket)
        self._ticket_file.keep(self.ticket)

    async def _report(self) -> None:
        while True:
            self.status.phase = self._driver.waiting_for()
            if self.status.is_counted_by_kernel:
                self._meter.pids = os.getpid(), self._directory.daemon_pid
                with contextlib.suppress(OSError):  # the next count has these bytes too
                    self.status.sent_bytes, self.status.received_bytes = self._meter.sample()
            else:
                counters = self._wire.counters
                self.status.sent_bytes = sum(counters.sent.values())
                self.status.received_bytes = sum(counters.received.values())
            self.status.ways = self._wire.ways
            self._events.write("progress", **self._life.progress())
            for _ in range(int(PROGRESS_EVENT_S / SHOW_S)):
                await asyncio.sleep(SHOW_S)
                self.status.phase = self._driver.waiting_for()

    async def _checkpoint_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self.config.checkpoint_every_s)
            self._keep_rates()
            await self._checkpoint()

    async def _keep_tally_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(TALLY_EVERY_S)
            self._tally.trained(self.status.tokens)
            await self._contributions.write_beside(self._tally)

    async def _checkpoint(self, *, is_last: bool = False) -> None:
        try:
            with self.status.waits.on("a checkpoint", until="it is on the disk"):
                path = await self._keeper.save(self._trainer, self.status.step, is_last=is_last)
        except (ConfigError, OSError) as error:
            self.status.notices.append(f"no checkpoint: {error}")
            logger.warning("no checkpoint: %s", error)
            return
        self.status.checkpointed_s = self.status.waits.now_s()
        self.checkpoint_step = step_of(path)
        self._events.write("checkpoint", path=str(path), step=self.checkpoint_step)

    # ---- leaving

    def _report_death(self, error: TrainerGone) -> None:
        step = self.checkpoint_step
        self._events.write(
            "trainer_died",
            reason=str(error),
            exit_code=error.exit_code,
            step=self.status.step,
            checkpoint_step=step,
        )
        origin = "the swarm's state" if step is None else f"the checkpoint of step {step}"
        self.status.notices.append(
            f"{error}; this peer goes on from {origin}, and what it did since then is lost to "
            "itself only"
        )

    async def _end_training(self) -> None:
        try:
            with self.status.waits.on("leaving in order", within_s=LEAVE_S):
                async with asyncio.timeout(LEAVE_S):
                    await self._life.leave(lambda: self._checkpoint(is_last=True))
        except TimeoutError:
            logger.warning("left without a last checkpoint: it took over %g s", LEAVE_S)
        except TrainerGone as error:
            logger.info("no last checkpoint: %s", error)

    # ---- plumbing

    def _notice(self, text: str) -> None:
        self.status.notices.append(text)
        logger.warning("%s", text)

    async def _forget_all(self) -> None:
        for task in list(self._forgetting):
            await _cancel(task)

    def _addresses(self) -> tuple[str, ...]:
        return wire_addresses(
            self._presence.directory,
            listen_host=self.config.listen_host,
            announce_host=self.config.announce_host,
            port=self._wire.listen_port,
        )

    def _keep_tally(self) -> None:
        self._tally.trained(self.status.tokens)
        self._contributions.write(self._tally)

    def _keep_rates(self) -> None:
        with contextlib.suppress(OSError):  # the next life measures anew
            write_rates(self.config.directory, self._wire.rates)

    async def _unless_leaving(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs `work` until it is done (True) or somebody calls `leave` (False)."""
        task = asyncio.create_task(work)
        leaving = asyncio.create_task(self._leave.wait())
        try:
            await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                _raise_first(task)
                return True
            return False
        finally:
            await _cancel(leaving)
            await _cancel(task)


def _last_port(ticket: Ticket, our_id: PeerId) -> int:
    """Returns where others may have met our directory; 0 if nobody has."""
    return next((address.port for address in ticket.addresses if address.peer_id == our_id), 0)


def _raise_first(task: "asyncio.Task[None]") -> None:
    """Raises a task's error; of a group of errors the first, for that is what people understand."""
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


async def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
