from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.merge.trimmed import trimmed_mean

LARGEST = float(np.finfo(np.float32).max)
ANY_FINITE = st.floats(-LARGEST, LARGEST, width=32)


def contributions(k: int, n: int = 40) -> list[Tensor]:
    return list(torch.randn(k, n, generator=torch.Generator().manual_seed(k)))


def without_extremes(column: np.ndarray, trim: int) -> float:
    left = list(column)
    for _ in range(trim):
        left.remove(max(left))
        left.remove(min(left))
    return float(np.mean(left))


@given(m=st.integers(1, 9), data=st.data())
def test_equals_leaving_out_the_extremes_one_by_one(m: int, data: st.DataObject) -> None:
    trim = data.draw(st.integers(0, (m - 1) // 2))
    xs = contributions(m)
    columns = torch.stack(xs).double().numpy().T
    expected = torch.tensor([without_extremes(c, trim) for c in columns], dtype=torch.float64)
    torch.testing.assert_close(trimmed_mean(xs, trim).double(), expected, rtol=1e-5, atol=1e-6)


@given(m=st.integers(1, 9), trim=st.integers(0, 4), x=st.lists(ANY_FINITE, min_size=1))
def test_equal_contributions_come_out_to_the_bit(m: int, trim: int, x: list[float]) -> None:
    vector = torch.tensor(x)
    assert torch.equal(trimmed_mean([vector] * m, min(trim, (m - 1) // 2)), vector)


@given(order=st.permutations(range(7)))
def test_the_order_does_not_matter_to_the_bit(order: list[int]) -> None:
    xs = contributions(7)
    assert torch.equal(trimmed_mean(xs, 2), trimmed_mean([xs[i] for i in order], 2))


@given(
    honest=st.lists(st.lists(ANY_FINITE, min_size=3, max_size=3), min_size=3, max_size=6),
    data=st.data(),
)
def test_no_adversaries_can_lead_out_of_the_honest_range(
    honest: list[list[float]], data: st.DataObject
) -> None:
    f = data.draw(st.integers(0, (len(honest) - 1)))
    vector = st.lists(ANY_FINITE, min_size=3, max_size=3)
    dishonest = data.draw(st.lists(vector, min_size=f, max_size=f))
    xs = [torch.tensor(x) for x in honest + dishonest]
    merged = trimmed_mean(xs, f)
    lowest, highest = torch.stack(xs[: len(honest)]).aminmax(dim=0)
    assert bool(((lowest <= merged) & (merged <= highest)).all())


def test_long_vectors_are_merged_in_parts_and_stay_in_order() -> None:
    n = 3 * 10**5
    base = torch.arange(n, dtype=torch.float32)
    merged = trimmed_mean([base + d for d in (-1e9, -1.0, 0.0, 1.0, 5e9)], 1)
    assert torch.equal(merged, base)


@pytest.mark.parametrize(("m", "trim"), [(1, 1), (4, 2), (5, 3), (3, -1)])
def test_trimming_everything_is_refused(m: int, trim: int) -> None:
    with pytest.raises(ValueError, match="trim must be at least 0 and below half"):
        trimmed_mean(contributions(m), trim)


def test_trimming_less_would_let_an_adversary_through() -> None:
    xs = [*contributions(4), torch.full((40,), 1e6), torch.full((40,), 1e6)]
    assert float(trimmed_mean(xs, 2).abs().max()) < 10
    assert float(trimmed_mean(xs, 1).abs().max()) > 1e5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [lambda xs: xs[0], lambda xs: xs[2]])
def test_elements_that_are_not_finite_are_refused(
    bad: float, where: Callable[[list[Tensor]], Tensor]
) -> None:
    xs = contributions(3)
    where(xs)[-1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        trimmed_mean(xs, 1)
