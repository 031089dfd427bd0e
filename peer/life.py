"""A peer's life from when its parts are made: it enters the swarm, trains, and leaves.

The parts may be a process, sockets and a DHT (`peer.app`), or virtual ones (`peer.sim`): what a
peer does with them is the same.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer.birth import Birth
from peer.catch_up import CatchingUp
from peer.driver import Driver
from peer.entry import fetch_state
from peer.mixing import Mixing
from peer.nap import awake_or_not_s, watch_for_naps
from peer.ports import Wire
from peer.presence import Presence
from peer.status import PeerStatus
from peer.telemetry import EventLog
from peer.train import lines
from peer.trainer_port import TrainerPort
from protocol.card import Card, Reachability
from protocol.errors import ConfigError, TransportError
from protocol.identity import PeerId
from protocol.manifest import Manifest

SOFTWARE = "thinwire/0.1.0"
GOODBYE_S = 1.0
"""Telling the directory that we leave may take so long."""
FINISH_S = 3.0
"""Finishing the exchange that is under way when we leave may take so long."""


class AnotherLife(ConfigError):
    """Somebody else runs with our identity, and began later."""


async def _nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a living peer is made of."""

    our_id: PeerId
    birth: Birth
    manifest: Manifest
    mixing: Mixing
    driver: Driver
    trainer: TrainerPort
    wire: Wire
    presence: Presence
    status: PeerStatus
    events: EventLog
    addresses: Callable[[], tuple[str, ...]]
    """Returns host:port candidates at which others reach our wire."""
    dress: Callable[[Card], Card] = lambda card: card
    """Adds to our card what is not this life's alone."""
    reach: Callable[[], tuple[Reachability, tuple[PeerId, ...]]] = lambda: ("direct", ())
    """Returns whether others can dial us, and who else passes calls on to us."""
    clock: Callable[[], float] = awake_or_not_s
    """Returns seconds that go on while this machine sleeps."""


class Life:
    """See the module docstring.

    Args:
        parts: Of which peer.
        evaluate_every_rounds: So often the anchors are evaluated; 0 is never.
    """

    def __init__(self, parts: Parts, *, evaluate_every_rounds: int) -> None:
        self._parts = parts
        self._evaluate_every_rounds = evaluate_every_rounds
        self._background: asyncio.TaskGroup | None = None
        self._training: asyncio.Task[None] | None = None
        self._has_entered = False
        self.on_refresh: Callable[[], None] = lambda: None
        """Called whenever the directory has been read."""
        parts.presence.on_own = self._on_own_card

    async def enter(self, *, wait_s: float, step: int = 0, **facts: object) -> None:
        """Takes the state of a peer that is farthest, and starts the trainer from it.

        Args:
            wait_s: So long another peer's state is asked for.
            step: Of the state that is here already.
            facts: For the event log.
        """
        parts, status = self._parts, self._parts.status
        await parts.presence.refresh_quietly()
        self.catching_up = CatchingUp(
            *(parts.mixing, parts.wire),
            progress_s=parts.manifest.round.progress_s,
            events=parts.events,
        )
        donor, their_step = await fetch_state(
            parts.mixing, self.catching_up, parts.presence, parts.manifest, wait_s=wait_s
        )
        # The donor's card may be some seconds old, its round is not.
        interval_steps = parts.manifest.method.schedule.interval_steps
        first_round = parts.mixing.outer[0].round
        status.step = max(step, their_step, first_round * interval_steps)
        await parts.trainer.start(self._anchors(), step=status.step, tokens=0)
        self._say_joined(donor, facts)

    async def resume(
        self, checkpoint: Path, delivered: Sequence[int] = (), **facts: object
    ) -> None:
        """Goes on from a checkpoint whose outer half is in the mixing already.

        Args:
            checkpoint: Its folder.
            delivered: Fragments of which the swarm has the work already that is on top of the
                anchor; they begin at the anchor.
            facts: For the event log.
        """
        trainer, outer = self._parts.trainer, self._parts.mixing.outer
        await self._parts.presence.refresh_quietly()
        started = await trainer.resume(str(checkpoint), self._anchors())
        self._parts.status.step, self._parts.status.tokens = started.step, started.tokens
        for fragment in delivered:
            departed = await trainer.depart(fragment) or await trainer.refresh(fragment)
            state = outer[fragment]
            await trainer.land(
                fragment, state.round, state.anchor, base=None, tokens=departed.tokens
            )
        self._say_joined(None, facts)

    async def train(
        self, trainer_life: "asyncio.Task[None]", *beside: Coroutine[Any, Any, None]
    ) -> None:
        """Trains and mixes until it is cancelled, or something fails.

        Args:
            trainer_life: Ends when the trainer does.
            beside: What else goes on meanwhile.

        Raises:
            AnotherLife: another process has our identity; it stays, and we go.
        """
        self._has_entered = True
        self._parts.status.training_since_s = self._parts.status.waits.now_s()
        driver, presence = self._parts.driver, self._parts.presence
        driver.on_landed = self._on_landed
        driver.knows = presence.knows
        driver.on_stranger = lambda peer: presence.look_again()
        driver.begin(self._parts.trainer, self._parts.wire)

        async def watch_trainer() -> None:
            await asyncio.shield(trainer_life)

        try:
            async with asyncio.TaskGroup() as group:
                self._background, self._training = group, asyncio.current_task()
                for work in (
                    presence.run(self.card, self._on_refresh),
                    driver.wait(),
                    watch_trainer(),
                    watch_for_naps(self._parts.clock, self._on_slept),
                    *beside,
                ):
                    group.create_task(work)
        finally:
            self._background = None

    async def finish(self) -> None:
        """Says goodbye, and meanwhile finishes what others have counted us in."""
        with self._parts.status.waits.on("the last exchange", within_s=FINISH_S):
            await asyncio.gather(self.say_goodbye(), self._parts.driver.finish(FINISH_S))

    async def leave(self, last: Callable[[], Awaitable[None]] = _nothing) -> None:
        """Does what is to be done last, and ends the trainer."""
        await last()
        self._parts.events.write("left", **self.progress())
        await self._parts.trainer.leave()

    async def say_goodbye(self) -> None:
        """Tells the directory, if anybody can be asked now, so that nobody waits for us."""
        with contextlib.suppress(TransportError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._parts.presence.announce(self.card("left"))

    def on_news(self, news: lines.Progress | lines.Departed) -> None:
        """The trainer says something that nobody asked for."""
        if isinstance(news, lines.Departed):
            self._parts.driver.on_departed(news)
            return
        status = self._parts.status
        status.step, status.tokens = news.step, news.tokens
        status.tokens_per_s, status.overhead_s = news.tokens_per_s, news.overhead_s
        status.step_s, status.progressed_s = news.step_s, status.waits.now_s()
        status.longest_gap_s, status.waited_s = news.longest_gap_s, news.waited_s
        status.loss_bits_per_byte, status.is_done = news.loss_bits_per_byte, news.is_done

    def progress(self) -> dict[str, Any]:
        """Returns the fields of a `progress` event."""
        status = self._parts.status
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
            "contributed_tokens": status.contributed_tokens,
            "is_done": status.is_done,
        }

    def _say_joined(self, donor: PeerId | None, facts: dict[str, object]) -> None:
        parts = self._parts
        parts.status.round = min(outer.round for outer in parts.mixing.outer)
        parts.events.write(
            "joined",
            round=parts.status.round,
            step=parts.status.step,
            donor=donor,
            members=parts.presence.members(),
            **facts,
        )

    def _on_refresh(self) -> None:
        parts = self._parts
        members, holders = parts.presence.members(), parts.presence.holders()
        parts.driver.on_members(members, holders, parts.presence.left())
        parts.status.swarm_tokens = parts.status.tokens + sum(
            parts.presence.cards[peer].tokens for peer in (*members, *holders)
        )
        self.on_refresh()

    def _on_own_card(self, card: Card) -> None:
        """There is, or was, a card of ours.

        Raises:
            AnotherLife: it is that of a life that began after ours.
        """
        birth = self._parts.birth
        if not self._has_entered:
            birth.follow(card)
        elif birth.gives_way_to(card):
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(card.began_unix_s))
            raise AnotherLife(
                f"another peer runs with this identity since {since} UTC, so this one has ended; "
                "if its folder was copied, delete identity.key in one of the two"
            )

    def _on_slept(self, slept_s: float) -> None:
        parts = self._parts
        parts.events.write("slept", slept_s=slept_s)
        parts.presence.look_again()
        parts.driver.on_slept(slept_s)

    def _on_landed(self, round: int) -> None:
        every = self._evaluate_every_rounds
        if every and round % every == 0 and self._background and not self._is_leaving():
            self._background.create_task(self._evaluate(round))

    def _is_leaving(self) -> bool:
        """Whether the group is being cancelled, and takes no new task."""
        return self._training is None or bool(self._training.cancelling())

    async def _evaluate(self, round: int) -> None:
        parts = self._parts
        evaluated = await parts.trainer.evaluate(
            round, lambda: [outer.anchor for outer in parts.mixing.landed]
        )
        parts.status.validation_bits_per_byte = evaluated.bits_per_byte
        parts.status.validation_round = evaluated.round
        parts.status.evaluated_s += evaluated.took_s
        parts.events.write(
            "evaluated",
            round=evaluated.round,
            step=evaluated.step,
            bits_per_byte=evaluated.bits_per_byte,
            took_s=evaluated.took_s,
        )

    def _anchors(self) -> list[Any]:
        return [outer.anchor for outer in self._parts.mixing.outer]

    def card(self, role: str | None = None) -> Card:
        """Returns our card of now."""
        parts, status = self._parts, self._parts.status
        is_holder = status.is_done and parts.driver.has_nothing_to_give
        reach, relays = parts.reach()
        card = Card(
            wire_addresses=parts.addresses(),
            multiaddrs=tuple(parts.presence.directory.multiaddrs()),
            role=role or ("holder" if is_holder else "peer"),
            step=status.step,
            round=status.round,
            tokens=status.tokens,
            software=SOFTWARE,
            reach=reach,
            relays=relays,
            up_bps=int(parts.wire.up_bps),
            down_bps=int(parts.wire.down_bps),
            life=parts.birth.life,
            began_unix_s=parts.birth.began_unix_s,
        )
        return parts.dress(card)
