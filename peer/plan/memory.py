"""The host memory of a peer beside its trainer's own: what the outer side holds, and when most."""

from typing import NamedTuple

import torch

from optim.method import Method
from optim.outer.rule import AheadRule


class Memory(NamedTuple):
    """Host memory that a peer needs beyond the trainer's own [bytes]."""

    outer: float
    """Anchors, momentum and the like, all the time."""
    peak: float
    """The most of the wire process, with `outer`."""
    shared: float
    """Two vectors that trainer and wire process share."""

    @property
    def total(self) -> float:
        """Peak and shared."""
        return self.peak + self.shared


def memory_of(method: Method, sizes: list[int], members: int) -> Memory:
    """Return the host memory that the outer side takes, with so many members in an exchange.

    Counted are the fp32 vectors and frames that `peer.mixing` holds when the largest fragment
    lands. For the presets that gives what benchmarks.memory has measured (docs/results.md, "Memory
    of the outer side") to 2 %, and is extrapolated from 25M parameters.
    """
    first = method.outer.first(torch.zeros(1))
    kept = 1 + len(first.state) + len(first.own)
    landing = kept + 2.0  # the new copy beside the old one, the average, and room to compute
    landing += 1.0 if method.outer.feedback is not None else 0.0  # what was to be sent
    is_ahead = isinstance(method.outer.rule, AheadRule)
    landing += 2.0 if is_ahead else 0.0  # the shift, and the way back
    n = sum(sizes)
    frames = sum(method.codec.frame_bytes(method.outer.rule.lanes * size) for size in sizes)
    if method.mixing != "pairs":  # for late peers also those of the exchange before
        codec = method.codec.for_average(members)
        frames += sum(2 * codec.frame_bytes(method.outer.rule.lanes * size) for size in sizes)
    return Memory(4.0 * kept * n, 4.0 * (kept * n + landing * max(sizes)) + frames, 8.0 * n)
