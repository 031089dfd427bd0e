"""A curve of a few lines, drawn with the eighths of a character cell."""

from collections.abc import Sequence

_EIGHTHS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def curve(points: Sequence[tuple[float, float]], *, columns: int, rows: int) -> list[str]:
    """Returns a curve as lines, the uppermost first.

    The lowest value fills an eighth of the lowest line, the highest all of them. A column is the
    mean of the points that fall into it, or what the column before it is.

    Args:
        points: Times, which do not decrease, and finite values; two or more.
        columns: Of the terminal; at least one.
        rows: Lines; at least one.
    """
    first_s, last_s = points[0][0], points[-1][0]
    bins: list[list[float]] = [[] for _ in range(columns)]
    for at_s, value in points:
        frac = (at_s - first_s) / (last_s - first_s) if last_s > first_s else 0.0
        bins[min(int(frac * columns), columns - 1)].append(value)
    values, last = [], points[0][1]
    for each in bins:
        last = sum(each) / len(each) if each else last
        values.append(last)
    lowest, highest = min(values), max(values)
    span = highest - lowest or 1.0
    heights = [1 + round((value - lowest) / span * (8 * rows - 1)) for value in values]
    return [
        "".join(_EIGHTHS[min(max(height - 8 * row, 0), 8)] for height in heights)
        for row in reversed(range(rows))
    ]
