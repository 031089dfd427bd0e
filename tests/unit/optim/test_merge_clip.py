import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.merge.clip import centred_clip, clip_norm, clip_to_median, self_centred_clip

RADII = st.just(0.0) | st.floats(1e-3, 1e6)
SCALES = st.sampled_from([0.0, 1e-25, 1e-6, 1.0, 50.0, 1e15, 1e30])


def vectors(k: int, n: int = 20, *, seed: int = 0) -> list[Tensor]:
    return list(torch.randn(k, n, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3))


def length(x: Tensor) -> float:
    return float(x.double().norm())


@given(max_norm=RADII, scale=SCALES)
def test_clipping_bounds_the_length_and_keeps_the_direction(max_norm: float, scale: float) -> None:
    (x,) = vectors(1)
    x *= scale
    clipped = clip_norm(x, max_norm)
    assert bool((clipped.abs() <= x.abs()).all())
    assert length(clipped) <= max_norm * (1 + 1e-5) + 1e-38
    if length(x) <= max_norm * (1 - 1e-5):
        assert torch.equal(clipped, x)
    else:
        assert length(clipped) == pytest.approx(min(length(x), max_norm), rel=1e-4, abs=1e-30)
        torch.testing.assert_close(
            clipped * (length(x) or 1.0), x * length(clipped), rtol=1e-3, atol=1e-30
        )


def test_the_result_shares_no_memory_with_what_was_clipped() -> None:
    x = torch.ones(4)
    results = [clip_norm(x, 9.0), *clip_to_median([x]), self_centred_clip(x * 2, x, 9.0)]
    results += [centred_clip([x], 0.0, 1, x)]
    x.zero_()
    assert all(r.tolist() == [1, 1, 1, 1] for r in results)


@pytest.mark.parametrize(
    ("lengths", "bound"),
    [([5.0], 5), ([1.0, 1e9], 1), ([1.0, 2.0, 1e9], 2), ([4.0, 3.0, 2.0, 1.0], 2), ([0.0, 7.0], 0)],
)
def test_the_bound_is_the_lower_median_of_whole_norms(lengths: list[float], bound: float) -> None:
    xs = [x / length(x) * r for x, r in zip(vectors(len(lengths)), lengths, strict=True)]
    clipped = clip_to_median(xs)
    expected = [min(r, bound) for r in lengths]
    assert [length(c) for c in clipped] == pytest.approx(expected, rel=1e-5)
    for x, c, r in zip(xs, clipped, lengths, strict=True):
        assert r > bound or torch.allclose(c, x, rtol=1e-6, atol=0)


@given(order=st.permutations(range(6)))
def test_clipping_to_the_median_follows_the_order(order: list[int]) -> None:
    xs = [x * (i + 1) for i, x in enumerate(vectors(6))]
    clipped = clip_to_median(xs)
    for i, c in zip(order, clip_to_median([xs[i] for i in order]), strict=True):
        assert torch.equal(c, clipped[i])


@given(honest=st.lists(st.floats(0.1, 10), min_size=2, max_size=6), data=st.data())
def test_half_of_the_group_cannot_raise_the_bound_above_an_honest_norm(
    honest: list[float], data: st.DataObject
) -> None:
    f = data.draw(st.integers(0, len(honest)))
    dishonest = data.draw(st.lists(st.floats(0, 1e20), min_size=f, max_size=f))
    lengths = honest + dishonest
    xs = [x / length(x) * r for x, r in zip(vectors(len(lengths)), lengths, strict=True)]
    assert max(length(c) for c in clip_to_median(xs)) <= max(honest) * (1 + 1e-5)


@given(radius=RADII, scale=SCALES)
def test_another_is_at_most_the_radius_away_from_oneself(radius: float, scale: float) -> None:
    own, other = vectors(2)
    other = own + other * scale
    taken = self_centred_clip(own, other, radius)
    distance = length(other - own)
    assert length(taken - own) <= radius * (1 + 1e-4) + 1e-5
    if distance <= radius * (1 - 1e-5):
        assert torch.equal(taken, other)
    else:
        along = own.double() + (other - own).double() * min(1.0, radius / distance)
        torch.testing.assert_close(taken.double(), along, rtol=1e-4, atol=1e-5)


def test_infinite_trust_takes_another_to_the_bit_and_none_oneself() -> None:
    own, other = vectors(2)
    assert torch.equal(self_centred_clip(own, other, math.inf), other)
    assert torch.equal(self_centred_clip(own, other, 0.0), own)
    assert torch.equal(self_centred_clip(own, own, 1.0), own)


@given(m=st.integers(1, 8), seed=st.integers(0, 100))
def test_one_iteration_without_a_bound_is_the_mean(m: int, seed: int) -> None:
    xs = vectors(m, seed=seed)
    merged = centred_clip(xs, math.inf, 1, torch.zeros(20))
    torch.testing.assert_close(merged, torch.stack(xs).mean(0), rtol=1e-5, atol=1e-6)


@given(m=st.integers(1, 8), radius=RADII, iterations=st.integers(1, 4))
def test_equal_contributions_stay_where_they_are(m: int, radius: float, iterations: int) -> None:
    (x,) = vectors(1)
    assert torch.equal(centred_clip([x] * m, radius, iterations, x), x)


def test_the_centre_walks_to_equal_contributions_by_the_radius() -> None:
    x = torch.tensor([3.0, 4.0])
    for iterations, expected in ((1, [1.2, 1.6]), (2, [2.4, 3.2]), (3, [3.0, 4.0])):
        merged = centred_clip([x] * 3, 2.0, iterations, torch.zeros(2))
        assert merged.tolist() == pytest.approx(expected)


@given(order=st.permutations(range(5)), radius=RADII)
def test_the_order_does_not_matter(order: list[int], radius: float) -> None:
    xs, start = vectors(5), torch.full((20,), 0.5)
    torch.testing.assert_close(
        centred_clip([xs[i] for i in order], radius, 3, start),
        centred_clip(xs, radius, 3, start),
        rtol=1e-4,
        atol=1e-5,
    )


@given(
    m=st.integers(1, 6),
    radius=st.floats(0.01, 20),
    iterations=st.integers(1, 4),
    scale=SCALES,
    sign=st.sampled_from([-1.0, 1.0]),
)
def test_no_contribution_moves_the_result_further_than_its_share(
    m: int, radius: float, iterations: int, scale: float, sign: float
) -> None:
    xs, start = vectors(m), torch.full((20,), 0.5)
    before = centred_clip(xs, radius, iterations, start)
    after = centred_clip([xs[0] * sign * scale, *xs[1:]], radius, iterations, start)
    assert length(after - before) <= 2 * radius * iterations / m * (1 + 1e-4) + 1e-4
    assert length(after - start) <= radius * iterations * (1 + 1e-4) + 1e-4


def test_the_bound_on_the_influence_is_attained() -> None:
    far = torch.tensor([1e20])
    there = centred_clip([far, torch.zeros(1)], 1.0, 1, torch.zeros(1))
    back = centred_clip([-far, torch.zeros(1)], 1.0, 1, torch.zeros(1))
    assert float(there - back) == pytest.approx(2 * 1.0 * 1 / 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_elements_that_are_not_finite_are_refused(bad: float) -> None:
    good, wrong = torch.ones(3), torch.tensor([1.0, bad, 1.0])
    calls: list[Callable[[], object]] = [
        lambda: clip_norm(wrong, 1.0),
        lambda: clip_to_median([good, wrong]),
        lambda: self_centred_clip(wrong, good, 1.0),
        lambda: self_centred_clip(good, wrong, 1.0),
        lambda: centred_clip([good, wrong], 1.0, 1, good),
        lambda: centred_clip([good, good], 1.0, 1, wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="NaN or infinite"):
            call()


@pytest.mark.parametrize("bad", [math.nan, -1.0])
def test_a_radius_that_is_none_is_refused(bad: float) -> None:
    x = torch.ones(3)
    calls: list[Callable[[], object]] = [
        lambda: clip_norm(x, bad),
        lambda: self_centred_clip(x, x, bad),
        lambda: centred_clip([x], bad, 1, x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must be at least 0"):
            call()


def test_what_cannot_be_merged_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match="merging nothing"):
        clip_to_median([])
    with pytest.raises(ValueError, match="vectors of one length"):
        self_centred_clip(x, torch.ones(4), 1.0)
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        centred_clip([x], 1.0, 0, x)
    with pytest.raises(ValueError, match=r"start is \[2\]"):
        centred_clip([x], 1.0, 1, torch.ones(2))
