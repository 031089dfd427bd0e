"""States that others are fetching: kept as they are, while our own anchors go on.

A state takes minutes over a thin link, and rounds take seconds. So whoever asks for an index gets a
state that is *pinned*: it is served, by name, until nobody has asked for it for `PIN_S`; so long
the averages after it are kept, too (`peer.mixing`), which is how its receiver comes up with us.
At most `MAX_PINS` states of a fragment are pinned at once; who comes then gets one of those.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from peer.blobs import BytesSource, StateSource
from peer.mixing import Mixing
from protocol.errors import NotAvailable
from protocol.state_index import StateIndex

PIN_S = 60.0
MAX_PINS = 2
IDLE_S = 3.0
"""A pin of which nothing was fetched for so long makes room for a newer one."""


@dataclass(slots=True)
class _Pin:
    index: StateIndex
    packed: BytesSource
    state: "PinnedState"


class PinnedState(StateSource):
    """Knows when it was wanted last: over a thin link, one request for it takes minutes."""

    def __init__(self, vectors: Sequence[Tensor], round: int, clock: Callable[[], float]) -> None:
        super().__init__(vectors, round)
        self._clock = clock
        self.used_at_s = clock()

    def touch(self) -> None:
        """Somebody wants it."""
        self.used_at_s = self._clock()

    async def read(self, start: int, stop: int) -> bytes:
        """Returns bytes of one grain; see `peer.ports.Source`."""
        self.touch()
        return await super().read(start, stop)


class Pins:
    """See the module docstring.

    Args:
        mixing: Whose states.
        clock: Returns the time, in seconds.
    """

    def __init__(self, mixing: Mixing, clock: Callable[[], float]) -> None:
        self._mixing = mixing
        self._clock = clock
        self._pins: list[dict[bytes, _Pin]] = [{} for _ in mixing.outer]
        self._tasks: dict[int, asyncio.Task[_Pin]] = {}
        """Of each fragment, what makes a pin now: hashing takes a while."""
        self._hashing: dict[int, int] = {}
        """Of fragments whose state is about to be pinned, its round."""

    async def index(self, fragment: int, name: bytes = b"") -> BytesSource:
        """Returns the index of the state of that name; without one, of a state of now.

        Raises:
            NotAvailable: that state is not here any more.
        """
        if name:
            return self._pin(fragment, name).packed
        task = self._tasks.get(fragment)
        if task is None:  # several ask at once; and whoever gives up finds it when it asks again
            task = self._tasks[fragment] = asyncio.ensure_future(self._newest(fragment))
            task.add_done_callback(lambda _: self._tasks.pop(fragment))
        return (await asyncio.shield(task)).packed

    def state(self, fragment: int, name: bytes) -> StateSource:
        """Returns the state of that name.

        Raises:
            NotAvailable: it is not here any more.
        """
        return self._pin(fragment, name).state

    def touch(self, fragment: int) -> None:
        """Somebody replays what came after the states that we pinned."""
        for pin in self._pins[fragment].values():
            pin.state.touch()

    def close(self) -> None:
        """Ends what is under way."""
        for task in self._tasks.values():
            task.cancel()

    def expire(self) -> None:
        """Lets go of what nobody wants any more."""
        for fragment, pins in enumerate(self._pins):
            since_s = self._clock() - PIN_S
            for name in [name for name, pin in pins.items() if pin.state.used_at_s < since_s]:
                del pins[name]
            self._keep(fragment)

    def _drop_an_idle_one(self, pins: dict[bytes, _Pin]) -> None:
        """Makes room: whoever looks at a state that is not ours any more would judge it by that."""
        name, pin = min(pins.items(), key=lambda item: item[1].state.used_at_s)
        if pin.state.used_at_s < self._clock() - IDLE_S:
            del pins[name]

    def _keep(self, fragment: int) -> None:
        rounds = [pin.index.round for pin in self._pins[fragment].values()]
        if fragment in self._hashing:
            rounds.append(self._hashing[fragment])
        self._mixing.keep_after(fragment, min(rounds, default=None))

    def _pin(self, fragment: int, name: bytes) -> _Pin:
        pin = self._pins[fragment].get(name)
        if pin is None:
            raise NotAvailable("that state is not here any more")
        pin.state.touch()
        return pin

    async def _newest(self, fragment: int) -> _Pin:
        self.expire()
        pins, outer = self._pins[fragment], self._mixing.outer[fragment]
        now = outer.round, outer.digest  # an anchor may be replaced by another of its round
        newest = max(
            pins.values(),
            key=lambda pin: ((pin.index.round, pin.index.anchor_digest) == now, pin.index.round),
            default=None,
        )
        is_current = newest and (newest.index.round, newest.index.anchor_digest) == now
        if newest is not None and not is_current and len(pins) >= MAX_PINS:
            self._drop_an_idle_one(pins)
        if newest is not None and (is_current or len(pins) >= MAX_PINS):
            return newest
        copy = outer.copy
        vectors = [copy.anchor, *(copy.state[name] for name in sorted(copy.state))]
        state = PinnedState(vectors, outer.round, self._clock)
        self._hashing[fragment] = outer.round
        self._keep(fragment)
        try:
            blocks = await asyncio.to_thread(state.blocks)
        finally:
            del self._hashing[fragment]
        index = StateIndex(outer.round, outer.digest, outer.lineage, blocks)
        state.touch()
        pin = pins[index.name] = _Pin(index, BytesSource(index.to_bytes(), outer.round), state)
        return pin
