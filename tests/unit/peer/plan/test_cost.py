"""Expected losses against the figures they rest on, and what a range must never do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.method import method_named
from optim.presets import PRESETS
from peer.plan.cost import cost_of, family_of, loss_cost
from peer.plan.estimate import Link, estimate
from peer.plan.figures import (
    DIFFERENCES,
    EAGER,
    FIGURES,
    NOLOCO,
    OURS,
    SCALING,
    STREAMING,
    interval_slopes,
    replica_slopes,
)
from peer.plan.utilisation import Workload

SIZES = st.floats(1e6, 5e10)
REPLICAS = st.integers(2, 256)
STEPS = st.floats(30, 900)
FAMILIES = ("diloco", "streaming", "noloco", "eager", "co2", "sparseloco", "gossip-stream")


@pytest.mark.parametrize(
    ("num_params", "replicas", "loss", "alone"),
    [(35e6, 8, 3.621, 3.485), (1.3e9, 4, 2.472, 2.460), (10e9, 2, 2.086, 2.090)],
)
def test_a_case_that_was_published_has_the_published_loss(
    num_params: float, replicas: int, loss: float, alone: float
) -> None:
    cost = cost_of("diloco", num_params, replicas, 30)
    assert cost.low_frac <= loss / alone - 1 <= cost.high_frac
    assert SCALING in cost.studies
    assert cost.reasons == ()


def test_streaming_at_a_longer_interval_is_near_its_table() -> None:
    cost = cost_of("streaming", 1e9, 2, 100)  # 2.50 against 2.49
    assert cost.low_frac <= 2.50 / 2.49 - 1 <= cost.high_frac
    assert cost.high_frac - cost.low_frac < 0.02
    assert STREAMING in cost.studies


def test_studies_that_disagree_make_the_range_wide() -> None:
    cost = cost_of("diloco", 1.3e9, 8, 100)
    assert {SCALING, NOLOCO} <= set(cost.studies)
    assert cost.low_frac < 0.025
    assert cost.high_frac > math.log(21.8) / math.log(18.8) - 1 - 1e-9


def test_pairs_are_compared_with_diloco_of_the_same_paper() -> None:
    pairs, all_ = (cost_of(family, 1.3e9, 8, 50) for family in ("noloco", "diloco"))
    theirs = math.log(21.1) / math.log(21.8) - 1  # H = 50 against H = 100
    grown = [slope * math.log(2) for slope in interval_slopes(1.3e9)]
    assert pairs.low_frac - all_.low_frac <= theirs + min(grown)
    assert pairs.high_frac - all_.high_frac >= theirs + max(grown)


def test_our_tiny_figures_count_only_where_there_are_no_others() -> None:
    assert OURS not in cost_of("eager", 1e9, 4, 100).studies
    assert EAGER in cost_of("eager", 1e9, 4, 100).studies
    ours = cost_of("gossip-stream", 1e9, 4, 100)
    assert OURS in ours.studies
    assert any("by us only" in reason for reason in ours.reasons)
    assert ours.low_frac == cost_of("diloco", 1e9, 4, 100).low_frac  # larger models lose less
    assert cost_of("diloco", 117_056, 4, 30).studies[0] == OURS


@given(st.sampled_from(FAMILIES), SIZES, REPLICAS, STEPS, st.floats(1, 4))
def test_a_longer_interval_or_more_replicas_never_cost_less(
    family: str, num_params: float, replicas: int, steps: float, factor: float
) -> None:
    cost = cost_of(family, num_params, replicas, steps)
    longer = cost_of(family, num_params, replicas, steps * factor)
    assert cost.low_frac <= longer.low_frac + 1e-12
    assert cost.high_frac <= longer.high_frac + 1e-12
    assert cost.low_frac <= cost.high_frac


def test_replicas_add_up_between_the_published_slopes() -> None:
    for size in (35e6, 550e6, 2.4e9):
        low, high = replica_slopes(size)
        two, eight = (
            next(f for f in FIGURES if (f.num_params, f.replicas, f.study) == (size, m, SCALING))
            for m in (2, 8)
        )
        grown = eight.increase_frac - two.increase_frac
        assert low * math.log(4) <= grown + 1e-12
        assert grown <= high * math.log(4) + 1e-12


def test_what_nobody_measured_is_said() -> None:
    reasons = cost_of("diloco", 50e9, 100, 2000).reasons
    assert [r.split()[0] for r in reasons] == ["no", "nobody", "nobody"]
    assert cost_of("diloco", 1e9, 4, 6000).high_frac == math.inf
    assert cost_of("diloco", 1e9, 4, 6000).low_frac < 0.1


def test_every_figure_is_a_small_part_of_a_loss() -> None:
    assert all(-0.01 < figure.increase_frac < 0.1 for figure in FIGURES)
    assert all(-0.02 < d.low_frac <= d.high_frac < 0.04 for d in DIFFERENCES)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_of_its_own_family(preset: str) -> None:
    assert family_of(method_named(preset)) == preset


def test_a_late_landing_costs_more_and_names_its_delay() -> None:
    method, work = method_named("diloco"), Workload(num_params=1e8, layers=10, step_s=0.5)
    early, late = (estimate(method, work, Link(up_bps=bps, down_bps=bps), 4) for bps in (1e9, 1e8))
    assert early.delay_steps < 20 < late.delay_steps < 100 == late.interval_steps
    costs = [loss_cost(method, planned, 1e8, 4) for planned in (early, late)]
    assert costs[0].high_frac < costs[1].high_frac
    assert any("steps late" in reason for reason in costs[1].reasons)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="there are diloco, streaming"):
        cost_of("magic", 1e9, 4, 100)
