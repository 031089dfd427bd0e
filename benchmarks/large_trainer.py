"""In place of the trainer process of a large model, which would take four times its size.

Everything up to the port is the product's: `TrainerPort` asks over the simulator's channel, reads
snapshots and writes anchors. But the flat vectors that a trainer would share with it have memory
only where a fragment is in flight: there the live parameters are the anchor plus noise, which no
landing makes larger.
"""

import asyncio
import time
from typing import cast

import torch
from torch import Tensor

from optim.layout import Layout
from peer.driver import Driver
from peer.mixing import Mixing
from peer.sim.trainer import Lines
from peer.train import lines
from peer.train.interchange import Interchange
from peer.trainer_port import TrainerPort

TOKENS = 1000
"""Behind every contribution."""
DRIFT = 1e-3
"""The size of the noise; a weight's is 0.02."""


class Window:
    """A flat vector that has memory for some fragments at a time only."""

    def __init__(self, layout: Layout, num_slots: int) -> None:
        largest = max(len(span) for span in layout.fragments)
        self._free = [torch.zeros(largest).fill_(0) for _ in range(num_slots)]
        self._lent: dict[int, Tensor] = {}

    def lend(self, span: range) -> Tensor:
        """Returns memory for one fragment, `[m]`, whose values mean nothing."""
        self._lent[span.start] = self._free.pop()
        return self[span.start : span.stop]

    def give_back(self, span: range) -> None:
        """Ends what `lend` began."""
        self._free.append(self._lent.pop(span.start))

    def __getitem__(self, place: slice) -> Tensor:
        """Returns the fragment at a place, as of a vector."""
        return self._lent[place.start][: place.stop - place.start]


class Drain:
    """A flat vector that is only ever written to: all fragments in one place."""

    def __init__(self, layout: Layout) -> None:
        self._slot = torch.zeros(max(len(span) for span in layout.fragments)).fill_(0)

    def __getitem__(self, place: slice) -> Tensor:
        """Returns the one place there is."""
        return self._slot[: place.stop - place.start]


class StandIn:
    """Leaves snapshots when it is told to, and lands what comes back.

    Args:
        mixing: Where the anchors are; a replica would have a model.
        seed: Of the noise.
        most_in_flight: So many fragments at a time, at most.

    Attributes:
        port: For the driver.
        cpu_s: Spent on snapshots, which in a peer is the trainer's.
    """

    def __init__(self, mixing: Mixing, *, seed: int, most_in_flight: int) -> None:
        layout = mixing.layout
        self.base, self.anchor = Window(layout, most_in_flight), Drain(layout)
        self._mixing = mixing
        largest = max(len(span) for span in layout.fragments)
        generator = torch.Generator().manual_seed(seed)
        self._noise = torch.empty(largest).normal_(0.0, DRIFT, generator=generator)
        self._channel = Lines()
        self._landings: dict[int, asyncio.Future[None]] = {}
        self._driver: Driver | None = None
        self._step = 0
        self.cpu_s = 0.0
        self.port = TrainerPort(
            self._channel, self._channel, cast("Interchange", self), layout, on_news=self._on_news
        )

    def close(self) -> None:
        """Does nothing; as of `Interchange`."""

    async def run(self, driver: Driver) -> None:
        """Answers the port until it is closed."""
        self._driver = driver
        reading = asyncio.create_task(self.port.run())
        while not self._channel.is_closed:
            await self._channel.news.wait()
            for message in self._channel.poll():
                self._answer(message)
        await reading

    async def exchange(self, fragment: int) -> float:
        """Returns how many seconds a fragment took from its departure to its landing."""
        span = self._mixing.layout.fragments[fragment]
        snapshot = self.base.lend(span)
        await asyncio.to_thread(self._leave, fragment, snapshot)
        self._step += 1
        landed = self._landings[fragment] = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        self._channel.answer(lines.Departed(fragment=fragment, step=self._step, tokens=TOKENS))
        await landed
        return time.perf_counter() - began_s

    def _leave(self, fragment: int, snapshot: Tensor) -> None:
        began_s = time.thread_time()
        anchor = self._mixing.landed[fragment].anchor
        torch.add(anchor, self._noise[: len(anchor)], out=snapshot)
        self.cpu_s += time.thread_time() - began_s

    def _on_news(self, news: lines.Progress | lines.Departed) -> None:
        if self._driver is not None and isinstance(news, lines.Departed):
            self._driver.on_departed(news)

    def _answer(self, message: lines.Message) -> None:
        if not isinstance(message, lines.Land):
            raise RuntimeError(f"two healthy peers have no use for {message}")
        fragment = message.fragment
        self.base.give_back(self._mixing.layout.fragments[fragment])
        landed = lines.Landed(fragment=fragment, round=message.round, step=self._step)
        self._channel.answer(landed)
        self._landings.pop(fragment).set_result(None)


async def in_turn(trainer: StandIn, fragments: list[int], *, in_flight: int) -> list[float]:
    """Exchanges fragments in this order, so many at a time; returns the seconds of each."""
    waiting, times = iter(fragments), []

    async def next_ones() -> None:
        for fragment in waiting:
            times.append(await trainer.exchange(fragment))

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(next_ones())
    return times
