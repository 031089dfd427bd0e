"""When which fault strikes: drawn from a seed, before anything has begun.

A schedule is a Poisson process: as many instants as `faults_per_hour` has room for, at random, and
they overlap. Whom a fault strikes is drawn as an order of preference, since who lives at that time
is known only then: `benchmarks.chaos_run` takes the first who can be struck, and waits if nobody
can, or if half of the swarm is away already.

Weights. A start of a peer costs this machine some 6 s of a core, and every kind that ends a process
costs one. So those get a fifth of all faults, and what strikes links and disks, or time, the rest:
of 200 faults in ten minutes some 40 are starts, two fifths of one core of two.
"""

import math
import random
from dataclasses import dataclass, replace

CALM_S = 45.0
"""At the end no fault lasts: records and deadlines of the last ones run out, and all can land."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        weight: How many of a hundred faults, about.
        shortest_s: Its length is drawn between these, evenly in its logarithm.
        longest_s: Of kinds that end a process: how long until it is started again.
        count: How many peers it strikes.
        has_lab: Whether it needs links of our own.
    """

    weight: float
    shortest_s: float
    longest_s: float
    count: int = 1
    has_lab: bool = False


KINDS: dict[str, Kind] = {
    "kill": Kind(6, 1, 10),
    "kill-trainer": Kind(4, 5, 5),
    "kill-daemon": Kind(4, 5, 5),
    "freeze": Kind(15, 1, 60),
    "halves": Kind(6, 2, 20, has_lab=True),
    "bridge": Kind(4, 2, 20, has_lab=True),
    "one-way": Kind(7, 2, 20, has_lab=True),
    "corrupt": Kind(16, 2, 10, has_lab=True),
    "truncate": Kind(15, 4, 10, has_lab=True),
    "disk-full": Kind(7, 10, 20),
    "clock": Kind(10, 5, 60),
    "leave-storm": Kind(1.5, 1, 10, count=3),
    "join-storm": Kind(1.5, 30, 60, count=3),
    "kill-bootstrap": Kind(3, 2, 30),
}
"""Also `peer.sim.faults` has most of them; here they are real."""

CLOCK_JUMP_S = 300.0


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault.

    Attributes:
        number: From 0.
        at_s: Since the schedule began.
        kind: Of `KINDS`.
        for_s: How long it lasts, or how long what was ended stays away.
        order: All seats, those whom it would rather strike first.
        seed: Of whatever else is drawn.
    """

    number: int
    at_s: float
    kind: str
    for_s: float
    order: tuple[int, ...]
    seed: int

    def within(self, room_s: float) -> "Planned":
        """Returns it as short as it has to be to end in time."""
        return replace(self, for_s=min(self.for_s, room_s))

    @property
    def clock_jump_s(self) -> float:
        """Of a fault of kind `clock`: by how much."""
        return CLOCK_JUMP_S if self.seed % 2 else -CLOCK_JUMP_S


def draw(
    seed: int, *, seats: int, duration_s: float, faults_per_hour: float, has_lab: bool = True
) -> tuple[Planned, ...]:
    """Returns a schedule, in the order of time.

    Args:
        seed: Of everything in it.
        seats: How many peers there may be.
        duration_s: Of the measurement; the last 45 s of it, or a third if that is less, are calm.
        faults_per_hour: In the part that is not.
        has_lab: Whether links are ours to cut.
    """
    rng = random.Random(f"chaos {seed}")
    stormy_s = duration_s - min(CALM_S, duration_s / 3)
    number = round(duration_s * faults_per_hour / 3600)
    kinds = {name: kind for name, kind in KINDS.items() if has_lab or not kind.has_lab}
    names = _drawn_evenly(rng, {name: kind.weight for name, kind in kinds.items()}, number)
    instants = [(rng.uniform(0, max(0.0, stormy_s - kinds[n].shortest_s)), n) for n in names]
    planned: list[Planned] = []
    for at_s, name in sorted(instants):
        kind = kinds[name]
        length_s = math.exp(rng.uniform(math.log(kind.shortest_s), math.log(kind.longest_s)))
        order = tuple(rng.sample(range(seats), seats))
        room_s = stormy_s - at_s  # nothing lasts into the calm
        planned.append(
            Planned(len(planned), at_s, name, min(length_s, room_s), order, rng.randrange(1 << 30))
        )
    return tuple(planned)


def _drawn_evenly(rng: random.Random, weights: dict[str, float], number: int) -> list[str]:
    """Returns so many names in random order; each as often as its weight says, give or take one."""
    total, position = sum(weights.values()), rng.random()
    names: list[str] = []
    reached = 0.0
    for name, weight in weights.items():
        reached += number * weight / total
        while len(names) + position < reached and len(names) < number:
            names.append(name)
    names += [list(weights)[-1]] * (number - len(names))
    rng.shuffle(names)
    return names
