"""What a link carries is found from bytes and times, and kept."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.net.rate_meter import LEAST_BYTES, NUM_PERIODS, RateMeter
from peer.net.rates import (
    BUFFERED_BYTES,
    MAX_PARTNERS,
    PERIOD_S,
    RATES,
    LinkRates,
    read_rates,
    write_rates,
)
from protocol.identity import PeerId

A, B = PeerId("A"), PeerId("B")


def carry(meter: RateMeter, bps: float, *, begin_s: float, end_s: float, pieces: int = 50) -> None:
    """One transfer at a steady rate."""
    meter.began(begin_s)
    step_s = (end_s - begin_s) / pieces
    for number in range(1, pieces + 1):
        meter.on_bytes(round(bps * step_s / 8), begin_s + number * step_s)
    meter.ended(end_s)


def one_window(meter: RateMeter, bps: float, *, begin_s: float) -> None:
    """One transfer that makes exactly one window."""
    meter.began(begin_s)
    meter.on_bytes(round(bps / 8), begin_s + 1)
    meter.ended(begin_s + 1)


# ---- one meter


def test_nothing_is_known_at_first_nor_after_a_few_bytes() -> None:
    meter = RateMeter()
    assert meter.bps == 0
    carry(meter, 8 * 0.9 * LEAST_BYTES, begin_s=0, end_s=1)
    assert meter.bps == 0


@given(
    bps=st.floats(1e4, 1e10),
    spells=st.lists(st.tuples(st.floats(0, 1000), st.floats(0.05, 20)), min_size=1, max_size=8),
)
def test_a_steady_rate_is_found_however_it_is_cut_into_transfers(
    bps: float, spells: list[tuple[float, float]]
) -> None:
    meter = RateMeter()
    now_s = busy_s = 0.0
    for idle_s, carrying_s in spells:
        begin_s = now_s + idle_s
        now_s = begin_s + carrying_s
        busy_s += carrying_s
        carry(meter, bps, begin_s=begin_s, end_s=now_s)
    if meter.bps:
        assert meter.bps == pytest.approx(bps, rel=0.01)
    else:
        assert busy_s < 1.5 or bps * busy_s / 8 < 3 * LEAST_BYTES


def test_idle_time_changes_nothing() -> None:
    meter = RateMeter()
    carry(meter, 20e6, begin_s=0, end_s=5)
    before = meter.bps
    carry(meter, 20e6, begin_s=3600, end_s=3605)
    assert meter.bps == pytest.approx(before)
    assert before == pytest.approx(20e6)


def test_transfers_at_the_same_time_add_up() -> None:
    meter = RateMeter()
    meter.began(0.0)
    for tick in range(1, 200):
        if tick == 50:
            meter.began(tick / 10)
        meter.on_bytes(100_000, tick / 10)
        if tick >= 50:
            meter.on_bytes(150_000, tick / 10)
    assert meter.bps == pytest.approx(8 * 250_000 * 10, rel=0.02)
    meter.ended(20.0)
    assert meter.is_busy
    meter.ended(20.0)
    assert not meter.is_busy


@pytest.mark.parametrize("slow_windows", [1, 2, 5, 9])
def test_slow_windows_take_a_twentieth_each_from_what_was_seen(slow_windows: int) -> None:
    meter = RateMeter()
    one_window(meter, 50e6, begin_s=0)
    for number in range(slow_windows):
        one_window(meter, 1e6, begin_s=10 * (1 + number))
    assert meter.bps == pytest.approx(50e6 * 0.95**slow_windows)


def test_the_end_of_a_short_transfer_is_enough_to_know_a_rate() -> None:
    meter = RateMeter()
    meter.began(0.0)
    meter.on_bytes(LEAST_BYTES, 0.25)
    assert meter.bps == 0
    meter.ended(0.5)  # until then it was in flight
    assert meter.bps == 8 * LEAST_BYTES / 0.5


def test_very_short_transfers_are_measured_together() -> None:
    meter, known_bps = RateMeter(), []
    for number in range(3):
        meter.began(10.0 * number)
        meter.on_bytes(1_000_000, 10.0 * number + 0.04)
        meter.ended(10.0 * number + 0.04)
        known_bps.append(meter.bps)
    assert known_bps[:2] == [0, 0]
    assert known_bps[2] == pytest.approx(8 * 3_000_000 / 0.12)


@pytest.mark.parametrize("begin_bps", [100e6, 20e6 * 1.2])
def test_a_window_that_was_too_fast_is_forgotten(begin_bps: float) -> None:
    meter = RateMeter()
    carry(meter, begin_bps, begin_s=0, end_s=1.02)
    seen = [meter.bps]
    for second in range(NUM_PERIODS + 2):
        carry(meter, 20e6, begin_s=10 + 2 * second, end_s=11 + 2 * second)
        seen.append(meter.bps)
    assert seen[0] == pytest.approx(begin_bps, rel=0.01)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == pytest.approx(20e6, rel=0.01)


def test_a_link_that_becomes_faster_is_known_at_once() -> None:
    meter = RateMeter()
    carry(meter, 5e6, begin_s=0, end_s=30)
    carry(meter, 50e6, begin_s=40, end_s=43)
    assert meter.bps == pytest.approx(50e6, rel=0.01)


def test_bytes_without_a_transfer_do_not_count() -> None:
    meter = RateMeter()
    for tick in range(100):
        meter.on_bytes(1 << 20, tick / 10)
    assert meter.bps == 0


def test_a_stalled_transfer_is_slow_time() -> None:
    meter = RateMeter()
    meter.began(0.0)
    meter.on_bytes(1 << 20, 8.0)
    meter.ended(8.0)
    assert meter.bps == pytest.approx((1 << 20) * 8 / 8.0)


# ---- the whole link


def moved(rates: LinkRates, peer: PeerId, bps: float, *, begin_s: float, end_s: float) -> None:
    """One upload at a steady rate."""
    rates.up.began(peer, begin_s)
    pieces = max(50, int(10 * (end_s - begin_s)))
    step_s = (end_s - begin_s) / pieces
    for number in range(1, pieces + 1):
        rates.up.on_bytes(peer, round(bps * step_s / 8), begin_s + number * step_s)
    rates.up.ended(peer, end_s)


def test_each_partner_and_the_whole_are_known_apart_and_by_direction() -> None:
    rates = LinkRates()
    moved(rates, A, 5e6, begin_s=0, end_s=5)
    moved(rates, B, 20e6, begin_s=5, end_s=10)
    assert rates.up.of(A) == pytest.approx(5e6, rel=0.01)
    assert rates.up.of(B) == pytest.approx(20e6, rel=0.01)
    assert rates.down.of(A) == rates.up.of(PeerId("C")) == 0
    assert rates.up_bps == pytest.approx(20e6, rel=0.01)
    assert rates.down_bps == 0


def test_two_partners_at_once_share_what_the_whole_link_carries() -> None:
    rates = LinkRates()
    for peer in (A, B):
        rates.up.began(peer, 0.0)
    for tick in range(1, 100):
        rates.up.on_bytes(A, 30_000, tick / 10)
        rates.up.on_bytes(B, 70_000, tick / 10)
    assert rates.up_bps == pytest.approx(8e6, rel=0.02)
    assert rates.up.of(A) == pytest.approx(2.4e6, rel=0.02)
    assert rates.up.of(B) == pytest.approx(5.6e6, rel=0.02)


@pytest.mark.parametrize("served_s", [20.0, 60.0])
def test_a_slow_partner_does_not_make_the_whole_link_slow(served_s: float) -> None:
    rates = LinkRates()
    moved(rates, A, 100e6, begin_s=0, end_s=10)
    moved(rates, B, 1e6, begin_s=10, end_s=10 + served_s)
    assert rates.up.of(B) == pytest.approx(1e6, rel=0.01)
    assert rates.up_bps > 85e6


def test_what_partners_get_beside_a_slow_one_is_what_the_link_carries() -> None:
    """An hour at 1 Mbit/s to one of them, and each minute 2 MB in 0.16 s to another."""
    rates = LinkRates()
    rates.up.began(B, 0.0)
    for tick in range(1, 36_000):
        now_s = tick / 10
        rates.up.on_bytes(B, 12_500, now_s)
        if tick % 600 == 0:
            rates.up.began(A, now_s)
            rates.up.on_bytes(A, BUFFERED_BYTES, now_s)
            rates.up.on_bytes(A, 2_000_000, now_s + 0.16)
            rates.up.ended(A, now_s + 0.16)
    assert 85e6 < rates.up_bps < 105e6


def test_a_link_that_becomes_slow_is_known_within_minutes() -> None:
    rates = LinkRates()
    moved(rates, A, 100e6, begin_s=0, end_s=10)
    moved(rates, A, 5e6, begin_s=3600, end_s=3600 + PERIOD_S * (NUM_PERIODS + 1))
    assert rates.up_bps == pytest.approx(5e6, rel=0.01)


def test_a_cap_counts_as_a_rate_and_bounds_what_was_measured() -> None:
    caps = {"up": math.inf}
    rates = LinkRates(up_cap_bps=lambda: caps["up"], down_cap_bps=lambda: 3e6)
    assert (rates.up_bps, rates.down_bps) == (0, 3e6)
    moved(rates, A, 20e6, begin_s=0, end_s=5)
    assert rates.up_bps == pytest.approx(20e6, rel=0.01)
    caps["up"] = 5e6
    assert rates.up_bps == rates.up.of(A) == 5e6
    assert rates.up.measured_bps == pytest.approx(20e6, rel=0.01)
    caps["up"] = 50e6
    assert rates.up_bps == pytest.approx(20e6, rel=0.01)


def test_few_partners_are_kept_and_never_one_in_the_midst_of_a_transfer_lost() -> None:
    rates = LinkRates()
    rates.up.began(A, 0.0)
    moved(rates, B, 5e6, begin_s=0, end_s=2)
    for number in range(2 * MAX_PARTNERS):
        moved(rates, PeerId(f"peer {number}"), 5e6, begin_s=2 + number, end_s=3 + number)
    assert len(rates.to_json()["up"]["partners"]) < MAX_PARTNERS + 1
    assert rates.up.of(B) == 0
    assert rates.up.of(PeerId(f"peer {2 * MAX_PARTNERS - 1}")) > 0
    end_s = 3.0 + 2 * MAX_PARTNERS
    rates.up.on_bytes(A, 1 << 20, end_s)
    assert rates.up.of(A) == pytest.approx(8 * ((1 << 20) - BUFFERED_BYTES) / end_s)


# ---- kept


def known() -> LinkRates:
    rates = LinkRates()
    moved(rates, A, 5e6, begin_s=0, end_s=5)
    moved(rates, B, 20e6, begin_s=5, end_s=10)
    rates.down.began(A, 0.0)
    rates.down.on_bytes(A, 10_000_000, 2.0)
    return rates


def test_rates_are_known_again_after_a_restart(tmp_path: Path) -> None:
    before, after = known(), LinkRates()
    write_rates(tmp_path, before)
    read_rates(tmp_path, after)
    assert [path.name for path in tmp_path.iterdir()] == [RATES]
    for peer in (A, B):
        assert after.up.of(peer) == pytest.approx(before.up.of(peer), abs=1)
        assert after.down.of(peer) == pytest.approx(before.down.of(peer), abs=1)
    assert after.up_bps == pytest.approx(before.up_bps, abs=1)
    assert after.to_json() == before.to_json()


def test_what_was_remembered_gives_way_to_what_is_measured() -> None:
    rates = LinkRates()
    rates.from_json(json.loads(json.dumps(known().to_json())))
    moved(rates, A, 2e6, begin_s=0, end_s=PERIOD_S * (NUM_PERIODS + 1))
    assert rates.up_bps == rates.up.of(A) == pytest.approx(2e6, rel=0.01)


def changed(**changes: Any) -> str:
    data = known().to_json()
    data["down"] |= changes
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"version": 2}',
        '{"version": 1, "up": {"bps": 1, "partners": {}}}',
        changed(bps=-1),
        changed(bps="1"),
        changed(bps=True),
        changed(bps=math.nan),
        changed(bps=math.inf),
        changed(bps=10**400),
        changed(partners=[]),
        changed(partners={"A": None}),
        changed(partners={f"{number}": 1 for number in range(MAX_PARTNERS + 1)}),
        changed(partners={"A" * (1 << 20): 1}),
        "\xff\xfe",
    ],
    ids=lambda text: text[:40],
)
def test_a_bad_file_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / RATES).write_bytes(text.encode("latin-1"))
    rates = LinkRates()
    read_rates(tmp_path, rates)
    assert rates.to_json() == LinkRates().to_json()


def test_a_file_that_is_missing_is_none(tmp_path: Path) -> None:
    rates = LinkRates()
    read_rates(tmp_path, rates)
    assert rates.up_bps == 0


def test_who_asks_for_it_is_told_that_the_data_are_bad() -> None:
    with pytest.raises(ValueError, match="another version"):
        LinkRates().from_json({"version": 2})


def test_what_buffers_take_at_first_is_not_the_link_s_rate() -> None:
    """A burst into buffers, then 1 Mbit/s: an upload is measured by what comes after."""
    up = LinkRates().up
    up.began(A, 0.0)
    up.on_bytes(A, BUFFERED_BYTES, 0.001)
    for second in range(1, 6):
        up.on_bytes(A, 125_000, float(second))
    assert up.bps == pytest.approx(1e6, rel=0.05)
