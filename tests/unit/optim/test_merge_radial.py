import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.merge.mean import WeightedMean
from optim.merge.radial import radial_mean

N = 30
SPANS = [range(10), range(10, 11), range(11, 30)]
WEIGHTS = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=6)


def contributions(k: int, seed: int = 0, n: int = N) -> list[Tensor]:
    return list(torch.randn(k, n, generator=torch.Generator().manual_seed(seed)))


def weighted_mean(xs: list[Tensor], weights: list[float]) -> Tensor:
    mean = WeightedMean(len(xs[0]))
    for x, w in zip(xs, weights, strict=True):
        mean.add(x, w)
    return mean.mean()


def norms(x: Tensor) -> list[float]:
    return [float(x[span.start : span.stop].double().norm()) for span in SPANS]


@given(weights=WEIGHTS, scale=st.sampled_from([1e-33, 1e-12, 1.0, 1e12, 1e30]))
def test_equal_contributions_come_out_unchanged(weights: list[float], scale: float) -> None:
    x = contributions(1)[0].clamp(-1, 1) * scale
    merged = radial_mean([x] * len(weights), weights, SPANS)
    torch.testing.assert_close(merged, x, rtol=1e-5, atol=0)


@given(weights=WEIGHTS, data=st.data())
def test_the_order_does_not_matter(weights: list[float], data: st.DataObject) -> None:
    xs = contributions(len(weights), seed=len(weights))
    order = data.draw(st.permutations(range(len(weights))))
    merged = radial_mean(xs, weights, SPANS)
    other = radial_mean([xs[i] for i in order], [weights[i] for i in order], SPANS)
    torch.testing.assert_close(merged, other, rtol=1e-4, atol=1e-5)


@given(weights=WEIGHTS, data=st.data())
def test_of_one_direction_it_is_the_weighted_mean(
    weights: list[float], data: st.DataObject
) -> None:
    (x,) = contributions(1)
    lengths = data.draw(st.lists(st.floats(0, 100), min_size=len(weights), max_size=len(weights)))
    xs = [x * length for length in lengths]
    merged = radial_mean(xs, weights, SPANS)
    torch.testing.assert_close(merged, weighted_mean(xs, weights), rtol=1e-4, atol=1e-5)


@given(weights=WEIGHTS, seed=st.integers(0, 1000))
def test_each_tensor_gets_the_mean_length_which_is_no_shorter_than_the_mean(
    weights: list[float], seed: int
) -> None:
    xs = contributions(len(weights), seed)
    merged = norms(radial_mean(xs, weights, SPANS))
    w = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)
    lengths = (w[:, None] * torch.tensor([norms(x) for x in xs], dtype=torch.float64)).sum(0)
    assert all(
        r > m * (1 - 1e-4) - 1e-6
        for r, m in zip(merged, norms(weighted_mean(xs, weights)), strict=True)
    )
    # Not the span of one element: its directions are +1 and -1, which may cancel.
    assert [merged[0], merged[2]] == pytest.approx([float(lengths[0]), float(lengths[2])], rel=1e-4)


def test_right_angles_by_hand() -> None:
    xs = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])]
    equal = radial_mean(xs, [1.0, 1.0], [range(2)])
    assert equal.tolist() == pytest.approx([math.sqrt(2), math.sqrt(2)])
    # Mean length (3 * 3 + 1) / 4 = 2.5 along (3, 1) / sqrt(10).
    weighted = radial_mean(xs, [3.0, 1.0], [range(2)])
    assert weighted.tolist() == pytest.approx([7.5 / math.sqrt(10), 2.5 / math.sqrt(10)])
    each = radial_mean(xs, [1.0, 1.0], [range(1), range(1, 2)])
    assert each.tolist() == pytest.approx([1.5, 0.5])


def test_a_zero_vector_has_no_direction_but_shortens() -> None:
    x = torch.tensor([3.0, 4.0])
    merged = radial_mean([x, torch.zeros(2)], [1.0, 3.0], [range(2)])
    assert merged.tolist() == pytest.approx([0.75, 1.0])
    assert radial_mean([torch.zeros(2)] * 3, [1.0] * 3, [range(2)]).tolist() == [0, 0]


def test_directions_that_cancel_give_the_mean() -> None:
    (x,) = contributions(1)
    merged = radial_mean([x, -2 * x], [1.0, 1.0], [range(N)])
    torch.testing.assert_close(merged, -0.5 * x)
    angles = torch.arange(3) * (2 * math.pi / 3)
    star = list(torch.stack((angles.cos(), angles.sin()), dim=1))
    assert float(radial_mean(star, [1.0] * 3, [range(2)]).norm()) < 1e-6


def test_a_tensor_of_ten_million_elements_keeps_its_length() -> None:
    x = torch.full((10_000_000,), 0.1)
    merged = radial_mean([x, x], [1.0, 2.0], [range(10_000_000)])
    torch.testing.assert_close(merged, x, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_elements_that_are_not_finite_are_refused(bad: float) -> None:
    xs = contributions(3)
    xs[1][7] = bad
    with pytest.raises(ValueError, match="contribution 1 has NaN or infinite"):
        radial_mean(xs, [1.0] * 3, SPANS)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1e308] * 2])
def test_weights_that_are_not_positive_and_finite_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        radial_mean(contributions(2), weights, SPANS)


@pytest.mark.parametrize("xs", [[], [torch.ones(1, 2)], [torch.ones(2), torch.ones(3)]])
def test_contributions_of_other_shapes_are_refused(xs: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"merging nothing|vectors of one length"):
        radial_mean(xs, [1.0] * len(xs), [range(2)])


@pytest.mark.parametrize(
    "spans",
    [
        *itertools.combinations(SPANS, 2),
        SPANS[::-1],
        [range(31)],
        [range(20), range(10, 30)],
        [range(0, 30, 2)],
        [range(40), range(40, 30)],
    ],
)
def test_spans_that_do_not_cover_the_vector_once_are_refused(spans: list[range]) -> None:
    with pytest.raises(ValueError, match="span"):
        radial_mean(contributions(2), [1.0, 1.0], spans)
