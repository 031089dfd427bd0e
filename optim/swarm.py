"""A swarm of replicas in one process: the methods without a network, for a loop of your own.

    swarm = LocalSwarm(models, method_named("streaming", schedule={"interval_steps": 30}))
    for batches in data:                       # one batch a replica
        for model, optimizer, batch in zip(models, optimizers, batches):
            ...                                # your inner step
        swarm.step()                           # departs and lands what is due
    swarm.finish()

What travels is encoded, averaged and decoded as between peers: with mixings `all` and `groups`
every member reduces one part of the fragment, and its average is encoded once and used by all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from optim.layout import Layout
from optim.live import LiveModel, Underway
from optim.merge import WeightedMean
from optim.method import Method
from optim.outer.copy import OuterCopy
from optim.pairing import groups_of

Hears = Callable[[int, int, int], bool]
"""(fragment, round, replica) -> whether that replica takes part in that exchange."""


@dataclass(slots=True)
class _Member:
    """One replica in one exchange."""

    replica: int
    underway: Underway
    sent: Tensor = field(init=False)
    """`[lanes * n]`, the contribution as the others decoded it."""
    average: Tensor = field(init=False)
    """`[lanes * n]`."""

    @property
    def contribution(self) -> Tensor:
        """`[lanes * n]`."""
        return self.underway.departure.contribution


class LocalSwarm:
    """Replicas that train in one process and exchange by a method.

    Args:
        models: One a replica, equal at first, on any device. The caller trains them.
        method: The method.
        seed: Of pairs, of groups and of stochastic rounding.
        weights: Of each replica in averages, such as the tokens of one of its steps; equal if None.
        takes_part: Called for each exchange and replica. Where it says False, the replica is cut
            off: what it has trained is not in the average and stays in its live parameters, on top
            of the anchor that the others make (mixing all) or of its own (pairs, groups).

    Attributes:
        layout: How the models are divided.
        steps: Inner steps so far.
        sent_bytes: By each replica, to others.

    Raises:
        ValueError: there are no models, or weights for some of them only.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        method: Method,
        *,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        takes_part: Hears = lambda fragment, round, replica: True,
    ) -> None:
        self.models = list(models)
        if not self.models or (weights is not None and len(weights) != len(self.models)):
            raise ValueError(
                f"a swarm needs models, and weights for all or none of them, not {len(models)} "
                f"models and {len(weights or ())} weights"
            )
        self.method = method
        self._lives = [LiveModel(model, method) for model in self.models]
        self.layout: Layout = self._lives[0].layout
        self.steps = 0
        self.sent_bytes = [0] * len(self.models)
        self._seed = seed
        self._weights = list(weights or [1.0] * len(self.models))
        self._takes_part = takes_part
        self._exchanges = [0] * len(self.layout.fragments)
        self._departed_at = [0] * len(self.layout.fragments)
        self._in_flight: dict[int, list[_Member]] = {}
        self.copies: list[list[OuterCopy]] = [live.copies for live in self._lives]
        """By replica and fragment."""

    def step(self) -> None:
        """Count one inner step of all replicas; land, then depart, what is due after it."""
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

        A fragment that was not trained since it departed stays as it is: momentum would carry its
        anchor on, for no gradient.
        """
        for fragment, departed_at in enumerate(self._departed_at):
            self._land(fragment)
            if departed_at < self.steps:
                self._depart(fragment)
                self._land(fragment)

    def anchor(self, replica: int = 0) -> Tensor:
        """Return a replica's anchor, a new `[num_elements]`: the outer parameters to evaluate."""
        return self._lives[replica].anchor()

    def _depart(self, fragment: int) -> None:
        round = self._exchanges[fragment]
        self._exchanges[fragment] += 1
        self._departed_at[fragment] = self.steps
        everyone = range(len(self.models))
        present = [m for m in everyone if self._takes_part(fragment, round, m)]
        groups: list[tuple[int, ...]] = [tuple(present)] if present else []
        if self.method.mixing != "all":
            size = 2 if self.method.mixing == "pairs" else self.method.group_size
            drawn = groups_of(len(everyone), size, seed=self._seed, fragment=fragment, round=round)
            groups = [tuple(m for m in group if m in present) for group in drawn]
        members = self._in_flight[fragment] = []
        for group in filter(None, groups):
            joined = [self._leave(m, fragment, group) for m in group]
            self._average(fragment, round, joined)
            members += joined

    def _leave(self, replica: int, fragment: int, group: tuple[int, ...]) -> _Member:
        share = self._weights[replica] / sum(self._weights[m] for m in group)
        return _Member(replica, self._lives[replica].depart(fragment, share=share))

    def _average(self, fragment: int, round: int, members: list[_Member]) -> None:
        if len(members) == 1:
            (alone,) = members
            alone.sent = alone.average = alone.contribution
        elif self.method.mixing == "pairs":
            self._swap(fragment, round, members)
        else:
            self._scatter_reduce(fragment, round, members)

    def _scatter_reduce(self, fragment: int, round: int, members: list[_Member]) -> None:
        # As on the wire: each member averages one part, encodes that once, and all decode it.
        codec, num_parts = self.method.codec, len(members)
        reply = codec.for_average(num_parts)
        parts = [torch.tensor_split(m.contribution, num_parts) for m in members]
        anchors = [
            self._nearby(self.copies[m.replica][fragment].anchor, num_parts) for m in members
        ]
        bases = [self._nearby(m.underway.base, num_parts) for m in members]
        sent: list[list[Tensor]] = [[] for _ in members]
        averages: list[list[Tensor]] = [[] for _ in members]
        for part, reducer in enumerate(members):
            size = len(parts[0][part])
            mean = WeightedMean(size)
            for i, member in enumerate(members):
                seed = self._draw(fragment, round, part, member.replica)
                frame = codec.encode(parts[i][part], near=anchors[i][part], seed=seed)
                values = codec.decode(frame, size, near=bases[part][part])
                mean.add(values, self._weights[member.replica])
                sent[i].append(values)
                if member is not reducer:
                    self.sent_bytes[member.replica] += len(frame)
            seed = self._draw(fragment, round, part)
            frame = reply.encode(mean.mean(), near=bases[part][part], seed=seed)
            heard = reply.decode(frame, size, near=bases[part][part])
            for i, (average, base) in enumerate(zip(averages, bases, strict=True)):
                is_like_ours = i == part or base[part] is None
                near = base[part]
                average.append(heard if is_like_ours else reply.decode(frame, size, near=near))
            self.sent_bytes[reducer.replica] += (num_parts - 1) * len(frame)
        for member, own, average in zip(members, sent, averages, strict=True):
            member.sent, member.average = torch.cat(own), torch.cat(average)

    def _nearby(self, vector: Tensor, num_parts: int) -> Sequence[Tensor | None]:
        # What each part lies near to, of parameters; pseudo-gradients lie near to nothing.
        rule = self.method.outer.rule
        if rule.sends_parameters and rule.lanes == 1:
            return torch.tensor_split(vector, num_parts)
        return [None] * num_parts

    def _swap(self, fragment: int, round: int, members: list[_Member]) -> None:
        # Both take the mean of the two contributions as the codec delivers them, their own too.
        codec, frames = self.method.codec, []
        for member in members:
            copy = self.copies[member.replica][fragment]
            frames.append(
                codec.encode(
                    member.contribution,
                    near=copy.anchor,
                    seed=self._draw(fragment, round, 0, member.replica),
                )
            )
            self.sent_bytes[member.replica] += len(frames[-1])
        for receiver in members:
            mean = WeightedMean(receiver.contribution.numel())
            for member, frame in zip(members, frames, strict=True):
                size = member.contribution.numel()
                values = codec.decode(frame, size, near=receiver.underway.base)
                mean.add(values, self._weights[member.replica])
            receiver.sent, receiver.average = receiver.contribution, mean.mean()

    def _draw(self, *place: int) -> int:
        return int(np.random.SeedSequence([self._seed, *place]).generate_state(1, np.uint64)[0])

    def _land(self, fragment: int) -> None:
        members = {member.replica: member for member in self._in_flight.pop(fragment, ())}
        if not members:
            return
        for replica, live in enumerate(self._lives):
            if replica in members:
                member = members[replica]
                live.land(fragment, member.average, member.underway, member.sent)
            elif self.method.mixing == "all":
                # Who was absent hears the average later.
                live.land(fragment, next(iter(members.values())).average, None)
