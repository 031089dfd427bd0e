"""Quantities as people write them are read as what they mean, and nothing else is."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.units import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    parse_count,
    parse_duration_s,
    parse_minute_of_day,
    parse_rate_bps,
)


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("20M", 20e6),
        ("1Gbit/s", 1e9),
        ("1.5 Gbps", 1.5e9),
        ("500k", 500e3),
        ("100mbit", 100e6),
        ("2e6", 2e6),
        (" 8 ", 8.0),
        (125_000, 125e3),
        (2.5e7, 2.5e7),
    ],
)
def test_a_rate_is_in_bits_per_second(text: str | float, rate_bps: float) -> None:
    assert parse_rate_bps(text) == pytest.approx(rate_bps)


@pytest.mark.parametrize(
    "text",
    ["", "fast", "20MB/s", "20MiB", "-1M", 0, "0M", -5, "1e400", "nan", "20M 30M", None],
)
def test_what_is_no_rate_is_refused_with_what_was_given(text: object) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_rate_bps(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("80ms", 0.08),
        ("250us", 250e-6),
        ("1.5s", 1.5),
        ("30min", 1800.0),
        ("30m", 1800.0),
        ("2h", 7200.0),
        ("1h 30min", 5400.0),
        ("1h30m15s", 5415.0),
        ("3d", 259_200.0),
        ("90", 90.0),
        (0, 0.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_in_seconds(text: str | float, duration_s: float) -> None:
    assert parse_duration_s(text) == pytest.approx(duration_s)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "h", "1h 30", "1 2", "3 parsecs", "-3s", -3, "1e400s", math.inf, False],
)
def test_what_is_no_duration_is_refused_with_what_was_given(text: object) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_duration_s(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1B", 1e9),
        ("350M", 350e6),
        ("7b", 7e9),
        ("1e9", 1e9),
        ("7k", 7e3),
        ("1.5T", 1.5e12),
        (42, 42),
    ],
)
def test_a_count_is_a_number(text: str | int, number: float) -> None:
    assert parse_count(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "many", "1Bn", "-1", "1e400", [], True])
def test_what_is_no_count_is_refused_with_what_was_given(text: object) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_count(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "minute"),
    [("00:00", 0), ("8:00", 480), ("08:05", 485), (" 23:59 ", 1439), ("24:00", 1440)],
)
def test_a_time_of_day_is_in_minutes_from_midnight(text: str, minute: int) -> None:
    assert parse_minute_of_day(text) == minute


@pytest.mark.parametrize(
    "text", ["", "8", "08.00", "8:5", "08:60", "24:01", "25:00", "-1:00", "8pm", "\u0668:00"]
)
def test_what_is_no_time_of_day_is_refused_with_what_was_given(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_minute_of_day(text)


@given(st.floats(1.0, 1e14))
def test_what_is_written_for_people_can_be_read_again(value: float) -> None:
    assert parse_rate_bps(format_rate(value)) == pytest.approx(value, rel=6e-3)
    assert parse_count(format_count(value)) == pytest.approx(value, rel=6e-3)


@given(st.floats(1e-5, 1e7))
def test_a_duration_for_people_can_be_read_again(duration_s: float) -> None:
    text = format_duration(duration_s)
    assert parse_duration_s(text) == pytest.approx(duration_s, rel=0.02)
    assert len(text.split()) in (2, 4)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0 s"),
        (0.08, "80 ms"),
        (0.9999, "1 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min"),
        (3599.7, "1 h"),
        (5400, "1 h 30 min"),
        (86_399.9, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_never_has_sixty_seconds_or_minutes(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_900, "999.9 kB"),
        (1_000_000, "1.0 MB"),
        (2_345_000_000, "2.3 GB"),
        (5 * 10**15, "5000.0 TB"),
        (999_999, "1.0 MB"),
    ],
)
def test_a_size_for_people(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text
