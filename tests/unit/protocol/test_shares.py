from itertools import pairwise
from statistics import median

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.messages import MAX_BPS, MAX_SHARE
from protocol.shares import MAX_FAIR, MAX_RATIO, TOTAL, are_fair, fair_shares

rates = st.one_of(st.just(0), st.integers(1, MAX_BPS - 1), st.integers(10**6, 10**8))
groups = st.lists(rates, min_size=1, max_size=40)


def sent_s(shares: tuple[int, ...], up_bps: list[float]) -> float:
    """When the last member is through, from what each really sends: one fragment is one bit."""
    num, total = len(shares), sum(shares)
    times = []
    for share, rate in zip(shares, up_bps, strict=True):
        contribution = 1 - share / total
        average = (num - 1) * share / total
        times.append((contribution + average) / rate)
    return max(times)


def believed(up_bps: list[int]) -> list[float]:
    """As `up_bps`, with the median of the known ones for unknown ones."""
    middle = median([rate for rate in up_bps if rate] or [1])
    return [rate or middle for rate in up_bps]


@given(up_bps=groups)
@example(up_bps=[10**7] * 256)
@example(up_bps=[1] * 200 + [MAX_BPS - 1] * 56)
def test_shares_add_up_and_fit_a_note(up_bps: list[int]) -> None:
    shares = fair_shares(up_bps)
    assert len(shares) == len(up_bps)
    assert sum(shares) == TOTAL or shares == (1,) * len(up_bps)
    assert 0 <= min(shares) <= max(shares) < MAX_SHARE


@given(up_bps=groups)
@example(up_bps=[1, 1, MAX_BPS - 1])
@example(up_bps=[10**9, 10**6, 10**6])
def test_nobody_averages_more_than_it_may(up_bps: list[int]) -> None:
    shares = fair_shares(up_bps)
    assert max(shares) / sum(shares) <= MAX_FAIR / len(shares)
    assert len(shares) == 1 or max(shares) / sum(shares) <= 1 / 2
    assert are_fair(shares)


@given(up_bps=groups)
def test_never_slower_than_equal_shares(up_bps: list[int]) -> None:
    rates, equal = believed(up_bps), (1,) * len(up_bps)
    assert sent_s(fair_shares(up_bps), rates) <= sent_s(equal, rates) * (1 + 1e-9)


@given(up_bps=groups)
def test_whoever_is_faster_averages_no_less(up_bps: list[int]) -> None:
    by_rate = sorted(zip(believed(up_bps), fair_shares(up_bps), strict=True))
    for (_, less), (_, more) in pairwise(by_rate):
        assert less <= more + 1  # what cannot be divided goes to the first of equals


@given(up_bps=groups, factor=st.integers(2, 64))
def test_only_the_proportions_of_rates_count(up_bps: list[int], factor: int) -> None:
    scaled = fair_shares([factor * rate for rate in up_bps])
    for one, other in zip(fair_shares(up_bps), scaled, strict=True):
        assert abs(one / sum(fair_shares(up_bps)) - other / sum(scaled)) <= 1.5 / TOTAL


@given(up_bps=st.lists(st.integers(10**6, 8 * 10**6), min_size=3, max_size=40))
@example(up_bps=[10**6, 2 * 10**6, 3 * 10**6])
def test_no_other_shares_end_sooner(up_bps: list[int]) -> None:
    num = len(up_bps)

    def can_end_by(end_s: float) -> bool:
        cap = min(MAX_FAIR / num, 1 / 2)
        most = [min((end_s * rate - 1) / (num - 2), cap) for rate in up_bps]
        return min(most) >= 0 and sum(most) >= 1

    too_soon_s, soon_enough_s = 0.0, 1.0
    for _ in range(100):
        middle_s = (too_soon_s + soon_enough_s) / 2
        if can_end_by(middle_s):
            soon_enough_s = middle_s
        else:
            too_soon_s = middle_s
    rounding_s = (num - 2) / TOTAL / min(up_bps)
    found_s = sent_s(fair_shares(up_bps), list(up_bps))
    assert soon_enough_s * (1 - 1e-9) <= found_s <= soon_enough_s + rounding_s


@pytest.mark.parametrize(
    ("up_bps", "shares"),
    [
        ([], ()),
        ([5], (1,)),
        ([5, 500], (1, 1)),
        ([0, 0, 0], (1, 1, 1)),
        ([7, 7, 7], (1, 1, 1)),
        ([0, 7, 7], (1, 1, 1)),
        # T = 2/11: 7 T - 1 = 3/11 for the slow ones, 5/11 for the fast one.
        ([7, 7, 8], (1117, 1117, 1862)),
        # T = 5/8: half is the fast one's and no more, 2 T - 1 = 1/4 for the slow ones.
        ([2, 2, 4], (1024, 1024, 2048)),
        ([10**6, 10**6, 10**9], (1024, 1024, 2048)),
        # T = 3/4: 1 T - 1 is less than nothing.
        ([1, 2, 2], (0, 2048, 2048)),
        # An unknown rate is the median, 3; T = 1/2: shares 0, 1/4, 1/4, 1/2.
        ([2, 0, 3, 4], (0, 1024, 1024, 2048)),
    ],
)
def test_small_groups_worked_by_hand(up_bps: list[int], shares: tuple[int, ...]) -> None:
    assert fair_shares(up_bps) == shares


def test_rates_are_believed_up_to_a_ratio_to_the_median() -> None:
    honest = [10**7] * 9
    for exaggerated, limit in ((MAX_BPS - 1, 10**7 * MAX_RATIO), (1, 10**7 // MAX_RATIO)):
        assert fair_shares([*honest, exaggerated]) == fair_shares([*honest, limit])


@pytest.mark.parametrize(
    ("shares", "is_fair"),
    [
        ((1,), True),
        ((1, 1), True),
        ((2, 1), False),
        ((1, 1, 1), True),
        ((1, 0, 1), True),
        ((0, 0, 1), False),
        ((1, 0, 0, 0), False),
        ((5, 1, 1, 1, 1), False),
        ((4, *(1,) * 4), True),
        ((4, *(1,) * 4, *(0,) * 4), False),
        ((4, *(1,) * 5, *(0,) * 3), True),
    ],
)
def test_more_than_a_half_or_four_equal_shares_is_not_fair(
    shares: tuple[int, ...], is_fair: bool
) -> None:
    assert are_fair(shares) is is_fair
