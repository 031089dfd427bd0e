"""A peer's outer side: its anchors, what it offers, what it collects, and the outer step.

This is where effects of the exchange machines meet the mathematics. All calls are synchronous and
touch only memory; the wire's driver makes them in a worker thread, the simulator at once.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from optim.codec.codec import Codec, CodecError
from optim.codec.frame import Frame
from optim.layout import Layout
from optim.merge import WeightedMean
from optim.outer.copy import Departure, Outer, OuterCopy
from optim.outer.rule import AheadRule, State
from protocol.errors import LocalProtocolError, MalformedMessage, ThinwireError
from protocol.identity import PeerId
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce

KEPT_EXCHANGES = 2
"""Of each fragment: a late peer may want to replay the last one while the next one goes on."""


@dataclass(frozen=True, slots=True)
class OuterState:
    """One fragment's outer copy, and the digest of its anchor; replaced, never changed."""

    copy: OuterCopy
    digest: bytes

    @property
    def anchor(self) -> Tensor:
        """The anchor, `[m]`."""
        return self.copy.anchor

    @property
    def round(self) -> int:
        """Landings so far."""
        return self.copy.round


@dataclass(slots=True)
class _Bench:
    """What lies on the table for one exchange of a fragment."""

    has_landed: bool = False
    theta: Tensor | None = None
    departure: Departure | None = None
    parts: list[Frame] = field(default_factory=list)
    collected: WeightedMean | None = None
    average: Tensor | None = None
    """`[lanes * m]`, of which the parts in `arrived` are there."""
    arrived: set[int] = field(default_factory=set)
    frames: dict[int, Frame] = field(default_factory=dict)


class Mixing:
    """See the module docstring.

    Args:
        layout: How the flat vector is divided into fragments.
        rule: The outer rule, with or without error feedback; `codec`: what goes over the wire.
        anchor: `[n]`, the run's initial anchor.
        our_id: Of whom rounding errors depend, if they are drawn.
    """

    def __init__(
        self, layout: Layout, rule: Outer, codec: Codec, anchor: Tensor, *, our_id: PeerId
    ) -> None:
        self.layout = layout
        self._rule = rule
        self._codec = codec
        self._our_id = our_id
        self.outer: list[OuterState] = []
        for fragment in layout.fragments:
            part = anchor[fragment.start : fragment.stop].clone()
            self.outer.append(_state_of(rule.first(part)))
        self.landed = list(self.outer)
        """As `outer`, but only what the trainer has landed: what a checkpoint may hold."""
        self._benches: OrderedDict[tuple[int, bytes], _Bench] = OrderedDict()
        """By fragment and exchange: ids come from others, who may use one twice."""

    @property
    def goes_ahead(self) -> bool:
        """Whether the live parameters go on before the average is known; see `AheadRule`."""
        return isinstance(self._rule.rule, AheadRule)

    # ---- sizes, known from the manifest alone

    def part_elements(self, fragment: int, part: int, num_parts: int) -> int:
        """Returns the number of values in a part: parts differ by one value at most."""
        total = self._rule.rule.lanes * len(self.layout.fragments[fragment])
        return total * (part + 1) // num_parts - total * part // num_parts

    def fetch_bytes(self, effect: Fetch) -> int:
        """Returns the exact size of the `part` or `average` to fetch."""
        ref = effect.ref
        size = self.part_elements(ref.fragment, ref.part, effect.num_parts)
        return self._codec_of(ref, effect.num_parts).frame_bytes(size)

    def state_bytes(self, fragment: int) -> int:
        """Returns the exact size of a `state` blob."""
        copy = self.outer[fragment].copy
        return 4 * (1 + len(copy.state)) * len(self.layout.fragments[fragment])

    # ---- an exchange, in the order of its life

    def offer(self, effect: Offer, theta: Tensor) -> Tensor | None:
        """Encodes our contribution.

        Args:
            effect: What to offer.
            theta: `[m]`, the fragment of the live parameters as the trainer left them.

        Returns:
            Where the live parameters go on from at once, `[m]`, if the method does not wait.

        Raises:
            ThinwireError: the parameters are not finite any more.
        """
        fragment, num_parts = effect.fragment, effect.num_parts
        self._benches.pop((fragment, effect.exchange_id), None)  # what an id used twice left
        bench, old = self._bench(fragment, effect.exchange_id), self.outer[fragment]
        copy, departure = self._rule.depart(old.copy, theta, share=1 / num_parts)
        sizes = [self.part_elements(fragment, part, num_parts) for part in range(num_parts)]
        near = None
        if self._rule.rule.sends_parameters:
            # Kept, for partners' parameters are decoded as what lies near ours.
            near, bench.theta = old.anchor, theta.clone()
        try:
            bench.parts = [
                self._codec.encode(values, near=near, seed=self._seed(effect.exchange_id, part))
                for part, values in enumerate(torch.split(departure.contribution, sizes))
            ]
        except ValueError as error:
            raise ThinwireError(f"training has diverged: {error}") from None
        if self._rule.feedback is None:  # nobody asks what it was once it is encoded
            departure = replace(departure, contribution=torch.empty(0))
        bench.departure = departure
        self.outer[fragment] = replace(old, copy=copy)
        return None if departure.shift is None else copy.start

    def collect(self, effect: Fetch, frame: memoryview) -> None:
        """Takes in what was fetched; a pair's offer comes before it.

        Raises:
            MalformedMessage: these bytes are no frame of that part.
        """
        ref = effect.ref
        bench = self._bench(ref.fragment, ref.exchange_id)
        if bench.has_landed:
            raise MalformedMessage("an exchange that has landed here already")
        size = self.part_elements(ref.fragment, ref.part, effect.num_parts)
        try:
            if ref.kind == "part":
                if bench.collected is None:
                    bench.collected = WeightedMean(size)
                bench.collected.add_frame(self._codec, frame, effect.tokens, near=bench.theta)
            else:
                codec = self._codec_of(ref, effect.num_parts)
                self._take(bench, ref, codec, frame, effect.num_parts)
        except CodecError as error:
            raise MalformedMessage(f"a {ref.kind} that cannot be decoded: {error}") from None

    def reduce(self, effect: Reduce) -> None:
        """Averages what was collected with our own part; see `protocol.machine.Reduce`."""
        ref = effect.ref
        bench = self._bench(ref.fragment, ref.exchange_id)
        num_parts = len(bench.parts)
        size = self.part_elements(ref.fragment, ref.part, num_parts)
        collected = bench.collected or WeightedMean(size)
        # Also our own contribution is used as the others see it, after the codec.
        own = bench.parts[ref.part]
        collected.add_frame(self._codec, own, effect.own_tokens, near=bench.theta)
        average, bench.collected = collected.mean(), None
        if effect.is_shared:
            codec = self._codec_of(ref, num_parts)
            frame = codec.encode(average, seed=self._seed(ref.exchange_id, ref.part))
            self._take(bench, ref, codec, frame, num_parts)
        else:
            bench.average = average
            bench.arrived.add(ref.part)

    def _take(
        self, bench: _Bench, ref: BlobRef, codec: Codec, frame: Frame, num_parts: int
    ) -> None:
        if bench.average is None:
            total = self._rule.rule.lanes * len(self.layout.fragments[ref.fragment])
            bench.average = torch.empty(total)
        sizes = [self.part_elements(ref.fragment, part, num_parts) for part in range(num_parts)]
        codec.accumulate(frame, torch.split(bench.average, sizes)[ref.part], 1.0)
        bench.frames[ref.part] = frame
        bench.arrived.add(ref.part)

    def land(self, effect: Land) -> OuterState:
        """Takes the outer step with the collected average, and returns the new outer state."""
        fragment = effect.fragment
        bench = self._bench(fragment, effect.exchange_id)
        average, bench.average = bench.average, None
        if average is None or len(bench.arrived) != effect.num_parts:
            raise LocalProtocolError(
                f"a landing with {len(bench.arrived)} of {effect.num_parts} averages"
            )
        copy = self._rule.land(self.outer[fragment].copy, average)
        departure, bench.departure = bench.departure, None
        if departure is not None and not effect.rebase_on_anchor and self._rule.feedback:
            sizes = [
                self.part_elements(fragment, p, len(bench.parts)) for p in range(len(bench.parts))
            ]
            sent = map(self._codec.decode, bench.parts, sizes)
            copy = self._rule.deliver(copy, departure, torch.cat(list(sent)))
        bench.theta, bench.has_landed = None, True
        self.outer[fragment] = _state_of(copy)
        return self.outer[fragment]

    def discard(self, fragment: int, exchange_id: bytes) -> Tensor | None:
        """Forgets an exchange.

        Returns:
            Where the live parameters' start moves back to, `[m]`, if they had gone on without it.
        """
        bench = self._benches.pop((fragment, exchange_id), None)
        if bench is None or bench.departure is None:
            return None
        old = self.outer[fragment]
        copy, shift = self._rule.lose(old.copy, bench.departure)
        self.outer[fragment] = replace(old, copy=copy)
        return None if shift is None else old.copy.start + shift

    def blob(self, ref: BlobRef) -> Frame | None:
        """Returns a `part` or `average` that we can serve, or None if we have it not (yet)."""
        bench = self._benches.get((ref.fragment, ref.exchange_id))
        if bench is None:
            return None
        if ref.kind == "part":
            return bench.parts[ref.part] if ref.part < len(bench.parts) else None
        return bench.frames.get(ref.part)

    # ---- whole states, for those who come late

    def state_blob(self, fragment: int) -> tuple[int, memoryview]:
        """Returns the round, and anchor and outer state as raw little-endian fp32."""
        copy = self.outer[fragment].copy
        vectors = [copy.anchor, *(copy.state[name] for name in sorted(copy.state))]
        return copy.round, _raw(torch.cat(vectors))

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
        copy = self.outer[fragment].copy
        names = sorted(copy.state)
        anchor, *rest = vectors.view(1 + len(names), -1).unbind()
        state = {name: vector.clone() for name, vector in zip(names, rest, strict=True)}
        self.outer[fragment] = _state_of(OuterCopy(anchor.clone(), state, copy.own, round))
        return self.outer[fragment]

    def load_state(
        self, fragment: int, anchor: Tensor, state: State, own: State, round: int
    ) -> None:
        """Replaces a fragment's outer state before training begins, by a checkpoint's."""
        new = _state_of(OuterCopy(anchor, state, own, round))
        self.outer[fragment] = self.landed[fragment] = new

    # ---- plumbing

    def _codec_of(self, ref: BlobRef, num_parts: int) -> Codec:
        return self._codec if ref.kind == "part" else self._codec.for_average(num_parts)

    def _seed(self, exchange_id: bytes, part: int) -> int:
        digest = hashlib.sha256(f"{self._our_id}\0{part}\0".encode() + exchange_id).digest()
        return int.from_bytes(digest[:8])

    def _bench(self, fragment: int, exchange_id: bytes) -> _Bench:
        bench = self._benches.get((fragment, exchange_id))
        if bench is None:
            bench = self._benches[fragment, exchange_id] = _Bench()
            same = [key for key in self._benches if key[0] == fragment]
            for key in same[:-1]:
                self._benches[key].parts = []  # whoever was in that exchange has had a whole round
            for key in same[:-KEPT_EXCHANGES]:
                del self._benches[key]
        return bench


def _state_of(copy: OuterCopy) -> OuterState:
    return OuterState(copy, digest_of(copy.anchor))


def digest_of(anchor: Tensor) -> bytes:
    """Returns the SHA-256 of an anchor's bytes: equal anchors, equal digests, on every machine."""
    return hashlib.sha256(_raw(anchor)).digest()


def _raw(vector: Tensor) -> memoryview:
    return vector.numpy().astype("<f4", copy=False).data.cast("B")
