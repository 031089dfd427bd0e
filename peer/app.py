"""The composition root of a peer: everything is made here, in order, and ended in reverse."""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import torch

from peer.config import PeerConfig
from peer.driver import Driver
from peer.entry import check_run, fetch_state, find_run, places
from peer.identity_file import load_identity
from peer.keeper import Keeper
from peer.method import mixing_of
from peer.net.config import WireConfig
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.sockets import SocketMeter
from peer.net.wire import GrpcWire
from peer.presence import Presence, wire_addresses
from peer.run_folder import MANIFEST, Run, read_run, write_run, write_ticket
from peer.status import PeerStatus
from peer.telemetry import Events
from peer.train import lines
from peer.train.config import TrainerConfig
from peer.trainer_port import TrainerGone, TrainerPort
from protocol.card import Card
from protocol.errors import ConfigError, TransportError
from protocol.identity import Identity, PeerId

logger = logging.getLogger(__name__)

SOFTWARE = "thinwire/0.1.0"
LEAVE_S = 4.0
"""Leaving in order may take so long; what is not done then is dropped."""
GOODBYE_S = 1.0
"""Of which telling the directory may take so long."""
PROGRESS_EVENT_S = 2.0
SHOW_S = 0.5


class Peer:
    """One peer's life: `await peer.live()`; `peer.leave()` ends it in order.

    Args:
        config: What the operator wants.
    """

    def __init__(self, config: PeerConfig) -> None:
        self.config = config
        self.status = PeerStatus()
        self.ticket = config.ticket
        """From `live` on, one that lists our own address."""
        self._leave = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._our_id = PeerId("")
        self._met: set[PeerId] = set()

    def leave(self) -> None:
        """Ends `live` in order, with a last checkpoint."""
        self._leave.set()

    async def live(self) -> None:
        """Joins, trains and leaves.

        Raises:
            ConfigError: something that the operator can change.
            TrainerGone: the trainer process died.
        """
        async with self._stack:
            if await self._unless_leaving(self._start()):
                try:
                    await self._unless_leaving(self._train())
                finally:  # also when something broke: what was trained is worth a checkpoint
                    self.status.phase = "leaving"
                    await self._say_goodbye()

    # ---- starting, step by step; the phase says what we wait for

    async def _start(self) -> None:
        config, status = self.config, self.status
        self._hold_folder(config.directory)
        identity = load_identity(config.directory / "identity.key")
        self._our_id = identity.peer_id
        status.phase = f"entering the swarm at {places(config)}"
        directory = await HivemindDirectory.start(
            identity,
            config.ticket.run_id,
            listen_host=config.listen_host,
            listen_port=config.listen_port + 1 if config.listen_port else 0,
            announce_host=config.announce_host,
            bootstrap=config.ticket.addresses,
        )
        self._stack.push_async_callback(directory.close)
        self._presence = Presence(directory, identity.peer_id)
        self._daemon_pid = directory.daemon_pid
        run = read_run(config.directory, config.ticket)
        run = run or await find_run(identity, config, self._presence)
        check_run(run, config)
        write_run(config.directory, run)
        self.ticket = self._presence.ticket(config.ticket)
        write_ticket(config.directory, self.ticket)
        self._events = Events(
            config.directory / "events.jsonl", run_id=config.ticket.run_id, peer_id=self._our_id
        )
        self._stack.callback(self._events.close)

        await self._start_parts(identity, run)
        await self._start_training(run)

    async def _start_parts(self, identity: Identity, run: Run) -> None:
        config, status = self.config, self.status
        status.phase = "building the model"
        torch.set_num_threads(1)  # one core is enough for the mixing; the others are the trainer's
        mixing = mixing_of(run.manifest, self._our_id)
        self._keeper = Keeper(config.directory, run.manifest.run_id, self._our_id, mixing)
        self._mixing = mixing
        self._checkpoint_folder = self._keeper.load() if config.resume else None
        if self._keeper.has_checkpoint and not config.resume:
            status.notices.append("there is a checkpoint here; --resume would go on from it")
        self._trainer = await TrainerPort.launch(
            self._trainer_config(), config.directory, mixing.layout, on_news=self._on_news
        )
        self._stack.push_async_callback(self._trainer.close)
        self._trainer_life = asyncio.create_task(self._trainer.run())
        self._stack.push_async_callback(_cancel, self._trainer_life)
        self._driver = Driver(
            self._our_id,
            secrets.token_hex(8),
            run.manifest,
            mixing,
            events=self._events,
            status=status,
        )
        self._stack.push_async_callback(self._driver.close)
        self._wire = await GrpcWire.start(
            identity,
            self._wire_config(run),
            inbox=self._driver,
            addresses=self._presence.addresses,
        )
        self._stack.push_async_callback(self._wire.close)
        self._meter = SocketMeter([os.getpid(), self._daemon_pid])
        status.is_counted_by_kernel = SocketMeter.is_supported()

    async def _start_training(self, run: Run) -> None:
        status, mixing = self.status, self._mixing
        status.phase = "loading the text"
        hello = await self._trainer.hello
        if hello.validation_problem:
            status.notices.append(hello.validation_problem)
            logger.info("%s", hello.validation_problem)  # the screen shows the notice
        await self._presence.refresh_quietly()
        donor = None
        if self._checkpoint_folder is not None:
            status.phase = f"resuming from {self._checkpoint_folder}"
            started = await self._trainer.resume(
                str(self._checkpoint_folder), [outer.anchor for outer in mixing.outer]
            )
            status.step, status.tokens = started.step, started.tokens
        else:
            showing = asyncio.create_task(self._show_fetch())
            donor, step = await fetch_state(
                mixing, self._wire, self._presence, wait_s=self.config.wait_s
            )
            await _cancel(showing)
            # The donor's card may be some seconds old, its round is not.
            interval_steps = run.manifest.method.schedule.interval_steps
            status.step = max(step, mixing.outer[0].round * interval_steps)
            await self._trainer.start(
                [outer.anchor for outer in mixing.outer], step=status.step, tokens=0
            )
        status.round = min(outer.round for outer in mixing.outer)
        self._events.write(
            "joined",
            round=status.round,
            step=status.step,
            donor=donor,
            members=self._presence.members(),
            device=hello.device,
            ticket=str(self.ticket) if not self.ticket.secret else "(secret)",
        )

    async def _show_fetch(self) -> None:
        num_fragments = len(self._mixing.outer)
        total = sum(self._mixing.state_bytes(fragment) for fragment in range(num_fragments))
        while True:
            received_frac = self._wire.counters.received["state"] / total
            self.status.phase = f"fetching the model from another peer: {received_frac:.0%}"
            await asyncio.sleep(SHOW_S)

    def _hold_folder(self, folder: Path) -> None:
        """Two peers with one identity would harm each other, so a folder has one user at a time."""
        file = self._stack.enter_context((folder / "in-use.lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another peer runs in {folder}; end it first, or choose another folder with --dir"
            ) from None

    def _trainer_config(self) -> TrainerConfig:
        config = self.config
        return TrainerConfig(
            manifest=str(config.directory / MANIFEST),
            run_id=config.ticket.run_id,
            peer_id=self._our_id,
            device=config.device,
            threads=config.threads,
            max_steps=config.max_steps,
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
            num_fragments=run.manifest.method.schedule.fragments,
            max_peers=limits.max_peers,
            software=SOFTWARE,
        )

    # ---- training

    async def _train(self) -> None:
        driver, presence = self._driver, self._presence
        driver.on_landed = self._on_landed
        driver.knows = lambda peer: bool(presence.addresses(peer))
        driver.on_stranger = lambda peer: presence.look_again()
        driver.begin(self._trainer, self._wire)
        async with asyncio.TaskGroup() as group:
            self._background = group
            group.create_task(presence.run(self._card, self._on_refresh))
            group.create_task(self._report())
            group.create_task(self._checkpoint_now_and_then())
            group.create_task(driver.wait())
            group.create_task(self._watch_trainer())

    async def _watch_trainer(self) -> None:
        await asyncio.shield(self._trainer_life)

    def _on_refresh(self) -> None:
        presence = self._presence
        self._driver.on_members(presence.members(), presence.holders())
        training = (*presence.members(), *presence.holders())
        self.status.swarm_tokens = self.status.tokens + sum(
            presence.cards[peer].tokens for peer in training
        )
        ticket = presence.ticket(self.ticket)
        if ticket != self.ticket:  # whoever we know lets us and others in again
            self.ticket = ticket
            write_ticket(self.config.directory, ticket)
        for peer in self._met - presence.cards.keys():
            self._background.create_task(self._wire.forget(peer))
        self._met = set(presence.cards)

    def _on_news(self, news: lines.Progress | lines.Departed) -> None:
        if isinstance(news, lines.Departed):
            self._driver.on_departed(news)
            return
        status = self.status
        status.step, status.tokens = news.step, news.tokens
        status.tokens_per_s, status.overhead_s = news.tokens_per_s, news.overhead_s
        status.longest_gap_s, status.waited_s = news.longest_gap_s, news.waited_s
        status.loss_bits_per_byte, status.is_done = news.loss_bits_per_byte, news.is_done

    def _on_landed(self, round: int) -> None:
        if round % self.config.evaluate_every_rounds == 0 and not self._leave.is_set():
            self._background.create_task(self._evaluate(round))

    async def _evaluate(self, round: int) -> None:
        evaluated = await self._trainer.evaluate(
            round, lambda: [outer.anchor for outer in self._mixing.landed]
        )
        self.status.validation_bits_per_byte = evaluated.bits_per_byte
        self._events.write(
            "evaluated",
            round=evaluated.round,
            step=evaluated.step,
            bits_per_byte=evaluated.bits_per_byte,
            took_s=evaluated.took_s,
        )

    async def _report(self) -> None:
        while True:
            self.status.phase = self._driver.waiting_for()
            if self.status.is_counted_by_kernel:
                with contextlib.suppress(OSError):  # the next count has these bytes too
                    self.status.sent_bytes, self.status.received_bytes = self._meter.sample()
            else:
                counters = self._wire.counters
                self.status.sent_bytes = sum(counters.sent.values())
                self.status.received_bytes = sum(counters.received.values())
            self._events.write("progress", **self._progress())
            for _ in range(int(PROGRESS_EVENT_S / SHOW_S)):
                await asyncio.sleep(SHOW_S)
                self.status.phase = self._driver.waiting_for()

    def _progress(self) -> dict[str, Any]:
        status = self.status
        return {
            "step": status.step,
            "round": status.round,
            "tokens": status.tokens,
            "loss_bits_per_byte": status.loss_bits_per_byte,
            "tokens_per_s": status.tokens_per_s,
            "overhead_s": status.overhead_s,
            "longest_gap_s": status.longest_gap_s,
            "waited_s": status.waited_s,
            "sent_bytes": status.sent_bytes,
            "received_bytes": status.received_bytes,
            "is_counted_by_kernel": status.is_counted_by_kernel,
            "exchanges_done": status.exchanges_done,
            "exchanges_failed": status.exchanges_failed,
            "contributions": status.contributions,
            "is_done": status.is_done,
        }

    async def _checkpoint_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self.config.checkpoint_every_s)
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        try:
            path = await self._keeper.save(self._trainer, self.status.step)
        except (ConfigError, OSError) as error:
            self.status.notices.append(f"no checkpoint: {error}")
            logger.warning("no checkpoint: %s", error)
            return
        self._events.write("checkpoint", path=str(path), step=self.status.step)

    # ---- leaving

    async def _say_goodbye(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._leave_in_order()
        except TimeoutError:
            logger.warning("left without a last checkpoint: it took over %g s", LEAVE_S)
        except TrainerGone as error:
            logger.info("no last checkpoint: %s", error)

    async def _leave_in_order(self) -> None:
        with contextlib.suppress(TransportError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._presence.announce(self._card("left"))
        await self._checkpoint()
        self._events.write("left", **self._progress())
        await self._trainer.leave()

    # ---- plumbing

    def _card(self, role: str | None = None) -> Card:
        is_holder = self.status.is_done and self._driver.has_nothing_to_give
        return Card(
            wire_addresses=wire_addresses(
                self._presence.directory,
                listen_host=self.config.listen_host,
                announce_host=self.config.announce_host,
                port=self._wire.listen_port,
            ),
            multiaddrs=tuple(self._presence.directory.multiaddrs()),
            role=role or ("holder" if is_holder else "peer"),
            step=self.status.step,
            round=self.status.round,
            tokens=self.status.tokens,
            software=SOFTWARE,
        )

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
