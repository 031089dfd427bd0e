import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.landing import blend, rebase

FLOATS = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)
VECTORS = st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=20)


def bits(x: torch.Tensor) -> list[int]:
    return x.view(torch.int32).tolist()


@given(VECTORS)
def test_rebase_without_local_steps_is_the_anchor_to_the_bit(
    pairs: list[tuple[float, float]],
) -> None:
    theta, anchor = torch.tensor(pairs, dtype=torch.float32).t().contiguous()
    rebase(theta, anchor, theta.clone())
    assert bits(theta) == bits(anchor)


def test_rebase_keeps_the_local_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    base, steps, anchor = torch.randn(3, 1000, generator=generator)
    theta = base + 0.01 * steps
    rebase(theta, anchor, base)
    torch.testing.assert_close(theta, anchor + 0.01 * steps, rtol=0, atol=1e-6)


def test_rebase_is_elementwise_exact_where_only_some_elements_moved() -> None:
    generator = torch.Generator().manual_seed(1)
    base, anchor = torch.randn(2, 1000, generator=generator)
    theta = base.clone()
    theta[::2] += 0.5
    rebase(theta, anchor, base)
    assert torch.equal(theta[1::2], anchor[1::2])
    torch.testing.assert_close(theta[::2], anchor[::2] + 0.5)


def test_landings_write_in_place_and_leave_their_inputs() -> None:
    whole = torch.zeros(10)
    theta, anchor, base = whole[2:6], torch.ones(4), torch.full((4,), -1.0)
    rebase(theta, anchor, base)
    assert whole.tolist() == [0, 0, 2, 2, 2, 2, 0, 0, 0, 0]
    blend(theta, anchor, base, 0.5)
    assert whole.tolist() == [0, 0, 1.5, 1.5, 1.5, 1.5, 0, 0, 0, 0]
    assert anchor.tolist() == [1] * 4
    assert base.tolist() == [-1] * 4


def test_s2_alpha_one_ignores_the_anchor_and_alpha_zero_takes_it() -> None:
    theta, anchor, base = torch.randn(3, 100, generator=torch.Generator().manual_seed(2))
    kept, taken = theta.clone(), theta.clone()
    blend(kept, anchor, base, 1.0)
    blend(taken, anchor, base, 0.0)
    assert torch.equal(kept, theta)
    assert torch.equal(taken, anchor)


def test_s6_blend_is_the_weighted_sum() -> None:
    theta, anchor, base = torch.randn(3, 100, generator=torch.Generator().manual_seed(3))
    for alpha in (0.25, 0.5, 0.9):
        landed = theta.clone()
        blend(landed, anchor, base, alpha)
        torch.testing.assert_close(landed, alpha * theta + (1 - alpha) * anchor)


def test_blend_of_equals_changes_nothing() -> None:
    theta = torch.randn(100, generator=torch.Generator().manual_seed(4))
    landed = theta.clone()
    blend(landed, theta, theta, 0.3)
    assert torch.equal(landed, theta)


@given(
    alpha=st.floats(0, 1),
    planned_steps=st.integers(1, 10),
    late_steps=st.integers(0, 10),
    seed=st.integers(0, 100),
)
def test_a_late_blend_keeps_the_steps_that_were_not_planned(
    alpha: float, planned_steps: int, late_steps: int, seed: int
) -> None:
    # Equal steps are those of which the two ends tell everything.
    base, step, anchor = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    theta = base + planned_steps * step
    blend(theta, anchor, base, alpha)  # in time
    expected = theta + late_steps * step
    theta = base + (planned_steps + late_steps) * step
    planned_frac = planned_steps / (planned_steps + late_steps)
    blend(theta, anchor, base, alpha, planned_frac=planned_frac)
    torch.testing.assert_close(theta, expected, rtol=1e-4, atol=1e-4)


def test_a_blend_without_planned_steps_is_one_at_the_base() -> None:
    base, theta, anchor = torch.randn(3, 50, generator=torch.Generator().manual_seed(5))
    landed = theta.clone()
    blend(landed, anchor, base, 0.25, planned_frac=0.0)
    torch.testing.assert_close(landed, 0.25 * base + 0.75 * anchor + (theta - base))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_blend_refuses_fractions_outside_zero_to_one(wrong: float) -> None:
    theta, anchor, base = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="alpha and planned_frac must be between 0 and 1"):
        blend(theta, anchor, base, wrong)
    with pytest.raises(ValueError, match="alpha and planned_frac must be between 0 and 1"):
        blend(theta, anchor, base, 0.5, planned_frac=wrong)


def test_other_shapes_are_refused_not_broadcast() -> None:
    theta = torch.zeros(3)
    with pytest.raises(ValueError, match="theta is"):
        rebase(theta, torch.zeros(1), torch.zeros(3))
    with pytest.raises(ValueError, match="theta is"):
        blend(theta, torch.zeros(1), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="theta is"):
        blend(theta, torch.zeros(3), torch.zeros(1), 0.5)
