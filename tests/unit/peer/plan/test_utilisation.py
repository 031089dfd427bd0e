"""The utilisation model, against closed forms, a plain simulation and general truths."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from optim.fragments import assign_fragments
from optim.schedule import Schedule
from peer.plan.utilisation import PAPER_GRID, Exchange, Workload, required_bps, utilisation

SLOWNESS = st.floats(0.001, 1000)
"""S / B over T: how many steps' time it takes to send all."""


def workload(layers: int = 6) -> Workload:
    return Workload(num_params=1e9, layers=layers, step_s=0.5)


@st.composite
def exchanges(draw: st.DrawFn, *, layers: int, max_steps: int = 8) -> Exchange:
    num_fragments = draw(st.integers(1, min(layers, max_steps)))
    fragment_layers = math.ceil(layers / num_fragments)
    interval_steps = draw(st.integers(math.ceil(layers / fragment_layers), max_steps))
    return Exchange(
        interval_steps=interval_steps,
        bits_per_value=draw(st.sampled_from([16.0, 4.0])),
        fragment_layers=draw(st.sampled_from([fragment_layers, None])),
        overlap_steps=draw(st.integers(0, interval_steps)),
        pattern=draw(st.sampled_from(["strided", "sequential", "balanced"])),
    )


CASES = st.integers(1, 7).flatmap(lambda L: st.tuples(st.just(workload(L)), exchanges(layers=L)))


def bandwidth_bps(work: Workload, exchange: Exchange, slowness: float) -> float:
    return work.num_params * exchange.bits_per_value / (slowness * work.step_s)


def simulated_s(
    work: Workload, exchange: Exchange, transfer_s: float, latency_s: float, num_steps: int
) -> float:
    """Return how long that many steps take from a standing start, layer by layer."""
    L, tau = work.layers, exchange.overlap_steps
    P = math.ceil(L / (exchange.fragment_layers or L))
    schedule = Schedule(exchange.interval_steps, P, tau)
    names = {f"h.{layer}.w": 1 for layer in range(L)}
    fragment_of = list(assign_fragments(names, num_fragments=P, pattern=exchange.pattern).values())
    now_s = link_free_s = 0.0
    landing_s: dict[tuple[int, int], float] = {}
    for step in range(num_steps):
        for layer in range(L):
            now_s = max(now_s, landing_s.pop((step, layer), 0.0)) + work.step_s / (3 * L)
        for layer in reversed(range(L)):
            now_s += 2 * work.step_s / (3 * L)
            if (step - schedule.offset(fragment_of[layer])) % exchange.interval_steps == 0:
                link_free_s = max(link_free_s, now_s) + transfer_s
                landing_s[step + 1 + tau, layer] = link_free_s + latency_s
    return now_s


@given(CASES, SLOWNESS, st.sampled_from([0.0, 0.1, 2.0]))
def test_it_is_the_mean_of_a_plain_simulation(
    case: tuple[Workload, Exchange], slowness: float, latency_s: float
) -> None:
    work, exchange = case
    bandwidth = bandwidth_bps(work, exchange, slowness)
    interval_s = (
        exchange.interval_steps
        * work.step_s
        / utilisation(work, exchange, bandwidth, latency_s=latency_s)
    )
    num_intervals = 100
    total_s = simulated_s(
        work,
        exchange,
        slowness * work.step_s / work.layers,
        latency_s,
        num_intervals * exchange.interval_steps,
    )
    # A start without anything to wait for saves a few intervals, once, however long the run.
    assert total_s <= num_intervals * interval_s * (1 + 1e-9)
    assert total_s >= (num_intervals - 3) * interval_s


@given(st.integers(1, 100), st.integers(1, 100), SLOWNESS, st.sampled_from([0.0, 0.1]))
@example(L=24, H=1, slowness=162.16, latency_s=0.0)
def test_data_parallel_and_diloco_have_a_closed_form(
    L: int, H: int, slowness: float, latency_s: float
) -> None:
    work, exchange = workload(L), Exchange(interval_steps=H)
    T = work.step_s
    all_s = slowness * T
    # Either the link is busy from the first backward on, or only the last layer is left over.
    last_step_s = max(T / 3 + 2 * T / (3 * L) + all_s, T + all_s / L) + latency_s
    expected = H * T / ((H - 1) * T + last_step_s)
    bandwidth = bandwidth_bps(work, exchange, slowness)
    measured = utilisation(work, exchange, bandwidth, latency_s=latency_s)
    assert measured == pytest.approx(expected, rel=1e-9)


@given(CASES, SLOWNESS)
def test_all_layers_in_one_fragment_are_diloco(
    case: tuple[Workload, Exchange], slowness: float
) -> None:
    work, exchange = case
    bandwidth = bandwidth_bps(work, exchange, slowness)
    diloco = utilisation(work, replace(exchange, fragment_layers=None), bandwidth)
    for pattern in ("strided", "sequential"):
        one = replace(exchange, fragment_layers=work.layers, pattern=pattern)
        assert utilisation(work, one, bandwidth) == diloco


@given(CASES, SLOWNESS, st.floats(1, 10))
def test_it_grows_with_bandwidth_and_stays_between_0_and_1(
    case: tuple[Workload, Exchange], slowness: float, factor: float
) -> None:
    work, exchange = case
    bandwidth = bandwidth_bps(work, exchange, slowness)
    less, more = (utilisation(work, exchange, B) for B in (bandwidth, factor * bandwidth))
    assert 0 < less <= 1
    assert more <= 1
    assert less <= more * (1 + 1e-9)


@given(CASES, SLOWNESS)
def test_it_grows_with_overlap(case: tuple[Workload, Exchange], slowness: float) -> None:
    work, exchange = case
    bandwidth = bandwidth_bps(work, exchange, slowness)
    by_overlap = [
        utilisation(work, replace(exchange, overlap_steps=tau), bandwidth)
        for tau in range(exchange.interval_steps + 1)
    ]
    for less, more in pairwise(by_overlap):
        assert less <= more * (1 + 1e-9)


@given(CASES, SLOWNESS, st.floats(1.1, 10))
def test_only_the_time_to_send_in_steps_matters(
    case: tuple[Workload, Exchange], slowness: float, factor: float
) -> None:
    work, exchange = case
    bandwidth = bandwidth_bps(work, exchange, slowness)
    expected = pytest.approx(utilisation(work, exchange, bandwidth), rel=1e-9)
    larger = replace(work, num_params=factor * work.num_params)
    slower = replace(work, step_s=factor * work.step_s)
    assert utilisation(larger, exchange, factor * bandwidth) == expected
    assert utilisation(slower, exchange, bandwidth / factor) == expected


@given(CASES, SLOWNESS)
def test_half_the_bits_are_twice_the_bandwidth(
    case: tuple[Workload, Exchange], slowness: float
) -> None:
    work, exchange = case
    bandwidth = bandwidth_bps(work, exchange, slowness)
    thin = replace(exchange, bits_per_value=exchange.bits_per_value / 2)
    assert utilisation(work, thin, bandwidth) == utilisation(work, exchange, 2 * bandwidth)


@given(CASES)
def test_with_an_infinite_bandwidth_nobody_waits(case: tuple[Workload, Exchange]) -> None:
    assert utilisation(*case, math.inf) == 1


@given(CASES, SLOWNESS)
def test_no_method_beats_what_the_link_can_carry(
    case: tuple[Workload, Exchange], slowness: float
) -> None:
    work, exchange = case
    carried = exchange.interval_steps / slowness
    assert utilisation(work, exchange, bandwidth_bps(work, exchange, slowness)) <= carried * (
        1 + 1e-9
    )


@pytest.mark.parametrize("tau", [1, 5, 15])
def test_what_is_sent_within_the_overlap_costs_nothing(tau: int) -> None:
    work, exchange = workload(), Exchange(interval_steps=20, overlap_steps=tau)
    assert utilisation(work, exchange, bandwidth_bps(work, exchange, 0.99 * tau)) == 1
    # Layer 5's backward ends with 5/9 of the step to go; layer 0 is needed first and sent last.
    assert utilisation(work, exchange, bandwidth_bps(work, exchange, tau + 0.55)) == 1
    assert utilisation(work, exchange, bandwidth_bps(work, exchange, tau + 0.56)) < 1


def test_a_full_overlap_on_a_slow_link_keeps_the_link_busy() -> None:
    work, exchange = workload(), Exchange(interval_steps=10, overlap_steps=10)
    measured = utilisation(work, exchange, bandwidth_bps(work, exchange, 40.0))
    assert measured == pytest.approx(10 / 40, rel=1e-12)


def test_an_overlap_hides_latency() -> None:
    at_once = Exchange(interval_steps=12, fragment_layers=2)  # layers 0 and 3, 1 and 4, 2 and 5
    later = replace(at_once, overlap_steps=1)
    assert utilisation(workload(), later, 1e15, latency_s=0.4) == 1
    # Layer p of fragment p is waited for; below it are p backwards and p forwards meanwhile.
    waited_s = sum(0.4 - p * 3 * 0.5 / 18 for p in range(3))
    measured = utilisation(workload(), at_once, 1e15, latency_s=0.4)
    assert measured == pytest.approx(12 * 0.5 / (12 * 0.5 + waited_s), rel=1e-5)


@given(CASES, st.floats(0.01, 0.999))
def test_the_required_bandwidth_is_the_first_of_the_grid_that_reaches(
    case: tuple[Workload, Exchange], target: float
) -> None:
    work, exchange = case
    grid = [10.0**exponent for exponent in range(6, 13)]
    reaching = [B for B in grid if utilisation(work, exchange, B) >= target]
    assert required_bps(work, exchange, target, grid=grid) == (reaching[0] if reaching else None)


def test_the_papers_grid_has_50_points_from_a_tenth_to_a_thousand_gbit() -> None:
    assert (len(PAPER_GRID), PAPER_GRID[0]) == (50, 1e8)
    assert PAPER_GRID[-1] == pytest.approx(1e12)
    ratios = [b / a for a, b in pairwise(PAPER_GRID)]
    assert ratios == pytest.approx([10 ** (4 / 49)] * 49)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Workload(num_params=0, layers=2, step_s=1), "num_params must be positive"),
        (lambda: Workload(num_params=1, layers=0, step_s=1), "layers must be positive"),
        (lambda: Workload(num_params=1, layers=2, step_s=math.nan), "step_s must be positive"),
        (lambda: Exchange(bits_per_value=0), "bits_per_value must be positive"),
        (lambda: Exchange(fragment_layers=0), "fragment_layers must be positive"),
        (lambda: Exchange(interval_steps=0), "interval_steps must be at least 1"),
        (lambda: Exchange(interval_steps=3, overlap_steps=4), "overlap_steps must be between"),
        (lambda: utilisation(workload(), Exchange(), 0), "bandwidth_bps must be positive"),
        (
            lambda: utilisation(workload(), Exchange(), 1e9, latency_s=-1),
            "latency_s must be at least 0",
        ),
        (
            lambda: utilisation(workload(), Exchange(pattern="random"), 1e9),
            "no pattern 'random'",
        ),
        (
            lambda: utilisation(workload(), Exchange(interval_steps=2, fragment_layers=1), 1e9),
            r"num_fragments must be between 1 and interval_steps \(2\), not 6",
        ),
        (lambda: required_bps(workload(), Exchange(), 1.1), "target_frac must be above 0"),
        (lambda: required_bps(workload(), Exchange(), 0.0), "target_frac must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
