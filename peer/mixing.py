"""A peer's outer side: its anchors, what it offers, what it collects, and the outer step.

This is where effects of the exchange machines meet the mathematics. All calls are synchronous and
touch only memory. `collect`, and whatever opens, finds or drops something, is called in the event
loop; the rest of the mathematics on one thread beside it, in the order in which it was asked for;
in the simulator, at once. A part is reduced only after nobody collects for it any more.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from blake3 import blake3
from torch import Tensor

from optim.codec.codec import Codec, CodecError
from optim.codec.grains import Grains, grain_elements
from optim.layout import Layout
from optim.merge.contributions import require_finite
from optim.outer.copy import Outer, OuterCopy
from optim.outer.rule import AheadRule, State
from peer.bench import Bench, GrainsMade
from peer.memory import Vectors
from peer.widening import Widening
from protocol.errors import LocalProtocolError, MalformedMessage, NotAvailable, ThinwireError
from protocol.identity import PeerId
from protocol.lineage import EMPTY, Lineage
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.terms import Terms

KEPT_EXCHANGES = 2
"""Of each fragment: a late peer may want to replay the last one while the next one goes on."""

NO_DIGEST = bytes(32)
"""Of an anchor that is nobody else's."""

OnGrain = Callable[[], None]
"""Called, on the thread of the mathematics, whenever another grain can be served."""


@dataclass(frozen=True, slots=True)
class OuterState:
    """One fragment's outer copy, and the digest of its anchor; replaced, never changed."""

    copy: OuterCopy
    digest: bytes
    lineage: Lineage = EMPTY
    """Of the anchor, where anchors are common."""

    @property
    def anchor(self) -> Tensor:
        """The anchor, `[m]`."""
        return self.copy.anchor

    @property
    def round(self) -> int:
        """Landings so far."""
        return self.copy.round


class Mixing:
    """See the module docstring.

    Args:
        layout: How the flat vector is divided into fragments.
        rule: The outer rule, with or without error feedback.
        codecs: What goes over the wire: the run's own, then the cheaper ones.
        anchor: The run's initial anchor: `[n]`, or one `[m]` a fragment, which become ours.
        our_id: Of whom rounding errors depend, if they are drawn.
        grain_bytes: What is encoded, sent and decoded at once has about so many bytes.
        is_common: Whether all peers' anchors are to be equal, so that digests can show it.
    """

    def __init__(
        self,
        layout: Layout,
        rule: Outer,
        codecs: Sequence[Codec],
        anchor: Tensor | Sequence[Tensor],
        *,
        our_id: PeerId,
        grain_bytes: int = 256 * 1024,
        is_common: bool = True,
    ) -> None:
        self.layout = layout
        self._rule = rule
        self._num_chosen = len(codecs)
        self.widening = Widening(codecs, len(layout.fragments))
        self._codecs = self.widening.codecs
        self._our_id = our_id
        self._grain_bytes = grain_bytes
        self._is_common = is_common
        self._vectors = Vectors()
        if isinstance(anchor, Tensor):
            anchor = [anchor[span.start : span.stop].clone() for span in layout.fragments]
        self.outer: list[OuterState] = [self._state_of(rule.first(part)) for part in anchor]
        self.landed = list(self.outer)
        """As `outer`, but only what the trainer has landed: what a checkpoint may hold."""
        self._benches: OrderedDict[tuple[int, bytes], Bench] = OrderedDict()
        """By fragment and exchange: ids come from others, who may use one twice."""
        self._kept_after: dict[int, int] = {}
        """Of fragments whose states others are fetching, the oldest such round."""

    @property
    def is_common(self) -> bool:
        """Whether all peers' anchors are to be equal."""
        return self._is_common

    @property
    def goes_ahead(self) -> bool:
        """Whether the live parameters go on before the average is known; see `AheadRule`."""
        return isinstance(self._rule.rule, AheadRule)

    # ---- sizes, known from the manifest alone

    @property
    def num_codecs(self) -> int:
        """How many codecs members can agree on: the run's, and the wider ones behind them."""
        return len(self._codecs)

    def contribution_bytes(self, fragment: int) -> list[int]:
        """Returns, for each of the run's codecs, the size of a whole contribution."""
        size = self._num_elements(fragment)
        return [codec.frame_bytes(size) for codec in self._codecs[: self._num_chosen]]

    def state_bytes(self, fragment: int) -> int:
        """Returns the exact size of a `state` blob."""
        copy = self.outer[fragment].copy
        return 4 * (1 + len(copy.state)) * len(self.layout.fragments[fragment])

    # ---- what is on the table, in the event loop

    def open(self, fragment: int, exchange_id: bytes, terms: Terms, *, anew: bool = False) -> Bench:
        """Returns the table of an exchange, which is laid if there is none.

        Args:
            fragment: Of which fragment.
            exchange_id: Which one.
            terms: How it is done.
            anew: whether what lies there is of an earlier use of this id, and goes.
        """
        key = fragment, exchange_id
        if anew and key in self._benches:
            self._benches.pop(key).close()
        bench = self._benches.get(key)
        if bench is None:
            bench = self._benches[key] = Bench(
                terms, self._vectors.empty(self._num_elements(fragment))
            )
            self._clear(fragment)
        return bench

    def keep_after(self, fragment: int, round: int | None) -> None:
        """Keeps the averages of all rounds after this one, for those who will replay them.

        They may weigh as much as the state that these are fetching: a link that cannot carry so
        much in that time could not take part in the rounds either. None ends it.
        """
        if round is None:
            self._kept_after.pop(fragment, None)
        else:
            self._kept_after[fragment] = round

    def _clear(self, fragment: int) -> None:
        """Frees the exchanges of this fragment that nobody needs any more."""
        same = [key for key in self._benches if key[0] == fragment]
        for old in same[:-1]:
            self._benches[old].withdraw()  # whoever was in it has had a whole round
        room_bytes, after = self.state_bytes(fragment), self._kept_after.get(fragment)
        for old in reversed(same[:-KEPT_EXCHANGES]):
            bench = self._benches[old]
            room_bytes -= bench.shared_bytes
            if after is None or bench.landed_round <= after or room_bytes < 0:
                self._benches.pop(old).close()

    def made(self, ref: BlobRef) -> GrainsMade | None:
        """Returns a `part` or `average` that we can serve, or None if we have it not (yet)."""
        bench = self._benches.get((ref.fragment, ref.exchange_id))
        if bench is None:
            return None
        return (bench.own if ref.kind == "part" else bench.shared).get(ref.part)

    def is_past(self, ref: BlobRef) -> bool:
        """Whether this belongs to an exchange before that of our anchor: somebody comes up."""
        bench = self._benches.get((ref.fragment, ref.exchange_id))
        if bench is None or not bench.has_landed:
            return False
        return bench.landed_round < self.outer[ref.fragment].round

    def replayable_from(self, fragment: int) -> int:
        """Returns the first round whose averages are here still; 0 if there are none."""
        benches = (bench for key, bench in self._benches.items() if key[0] == fragment)
        return min((bench.landed_round for bench in benches if bench.has_landed), default=0)

    def grains(self, ref: BlobRef, terms: Terms) -> Grains:
        """Returns how the frames of a `part` or `average` follow each other."""
        start, stop = self._bounds(ref.fragment, ref.part, terms)
        codec = self._codec_of(ref, terms)
        return Grains(codec, stop - start, grain_elements(codec, self._grain_bytes))

    def missing(self, effect: Fetch) -> list[int]:
        """Returns the grains that are still to be fetched.

        Raises:
            NotAvailable: it has landed here.
        """
        ref = effect.ref
        bench = self.open(ref.fragment, ref.exchange_id, effect.terms)
        if bench.has_landed:
            raise NotAvailable("an exchange that has landed here already")
        every = range(len(self.grains(ref, effect.terms)))
        if ref.kind == "part":
            return [grain for grain in every if grain not in bench.heard[effect.src]]
        kept = bench.shared.get(ref.part)
        return kept.missing() if kept else list(every)

    # ---- an exchange, in the order of its life

    def offer(self, effect: Offer, theta: Tensor) -> Tensor | None:
        """Departs with our contribution; `encode` comes next.

        Args:
            effect: What to offer.
            theta: `[m]`, the fragment of the live parameters as the trainer left them; it stays
                as it is until the landing.

        Returns:
            Where the live parameters go on from at once, `[m]`, if the method does not wait.
        """
        fragment, terms = effect.fragment, effect.terms
        bench, old = self._benches.get((fragment, effect.exchange_id)), self.outer[fragment]
        if bench is None:
            return None  # discarded meanwhile
        copy, bench.departure = self._rule.depart(
            old.copy, theta, share=1 / terms.num_parts, piecewise=True
        )
        bench.copy, bench.theta = old.copy, theta
        self.outer[fragment] = replace(old, copy=copy)
        for part in range(terms.num_parts):
            ref = BlobRef("part", fragment, effect.exchange_id, part)
            bench.own[part] = GrainsMade(self.grains(ref, terms))
        return None if bench.departure.shift is None else copy.start

    def encode(self, effect: Offer, on_grain: OnGrain) -> None:
        """Encodes what departed, grain by grain.

        Raises:
            ThinwireError: the parameters are not finite any more.
        """
        fragment = effect.fragment
        bench = self._benches.get((fragment, effect.exchange_id))
        if bench is None or bench.departure is None or bench.theta is None or bench.copy is None:
            return  # discarded meanwhile
        is_near = self._rule.rule.sends_parameters and self._rule.rule.lanes == 1
        for part, made in list(bench.own.items()):
            first, _ = self._bounds(fragment, part, effect.terms)
            for grain in range(len(made.frames)):
                start, stop = (first + bound for bound in made.grains.bounds(grain))
                values = self._rule.contribution(
                    bench.copy, bench.theta, bench.departure, start, stop
                )
                try:
                    frame = made.grains.codec.encode(
                        values,
                        near=bench.copy.anchor[start:stop] if is_near else None,
                        seed=self._seed(effect.exchange_id, part, grain),
                    )
                except ValueError as error:
                    raise ThinwireError(f"training has diverged: {error}") from None
                made.frames[grain] = bytes(frame)
                on_grain()
        bench.copy = None
        if self._rule.feedback is None:  # nobody asks what it was once it is encoded
            bench.departure = replace(bench.departure, contribution=torch.empty(0))

    def collect(self, effect: Fetch, grain: int, frame: bytes | memoryview) -> None:
        """Takes in one grain of what was fetched; a pair's offer comes before it.

        Raises:
            MalformedMessage: these bytes are no frame of that grain.
            NotAvailable: the exchange was given up.
        """
        ref = effect.ref
        bench = self._benches.get((ref.fragment, ref.exchange_id))
        if bench is None:
            raise NotAvailable("an exchange that was given up here")
        if bench.has_landed:
            raise MalformedMessage("an exchange that has landed here already")
        grains = self.grains(ref, effect.terms)
        start, stop = self._span(ref, effect.terms, grains, grain)
        near = self._near(bench, start, stop)
        try:
            if ref.kind == "part":
                if grain in bench.heard[effect.src]:
                    return
                mean = bench.mean(start, stop)
                distance = mean.add_frame(grains.codec, frame, effect.tokens, near=near)
                bench.heard[effect.src].add(grain)
            else:
                made = bench.shared.setdefault(ref.part, GrainsMade(grains))
                place = bench.average[start:stop]
                distance = grains.codec.accumulate(frame, place, 1.0, near=near)
                made.frames[grain] = bytes(frame)
            if distance is not None:
                bench.distance += distance
        except CodecError as error:
            raise MalformedMessage(f"a {ref.kind} that cannot be decoded: {error}") from None

    def reduce(self, effect: Reduce, on_grain: OnGrain) -> None:
        """Averages what was collected with our own part; see `protocol.machine.Reduce`."""
        ref = effect.ref
        bench = self._benches.get((ref.fragment, ref.exchange_id))
        own = bench.own.get(ref.part) if bench else None
        if bench is None or own is None:
            return  # discarded meanwhile
        grains = self.grains(ref, bench.terms)
        made = GrainsMade(grains)
        if effect.is_shared:
            bench.shared[ref.part] = made
        for grain, frame in enumerate(own.frames):
            assert frame is not None, "an offer is encoded before its reduction"
            start, stop = self._span(ref, bench.terms, own.grains, grain)
            # Also our own contribution is used as the others see it, after the codec.
            near, mean = self._near(bench, start, stop), bench.mean(start, stop)
            mean.add_frame(own.grains.codec, frame, effect.own_tokens, near=near)
        bench.is_reduced = True
        if not effect.is_shared:
            return
        for grain in range(len(grains)):
            start, stop = self._span(ref, bench.terms, grains, grain)
            place, near = bench.average[start:stop], self._near(bench, start, stop)
            seed = self._seed(ref.exchange_id, ref.part, grain)
            shared = bytes(grains.codec.encode(place, near=near, seed=seed))
            grains.codec.accumulate(shared, place, 1.0, near=near)
            made.frames[grain] = shared
            on_grain()

    def land(self, effect: Land) -> OuterState:
        """Takes the outer step with the collected average, and returns the new outer state.

        Raises:
            LocalProtocolError: an average is missing.
        """
        fragment, terms = effect.fragment, effect.terms
        bench = self._benches.get((fragment, effect.exchange_id))
        if bench is None or bench.has_landed:
            raise LocalProtocolError("a landing of what was given up, or has landed already")
        is_pair = terms.num_parts == 1 and not bench.shared
        if is_pair and not bench.is_reduced:
            raise LocalProtocolError("a landing without the average")
        for part in range(0 if is_pair else terms.num_parts):
            if len(self.grains(BlobRef("average", fragment, part=part), terms)):
                made = bench.shared.get(part)
                if made is None or made.missing():
                    raise LocalProtocolError(f"a landing without the average of part {part}")
        copy = self._rule.land(
            self.outer[fragment].copy,
            bench.take_average(),
            piecewise=True,
            empty=self._vectors.empty,
        )
        departure, bench.departure = bench.departure, None
        if departure is not None and not effect.rebase_on_anchor and self._rule.feedback:
            copy = self._rule.deliver(copy, departure, _decoded(bench.own))
        bench.theta, bench.has_landed, bench.landed_round = None, True, copy.round
        self.widening.on_landed(fragment, terms.codec, bench.distance)
        if not is_pair:
            bench.withdraw()  # every average is here, so all who average are through with it
        new = self._state_of(copy)
        if self._is_common:
            lineage = self.outer[fragment].lineage
            new = replace(new, lineage=lineage.landed(new.round, new.digest, effect.tokens))
        self.outer[fragment] = new
        return new

    def drop(self, fragment: int, exchange_id: bytes) -> Bench | None:
        """Takes an exchange off the table, in the event loop; nobody is served from it any more."""
        bench = self._benches.pop((fragment, exchange_id), None)
        if bench is not None:
            bench.close()
        return bench

    def discard(self, fragment: int, bench: Bench) -> Tensor | None:
        """Forgets an exchange.

        Returns:
            Where the live parameters' start moves back to, `[m]`, if they had gone on without it.
        """
        if bench.departure is None:
            return None
        old = self.outer[fragment]
        copy, shift = self._rule.lose(old.copy, bench.departure)
        bench.departure = None
        self.outer[fragment] = replace(old, copy=copy)
        return None if shift is None else old.copy.start + shift

    # ---- whole states, for those who come late

    def round_of(self, fragment: int) -> int:
        """Returns the landings behind a fragment's anchor."""
        return self.outer[fragment].round

    def state_lengths(self, fragment: int) -> list[int]:
        """Returns the lengths of the vectors in a `state`, in elements."""
        copy = self.outer[fragment].copy
        return [len(copy.anchor)] * (1 + len(copy.state))

    def load_state_blob(
        self,
        fragment: int,
        vectors: Sequence[Tensor],
        round: int,
        *,
        weights: tuple[float, float] = (0.0, 1.0),
        lineage: Lineage = EMPTY,
    ) -> OuterState:
        """Replaces a fragment's outer state by another peer's, or by an average of both.

        It has still to land. An average is the same from both ends, to the bit.

        Args:
            fragment: Whose.
            vectors: Anchor and state, by name, of `state_lengths`; they become ours.
            round: Of the new state.
            weights: Of ours and theirs.
            lineage: Of the new state; a merge adds itself.

        Raises:
            MalformedMessage: a value is not finite.
        """
        old = self.outer[fragment]
        try:
            for vector in vectors:
                require_finite(vector, "a state")
        except ValueError as error:
            raise MalformedMessage(str(error)) from None
        names = sorted(old.copy.state)
        if weights[0]:
            ours = [old.copy.anchor, *(old.copy.state[name] for name in names)]
            for mine, theirs in zip(ours, vectors, strict=True):
                theirs.mul_(weights[1]).add_(mine * weights[0])
        anchor, *rest = vectors
        state = dict(zip(names, rest, strict=True))
        new = self._state_of(OuterCopy(anchor, state, old.copy.own, round))
        self.outer[fragment] = self._with_lineage(new, lineage)
        return self.outer[fragment]

    def raise_round(self, fragment: int, round: int, lineage: Lineage) -> OuterState:
        """Keeps a fragment's state, at a later round: those who are ahead, but wrong, shall follow.

        Args:
            fragment: Whose.
            round: The new one.
            lineage: What is in it, and what was weighed and found too little.
        """
        old = self.outer[fragment]
        new = replace(old, copy=replace(old.copy, round=round))
        self.outer[fragment] = self._with_lineage(new, lineage)
        return self.outer[fragment]

    @staticmethod
    def _with_lineage(new: OuterState, lineage: Lineage) -> OuterState:
        if new.round and not lineage.knows(new.round, new.digest):
            lineage = lineage.landed(new.round, new.digest, 0)
        return replace(new, lineage=lineage)

    def load_state(
        self,
        fragment: int,
        anchor: Tensor,
        state: State,
        own: State,
        round: int,
        lineage: Lineage = EMPTY,
    ) -> None:
        """Replaces a fragment's outer state before training begins, by a checkpoint's."""
        new = replace(self._state_of(OuterCopy(anchor, state, own, round)), lineage=lineage)
        self.outer[fragment] = self.landed[fragment] = new

    # ---- plumbing

    def _state_of(self, copy: OuterCopy) -> OuterState:
        return OuterState(copy, digest_of(copy.anchor) if self._is_common else NO_DIGEST)

    def _num_elements(self, fragment: int) -> int:
        return self._rule.rule.lanes * len(self.layout.fragments[fragment])

    def _bounds(self, fragment: int, part: int, terms: Terms) -> tuple[int, int]:
        bounds = terms.bounds(self._num_elements(fragment))
        return bounds[part], bounds[part + 1]

    def _span(self, ref: BlobRef, terms: Terms, grains: Grains, grain: int) -> tuple[int, int]:
        first, _ = self._bounds(ref.fragment, ref.part, terms)
        start, stop = grains.bounds(grain)
        return first + start, first + stop

    def _near(self, bench: Bench, start: int, stop: int) -> Tensor | None:
        if not self._rule.rule.sends_parameters or self._rule.rule.lanes > 1:
            return None
        return None if bench.theta is None else bench.theta[start:stop]

    def _codec_of(self, ref: BlobRef, terms: Terms) -> Codec:
        codec = self._codecs[terms.codec]
        return codec if ref.kind == "part" else codec.for_average(terms.num_parts)

    def _seed(self, exchange_id: bytes, part: int, grain: int) -> int:
        text = f"{self._our_id}\0{part}\0{grain}\0".encode()
        return int.from_bytes(hashlib.sha256(text + exchange_id).digest()[:8])


def _decoded(parts: dict[int, GrainsMade]) -> Tensor:
    """Returns a contribution as the others decoded it."""
    pieces = []
    for part in sorted(parts):
        made = parts[part]
        for grain, frame in enumerate(made.frames):
            start, stop = made.grains.bounds(grain)
            assert frame is not None, "an offer is encoded before its landing"
            pieces.append(made.grains.codec.decode(frame, stop - start))
    return torch.cat(pieces)


def digest_of(anchor: Tensor) -> bytes:
    """Returns the BLAKE3 of an anchor's bytes: equal anchors, equal digests, on every machine."""
    return blake3(anchor.numpy().astype("<f4", copy=False).data.cast("B")).digest()
