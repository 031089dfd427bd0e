import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.outer.heavyball import HeavyBall

F64 = torch.float64
DELTAS = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=20)


@given(lr=st.floats(0.01, 2), momentum=st.floats(0, 0.99), Delta_Tn=DELTAS)
def test_at_a_constant_rate_it_is_torch_sgd(
    lr: float, momentum: float, Delta_Tn: list[list[float]]
) -> None:
    start = torch.tensor([1.0, -2.0, 3.0], dtype=F64)
    param = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([param], lr=lr, momentum=momentum)
    rule, anchor, state = HeavyBall(lr, momentum), start, {"momentum": torch.zeros(3, dtype=F64)}
    for Delta in torch.tensor(Delta_Tn, dtype=F64):
        param.grad = Delta.clone()
        sgd.step()
        anchor, state = rule.step(anchor, Delta.unsqueeze(0), state)
        torch.testing.assert_close(anchor, param.detach(), rtol=1e-12, atol=1e-9)


def test_t7_response_to_a_unit_impulse() -> None:
    eta, mu = 0.7, 0.9
    rule, anchor = HeavyBall(eta, mu), torch.zeros(1, dtype=F64)
    state = {"momentum": torch.zeros(1, dtype=F64)}
    anchor, state = rule.step(anchor, torch.ones(1, 1, dtype=F64), state)
    assert anchor.item() == pytest.approx(-eta, rel=1e-12)
    for _ in range(400):
        anchor, state = rule.step(anchor, torch.zeros(1, 1, dtype=F64), state)
    assert anchor.item() == pytest.approx(-eta / (1 - mu), rel=1e-12)


def test_inputs_stay_untouched_and_results_are_new() -> None:
    rule = HeavyBall()
    anchor, average, state = torch.ones(4), torch.full((1, 4), 2.0), rule.init_state(4)
    anchor_new, state_new = rule.step(anchor, average, state)
    assert (anchor.tolist(), average.tolist()) == ([1] * 4, [[2] * 4])
    assert state["momentum"].tolist() == [0] * 4
    inputs = {t.data_ptr() for t in (anchor, average, state["momentum"])}
    assert not inputs & {anchor_new.data_ptr(), state_new["momentum"].data_ptr()}


@pytest.mark.parametrize(
    ("lr", "momentum"), [(0.0, 0.3), (-1.0, 0.3), (math.nan, 0.3), (0.7, 1.0), (0.7, -0.1)]
)
def test_constants_out_of_range_are_refused(lr: float, momentum: float) -> None:
    with pytest.raises(ValueError, match=r"lr must be|momentum must be"):
        HeavyBall(lr, momentum)
