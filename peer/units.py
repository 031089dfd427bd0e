"""Rates, times, sizes and counts, as people write and read them.

Rates are in bits per second, as links are sold, and their letters are powers of ten: `20M` is
20,000,000 bit/s. A bare number is in the base unit.
"""

import math
import re
from itertools import pairwise

_NUMBER = r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_RATE = re.compile(rf"{_NUMBER}\s*(?P<unit>[kKmMgGtT]?)(?:bit(?:/s)?|bps|b/s)?")
_COUNT = re.compile(rf"{_NUMBER}\s*(?P<unit>[kKmMbBgGtT]?)")
_DURATION = re.compile(rf"{_NUMBER}\s*(?P<unit>us|ms|s|min|m|h|d|)\s*")
_TIME_OF_DAY = re.compile(r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-5][0-9])")

_POWERS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_SECONDS = {
    "us": 1e-6,
    "ms": 1e-3,
    "": 1.0,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}

MINUTES_PER_DAY = 24 * 60

Quantity = str | int | float
"""What a settings file may hold: a number, or a text with a unit."""


def parse_rate_bps(given: Quantity) -> float:
    """Returns the bits per second that `20M`, `1Gbit/s`, `500k` or a number mean.

    Raises:
        ValueError: it is none of them, or not positive.
    """
    example = "a rate in bits per second, such as 20M or 1Gbit/s"
    rate_bps = _scaled(_RATE, _POWERS, given, example)
    if not rate_bps > 0:
        raise ValueError(f"{given!r}: a rate must be more than nothing")
    return rate_bps


def parse_count(given: Quantity) -> float:
    """Returns the number that `1B`, `350M`, `7k`, `1e9` or a number mean; `B` are 10^9.

    Raises:
        ValueError: it is none of them, or below zero.
    """
    return _scaled(_COUNT, _POWERS, given, "a number, such as 350M, 1B or 1e9")


def parse_duration_s(given: Quantity) -> float:
    """Returns the seconds that `80ms`, `1.5s`, `30min`, `1h 30min`, `2d` or a number mean.

    Raises:
        ValueError: it is none of them, or below zero.
    """
    example = "a time, such as 80ms, 1.5s, 30min or 2h"
    if not isinstance(given, str):
        return _scaled(_DURATION, _SECONDS, given, example)
    text, at, total_s = given.strip(), 0, 0.0
    parts = 0
    while match := _DURATION.match(text, at):
        at, parts = match.end(), parts + 1
        if not match["unit"] and (parts > 1 or at < len(text)):
            break  # of several parts each needs its unit
        total_s += float(match["number"]) * _SECONDS[match["unit"]]
        if at == len(text) and math.isfinite(total_s):
            return total_s
    raise ValueError(f"{given!r:.60} is not {example}")


def parse_minute_of_day(text: str) -> int:
    """Returns the minutes from midnight to `08:00`, `8:00` or, the end of the day, `24:00`.

    Raises:
        ValueError: it is no time of day.
    """
    match = _TIME_OF_DAY.fullmatch(text.strip())
    minute = 60 * int(match["hour"]) + int(match["minute"]) if match else -1
    if not 0 <= minute <= MINUTES_PER_DAY:
        raise ValueError(f"{text!r:.60} is not a time of day, such as 08:00 or 23:30")
    return minute


def format_rate(rate_bps: float) -> str:
    """Returns bits per second for people: `20 Mbit/s`."""
    return f"{_three_digits(rate_bps, ' ', ('', 'k', 'M', 'G', 'T'))}bit/s"


def format_count(number: float) -> str:
    """Returns a number for people: `350M`, `1B`."""
    return _three_digits(number, "", ("", "k", "M", "B", "T")).strip()


def format_bytes(num_bytes: float) -> str:
    """Returns a number of bytes for people: `20.5 MB`."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 999.95:  # from there on it would be shown as 1000.0
            return f"{num_bytes:.1f} {unit}"
    num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def format_duration(duration_s: float) -> str:
    """Returns a time for people, in its two largest units: `80 ms`, `1.5 s`, `2 h 5 min`."""
    if duration_s < 0.9995:
        return f"{1000 * duration_s:.3g} ms" if duration_s else "0 s"
    if duration_s < 59.95:
        return f"{duration_s:.3g} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (large, large_s), (small, small_s) in pairwise(units):
        whole_s = small_s * round(duration_s / small_s)
        if whole_s >= large_s:
            rest = whole_s % large_s // small_s
            return f"{whole_s // large_s} {large}" + (f" {rest} {small}" if rest else "")
    raise ValueError(f"a duration is finite and not negative, got {duration_s}")


def _scaled(
    pattern: "re.Pattern[str]", scales: dict[str, float], given: Quantity, example: str
) -> float:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ValueError(f"{given!r:.60} is not {example}")
    match = pattern.fullmatch(given.strip() if isinstance(given, str) else repr(given))
    value = float(match["number"]) * scales[match["unit"].lower()] if match else math.nan
    if not math.isfinite(value):
        raise ValueError(f"{given!r:.60} is not {example}")
    return value


def _three_digits(value: float, space: str, units: tuple[str, ...]) -> str:
    """Returns three significant digits and the unit in which they are readable."""
    power = 0
    while float(f"{value:.3g}") >= 1000 and power < len(units) - 1:
        value /= 1000
        power += 1
    digits = f"{value:.3g}" if float(f"{value:.3g}") < 1000 else f"{value:.0f}"
    return f"{digits}{space}{units[power]}"
