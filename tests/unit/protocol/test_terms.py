from fractions import Fraction
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from protocol.terms import Terms

shares = st.lists(st.integers(0, (1 << 16) - 1), min_size=1, max_size=256).filter(any).map(tuple)


@given(shares=shares, num_elements=st.integers(0, 1 << 40))
@example(shares=(1 << 15,) * 256, num_elements=1 << 40)
def test_parts_cover_everything_once_in_proportion(
    shares: tuple[int, ...], num_elements: int
) -> None:
    terms = Terms(shares)
    bounds = terms.bounds(num_elements)
    sizes = [stop - start for start, stop in pairwise(bounds)]
    assert (bounds[0], bounds[-1], len(sizes)) == (0, num_elements, terms.num_parts)
    for size, share in zip(sizes, shares, strict=True):
        assert abs(size - Fraction(num_elements * share, sum(shares))) < 1
        assert share or not size
    assert [shares[part] > 0 for part in range(len(shares))] == [
        part in terms.parts for part in range(len(shares))
    ]


@given(shares=shares, num_elements=st.integers(0, 1 << 40), factor=st.integers(2, 9))
def test_only_the_proportions_of_shares_count(
    shares: tuple[int, ...], num_elements: int, factor: int
) -> None:
    more = Terms(tuple(factor * share for share in shares))
    assert more.bounds(num_elements) == Terms(shares).bounds(num_elements)


@given(num=st.integers(1, 300), num_elements=st.integers(0, 10_000))
def test_equal_shares_are_parts_that_differ_by_one_at_most(num: int, num_elements: int) -> None:
    bounds = Terms((1,) * num).bounds(num_elements)
    sizes = [stop - start for start, stop in pairwise(bounds)]
    assert max(sizes) - min(sizes) <= 1


def test_terms_by_default_are_one_part_in_the_runs_own_codec() -> None:
    assert Terms() == Terms((1,), 0)
    assert Terms().bounds(7) == (0, 7)
