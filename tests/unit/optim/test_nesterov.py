import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.outer.nesterov import Nesterov

F64 = torch.float64
DELTAS = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=20)


@given(lr=st.floats(0.01, 2), momentum=st.floats(0, 0.99), Delta_Tn=DELTAS)
def test_equals_torch_sgd(lr: float, momentum: float, Delta_Tn: list[list[float]]) -> None:
    start = torch.tensor([1.0, -2.0, 3.0], dtype=F64)
    param = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([param], lr=lr, momentum=momentum, nesterov=momentum > 0)
    rule, anchor, state = Nesterov(lr, momentum), start, {"momentum": torch.zeros(3, dtype=F64)}
    for Delta in torch.tensor(Delta_Tn, dtype=F64):
        param.grad = Delta.clone()
        sgd.step()
        anchor, state = rule.step(anchor, Delta.unsqueeze(0), state)
        torch.testing.assert_close(anchor, param.detach(), rtol=1e-12, atol=1e-9)


def test_t7_an_impulse_moves_the_anchor_by_eta_over_one_minus_mu() -> None:
    eta, mu = 0.7, 0.9
    rule, anchor = Nesterov(eta, mu), torch.zeros(1, dtype=torch.float64)
    state = {"momentum": torch.zeros(1, dtype=torch.float64)}
    for t in range(400):
        Delta = torch.full((1, 1), 1.0 if t == 0 else 0.0, dtype=torch.float64)
        anchor, state = rule.step(anchor, Delta, state)
        if t == 0:
            assert anchor.item() == pytest.approx(-eta * (1 + mu), rel=1e-12)
    assert anchor.item() == pytest.approx(-eta / (1 - mu), rel=1e-12)


def test_outgoing_is_the_pseudo_gradient_in_one_lane() -> None:
    rule = Nesterov()
    sent = rule.outgoing(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]))
    assert rule.lanes == 1
    assert sent.tolist() == [[2.0, 4.0]]


def test_inputs_stay_untouched_and_results_are_new() -> None:
    rule = Nesterov()
    anchor, average, state = torch.ones(4), torch.full((1, 4), 2.0), rule.init_state(4)
    assert state["momentum"].dtype == torch.float32
    anchor_new, state_new = rule.step(anchor, average, state)
    assert anchor.tolist() == [1] * 4
    assert average.tolist() == [[2] * 4]
    assert state["momentum"].tolist() == [0] * 4
    inputs = {t.data_ptr() for t in (anchor, average, state["momentum"])}
    assert not inputs & {anchor_new.data_ptr(), state_new["momentum"].data_ptr()}


def test_a_share_of_the_vector_steps_to_the_same_bits_as_the_whole() -> None:
    # Peers that each reduce a share must land on the anchor that the whole step would give.
    generator = torch.Generator().manual_seed(1)
    rule = Nesterov()
    anchor, Delta, momentum = torch.randn(3, 1003, generator=generator)
    whole, _ = rule.step(anchor, Delta[None], {"momentum": momentum})
    for share in (slice(0, 7), slice(7, 500), slice(500, 1003)):
        part, _ = rule.step(anchor[share], Delta[None, share], {"momentum": momentum[share]})
        assert torch.equal(part, whole[share])


@pytest.mark.parametrize(
    ("lr", "momentum"), [(0.0, 0.9), (-1.0, 0.9), (float("nan"), 0.9), (0.7, 1.0), (0.7, -0.1)]
)
def test_constants_out_of_range_are_refused(lr: float, momentum: float) -> None:
    with pytest.raises(ValueError, match=r"lr must be|momentum must be"):
        Nesterov(lr, momentum)


def test_another_number_of_lanes_is_refused() -> None:
    rule = Nesterov()
    with pytest.raises(ValueError, match="unpack"):
        rule.step(torch.zeros(3), torch.zeros(2, 3), rule.init_state(3))
