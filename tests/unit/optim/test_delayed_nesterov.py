import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.outer.delayed_nesterov import DelayedNesterov

F64 = torch.float64
DELTAS = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=20)


def zeros(n: int) -> dict[str, Tensor]:
    return {"momentum": torch.zeros(n, dtype=F64), "buffer": torch.zeros(n, dtype=F64)}


def path(rule: DelayedNesterov, g_Tn: Tensor) -> list[Tensor]:
    """Return the anchor after each step, from zero."""
    anchor, state = torch.zeros(g_Tn.shape[1], dtype=F64), zeros(g_Tn.shape[1])
    anchors = []
    for t, g in enumerate(g_Tn):
        anchor, state = rule.step(anchor, g.unsqueeze(0), state, round=t)
        anchors.append(anchor)
    return anchors


@given(lr=st.floats(0.01, 2), momentum=st.floats(0, 0.99), g_Tn=DELTAS)
def test_delayed_nesterov_with_a_buffer_of_one_is_nesterov(
    lr: float, momentum: float, g_Tn: list[list[float]]
) -> None:
    param = torch.nn.Parameter(torch.zeros(3, dtype=F64))
    sgd = torch.optim.SGD([param], lr=lr, momentum=momentum, nesterov=momentum > 0)
    g = torch.tensor(g_Tn, dtype=F64)
    for Delta, anchor in zip(g, path(DelayedNesterov(lr, momentum, buffer=1), g), strict=True):
        param.grad = Delta.clone()
        sgd.step()
        torch.testing.assert_close(anchor, param.detach(), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("c", [0.0, 0.1, 1 / 3])
def test_a_buffer_of_three_step_by_step(c: float) -> None:
    # Algorithm 3 written out for two fillings of the buffer, with the numbers put in by hand.
    lr, beta = 0.5, 0.8
    g = [6.0, -3.0, 9.0, 1.5, 3.0, -12.0]
    m1 = (6.0 - 3.0 + 9.0) / 3
    m2 = beta * m1 + (1.5 + 3.0 - 12.0) / 3
    full = 1 - 3 * c + c
    steps = [
        lr * g[0] / 3,
        lr * g[1] / 3,
        lr * (full * beta * m1 + g[2] / 3),
        lr * (c * beta * m1 + g[3] / 3),
        lr * (c * beta * m1 + g[4] / 3),
        lr * (full * beta * m2 + g[5] / 3),
    ]
    expected = [-sum(steps[: t + 1]) for t in range(6)]
    anchors = path(DelayedNesterov(lr, beta, buffer=3, c=c), torch.tensor(g, dtype=F64)[:, None])
    assert [anchor.item() for anchor in anchors] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("N", [1, 2, 5])
def test_equal_steps_come_to_what_one_step_of_nesterov_makes_of_their_mean(N: int) -> None:
    # A filling of the buffer moves the anchor by lr (beta m + mean g), as Nesterov does at once.
    g = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    every = path(DelayedNesterov(0.7, 0.9, buffer=N), g.repeat_interleave(N, 0))[N - 1 :: N]
    once = path(DelayedNesterov(0.7, 0.9, buffer=1), g)
    torch.testing.assert_close(every, once, rtol=1e-12, atol=1e-12)


def test_between_fillings_the_momentum_stands_still() -> None:
    rule = DelayedNesterov(buffer=3)
    anchor, state = torch.zeros(2), rule.init_state(2)
    moved = []
    for t in range(6):
        before = state["momentum"]
        anchor, state = rule.step(anchor, torch.ones(1, 2), state, round=t)
        moved.append(not torch.equal(state["momentum"], before))
    assert moved == [False, False, True, False, False, True]
    assert not state["buffer"].any()


def test_inputs_stay_untouched() -> None:
    rule = DelayedNesterov(buffer=1)
    anchor, average, state = torch.ones(4), torch.full((1, 4), 2.0), rule.init_state(4)
    rule.step(anchor, average, state)
    assert (anchor.tolist(), average.tolist()) == ([1] * 4, [[2] * 4])
    assert not state["momentum"].any()
    assert not state["buffer"].any()


@pytest.mark.parametrize(
    ("constants", "sentence"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"buffer": 0}, "buffer must be a whole number"),
        ({"buffer": 1.5}, "buffer must be a whole number"),
        ({"buffer": math.nan}, "buffer must be a whole number"),
        ({"buffer": math.inf}, "buffer must be a whole number"),
        ({"buffer": 4, "c": 0.26}, "c must be between 0 and 1 / buffer"),
        ({"c": -0.1}, "c must be between 0 and 1 / buffer"),
    ],
)
def test_constants_out_of_range_are_refused(constants: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DelayedNesterov(**constants)
