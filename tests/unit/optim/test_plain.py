import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.outer.plain import Plain

DELTAS = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=20)


@given(lr=st.floats(0.01, 2), Delta_Tn=DELTAS)
def test_equals_torch_sgd_without_momentum(lr: float, Delta_Tn: list[list[float]]) -> None:
    start = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    param = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([param], lr=lr)
    rule, anchor, state = Plain(lr), start, Plain(lr).init_state(3)
    for Delta in torch.tensor(Delta_Tn, dtype=torch.float64):
        param.grad = Delta.clone()
        sgd.step()
        anchor, state = rule.step(anchor, Delta.unsqueeze(0), state)
        torch.testing.assert_close(anchor, param.detach(), rtol=1e-12, atol=1e-9)
    assert state == {}


def test_with_rate_one_the_anchor_is_the_mean_of_the_live_parameters() -> None:
    anchor, *thetas = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    sent = [Plain().outgoing(anchor, theta) for theta in thetas]
    landed, _ = Plain().step(anchor, torch.stack(sent).mean(0), {})
    torch.testing.assert_close(landed, torch.stack(thetas).mean(0))


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan])
def test_a_rate_that_is_not_positive_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be positive"):
        Plain(lr)
