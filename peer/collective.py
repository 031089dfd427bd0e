"""The outer side of a method over torch.distributed, for a training loop of your own.

    dist.init_process_group("gloo")
    outer = CollectiveOuter(model, method_named("streaming", schedule={"interval_steps": 30}))
    for batch in data:
        ...                                    # your inner step
        outer.step()                           # departs and lands what is due
    outer.finish()

Each rank trains a replica of its own: no DDP around it, at least not across this group. All ranks
are trusted and stay to the end; who comes and goes, or is a stranger, wants `thinwire join`.

**Mixing all:** each rank encodes its whole contribution once, and an all-gather brings every frame
to every rank; all average in rank order, and so hold the same anchor, to the bit where all CPUs are
of one kind (elsewhere the last bit of a mean may differ). Nothing is quantized a second time. Each
rank sends and receives M - 1 frames, against 2 (M - 1) / M where each rank reduces a part: the same
for two ranks, twice as much for four. This is for few ranks.
**Mixing pairs:** each rank swaps one frame with a partner that all draw from one seed.
**Overlap:** transport starts at the departure and is waited for at the landing, `overlap_steps`
later. Averaging happens at the landing, on the caller's thread.
**Memory:** whatever device the model is on, its outer side is in host memory, in fp32: 8 bytes an
element for anchor and momentum (12 with co2, 16 with eager, and 4 more with error feedback), and
while a fragment is under way 8 to 20 bytes an element of it, and the frames of its group.
**Devices:** frames travel as uint8 from host memory if the group has a backend for it (Gloo), else
through the device of its backend (NCCL). The latter is written to torch's documentation and was
never run; tests run Gloo.
"""

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from optim.live import LiveModel, Underway
from optim.merge import WeightedMean
from optim.method import Method
from optim.pairing import groups_of

_CARD = struct.Struct("<32sd")
"""What ranks tell each other at first: a digest of what must be equal, and a weight."""


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A fragment under way.

    `frames` are those of `members`, uint8, complete once all `works` are done.
    """

    underway: Underway
    members: tuple[int, ...]
    frames: list[Tensor]
    works: list[dist.Work]


class CollectiveOuter:
    """One rank's part in a method; every rank of the group makes the same calls.

    Args:
        model: This rank's replica, whole (no FSDP shards), on any device. The caller trains it.
        method: The method, the same on all ranks.
        seed: Of pairs and of stochastic rounding, the same on all ranks.
        weight: Of this rank in averages, such as the tokens of one of its steps.
        group: Who takes part; everybody if None.

    Attributes:
        layout: How the model is divided.
        steps: Inner steps so far.
        sent_bytes: By this rank, to others, without what torch.distributed adds.

    Raises:
        ValueError: The ranks set out from different parameters, methods or seeds; a weight is not
            positive and finite; or the method does not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        *,
        seed: int = 0,
        weight: float = 1.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.method = method
        self.steps = 0
        self.sent_bytes = 0
        self._live = LiveModel(model, method)
        self.layout = self._live.layout
        self._seed = seed
        self._group = group
        self._rank = dist.get_rank(group)
        self._device = _device_of(dist.get_backend_config(group))
        self._weights = self._introduce(weight)
        self._departures = [0] * len(self.layout.fragments)
        self._departed_at = [0] * len(self.layout.fragments)
        self._in_flight: dict[int, _Exchange] = {}

    def step(self) -> None:
        """Count one inner step of this rank; land, then depart, what is due after it."""
        self.steps += 1
        schedule = self.method.schedule
        for fragment in schedule.landings(self.steps):
            self._land(fragment)
        for fragment in schedule.departures(self.steps):
            self._depart(fragment)
            if schedule.overlap_steps == 0:
                self._land(fragment)

    def finish(self) -> None:
        """Bring all work into the anchors: land what is under way, exchange the rest at once.

        A fragment that was not trained since it departed stays as it is, as in `LocalSwarm`.
        """
        for fragment, departed_at in enumerate(self._departed_at):
            self._land(fragment)
            if departed_at < self.steps:
                self._depart(fragment)
                self._land(fragment)

    def anchor(self) -> Tensor:
        """Return the anchor, a new `[num_elements]`: the outer parameters to evaluate."""
        return self._live.anchor()

    def _introduce(self, weight: float) -> list[float]:
        # The weights of all ranks, if all agree on the rest.
        card = _CARD.pack(self._digest(), weight)
        cards = [self._empty(_CARD.size) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(cards, self._tensor_of(card), group=self._group)
        digests, weights = zip(*(_CARD.unpack(_bytes_in(card)) for card in cards), strict=True)
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise ValueError(
                    f"rank {rank} sets out from other parameters than rank 0, or with another "
                    "method or seed; seed all ranks alike before they build the model, or load one "
                    "checkpoint on all"
                )
        for rank, weight in enumerate(weights):
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"rank {rank} has weight {weight}; it must be positive and finite")
        return list(weights)

    def _digest(self) -> bytes:
        method, layout = self.method, self.layout
        mixing = method.mixing, method.group_size
        common = (*mixing, method.schedule, method.codec.name, layout.entries, self._seed)
        digest = hashlib.sha256(repr(common).encode())
        for copy in self._live.copies:
            digest.update(copy.anchor.numpy().data)
        return digest.digest()

    def _depart(self, fragment: int) -> None:
        members = self._members(fragment, round := self._departures[fragment])
        self._departures[fragment] += 1
        self._departed_at[fragment] = self.steps
        share = self._weights[self._rank] / sum(self._weights[m] for m in members)
        underway = self._live.depart(fragment, share=share)
        frames: list[Tensor] = []
        works: list[dist.Work] = []
        if len(members) > 1:
            words = np.random.SeedSequence([self._seed, fragment, round, self._rank])
            frame = self.method.codec.encode(
                underway.departure.contribution,
                near=self._live.copies[fragment].anchor,
                seed=int(words.generate_state(1, np.uint64)[0]),
            )
            frames = [self._empty(len(frame)) for _ in members]
            works = self._start(self._tensor_of(frame), members, frames)
            self.sent_bytes += (len(members) - 1) * len(frame)
        self._in_flight[fragment] = _Exchange(underway, members, frames, works)

    def _members(self, fragment: int, round: int) -> tuple[int, ...]:
        everyone = range(len(self._weights))
        if self.method.mixing == "all":
            return tuple(everyone)
        size = 2 if self.method.mixing == "pairs" else self.method.group_size
        groups = groups_of(len(everyone), size, seed=self._seed, fragment=fragment, round=round)
        return next(group for group in groups if self._rank in group)

    def _start(
        self, mine: Tensor, members: tuple[int, ...], frames: list[Tensor]
    ) -> list[dist.Work]:
        if self.method.mixing == "all":
            work = dist.all_gather(frames, mine, group=self._group, async_op=True)
            assert work is not None  # this rank is in the group
            return [work]
        operations: list[dist.P2POp] = []
        for place, member in enumerate(members):
            if member == self._rank:
                frames[place] = mine
                continue
            partner = member
            if self._group is not None:
                partner = dist.get_global_rank(self._group, member)
            operations.append(dist.P2POp(dist.isend, mine, partner, self._group))
            operations.append(dist.P2POp(dist.irecv, frames[place], partner, self._group))
        # Together, since NCCL would run the one after the other, and both ends would wait.
        return dist.batch_isend_irecv(operations)

    def _land(self, fragment: int) -> None:
        exchange = self._in_flight.pop(fragment, None)
        if exchange is None:
            return
        for work in exchange.works:
            work.wait()
        contribution = exchange.underway.departure.contribution
        if not exchange.frames:
            self._live.land(fragment, contribution, exchange.underway, contribution)
            return
        codec, mean = self.method.codec, WeightedMean(contribution.numel())
        sent = None
        for rank, frame in zip(exchange.members, exchange.frames, strict=True):
            data = _bytes_in(frame)
            mean.add_frame(codec, data, self._weights[rank], near=exchange.underway.base)
            if rank == self._rank and self.method.outer.feedback is not None:
                sent = codec.decode(data, contribution.numel())
        self._live.land(fragment, mean.mean(), exchange.underway, sent)

    def _empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def _tensor_of(self, data: bytes | memoryview) -> Tensor:
        # Through a bytearray, since torch wants memory that may be written to.
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self._device)


def _device_of(backend_config: str) -> torch.device:
    # Such as "cpu:gloo,cuda:nccl".
    kinds = [backend.partition(":")[0] for backend in backend_config.split(",")]
    return torch.device("cpu" if "cpu" in kinds else kinds[0])


def _bytes_in(frame: Tensor) -> memoryview:
    return frame.cpu().numpy().data
