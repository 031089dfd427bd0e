import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.merge import WeightedMean

WEIGHTS = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=8)


def contributions(k: int, n: int = 50) -> torch.Tensor:
    return torch.randn(k, n, generator=torch.Generator().manual_seed(k))


@given(weights=WEIGHTS, data=st.data())
def test_equals_the_formula_in_float64_whatever_the_order(
    weights: list[float], data: st.DataObject
) -> None:
    xs = contributions(len(weights))
    w = torch.tensor(weights, dtype=torch.float64)
    expected = (w[:, None] * xs).sum(0) / w.sum()
    mean = WeightedMean(50)
    for i in data.draw(st.permutations(range(len(weights)))):
        mean.add(xs[i], weights[i])
    assert mean.total_weight == pytest.approx(sum(weights))
    torch.testing.assert_close(mean.mean().double(), expected, rtol=1e-5, atol=1e-6)


@given(weights=WEIGHTS)
def test_equal_contributions_come_out_to_the_bit(weights: list[float]) -> None:
    (x,) = contributions(1)
    mean = WeightedMean(50)
    for w in weights:
        mean.add(x, w)
    assert torch.equal(mean.mean(), x)


def test_inputs_are_not_kept_and_results_are_not_shared() -> None:
    x = torch.ones(3)
    mean = WeightedMean(3)
    mean.add(x, 2.0)
    x.zero_()
    first = mean.mean()
    mean.add(torch.full((3,), 4.0), 1.0)
    assert first.tolist() == [1, 1, 1]
    assert mean.mean().tolist() == [2, 2, 2]
    assert mean.mean().dtype == torch.float32


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    mean = WeightedMean(2)
    with pytest.raises(ValueError, match="positive and finite"):
        mean.add(torch.ones(2), weight)
    assert mean.total_weight == 0


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2)])
def test_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a vector"):
        WeightedMean(2).add(torch.ones(shape), 1.0)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="mean of nothing"):
        WeightedMean(2).mean()
