"""The width that is found is near the best, soon found, and then left alone."""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.net.width import JUDGED, LONGEST_PAUSE_S, SETTLING, Width

Link = Callable[[int], float]
"""Goodput in bit/s by the number of connections."""

A_TRIAL = SETTLING + JUDGED
HOURS = 3600

rates = st.floats(1e3, 1e10)
mosts = st.integers(1, 64)


def linear(per_connection_bps: float, rate_bps: float) -> Link:
    """Cubic with losses: each connection carries what the loss allows it, up to the link's rate."""
    return lambda num: min(num * per_connection_bps, rate_bps)


def clean(num_connections: int) -> float:
    """BBR, or no losses: one connection fills the link."""
    return 100e6


def first_search(most: int) -> int:
    """Returns the windows after which the first search is over."""
    return A_TRIAL * (1 + math.ceil(math.log2(most)))


def played(
    width: Width,
    link: Link,
    duration_s: float,
    *,
    begin_s: float = 0.0,
    window_s: float = 1.0,
    cap_bps: float = math.inf,
) -> list[int]:
    """Returns the widths that were wanted, window by window."""
    wanted = []
    for number in range(int(duration_s / window_s)):
        goodput_bps = link(width.wanted)
        asked = width.on_window(
            min(goodput_bps, cap_bps),
            num_connections=width.wanted,
            began_s=begin_s + window_s * number,
            now_s=begin_s + window_s * (number + 1),
            is_capped=goodput_bps >= cap_bps,
        )
        assert asked == width.wanted
        wanted.append(asked)
    return wanted


def changes(wanted: Sequence[int]) -> int:
    return sum(before != after for before, after in itertools.pairwise(wanted))


def usual(wanted: Sequence[int]) -> int:
    return max(set(wanted), key=wanted.count)


# ---- how good, and how soon


@given(per_connection_bps=rates, rate_bps=rates, most=mosts)
def test_it_comes_near_the_best_in_few_windows(
    per_connection_bps: float, rate_bps: float, most: int
) -> None:
    width, link = Width(most), linear(per_connection_bps, rate_bps)
    windows = first_search(most)
    wanted = played(width, link, windows)
    assert link(wanted[-1]) >= 0.8 * link(most)
    assert 1 <= min(wanted) <= max(wanted) <= most
    assert set(played(width, link, 40, begin_s=windows)) == {wanted[-1]}


@given(per_connection_bps=rates, rate_bps=rates, most=mosts)
def test_no_more_than_twice_as_many_are_used_as_would_do(
    per_connection_bps: float, rate_bps: float, most: int
) -> None:
    width, link = Width(most), linear(per_connection_bps, rate_bps)
    found = played(width, link, first_search(most))[-1]
    assert found == 1 or link((found + 1) // 2) < link(found) / 1.09


def test_cubic_at_one_percent_loss_gets_most_connections_and_a_clean_link_one() -> None:
    assert played(Width(), linear(2e6, 100e6), first_search(16))[-1] == 16
    assert played(Width(), linear(2e6, 17e6), first_search(16))[-1] == 8
    assert played(Width(), clean, first_search(16))[-1] == 1


@pytest.mark.parametrize("most", [0, -1])
def test_no_connection_at_all_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Width(most)


# ---- how seldom it is touched again


@given(goodputs_bps=st.lists(rates, min_size=1, max_size=20))
def test_it_never_goes_in_circles(goodputs_bps: list[float]) -> None:
    width = Width(len(goodputs_bps))
    wanted = played(width, lambda num: goodputs_bps[num - 1], 8 * HOURS, window_s=20)
    later = wanted[len(wanted) // 2 :]
    home = usual(later)
    away = [width != home for width in later]
    assert all(len(list(spell)) <= A_TRIAL for is_away, spell in itertools.groupby(away) if is_away)
    assert changes(later) <= 2 * (1 + 4 * HOURS / LONGEST_PAUSE_S)


@given(seed=st.integers(0, 1 << 32), mess=st.floats(0.01, 3.0))
def test_however_erratic_the_goodput_is_searches_become_rare(seed: int, mess: float) -> None:
    draw, width = random.Random(seed), Width()
    wanted = [
        width.on_window(
            10 ** draw.gauss(6, mess),
            num_connections=width.wanted,
            began_s=15.0 * number,
            now_s=15.0 * (number + 1),
            is_capped=draw.random() < 0.3,
        )
        for number in range(6 * HOURS // 15)
    ]
    late = wanted[len(wanted) // 3 :]
    searches = 2 + 4 * HOURS / LONGEST_PAUSE_S
    assert changes(late) <= searches * (2 + math.log2(16))


def test_after_a_failure_it_is_tried_again_after_one_minute_then_two_then_four() -> None:
    wanted = played(Width(), clean, 20 * 60)
    began = [n for n, (a, b) in enumerate(itertools.pairwise(wanted)) if (a, b) == (1, 2)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert pauses == pytest.approx([60, 120, 240, 480], abs=2 * A_TRIAL)


# ---- when the link changes


@given(before=st.floats(1e5, 1e8), after=st.floats(1e5, 1e8))
def test_a_link_that_changes_is_found_out_again(before: float, after: float) -> None:
    rate_bps = 100e6
    width = Width()
    played(width, linear(before, rate_bps), 2 * HOURS, window_s=10)
    link = linear(after, rate_bps)
    wanted = played(width, link, 2 * HOURS, begin_s=2 * HOURS, window_s=10)
    home = usual(wanted[len(wanted) // 2 :])
    assert link(home) >= 0.8 * link(16)


def test_connections_that_are_needed_no_more_are_given_up() -> None:
    width = Width()
    assert usual(played(width, linear(2e6, 100e6), 1 * HOURS, window_s=10)) == 16
    wanted = played(width, clean, 2 * HOURS, begin_s=1 * HOURS, window_s=10)
    assert usual(wanted[len(wanted) // 2 :]) == 1


# ---- under a cap


@given(per_connection_bps=rates, rate_bps=rates, cap_frac=st.floats(0.01, 1.0))
def test_under_a_cap_it_comes_near_the_cap(
    per_connection_bps: float, rate_bps: float, cap_frac: float
) -> None:
    width, link = Width(), linear(per_connection_bps, rate_bps)
    cap_bps = cap_frac * link(16)
    wanted = played(width, link, first_search(16), cap_bps=cap_bps)
    assert min(link(wanted[-1]), cap_bps) >= 0.8 * cap_bps
    later = played(width, link, 4 * HOURS, begin_s=60, window_s=10, cap_bps=cap_bps)
    home = usual(later[len(later) // 2 :])
    assert min(link(home), cap_bps) >= 0.8 * cap_bps


def test_a_cap_that_one_connection_reaches_gets_one() -> None:
    assert set(played(Width(), linear(2e6, 100e6), 600, cap_bps=1e6)) == {1}


def test_a_cap_that_begins_makes_connections_needless_at_once() -> None:
    width, link = Width(), linear(2e6, 100e6)
    assert played(width, link, 30)[-1] == 16
    wanted = played(width, link, 5 * A_TRIAL, begin_s=30, cap_bps=5e6)
    assert wanted[-1] == 4  # two would carry 4 Mbit/s
    assert wanted.count(2) == A_TRIAL
    assert set(played(width, link, 30, begin_s=50, cap_bps=5e6)) == {4}


def test_when_a_cap_ends_the_width_grows_again() -> None:
    width, link = Width(), linear(2e6, 100e6)
    played(width, link, 1 * HOURS, window_s=10, cap_bps=5e6)
    wanted = played(width, link, 1 * HOURS, begin_s=1 * HOURS, window_s=10)
    assert usual(wanted) == 16


# ---- what is no evidence


def test_windows_with_another_number_of_connections_say_nothing() -> None:
    width = Width()
    while width.wanted == 1:
        width.on_window(1e6, num_connections=1, began_s=0, now_s=0, is_capped=False)
    for _ in range(100):  # the second connection is still being made
        assert width.on_window(1e6, num_connections=1, began_s=1, now_s=1) == 2
    for _ in range(A_TRIAL):
        width.on_window(2e6, num_connections=2, began_s=2, now_s=2)
    assert width.wanted == 4


def test_where_nothing_moves_nothing_is_tried() -> None:
    assert set(played(Width(), lambda num: 0.0, 600)) == {1}


def test_a_trial_in_which_nothing_moves_has_failed() -> None:
    width = Width()
    wanted = played(width, lambda num: 1e6 if num == 1 else 0.0, 3 * A_TRIAL)
    assert max(wanted) == 2
    assert wanted[-1] == 1


def test_the_windows_right_after_a_change_do_not_count() -> None:
    width = Width()
    for goodput_bps in (0.1e6, 1e6, 1e6):  # slow start, and what it really carries
        width.on_window(goodput_bps, num_connections=1, began_s=0, now_s=0)
    assert width.wanted == 2
    for goodput_bps in (0.1e6, 1.3e6, 1.3e6):
        width.on_window(goodput_bps, num_connections=2, began_s=0, now_s=0)
    assert width.wanted == 4


def test_a_window_that_began_before_the_change_says_nothing() -> None:
    width = Width()
    for second in range(A_TRIAL):
        width.on_window(1e6, num_connections=1, began_s=second, now_s=second + 1)
    assert width.wanted == 2
    for offset_s in (0.1, 0.3, 0.5, 0.7, 0.9):  # those of other downloads from the same partner
        began_s = A_TRIAL - 1 + offset_s
        width.on_window(1e6, num_connections=2, began_s=began_s, now_s=began_s + 1)
    assert width.wanted == 2
    for second in range(A_TRIAL, 2 * A_TRIAL):
        width.on_window(2e6, num_connections=2, began_s=second, now_s=second + 1)
    assert width.wanted == 4


@given(
    per_connection_bps=rates,
    rate_bps=rates,
    offsets_s=st.lists(st.floats(0.01, 0.99), max_size=6).map(sorted),
)
def test_many_downloads_at_once_find_the_width_that_one_finds(
    per_connection_bps: float, rate_bps: float, offsets_s: list[float]
) -> None:
    link, width, wanted = linear(per_connection_bps, rate_bps), Width(), []
    begun_with = [1] * (1 + len(offsets_s))
    for second in range(1, 61):
        for number, offset_s in enumerate((0.0, *offsets_s)):
            now_s = second + offset_s
            width.on_window(
                link(begun_with[number]),
                num_connections=width.wanted,
                began_s=now_s - 1,
                now_s=now_s,
            )
            begun_with[number] = width.wanted
        wanted.append(width.wanted)
    assert wanted == played(Width(), link, 60)


def test_when_one_download_ends_another_is_listened_to() -> None:
    width = Width()
    width.on_window(1e6, num_connections=1, began_s=0, now_s=1)
    for second in range(1, 1 + A_TRIAL):
        width.on_window(1e6, num_connections=1, began_s=second - 0.5, now_s=second + 0.5)
    assert width.wanted == 2


def test_it_begins_with_as_many_as_it_is_told() -> None:
    assert Width(16, first=2).wanted == 2
    assert Width(1, first=2).wanted == 1
