"""What a method costs on a home link: bytes, time of an exchange, interval, and memory.

The trainer never waits. An exchange that is not over when its fragment is to depart again makes
that departure be skipped: the delta keeps growing, and the interval becomes longer. So a link that
is too thin costs loss (`peer.plan.cost`), not time; what it would cost a trainer that waits is in
`peer.plan.utilisation`. All peers are alike here: same link, same speed, nobody leaves.

**Symbols:** `n` = peers, `c`, `a` = frames of a contribution and of an average [bytes], `H`, `P`,
`tau` as in `optim.schedule`.

    pairs   up = down = c                        all   up = down = (n - 1) / n (c + a)

With `groups` it is as with `all`, n being the members of a group. With `all` each member averages
one part of n: it sends the other parts of its own contribution, and its average to n - 1 others
(`protocol.group_exchange`). Frames are those of the run's codec, and short ones: they follow each
other in grains (`optim.codec.grains`). What this predicts is held against the simulator in
tests/sim/test_plan_agrees.py.
"""

import math
from dataclasses import dataclass

from optim.codec.codec import Codec
from optim.codec.grains import Grains, grain_elements
from optim.method import Method
from optim.outer.rule import AheadRule
from peer.plan.memory import Memory, memory_of
from peer.plan.utilisation import Exchange, Workload, utilisation
from peer.sim.network import MATHIS, SEGMENT_BYTES
from peer.sim.wire import CHUNK_OVERHEAD_FRAC
from peer.train.model import VOCAB_SIZE
from protocol.manifest import LimitSpec

WIRE_BPS = 4e9
"""What one peer's wire process moves: 496 MB/s, docs/results.md, "The wire"."""
LOST_S_PER_PARAM = 3.2e-9
"""Of the trainer, for an exchange of everything: snapshot, landing, caches. 2.7 ms with 0.8M
parameters, 15 ms with 5M; docs/results.md, "Does the network slow the trainer?"."""
MOST_MEMBERS = 256
"""The largest `limits.max_peers` that a manifest may have; a roster has no more."""
TRIPS = {"all": 3.0, "pairs": 2.0, "groups": 3.5}
"""Round trips that no byte fills: ready or question and answer, roster, and one a fetch."""
TURN_STEPS = 1.0
"""A trainer hears of a landing between two steps."""
_ASPECT = 85


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How every peer is connected.

    Attributes:
        up_bps, down_bps: Rates [bit/s].
        rtt_s: Round trip between two peers.
        loss_frac: Of packets, lost on the way.

    Raises:
        ValueError: A number is out of its range.
    """

    up_bps: float
    down_bps: float
    rtt_s: float = 0.05
    loss_frac: float = 0.0

    def __post_init__(self) -> None:
        for name in ("up_bps", "down_bps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        if not 0 <= self.rtt_s < math.inf:
            raise ValueError(f"rtt_s must be at least 0 and finite, not {self.rtt_s}")
        if not 0 <= self.loss_frac < 1:
            raise ValueError(f"loss_frac must be at least 0 and below 1, not {self.loss_frac}")

    def rate_bps(self, num_connections: int) -> float:
        """Return what arrives of so many connections that a peer serves, and as many it fetches.

        Under loss a TCP connection has a rate of its own (Mathis et al. 1997).
        """
        connections_bps = math.inf
        if self.loss_frac:
            trip_s = max(1e-3, self.rtt_s)
            one_bps = MATHIS * 8 * SEGMENT_BYTES / (trip_s * math.sqrt(self.loss_frac))
            connections_bps = num_connections * one_bps
        return min(self.up_bps, self.down_bps, connections_bps, WIRE_BPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """See `estimate`.

    Attributes:
        bytes_each_way: Frames that a peer sends, and as many it receives, while each fragment is
            exchanged once.
        exchange_s: From a fragment's departure until its average is here; of the largest fragment,
            with all others on the link if they cannot be through before.
        transfer_s: What the link needs to carry `bytes_each_way`.
        planned_steps: H.
        interval_steps: What H becomes on this link, on average.
        delay_steps: From departure to landing.
        step_s: An inner step.
        trainer_frac: Share of time that the trainer trains; see `LOST_S_PER_PARAM`.
        memory: Of a peer's host.
        join_bytes: What a newcomer fetches before it can begin.
        join_s: How long that takes, its donor doing nothing else.
        least_progress_s: A chunk takes so long when all streams share the link; what the run's
            `round.progress_s` must exceed. `round.exchange_s` must exceed `exchange_s`.
    """

    bytes_each_way: float
    exchange_s: float
    transfer_s: float
    planned_steps: int
    interval_steps: float
    delay_steps: float
    step_s: float
    trainer_frac: float
    memory: Memory
    join_bytes: float
    join_s: float
    least_progress_s: float

    @property
    def load_frac(self) -> float:
        """What the link would have to carry at the planned H, as a part of what it can."""
        return self.transfer_s / (self.planned_steps * self.step_s)

    @property
    def busy_frac(self) -> float:
        """How much of the time the link is busy."""
        return self.transfer_s / (self.interval_steps * self.step_s)

    @property
    def suffices(self) -> bool:
        """Whether the link carries the method as planned."""
        return self.interval_steps <= self.planned_steps

    @property
    def interval_s(self) -> float:
        """The time between two exchanges of the same fragment."""
        return self.interval_steps * self.step_s

    @property
    def bytes_per_day(self) -> float:
        """Sent by a peer in a day, and as much received."""
        return self.bytes_each_way * (1 + CHUNK_OVERHEAD_FRAC) * 86400 / self.interval_s


def estimate(method: Method, workload: Workload, link: Link, peers: int) -> Estimate:
    """Return what a method costs.

    Args:
        method: The method.
        workload: What every peer trains, see `layers_of`.
        link: How every peer is connected.
        peers: How many there are.

    Raises:
        ValueError: There are fewer than two peers, too many to average with `all`, or fewer blocks
            than the method needs.
    """
    _require_peers(method, peers)
    sizes = fragment_elements(method, workload)
    members = _members(method, peers)
    each_way = [_bytes_each_way(method, size, members) for size in sizes]
    partners = members - 1
    rate_bps = link.rate_bps(partners)
    bits_s = 8 * (1 + CHUNK_OVERHEAD_FRAC)
    total_s, largest_s = bits_s * sum(each_way) / rate_bps, bits_s * max(each_way) / rate_bps
    trips_s = TRIPS[method.mixing] * link.rtt_s
    step_s, num_params = workload.step_s, sum(sizes)
    is_crowded = len(sizes) * largest_s > method.schedule.interval_steps * step_s
    exchange_s = (total_s if is_crowded else largest_s) + trips_s
    span_steps = exchange_s / step_s + TURN_STEPS
    interval_steps = _interval_steps(method, span_steps)
    join_bytes = 4.0 * num_params * (1 + len(method.outer.rule.init_state(1)))
    num_streams = partners * (len(sizes) if is_crowded else 1)
    interval_s = interval_steps * step_s
    return Estimate(
        bytes_each_way=sum(each_way),
        exchange_s=exchange_s,
        transfer_s=total_s,
        planned_steps=method.schedule.interval_steps,
        interval_steps=interval_steps,
        delay_steps=max(float(method.schedule.overlap_steps), span_steps),
        step_s=step_s,
        trainer_frac=interval_s / (interval_s + LOST_S_PER_PARAM * num_params),
        memory=memory_of(method, sizes, members),
        join_bytes=join_bytes,
        join_s=bits_s * join_bytes / link.rate_bps(1),
        least_progress_s=8 * _chunk_bytes(method, max(sizes), members) * num_streams / rate_bps,
    )


def blocking_frac(method: Method, workload: Workload, link: Link, peers: int) -> float:
    """Return the share of time that a trainer would train if it waited, `peer.plan.utilisation`.

    Landings are waited for tau steps after departure, as published.

    Raises:
        ValueError: As `estimate`.
    """
    planned = estimate(method, workload, link, peers)
    blocks_apart = bool(method.separate_embeddings)
    fragments = method.schedule.num_fragments - blocks_apart
    exchange = Exchange(
        interval_steps=method.schedule.interval_steps,
        bits_per_value=8 * planned.bytes_each_way / workload.num_params,
        fragment_layers=math.ceil(workload.layers / fragments),
        overlap_steps=method.schedule.overlap_steps,
    )
    rate_bps = link.rate_bps(_members(method, peers) - 1)
    latency_s = TRIPS[method.mixing] * link.rtt_s
    return utilisation(
        workload, exchange, rate_bps / (1 + CHUNK_OVERHEAD_FRAC), latency_s=latency_s
    )


def layers_of(num_params: float) -> int:
    """Return the layers of a usual transformer of that size.

    It is as wide as 85 times its depth, as the models of arXiv:2501.18512v1 (Tables 2 and 4) from
    1B to 100B, and has 12 layers dim^2 parameters.
    """
    return max(1, round(math.cbrt(num_params / (12 * _ASPECT**2))))


def fragment_elements(method: Method, workload: Workload) -> list[int]:
    """Return the number of parameters in each fragment; blocks are alike, embeddings over bytes.

    Raises:
        ValueError: There are fewer blocks than the method needs.
    """
    P, num_params = method.schedule.num_fragments, round(workload.num_params)
    apart = 0
    if method.separate_embeddings:
        dim = math.sqrt(num_params / (12 * workload.layers))
        P, apart = P - 1, max(1, round(VOCAB_SIZE["bytes"] * dim))
    rest = num_params - apart
    if not 1 <= P <= workload.layers or rest < P:
        raise ValueError(
            f"{method.schedule.num_fragments} fragments are not to be had of a model with "
            f"{num_params} parameters in {workload.layers} layers"
        )
    sizes = [rest * (p + 1) // P - rest * p // P for p in range(P)]
    return [*sizes, apart] if apart else sizes


def _require_peers(method: Method, peers: int) -> None:
    if peers < 2:
        raise ValueError(f"a swarm has at least 2 peers, not {peers}")
    if method.mixing == "all" and peers > MOST_MEMBERS:
        raise ValueError(
            f"{peers} peers are too many to average all with all, {MOST_MEMBERS} at most; use "
            "mixing pairs"
        )


def _members(method: Method, peers: int) -> int:
    """Return how many take part in one exchange."""
    return {"all": peers, "pairs": 2, "groups": min(method.group_size, peers)}[method.mixing]


def _bytes_each_way(method: Method, num_elements: int, members: int) -> float:
    # With `all` a part differs by one value from peer to peer; this is the mean.
    total = method.outer.rule.lanes * num_elements
    if method.mixing == "pairs":
        return float(_grains(method.codec, total).size_bytes)
    average = method.codec.for_average(members)
    part, num_longer = divmod(total, members)

    def parts(codec: Codec) -> int:
        longer, shorter = (_grains(codec, size).size_bytes for size in (part + 1, part))
        return num_longer * longer + (members - num_longer) * shorter

    return (members - 1) / members * (parts(method.codec) + parts(average))


def _chunk_bytes(method: Method, num_elements: int, members: int) -> int:
    num_parts = 1 if method.mixing == "pairs" else members
    part = math.ceil(method.outer.rule.lanes * num_elements / num_parts)
    codecs = method.codec, method.codec.for_average(members)
    return max(_grains(codec, part).grain_bytes for codec in codecs)


def _grains(codec: Codec, num_elements: int) -> Grains:
    return Grains(codec, num_elements, grain_elements(codec, LimitSpec().chunk_bytes))


def _interval_steps(method: Method, span_steps: float) -> float:
    H, P = method.schedule.interval_steps, method.schedule.num_fragments
    if isinstance(method.outer.rule, AheadRule):  # the next is ready, and departs at the landing
        return max(float(H), span_steps)
    if span_steps <= H:
        return float(H)
    if P == 1:
        return float(H * math.ceil(span_steps / H))  # the next departure of its schedule
    return span_steps + H / (2 * P)  # while one waits for its turn, others have the link
