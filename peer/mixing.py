"""A peer's outer side: its anchors, what it offers, what it collects, and the outer step.

This is where effects of the exchange machines meet the mathematics. All calls are synchronous and
touch only memory; the wire's driver makes them in a worker thread, the simulator at once.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optim.codec.codec import Codec, CodecError
from optim.layout import Layout
from optim.merge import WeightedMean
from optim.outer.rule import OuterRule, State
from protocol.errors import LocalProtocolError, MalformedMessage, ThinwireError
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce

LARGEST_VALUE = 1e30
"""Sums of larger ones could overflow fp32, and what we send must be finite."""
KEPT_EXCHANGES = 3
"""Of each fragment: a partner may still be fetching, a late peer may want to replay."""


@dataclass(frozen=True, slots=True)
class OuterState:
    """One fragment's anchor `[m]`, the rule's state, and the round; replaced, never changed."""

    anchor: Tensor
    state: State
    round: int
    digest: bytes


@dataclass(slots=True)
class _Bench:
    """What lies on the table for one exchange."""

    fragment: int
    parts: list[bytes] = field(default_factory=list)
    collected: WeightedMean | None = None
    averages: dict[int, Tensor] = field(default_factory=dict)
    frames: dict[int, bytes | bytearray | memoryview] = field(default_factory=dict)


class Mixing:
    """See the module docstring.

    Args:
        layout: How the flat vector is divided into fragments.
        rule: The outer rule; `codec`: what goes over the wire.
        anchor: `[n]`, the run's initial anchor.
    """

    def __init__(self, layout: Layout, rule: OuterRule, codec: Codec, anchor: Tensor) -> None:
        self.layout = layout
        self._rule = rule
        self._codec = codec
        self.outer: list[OuterState] = []
        for fragment in layout.fragments:
            part = anchor[fragment.start : fragment.stop].clone()
            state = rule.init_state(len(fragment))
            self.outer.append(OuterState(part, state, 0, digest_of(part)))
        self.landed = list(self.outer)
        """As `outer`, but only what the trainer has landed: what a checkpoint may hold."""
        self._benches: OrderedDict[bytes, _Bench] = OrderedDict()

    # ---- sizes, known from the manifest alone

    def part_elements(self, fragment: int, part: int, num_parts: int) -> int:
        """Returns the number of values in a part: parts differ by one value at most."""
        total = self._rule.lanes * len(self.layout.fragments[fragment])
        return total * (part + 1) // num_parts - total * part // num_parts

    def fetch_bytes(self, effect: Fetch) -> int:
        """Returns the exact size of the `part` or `average` to fetch."""
        ref = effect.ref
        size = self.part_elements(ref.fragment, ref.part, effect.num_parts)
        return self._codec.frame_bytes(size)

    def state_bytes(self, fragment: int) -> int:
        """Returns the exact size of a `state` blob."""
        return 4 * (1 + len(self.outer[fragment].state)) * len(self.layout.fragments[fragment])

    # ---- an exchange, in the order of its life

    def offer(self, effect: Offer, theta: Tensor) -> None:
        """Encodes our contribution.

        Args:
            effect: What to offer.
            theta: `[m]`, the fragment of the live parameters as the trainer left them.

        Raises:
            ThinwireError: the parameters are not finite any more.
        """
        bench = self._bench(effect.fragment, effect.exchange_id)
        outgoing = self._rule.outgoing(self.outer[effect.fragment].anchor, theta).reshape(-1)
        sizes = [
            self.part_elements(effect.fragment, part, effect.num_parts)
            for part in range(effect.num_parts)
        ]
        try:
            bench.parts = [self._codec.encode(part) for part in torch.split(outgoing, sizes)]
        except ValueError as error:
            raise ThinwireError(f"training has diverged: {error}") from None

    def collect(self, effect: Fetch, frame: memoryview) -> None:
        """Takes in what was fetched.

        Raises:
            MalformedMessage: these bytes are no frame of that part.
        """
        ref = effect.ref
        bench = self._bench(ref.fragment, ref.exchange_id)
        size = self.part_elements(ref.fragment, ref.part, effect.num_parts)
        try:
            values = self._codec.decode(frame, size)
        except CodecError as error:
            raise MalformedMessage(f"a {ref.kind} that cannot be decoded: {error}") from None
        if len(values) and values.abs().max() > LARGEST_VALUE:
            raise MalformedMessage(f"a {ref.kind} with values beyond {LARGEST_VALUE:g}")
        if ref.kind == "part":
            if bench.collected is None:
                bench.collected = WeightedMean(len(values))
            bench.collected.add(values, effect.tokens)
        else:
            bench.averages[ref.part], bench.frames[ref.part] = values, frame

    def reduce(self, effect: Reduce) -> None:
        """Averages what was collected with our own part; see `protocol.machine.Reduce`."""
        ref = effect.ref
        bench = self._bench(ref.fragment, ref.exchange_id)
        num_parts = len(bench.parts)
        size = self.part_elements(ref.fragment, ref.part, num_parts)
        collected = bench.collected or WeightedMean(size)
        # Also our own contribution is used as the others see it, after the codec.
        collected.add(self._codec.decode(bench.parts[ref.part], size), effect.own_tokens)
        average, bench.collected = collected.mean(), None
        if effect.is_shared:
            frame = self._codec.encode(average)
            average, bench.frames[ref.part] = self._codec.decode(frame, size), frame
        bench.averages[ref.part] = average

    def land(self, effect: Land) -> OuterState:
        """Takes the outer step with the collected average, and returns the new outer state."""
        bench = self._bench(effect.fragment, effect.exchange_id)
        if len(bench.averages) != effect.num_parts:
            raise LocalProtocolError(
                f"a landing with {len(bench.averages)} of {effect.num_parts} averages"
            )
        flat = torch.cat([bench.averages[part] for part in range(effect.num_parts)])
        old = self.outer[effect.fragment]
        average = flat.view(self._rule.lanes, -1)
        anchor, state = self._rule.step(old.anchor, average, old.state)
        bench.averages.clear()
        new = OuterState(anchor, state, old.round + 1, digest_of(anchor))
        self.outer[effect.fragment] = new
        return new

    def discard(self, exchange_id: bytes) -> None:
        """Forgets an exchange."""
        self._benches.pop(exchange_id, None)

    def blob(self, ref: BlobRef) -> bytes | bytearray | memoryview | None:
        """Returns a `part` or `average` that we can serve, or None if we have it not (yet)."""
        bench = self._benches.get(ref.exchange_id)
        if bench is None or bench.fragment != ref.fragment:
            return None
        if ref.kind == "part":
            return bench.parts[ref.part] if ref.part < len(bench.parts) else None
        return bench.frames.get(ref.part)

    # ---- whole states, for those who come late

    def state_blob(self, fragment: int) -> tuple[int, memoryview]:
        """Returns the round, and anchor and outer state as raw little-endian fp32."""
        outer = self.outer[fragment]
        vectors = [outer.anchor, *(outer.state[name] for name in sorted(outer.state))]
        return outer.round, _raw(torch.cat(vectors))

    def load_state_blob(self, fragment: int, data: memoryview, round: int) -> OuterState:
        """Replaces a fragment's outer state by another peer's; it has still to land.

        Raises:
            MalformedMessage: the size is wrong, or a value is not finite.
        """
        if len(data) != self.state_bytes(fragment):
            raise MalformedMessage(f"a state of {len(data)} bytes")
        vectors = torch.frombuffer(bytearray(data), dtype=torch.float32)
        if not torch.isfinite(vectors).all():
            raise MalformedMessage("a state with values that are not finite")
        names = sorted(self.outer[fragment].state)
        anchor, *rest = vectors.view(1 + len(names), -1).unbind()
        state = {name: vector.clone() for name, vector in zip(names, rest, strict=True)}
        new = OuterState(anchor.clone(), state, round, digest_of(anchor))
        self.outer[fragment] = new
        return new

    def load_state(self, fragment: int, anchor: Tensor, state: State, round: int) -> OuterState:
        """Replaces a fragment's outer state before training begins, by a checkpoint's."""
        new = OuterState(anchor, state, round, digest_of(anchor))
        self.outer[fragment] = self.landed[fragment] = new
        return new

    def _bench(self, fragment: int, exchange_id: bytes) -> _Bench:
        bench = self._benches.get(exchange_id)
        if bench is None:
            bench = self._benches[exchange_id] = _Bench(fragment)
            same = [key for key, value in self._benches.items() if value.fragment == fragment]
            for key in same[:-KEPT_EXCHANGES]:
                del self._benches[key]
        return bench


def digest_of(anchor: Tensor) -> bytes:
    """Returns the SHA-256 of an anchor's bytes: equal anchors, equal digests, on every machine."""
    return hashlib.sha256(_raw(anchor)).digest()


def _raw(vector: Tensor) -> memoryview:
    return vector.numpy().astype("<f4", copy=False).data.cast("B")
