"""Compute utilisation: the share of time in which a replica computes, its link being what it is.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Sec. 3.1, Table 4.
**Symbols:** `T` = step_s, `L` = layers, `H` = interval_steps, `tau` = overlap_steps, `S` =
num_params * bits_per_value, `B` = bandwidth_bps. Layers are counted from 0.

A step is forward, T/3 over layers 0..L-1, then backward, 2T/3 over L-1..0. A layer's reduction, S/L
bits, is ready when its backward ends; the link carries one at a time, first come, first served. The
layer's forward of step t + 1 + tau waits until the reduction of step t has landed. Fragments take
turns as in `optim.schedule`, each once every H steps. Counted is the time of an endless run.

So compute is a clock that stops where it waits, and all repeats every H steps. The events are the
landings that are waited for, and the ends of transfers; each comes no earlier than some other event
plus a fixed time. An interval lasts as long as the largest mean of a circuit of such bounds, time
over intervals, which Howard's policy iteration finds without running to a steady state
(Cochet-Terrasson et al. 1998).

**Deviations:**
- The backward of a layer is one piece. The paper splits it in two, for activations and for
  parameters, and the first layer does without the former (4 L - 1 nodes a step): less than T/(3 L).
- Fragments depart evenly, H / P steps apart. The paper has 11, 5 or 2 steps, which leave a rest.
- No fragment is set apart for embeddings: the paper does not give their size.
- How near this comes to the paper's table: test_the_papers_table_is_reproduced.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optim.fragments import assign_fragments
from optim.schedule import Schedule

PAPER_GRID = tuple(10 ** (8 + 4 * k / 49) for k in range(50))
"""The bandwidths [bit/s] of the paper's Table 4: 0.1 to 1000 Gbit/s, each 1.207 times the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one replica computes.

    Attributes:
        num_params: Values to exchange, in equal parts in all layers.
        layers: L.
        step_s: T, duration of an inner step that waits for nothing.

    Raises:
        ValueError: A number is not positive and finite.
    """

    num_params: float
    layers: int
    step_s: float

    def __post_init__(self) -> None:
        for name in ("num_params", "layers", "step_s"):
            _require_positive(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What goes over the link, and when. With the defaults, data parallel in 16 bits.

    Attributes:
        interval_steps: H, inner steps between two exchanges of the same layer.
        bits_per_value: Width of a value on the link.
        fragment_layers: Layers that travel together; None for all of them.
        overlap_steps: tau, from 0 to H.
        pattern: How layers are dealt to fragments, see `optim.fragments.assign_fragments`.

    Raises:
        ValueError: A number is out of its range.
    """

    interval_steps: int = 1
    bits_per_value: float = 16.0
    fragment_layers: int | None = None
    overlap_steps: int = 0
    pattern: str = "strided"

    def __post_init__(self) -> None:
        _require_positive("bits_per_value", self.bits_per_value)
        if self.fragment_layers is not None:
            _require_positive("fragment_layers", self.fragment_layers)
        Schedule(self.interval_steps, 1, self.overlap_steps)  # refuses what makes no sense


def utilisation(
    workload: Workload, exchange: Exchange, bandwidth_bps: float, *, latency_s: float = 0.0
) -> float:
    """Return the share of time in which the replica computes, above 0 and at most 1.

    Args:
        workload: What the replica computes.
        exchange: What it sends, and when it needs the result.
        bandwidth_bps: B, of the one link between the sites [bit/s]; may be infinite.
        latency_s: From the end of a layer's transfer to its landing.

    Raises:
        ValueError: A number is out of its range, or fragments outnumber the interval's steps.
    """
    if not bandwidth_bps > 0:
        raise ValueError(f"bandwidth_bps must be positive, not {bandwidth_bps}")
    if not 0 <= latency_s < math.inf:
        raise ValueError(f"latency_s must be at least 0 and finite, not {latency_s}")
    L = workload.layers
    tick_s = workload.step_s / (3 * L)  # one layer's forward; its backward takes two
    transfer_s = workload.num_params * exchange.bits_per_value / (L * bandwidth_bps)
    bounds = _bounds(L, exchange, transfer_s / tick_s, latency_s / tick_s)
    return 3 * L * exchange.interval_steps / _largest_circuit_mean(bounds)


def required_bps(
    workload: Workload,
    exchange: Exchange,
    target_frac: float,
    *,
    grid: Sequence[float] = PAPER_GRID,
    latency_s: float = 0.0,
) -> float | None:
    """Return the smallest bandwidth of the grid that reaches a utilisation, None if none does.

    Args:
        workload: What the replica computes.
        exchange: What it sends, and when it needs the result.
        target_frac: The utilisation to reach, above 0 and at most 1.
        grid: Bandwidths [bit/s], ascending.
        latency_s: See `utilisation`.

    Raises:
        ValueError: As `utilisation`, or the target is out of its range.
    """
    if not 0 < target_frac <= 1:
        raise ValueError(f"target_frac must be above 0 and at most 1, not {target_frac}")

    def reaches(bandwidth_bps: float) -> bool:
        return utilisation(workload, exchange, bandwidth_bps, latency_s=latency_s) >= target_frac

    first = bisect_left(grid, True, key=reaches)
    return grid[first] if first < len(grid) else None


class _Bound(NamedTuple):
    """An event comes at least `ticks` after `source` of so many intervals ago."""

    source: int
    ticks: float
    intervals: int


class _Reduction(NamedTuple):
    """A layer's turn, on the clock of computed ticks: 3 L a step, so all order is exact."""

    ready: int
    landing: int
    """Within an interval, as `ready`."""
    intervals: int
    """How many lie between the two."""


def _reductions(L: int, exchange: Exchange) -> list[_Reduction]:
    num_fragments = math.ceil(L / (exchange.fragment_layers or L))
    schedule = Schedule(exchange.interval_steps, num_fragments, exchange.overlap_steps)
    fragment_of = assign_fragments(
        {f"layers.{layer}": 1 for layer in range(L)},
        num_fragments=num_fragments,
        pattern=exchange.pattern,
    )
    reductions = []
    for layer, fragment in enumerate(fragment_of.values()):
        step = schedule.offset(fragment)
        intervals, landing_step = divmod(step + 1 + schedule.overlap_steps, schedule.interval_steps)
        ready = 3 * L * step + L + 2 * (L - layer)
        reductions.append(_Reduction(ready, 3 * L * landing_step + layer, intervals))
    return reductions


def _bounds(
    L: int, exchange: Exchange, transfer_ticks: float, latency_ticks: float
) -> list[tuple[_Bound, _Bound]]:
    # Events 0..L-1 are the landings in the clock's order, events L..2L-1 the ends of transfers in
    # the link's; what comes before the first of either is the last one, an interval ago.
    interval = 3 * L * exchange.interval_steps
    queue = sorted(_reductions(L, exchange))
    landed = sorted(range(L), key=lambda place: queue[place].landing)
    landings = [queue[place].landing for place in landed]
    bounds = []
    for event, place in enumerate(landed):
        wraps = int(event == 0)
        computed = landings[event] - landings[event - 1] + wraps * interval
        bounds.append(
            (
                _Bound((event - 1) % L, computed, wraps),
                _Bound(L + place, latency_ticks, queue[place].intervals),
            )
        )
    for place, reduction in enumerate(queue):
        # Strictly before: a forward that starts where this backward ends may wait for it.
        latest = bisect_left(landings, reduction.ready) - 1
        wraps = int(latest < 0)
        computed = reduction.ready - landings[latest] + wraps * interval
        bounds.append(
            (
                _Bound(L + (place - 1) % L, transfer_ticks, int(place == 0)),
                _Bound(latest % L, computed + transfer_ticks, wraps),
            )
        )
    return bounds


def _largest_circuit_mean(bounds: Sequence[Sequence[_Bound]]) -> float:
    # Howard: let one bound hold for each event, price the events by the best circuit among those,
    # and replace every bound that another one exceeds.
    holding = [into[0] for into in bounds]
    price = [0.0] * len(bounds)
    while True:
        mean, pivot = _best_circuit(holding)
        followers: list[list[int]] = [[] for _ in bounds]
        for event, bound in enumerate(holding):
            followers[bound.source].append(event)
        todo = [pivot]
        while todo:
            source = todo.pop()
            for event in followers[source]:
                if event != pivot:
                    _, ticks, intervals = holding[event]
                    price[event] = price[source] + ticks - mean * intervals
                    todo.append(event)
        is_best = True
        for event, into in enumerate(bounds):
            for bound in into:
                bid = price[bound.source] + bound.ticks - mean * bound.intervals
                if bid > price[event] + 1e-11 * mean:  # beyond rounding
                    price[event], holding[event], is_best = bid, bound, False
        if is_best:
            return mean


def _best_circuit(holding: Sequence[_Bound]) -> tuple[float, int]:
    """Return the largest mean of the circuits among one bound an event, and an event on it."""
    best = (-math.inf, 0)
    walk_of = [-1] * len(holding)
    for walk in range(len(holding)):
        event = walk
        while walk_of[event] < 0:
            walk_of[event] = walk
            event = holding[event].source
        if walk_of[event] == walk:  # else it ran into a circuit known before
            start, ticks, intervals = event, 0.0, 0
            while True:
                ticks += holding[event].ticks
                intervals += holding[event].intervals
                event = holding[event].source
                if event == start:
                    break
            best = max(best, (ticks / intervals, start))
    return best


def _require_positive(name: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {number}")
