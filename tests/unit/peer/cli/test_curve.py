import itertools

from hypothesis import given
from hypothesis import strategies as st

from peer.cli.curve import curve

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60)


def heights(lines: list[str]) -> list[int]:
    """Returns each column's eighths, from the bottom."""
    eighths = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
    return [sum(eighths.index(cell) for cell in column) for column in zip(*lines, strict=True)]


def test_a_fall_is_drawn_as_stairs() -> None:
    points = [(float(number), 8.0 - number) for number in range(8)]
    assert curve(points, columns=8, rows=1) == ["\u2588\u2587\u2586\u2585\u2584\u2583\u2582\u2581"]
    assert heights(curve(points, columns=8, rows=2)) == [16, 14, 12, 10, 7, 5, 3, 1]


@given(VALUES, st.integers(1, 40), st.integers(1, 4))
def test_a_curve_fills_its_room_between_lowest_and_highest(
    values: list[float], columns: int, rows: int
) -> None:
    lines = curve(list(enumerate(values)), columns=columns, rows=rows)
    assert [len(line) for line in lines] == [columns] * rows
    found = heights(lines)
    assert min(found) == 1
    assert max(found) in (1, 8 * rows)
    for above, below in itertools.pairwise(lines):  # nothing floats
        assert all(b == "\u2588" for a, b in zip(above, below, strict=True) if a != " ")


def test_a_column_without_points_is_as_the_one_before() -> None:
    assert heights(curve([(0.0, 1.0), (10.0, 2.0)], columns=5, rows=1)) == [1, 1, 1, 1, 8]


def test_points_of_one_time_are_one_column() -> None:
    assert heights(curve([(5.0, 1.0), (5.0, 3.0)], columns=3, rows=1)) == [1, 1, 1]
