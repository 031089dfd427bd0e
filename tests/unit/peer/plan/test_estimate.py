"""Bytes against real frames, intervals against closed forms, and general truths."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.layout import layout_of
from optim.method import Method, method_named
from optim.presets import PRESETS
from peer.mixing import Mixing
from peer.plan.estimate import (
    MOST_MEMBERS,
    TRIPS,
    WIRE_BPS,
    Estimate,
    Link,
    blocking_frac,
    estimate,
    fragment_elements,
    layers_of,
)
from peer.plan.memory import memory_of
from peer.plan.utilisation import Workload
from peer.sim.wire import CHUNK_OVERHEAD_FRAC
from protocol.identity import PeerId
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.terms import Terms

HOME = Link(up_bps=20e6, down_bps=100e6, rtt_s=0.08)
ID = b"e" * 16


def ignore() -> None:
    """A grain is there."""


def workload(num_params: float = 1e8, step_s: float = 0.5) -> Workload:
    return Workload(num_params=num_params, layers=8, step_s=step_s)


def transfer_s(planned: Estimate, bps: float) -> float:
    return 8 * (1 + CHUNK_OVERHEAD_FRAC) * planned.bytes_each_way / bps


# ---- bytes, against the frames of real exchanges


def frames_of_an_exchange(method: Method, sizes: list[int], peers: int) -> tuple[int, int]:
    """Return the bytes of all frames that all peers serve, and fetch, in one exchange of each."""
    layout = layout_of(
        {f"b.{i}": (size,) for i, size in enumerate(sizes)}, num_fragments=len(sizes)
    )
    names = [PeerId(f"peer {i}") for i in range(peers)]
    start = torch.zeros(layout.num_elements)
    mixings = [Mixing(layout, method.outer, method.codecs, start, our_id=name) for name in names]
    terms = Terms() if method.mixing == "pairs" else Terms((1,) * peers)
    sent = received = 0
    for fragment, span in enumerate(layout.fragments):
        for i, mixing in enumerate(mixings):
            theta = torch.linspace(-1, 1 + i, len(span)) / 100
            others = tuple(name for name in names if name != names[i])
            offer = Offer(fragment, 0, ID, terms, others)
            mixing.open(offer.fragment, offer.exchange_id, offer.terms)
            mixing.offer(offer, theta)
            mixing.encode(offer, ignore)

        def fetch(to: int, src: int, kind: str, part: int, fragment: int = fragment) -> None:
            nonlocal sent, received
            ref = BlobRef(kind, fragment, ID, part)
            made, effect = mixings[src].made(ref), Fetch(names[src], ref, terms, 1)
            assert made is not None
            received += mixings[to].grains(ref, terms).size_bytes
            for grain in mixings[to].missing(effect):
                frame = made.frames[grain]
                assert frame is not None
                sent += len(frame)
                mixings[to].collect(effect, grain, frame)

        if method.mixing == "pairs":
            for i in range(peers):
                fetch(i, i ^ 1, "part", 0)
                reduce = Reduce(BlobRef("average", fragment, ID), 1, is_shared=False)
                mixings[i].reduce(reduce, ignore)
        else:
            pairs = [(i, j) for i in range(peers) for j in range(peers) if i != j]
            for i, j in pairs:
                fetch(i, j, "part", i)
            for i in range(peers):
                mixings[i].reduce(Reduce(BlobRef("average", fragment, ID, i), 1), ignore)
            for i, j in pairs:
                fetch(i, j, "average", j)
        for mixing in mixings:
            mixing.land(Land(fragment, 0, ID, terms))
    return sent, received


@pytest.mark.parametrize("preset", [*PRESETS, "groups"])
def test_the_bytes_are_those_of_real_frames(preset: str) -> None:
    is_group = preset == "groups"
    method = method_named("noloco", mixing="groups") if is_group else method_named(preset)
    peers = 4
    work = workload(num_params=300_001)  # parts of unequal length, broken blocks and grains
    sizes = fragment_elements(method, work)
    sent, received = frames_of_an_exchange(method, sizes, peers)
    planned = estimate(method, work, HOME, peers)
    assert planned.bytes_each_way * peers == pytest.approx(sent, abs=0.01)
    assert sent == received


def test_all_moves_twice_the_model_and_pairs_once() -> None:
    all_ = estimate(method_named("diloco"), workload(), HOME, 4)
    pairs = estimate(method_named("noloco"), workload(), HOME, 4)
    assert all_.bytes_each_way == pytest.approx(2 * 3 / 4 * 4e8, rel=1e-4)
    assert pairs.bytes_each_way == pytest.approx(4e8, rel=1e-4)


def test_a_group_costs_what_all_would_if_there_were_no_others() -> None:
    groups = method_named("noloco", mixing="groups", group_size=5)
    many = estimate(groups, workload(), HOME, 1000)
    assert many == estimate(groups, workload(), HOME, 5)
    assert many.bytes_each_way == pytest.approx(2 * 4 / 5 * 4e8, rel=1e-4)


# ---- time


def test_an_exchange_takes_the_thinner_direction_and_its_round_trips() -> None:
    for preset in ("diloco", "noloco"):
        method = method_named(preset)
        planned = estimate(method, workload(), HOME, 4)
        trips_s = TRIPS[method.mixing] * HOME.rtt_s
        assert planned.exchange_s == pytest.approx(transfer_s(planned, 20e6) + trips_s)
        turned = Link(up_bps=HOME.down_bps, down_bps=HOME.up_bps, rtt_s=HOME.rtt_s)
        assert estimate(method, workload(), turned, 4) == planned


def test_under_loss_a_connection_has_mathis_rate_and_all_has_many() -> None:
    link = Link(up_bps=1e9, down_bps=1e9, rtt_s=0.1, loss_frac=0.01)
    one_bps = 1.22 * 1448 * 8 / (0.1 * math.sqrt(0.01))
    assert link.rate_bps(1) == pytest.approx(one_bps)
    pairs = estimate(method_named("noloco"), workload(), link, 8)
    all_ = estimate(method_named("diloco"), workload(), link, 8)
    assert pairs.transfer_s == pytest.approx(transfer_s(pairs, one_bps))
    assert all_.transfer_s == pytest.approx(transfer_s(all_, 7 * one_bps))


def test_the_wire_process_bounds_the_fastest_link() -> None:
    assert Link(up_bps=1e12, down_bps=1e12).rate_bps(1) == WIRE_BPS


# ---- what becomes of the interval


def link_for(load_frac: float, preset: str, **schedule: int) -> tuple[Method, Link]:
    """Return a link that needs so much of H for the transfers alone."""
    method = method_named(preset, schedule=schedule)
    planned = estimate(method, workload(), HOME, 4)
    bps = 20e6 * planned.load_frac / load_frac
    return method, Link(up_bps=bps, down_bps=bps, rtt_s=0.0)


@pytest.mark.parametrize(
    ("load_frac", "interval"), [(0.5, 100), (0.98, 100), (1.5, 200), (1.98, 200), (2.5, 300)]
)
def test_one_fragment_departs_at_its_next_turn_after_the_landing(
    load_frac: float, interval: int
) -> None:
    method, link = link_for(load_frac, "diloco")
    planned = estimate(method, workload(), link, 4)
    assert planned.interval_steps == interval
    assert planned.load_frac == pytest.approx(load_frac)
    assert planned.busy_frac == pytest.approx(load_frac * 100 / interval)


def test_a_method_that_goes_ahead_departs_as_soon_as_it_landed() -> None:
    method, link = link_for(1.5, "eager")
    planned = estimate(method, workload(), link, 4)
    assert planned.interval_steps == pytest.approx(151)
    assert planned.busy_frac == pytest.approx(1.5 * 100 / 151)


def test_fragments_on_a_full_link_keep_it_full() -> None:
    method, link = link_for(4.0, "streaming")
    planned = estimate(method, workload(), link, 4)
    assert planned.busy_frac == pytest.approx(1, abs=0.06)
    assert 400 < planned.interval_steps < 430


@given(st.sampled_from(list(PRESETS)), st.floats(0.01, 30), st.integers(2, 40))
def test_the_link_is_never_busier_than_all_the_time(
    preset: str, load_frac: float, peers: int
) -> None:
    method, link = link_for(load_frac, preset)
    planned = estimate(method, workload(), link, peers)
    assert planned.busy_frac <= 1 + 1e-9
    assert planned.interval_steps >= planned.planned_steps
    assert planned.suffices == (planned.interval_steps == planned.planned_steps)
    carried = planned.bytes_per_day / 86400 * planned.interval_s
    assert carried == pytest.approx(planned.bytes_each_way * (1 + CHUNK_OVERHEAD_FRAC))
    assert 0 < planned.trainer_frac <= 1


@given(st.sampled_from(list(PRESETS)), st.floats(1.0, 10.0), st.floats(0.05, 20))
def test_a_larger_model_on_a_wider_link_with_shorter_trips_is_the_same_plan(
    preset: str, factor: float, load_frac: float
) -> None:
    method, link = link_for(load_frac, preset)
    wider = Link(up_bps=factor * link.up_bps, down_bps=factor * link.down_bps, rtt_s=0.0)
    one = estimate(method, workload(1e8), link, 4)
    if link.up_bps * factor > WIRE_BPS:
        return
    other = estimate(method, workload(factor * 1e8), wider, 4)
    assert other.load_frac == pytest.approx(one.load_frac, rel=1e-3)
    assert other.transfer_s == pytest.approx(one.transfer_s, rel=1e-3)
    # Embeddings are a smaller part of a larger model.
    assert other.memory.total == pytest.approx(factor * one.memory.total, rel=2e-3)


@given(
    st.sampled_from(list(PRESETS)),
    st.floats(1e5, 1e9),
    st.floats(1.0, 20.0),
    st.floats(0.0, 0.2),
)
def test_a_better_link_is_never_worse(
    preset: str, bps: float, factor: float, loss_frac: float
) -> None:
    method = method_named(preset)
    link = Link(up_bps=bps, down_bps=2 * bps, rtt_s=0.1, loss_frac=loss_frac)
    better = Link(up_bps=factor * bps, down_bps=2 * bps, rtt_s=0.1 / factor, loss_frac=loss_frac)
    worse_s, better_s = (estimate(method, workload(), each, 8) for each in (link, better))
    assert better_s.exchange_s <= worse_s.exchange_s
    assert better_s.interval_steps <= worse_s.interval_steps
    assert better_s.delay_steps <= worse_s.delay_steps


def test_who_waits_trains_less_than_who_does_not() -> None:
    for preset in PRESETS:
        method = method_named(preset)
        planned = estimate(method, workload(), HOME, 8)
        assert blocking_frac(method, workload(), HOME, 8) < planned.trainer_frac


def test_a_trainer_that_waits_for_everything_has_the_closed_form() -> None:
    method = method_named("diloco")
    planned = estimate(method, workload(), HOME, 8)
    waited = blocking_frac(method, workload(), HOME, 8)
    compute_s = 100 * 0.5
    # What is sent while the last backward still goes on is less than a step.
    assert waited == pytest.approx(compute_s / (compute_s + planned.exchange_s), rel=0.01)


# ---- memory, joining, and what the run's settings must allow

MEASURED = {  # docs/results.md, "Memory of the outer side": 25.4M, 8 layers, 2 members
    "diloco": (2, 9.0),
    "streaming": (2, 4.4),
    "noloco": (2, 7.0),
    "eager": (4, 15.0),
    "co2": (3, 13.0),
    "sparseloco": (2, 7.05),
    "gossip-stream": (2, 4.2),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_memory_is_what_was_measured(preset: str) -> None:
    method = method_named(preset)
    sizes = fragment_elements(method, workload(25.4e6))
    outer, peak, shared = (x / (4 * 25.4e6) for x in memory_of(method, sizes, 2))
    assert (outer, shared) == (MEASURED[preset][0], 2)
    assert peak == pytest.approx(MEASURED[preset][1], rel=0.02)


@pytest.mark.parametrize(("codec", "measured"), [("fp32", 9.01), ("mod4", 6.41)])
def test_a_group_takes_the_memory_that_was_measured(codec: str, measured: float) -> None:
    method = method_named("noloco", mixing="groups", group_size=4, codec={"name": codec})
    sizes = fragment_elements(method, workload(25.4e6))
    _, peak, _ = memory_of(method, sizes, 4)
    assert peak == pytest.approx(4 * 25.4e6 * measured, rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_newcomer_fetches_what_a_peer_serves_as_its_state(preset: str) -> None:
    method, work = method_named(preset), workload(30_000)
    sizes = fragment_elements(method, work)
    layout = layout_of(
        {f"b.{i}": (size,) for i, size in enumerate(sizes)}, num_fragments=len(sizes)
    )
    mixing = Mixing(layout, method.outer, method.codecs, torch.zeros(30_000), our_id=PeerId("we"))
    served = sum(mixing.state_bytes(fragment) for fragment in range(len(sizes)))
    assert estimate(method, work, HOME, 4).join_bytes == served


def test_a_chunk_takes_longer_the_more_streams_share_the_link() -> None:
    few, many = (estimate(method_named("diloco"), workload(), HOME, n) for n in (5, 33))
    assert many.least_progress_s == pytest.approx(8 * few.least_progress_s)
    assert many.least_progress_s == pytest.approx(32 * 8 * (4 * 15 * 4096 + 12) / 20e6)
    small = estimate(method_named("diloco"), workload(33_000), HOME, 33)  # less than a chunk
    assert small.least_progress_s == pytest.approx(32 * 8 * (4 * 1000 + 12) / 20e6)


# ---- models and refusals


@pytest.mark.parametrize(
    ("num_params", "layers"), [(1e9, 24), (4e9, 36), (10e9, 48), (100e9, 108), (124e6, 12)]
)
def test_layers_are_those_of_known_models(num_params: float, layers: int) -> None:
    assert layers_of(num_params) == pytest.approx(layers, rel=0.1)


@given(st.sampled_from(list(PRESETS)), st.integers(1000, 10**12))
def test_fragments_cover_the_model(preset: str, num_params: int) -> None:
    method = method_named(preset)
    sizes = fragment_elements(method, workload(float(num_params)))
    assert sum(sizes) == num_params
    assert len(sizes) == method.schedule.num_fragments
    assert min(sizes) > 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 peers"):
        estimate(method_named("noloco"), workload(), HOME, 1)
    with pytest.raises(ValueError, match="use mixing pairs"):
        estimate(method_named("diloco"), workload(), HOME, MOST_MEMBERS + 1)
    estimate(method_named("noloco"), workload(), HOME, 1000)
    many = method_named("streaming", schedule={"fragments": 20})
    with pytest.raises(ValueError, match="20 fragments are not to be had"):
        estimate(many, workload(), HOME, 4)
    for wrong in ({"up_bps": 0.0}, {"down_bps": math.inf}, {"rtt_s": -1.0}, {"loss_frac": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Link(**{"up_bps": 1e6, "down_bps": 1e6, **wrong})
