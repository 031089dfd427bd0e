"""What a fragment does between departures: its outer copy and its live parameters move together.

Offer, landing, loss and catching up each change the outer copy (`peer.mixing`) and, by way of the
trainer process, the live parameters. Those of one fragment take turns, in the order in which they
were asked for: nobody may read the live parameters while the copy already says something else.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from torch import Tensor

from peer.bench import Bench
from peer.mixing import Mixing, OnGrain, OuterState
from peer.train import lines
from peer.trainer_port import TrainerPort
from protocol.machine import Discard, Land, Offer

Result = TypeVar("Result")


class Job(Protocol):
    """Runs the mathematics beside the event loop."""

    def __call__(self, function: Callable[[], Result], /) -> Awaitable[Result]:
        """Returns what the function returns."""


class Moves:
    """See the module docstring.

    Args:
        mixing: The outer side.
        job: Where its calls are made, one after the other.
        step: The trainer's step, as far as we know.
        on_grain: Called by the mathematics whenever there is more to serve.
    """

    def __init__(
        self, mixing: Mixing, job: Job, step: Callable[[], int], on_grain: OnGrain
    ) -> None:
        self._mixing = mixing
        self._job = job
        self._step = step
        self._on_grain = on_grain
        self._trainer: TrainerPort | None = None
        self._turns = [asyncio.Lock() for _ in mixing.outer]
        self._departed: dict[int, lines.Departed] = {}
        self._offered_tokens: dict[tuple[int, bytes], int] = {}

    def begin(self, trainer: TrainerPort) -> None:
        """Says whose live parameters they are; comes before any move."""
        self._trainer = trainer

    def on_departed(self, departed: lines.Departed) -> None:
        """The trainer left a snapshot."""
        self._departed[departed.fragment] = departed

    def tokens(self, fragment: int) -> int:
        """Returns the tokens behind the snapshot in our hands; 0 if there is none."""
        if self._trainer is None or not self._trainer.has_snapshot(fragment):
            return 0
        departed = self._departed.get(fragment)
        return departed.tokens if departed else 0

    async def offer(self, effect: Offer, has_begun: Callable[[], object]) -> None:
        """Offers what the trainer has now: the others may have kept us waiting for many steps.

        Args:
            effect: What to offer.
            has_begun: Called when it is known what it is, before it is encoded.
        """
        fragment = effect.fragment
        async with self._turns[fragment]:
            departed = self._departed.get(fragment)
            if departed is None or self._step() > departed.step:
                departed = await self._port.refresh(fragment)
                self.on_departed(departed)
            theta = self._port.snapshot(fragment)
            start = await self._job(lambda: self._mixing.offer(effect, theta))
            self._offered_tokens[fragment, effect.exchange_id] = departed.tokens
            has_begun()
            job = self._job(lambda: self._mixing.encode(effect, self._on_grain))
            encoding = asyncio.ensure_future(job)
            try:
                if start is not None:  # the method does not wait for the average
                    await self._move(fragment, start, base=None, tokens=departed.tokens)
            finally:
                await encoding

    async def discard(self, effect: Discard, bench: Bench | None) -> None:
        """Gives back what had gone on without an exchange that is off the table."""
        fragment = effect.fragment
        async with self._turns[fragment]:
            tokens = self._offered_tokens.pop((fragment, effect.exchange_id), 0)
            if bench is None:
                return
            start = self._mixing.outer[fragment].copy.start
            back = await self._job(lambda: self._mixing.discard(fragment, bench))
            if back is not None:
                await self._move(fragment, back, base=start, tokens=-tokens)
                await self._depart(fragment)  # to offer it again

    async def land(self, effect: Land) -> tuple[OuterState, int]:
        """Lands the average; returns the new outer state, and the tokens of ours in it."""
        fragment = effect.fragment
        async with self._turns[fragment]:
            old = self._mixing.outer[fragment].copy
            tokens = self._offered_tokens.pop((fragment, effect.exchange_id), 0)
            new = await self._job(lambda: self._mixing.land(effect))
            if effect.rebase_on_anchor or self._mixing.goes_ahead:
                await self._move(fragment, new.copy.start, base=old.start)
            else:
                await self._port.land(
                    fragment, new.round, new.anchor, base=None, tokens=tokens, is_planned=True
                )
                self._mixing.landed[fragment] = new
        return new, 0 if effect.rebase_on_anchor else tokens

    async def take_over(self, fragment: int, make: Callable[[], OuterState]) -> OuterState:
        """Replaces anchor and outer state by what `make` returns; our own work stays on top.

        Raises:
            MalformedMessage: it cannot be made.
        """
        async with self._turns[fragment]:
            old = self._mixing.outer[fragment]
            new = await self._job(make)
            if new.anchor is old.anchor:  # known by another round now
                self._mixing.landed[fragment] = new
            else:
                await self._move(fragment, new.copy.start, base=old.copy.start)
        return new

    async def _move(
        self, fragment: int, start: Tensor, *, base: Tensor | None, tokens: int = 0
    ) -> None:
        """Moves the live parameters from where they set out to another start, the steps on top."""
        outer = self._mixing.outer[fragment]
        gives_way = base is not None and await self._port.depart(fragment) is None
        await self._port.land(fragment, outer.round, start, base=base, tokens=tokens)
        self._mixing.landed[fragment] = outer
        if gives_way:  # the move took the place of a snapshot that is still to be offered
            await self._depart(fragment)

    async def _depart(self, fragment: int) -> None:
        if departed := await self._port.depart(fragment):
            self.on_departed(departed)

    @property
    def _port(self) -> TrainerPort:
        assert self._trainer is not None, "begin() comes first"
        return self._trainer
