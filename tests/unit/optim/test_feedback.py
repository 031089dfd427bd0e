import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.feedback import ErrorFeedback
from optim.codec.floats import Fp32
from optim.codec.topk import TopK

LOSSY = TopK(16, 3)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_integers(*shape: int, seed: int = 0) -> Tensor:
    """Return integers so small that no sum of them, nor a bf16 mean of few, is ever rounded."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).float()


def through(codec: TopK | Fp32, x: Tensor) -> Tensor:
    return codec.decode(codec.encode(x), x.numel())


def halves_of_the_largest(a: Tensor) -> Tensor:
    """Send the upper half of the magnitudes, halved: lossy, and exact on dyadic numbers."""
    return torch.where(a.abs() >= a.abs().median(), a / 2, torch.zeros(()))


def test_without_decay_all_that_was_sent_and_the_residual_are_all_deltas_exactly() -> None:
    Delta_Tn = small_integers(12, 50)
    feedback, sent = ErrorFeedback(torch.zeros(50), decay=1.0), torch.zeros(50)
    for Delta in Delta_Tn:
        a = feedback.compensate(Delta)
        q = halves_of_the_largest(a)
        feedback = feedback.deliver(a, q)
        sent += q
        assert not torch.equal(q, a)
    assert torch.equal(sent + feedback.residual, Delta_Tn.sum(0))


def test_without_decay_top_k_sends_everything_sooner_or_later() -> None:
    Delta_Tn = randn(30, 200)
    feedback, sent = ErrorFeedback(torch.zeros(200), decay=1.0), torch.zeros(200)
    for Delta in Delta_Tn:
        a = feedback.compensate(Delta)
        q = through(LOSSY, a)
        feedback = feedback.deliver(a, q)
        sent += q
    torch.testing.assert_close(sent + feedback.residual, Delta_Tn.sum(0), rtol=1e-5, atol=1e-4)
    for _ in range(100):
        a = feedback.compensate(torch.zeros(200))
        feedback = feedback.deliver(a, through(LOSSY, a))
    assert feedback.residual.norm() < 1e-3 * Delta_Tn.sum(0).norm()


def test_the_residual_follows_the_papers_recursion() -> None:
    beta, Delta_Tn = 0.9, randn(10, 100).double()
    e = torch.zeros(100, dtype=torch.float64)
    feedback = ErrorFeedback(torch.zeros(100), decay=beta)
    for Delta in Delta_Tn:
        a = feedback.compensate(Delta.float())
        q = through(LOSSY, a)
        feedback = feedback.deliver(a, q)
        e = beta * e + Delta - q.double()
        torch.testing.assert_close(feedback.residual.double(), e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("codec", [Fp32(), TopK(32, 32, 8)], ids=["fp32", "every element"])
def test_a_codec_that_loses_nothing_leaves_nothing_and_fedavg(
    codec: TopK | Fp32, decay: float
) -> None:
    Delta_TRn = torch.randint(-127, 128, (6, 3, 64), generator=torch.Generator().manual_seed(1))
    Delta_TRn[:, :, ::32] = 127  # so that int8 has a scale of one
    replicas = [ErrorFeedback(torch.zeros(64), decay) for _ in range(3)]
    anchor = torch.zeros(64)
    for Delta_Rn in Delta_TRn.float():
        sent = []
        for r, Delta in enumerate(Delta_Rn):
            a = replicas[r].compensate(Delta)
            sent.append(through(codec, a))
            replicas[r] = replicas[r].deliver(a, sent[-1])
            assert not replicas[r].residual.any()
        anchor += torch.stack(sent).mean(0)
    torch.testing.assert_close(anchor, Delta_TRn.float().mean(1).sum(0))


def test_what_a_lost_exchange_held_is_in_the_next() -> None:
    feedback = ErrorFeedback(4 * small_integers(50, seed=1), decay=0.5)
    residual = feedback.residual.clone()
    first, second = small_integers(2, 50)
    lost = feedback.compensate(first)
    assert torch.equal(feedback.residual, residual)  # nothing is committed
    theta_minus_phi = first + second  # the anchor never moved
    a = feedback.compensate(theta_minus_phi)
    assert torch.equal(a, lost + second)
    feedback = feedback.deliver(a, a)
    assert not feedback.residual.any()


@given(
    fates=st.lists(st.booleans(), max_size=30),
    seed=st.integers(0, 1000),
)
def test_whatever_gets_lost_every_delta_is_sent_or_waits(fates: list[bool], seed: int) -> None:
    feedback = ErrorFeedback(torch.zeros(20), decay=1.0)
    total, delivered, undelivered = torch.zeros(20), torch.zeros(20), torch.zeros(20)
    for t, lands in enumerate(fates):
        new = 2.0**8 * small_integers(20, seed=seed * 31 + t)
        total += new
        undelivered += new  # theta - phi
        a = feedback.compensate(undelivered)
        q = (a / 2).round()
        if lands:
            feedback = feedback.deliver(a, q)
            delivered += q
            undelivered = torch.zeros(20)
        assert torch.equal(delivered + feedback.residual + undelivered, total)


@given(fates=st.lists(st.booleans(), max_size=30), seed=st.integers(0, 1000))
def test_ahead_a_loss_is_a_delivery_of_nothing(fates: list[bool], seed: int) -> None:
    # The anchor takes Delta in at departure, so only the residual can remember it.
    feedback = ErrorFeedback(torch.zeros(20), decay=1.0)
    total, delivered = torch.zeros(20), torch.zeros(20)
    for t, lands in enumerate(fates):
        Delta = 2.0**8 * small_integers(20, seed=seed * 31 + t)
        total += Delta
        a = feedback.compensate(Delta)
        q = (a / 2).round() if lands else torch.zeros(20)
        feedback = feedback.deliver(a, q)
        delivered += q
        assert torch.equal(delivered + feedback.residual, total)


def test_feedback_keeps_top_k_from_forgetting_small_coordinates() -> None:
    # One coordinate always drowns in its chunk; without feedback it would never be heard.
    Delta = torch.full((16,), 1.0)
    Delta[5] = 0.25
    codec = TopK(16, 4)
    feedback, heard, heard_without = ErrorFeedback(torch.zeros(16), 1.0), 0.0, 0.0
    for _ in range(200):
        a = feedback.compensate(Delta)
        q = through(codec, a)
        feedback = feedback.deliver(a, q)
        heard += float(q[5])
        heard_without += float(through(codec, Delta)[5])
    assert heard == pytest.approx(200 * 0.25, rel=0.15)
    assert heard_without == 0


def test_arguments_and_the_residual_stay_untouched() -> None:
    residual = torch.ones(4)
    feedback = ErrorFeedback(residual, decay=0.5)
    Delta, sent = torch.full((4,), 2.0), torch.full((4,), 1.0)
    a = feedback.compensate(Delta)
    owed = feedback.deliver(a, sent)
    assert (Delta.tolist(), sent.tolist(), a.tolist()) == ([2.0] * 4, [1.0] * 4, [2.5] * 4)
    assert feedback.residual is residual
    assert residual.tolist() == [1.0] * 4
    assert owed.residual.tolist() == [1.5] * 4


def test_wrong_shapes_and_decays_are_refused() -> None:
    feedback = ErrorFeedback(torch.ones(4))
    for wrong in (torch.ones(5), torch.ones(1), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="the residual has shape"):
            feedback.compensate(wrong)
        with pytest.raises(ValueError, match="the residual has shape"):
            feedback = feedback.deliver(wrong, torch.ones(4))
        with pytest.raises(ValueError, match="the residual has shape"):
            feedback = feedback.deliver(torch.ones(4), wrong)
    assert feedback.residual.tolist() == [1.0] * 4
    for decay in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="decay of a residual must be"):
            ErrorFeedback(torch.ones(4), decay)
