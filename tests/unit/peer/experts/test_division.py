from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from peer.experts.division import DIVISIONS, Claim, Share, divide
from peer.experts.flops import flops_per_token
from protocol.models import ModelSpec

BASE = ModelSpec()
STEP_FLOPS = 1024 * flops_per_token(BASE)
SIX = [1.1, 1.4, 1.9, 2.0, 2.4, 2.6]

difficulties = st.lists(st.floats(0.5, 5), min_size=2, max_size=8)
divisions = st.sampled_from(DIVISIONS)


def divided(claims: Any, division: str, steps: float = 1000, **kwargs: Any) -> list[Share]:
    """Return the shares of a budget of so many steps of the base model for each domain."""
    settings = {"spread": 2.0, "step_tokens": 1024, "interval_steps": 50} | kwargs
    budget = settings.pop("budget_flops", len(claims) * steps * STEP_FLOPS)
    return divide(claims, BASE, division=division, budget_flops=budget, **settings)


def total(shares: list[Share]) -> float:
    return sum(share.flops for share in shares)


@given(
    claims=difficulties,
    division=divisions,
    spread=st.floats(1, 6),
    interval=st.sampled_from([1, 7, 50, 100]),
    steps=st.floats(600, 3000),
)
def test_the_total_is_the_budget_or_up_to_two_per_cent_below(
    claims: list[float], division: str, spread: float, interval: int, steps: float
) -> None:
    shares = divided(claims, division, steps, spread=spread, interval_steps=interval)
    budget = len(claims) * steps * STEP_FLOPS
    assert 0.98 * budget <= total(shares) <= budget * (1 + 1e-9)
    for share in shares:
        assert share.flops == share.total_steps * share.step_tokens * flops_per_token(share.model)


@given(claims=difficulties, division=divisions, spread=st.floats(1, 6))
def test_a_harder_domain_never_gets_much_less(
    claims: list[float], division: str, spread: float
) -> None:
    shares = divided(claims, division, spread=spread)
    in_order = [share for _, share in sorted(zip(claims, shares, strict=True), key=lambda p: p[0])]
    interval_flops = 50 * STEP_FLOPS
    for easier, harder in pairwise(in_order):
        assert harder.flops >= 0.93 * easier.flops - interval_flops  # a rung, and a rounding


@given(division=divisions, steps=st.sampled_from([200, 1000, 5000]))
def test_where_all_are_equally_difficult_all_get_the_base_and_equal_steps(
    division: str, steps: int
) -> None:
    assert {(s.model, s.total_steps) for s in divided([2.0] * 5, division, steps)} == {
        (BASE, steps)
    }


def test_equal_gives_all_the_same() -> None:
    assert {(s.model, s.total_steps) for s in divided(SIX, "equal")} == {(BASE, 1000)}


def test_steps_change_nothing_but_steps() -> None:
    shares = divided(SIX, "steps")
    assert {share.model for share in shares} == {BASE}
    assert [share.total_steps % 50 for share in shares] == [0] * 6
    assert shares[-1].total_steps / shares[0].total_steps == pytest.approx(2, rel=0.08)


def test_size_changes_nothing_but_models() -> None:
    shares = divided(SIX, "size")
    assert {share.total_steps for share in shares} == {1000}
    assert shares[-1].flops / shares[0].flops == pytest.approx(2, rel=0.04)


def test_both_splits_evenly_between_them() -> None:
    easiest, *_, hardest = divided(SIX, "both", 4000)
    sizes = flops_per_token(hardest.model) / flops_per_token(easiest.model)
    steps = hardest.total_steps / easiest.total_steps
    assert sizes == pytest.approx(2**0.5, rel=0.04)
    assert steps == pytest.approx(2**0.5, rel=0.04)
    assert hardest.flops / easiest.flops == pytest.approx(2, rel=0.04)


def test_three_difficulties_give_the_paper_s_steps() -> None:
    shares = divided([1.0, 2.0, 3.0], "steps", 400, spread=5 / 3)
    assert [share.total_steps for share in shares] == [300, 400, 500]


@given(claims=difficulties, division=divisions)
def test_the_order_of_domains_does_not_matter(claims: list[float], division: str) -> None:
    claims = [round(claim, 1) + 0.01 * i for i, claim in enumerate(claims)]  # no two alike
    forward, backward = divided(claims, division), divided(claims[::-1], division)
    assert forward == backward[::-1]


@given(spread=st.floats(1, 6), steps=st.integers(120, 900), interval=st.sampled_from([50, 100]))
def test_rounding_moves_no_domain_by_more_than_a_tenth(
    spread: float, steps: int, interval: int
) -> None:
    share = 2 * steps / (1 + spread)
    assume(share >= interval)  # else the budget is refused
    easier, harder = divided([1.0, 2.0], "steps", steps, spread=spread, interval_steps=interval)
    assert easier.total_steps == pytest.approx(share, rel=0.1)
    assert harder.total_steps == pytest.approx(spread * share, rel=0.1)


def test_a_small_budget_is_divided_in_single_steps() -> None:
    shares = divided([1.0, 2.0], "steps", 200, spread=5 / 3, interval_steps=100)
    assert [share.total_steps for share in shares] == [150, 250]


# ---- what is given


@given(division=divisions, given=st.integers(50, 2500))
def test_given_steps_come_off_the_budget_first(division: str, given: int) -> None:
    claims = [Claim(1.0), Claim(2.0, total_steps=given), Claim(3.0), Claim(1.5)]
    shares = divided(claims, division)
    assert shares[1].total_steps == given
    assert 0.98 * 4000 * STEP_FLOPS <= total(shares) <= 4000 * STEP_FLOPS * (1 + 1e-9)


@given(division=divisions)
def test_a_given_model_is_not_changed(division: str) -> None:
    small = ModelSpec(dim=64, layers=2, ffn_dim=128)
    shares = divided([Claim(1.0), Claim(2.0, model=small), Claim(3.0)], division)
    assert shares[1].model == small
    assert total(shares) <= 3000 * STEP_FLOPS * (1 + 1e-9)
    if division in ("equal", "size"):
        assert len({share.total_steps for share in shares}) == 1


@given(division=divisions)
def test_a_seed_counts_but_is_not_weighed(division: str) -> None:
    claims = [Claim(), *(Claim(difficulty) for difficulty in SIX)]
    seed, *experts = divided(claims, division)
    assert seed.model == BASE
    assert seed.flops == pytest.approx(1000 * STEP_FLOPS, rel=0.06)
    assert total([seed, *experts]) <= 7000 * STEP_FLOPS * (1 + 1e-9)


def test_steps_of_other_sizes_are_counted_as_such() -> None:
    shares = divided([Claim(1.0), Claim(2.0, step_tokens=2048)], "steps", spread=1.0)
    assert shares[0].total_steps == pytest.approx(2 * shares[1].total_steps, rel=0.06)
    assert shares[1].step_tokens == 2048


# ---- mistakes


@pytest.mark.parametrize("division", DIVISIONS)
def test_a_budget_too_small_is_told_the_smallest_that_does(division: str) -> None:
    with pytest.raises(ValueError, match="is the least that does") as refused:
        divided(SIX, division, 20)
    least = float(str(refused.value).split(": ")[1].split()[0])
    shares = divided(SIX, division, budget_flops=least)
    assert min(share.total_steps for share in shares) >= 50
    assert total(shares) <= least * (1 + 1e-9)
    with pytest.raises(ValueError, match="too small"):
        divided(SIX, division, budget_flops=0.98 * least)


def test_an_unknown_division_is_told_what_there_is() -> None:
    with pytest.raises(ValueError, match="no division 'best'; there are equal, steps, size, both"):
        divided(SIX, "best")
