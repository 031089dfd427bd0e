"""How much of a fragment each member of a roster averages: in accordance with its upload speed.

With S the bytes of a fragment and n members, member i sends its contribution to the others' parts,
and its part's average to the n - 1 others: S (1 - s_i) + S s_i (n - 1) = S (1 + s_i (n - 2)) bytes.
The exchange ends with its slowest member, after max_i S (1 + s_i (n - 2)) / u_i. That is least
where as many as possible end together at T, and whoever cannot do even that averages nothing:

    s_i = clip((T u_i - 1) / (n - 2), 0, cap),  sum_i s_i = 1,  cap = min(4 / n, 1 / 2)

Rates are what peers say of themselves. A liar gains nothing but work: nobody averages more than
`MAX_FAIR` times its equal share, or than half of a fragment, and a rate far from the others' is
believed in part.
"""

from collections.abc import Sequence
from statistics import median

TOTAL = 1 << 12
"""What unequal shares add up to."""
MAX_FAIR = 4
"""Nobody averages more than so many times an equal share."""
MAX_RATIO = 8
"""Nobody counts as more than so many times faster, or slower, than the median."""


def fair_shares(up_bps: Sequence[int]) -> tuple[int, ...]:
    """Returns the members' shares: integers, 0 for an empty part, with a sum above 0.

    They are equal ones, 1 each, where that ends as soon.

    Args:
        up_bps: The members' upload rates; 0 is unknown, and counts as the median of the others.
    """
    num, known = len(up_bps), [rate for rate in up_bps if rate]
    equal = (1,) * num
    if num <= 2 or not known:
        return equal
    middle = median(known)
    rates = [min(max(rate or middle, middle / MAX_RATIO), middle * MAX_RATIO) for rate in up_bps]
    cap = min(MAX_FAIR * TOTAL // num, TOTAL // 2) / TOTAL
    level = _level(rates, num - 2, cap)
    shares = [min(max((level * rate - 1) / (num - 2), 0.0), cap) for rate in rates]
    rounded = _rounded([TOTAL * share for share in shares])
    return rounded if _slowest(rounded, rates) < _slowest(equal, rates) else equal


def are_fair(shares: Sequence[int]) -> bool:
    """Whether no member averages more than it may; a leader could hand itself everything."""
    largest, total = max(shares), sum(shares)
    is_half = 2 * largest <= total or len(shares) == 1
    return is_half and largest * len(shares) <= MAX_FAIR * total


def _level(rates: Sequence[float], width: int, cap: float) -> float:
    """Returns T, at which the shares add up to 1: they grow with it, in straight pieces."""
    begin = [(1 / rate, rate) for rate in rates]
    end = [((1 + cap * width) / rate, -rate) for rate in rates]
    level = total = slope = 0.0
    for edge, change in sorted(begin + end):
        reached = total + slope * (edge - level) / width
        if reached >= 1:
            break
        level, total, slope = edge, reached, slope + change
    return level + (1 - total) * width / slope


def _rounded(weights: Sequence[float]) -> tuple[int, ...]:
    """Returns integers that add up to `TOTAL`, by the largest remainders; the first of equals."""
    down = [int(weight) for weight in weights]
    by_rest = sorted(range(len(down)), key=lambda place: down[place] - weights[place])
    for place in by_rest[: TOTAL - sum(down)]:
        down[place] += 1
    return tuple(down)


def _slowest(shares: Sequence[int], rates: Sequence[float]) -> float:
    """Returns when the last member has sent everything, in units of a fragment's bytes."""
    total, width = sum(shares), len(shares) - 2
    return max(
        (1 + share * width / total) / rate for share, rate in zip(shares, rates, strict=True)
    )
