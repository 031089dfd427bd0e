"""The mixture's identities E1-E6 on plain tensors; with models, and E7, in peer/experts."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optim.posterior import (
    estimated_prior,
    evidence_before,
    likelier_prior,
    log_posterior,
    log_prior_of,
    log_weights,
    mixture_log_probs,
)

INF = math.inf
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 6)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_probs_of(*shape: int, seed: int, spread: float = 3.0) -> Tensor:
    """Return random distributions over the last axis, fp32."""
    return (spread * torch.randn(*shape, generator=generator(seed))).log_softmax(-1)


def token_log_probs_of(*shape: int, seed: int, spread: float = 3.0) -> Tensor:
    return log_probs_of(*shape, 11, seed=seed, spread=spread)[..., 0]


def prior_of(num_experts: int, seed: int) -> Tensor:
    weights = torch.rand(num_experts, generator=generator(seed + 1)) + 1e-3
    return log_prior_of(weights.tolist(), num_experts)


@given(num_experts=counts, seed=seeds)
def test_e1_identical_experts_are_one_expert_for_any_prior(num_experts: int, seed: int) -> None:
    alone = log_probs_of(2, 7, 11, seed=seed)
    token_log_probs = alone[..., 0].expand(num_experts, 2, 7)
    weights = log_posterior(token_log_probs, prior_of(num_experts, seed))
    mixture = mixture_log_probs(alone.expand(num_experts, 2, 7, 11), weights)
    torch.testing.assert_close(mixture, alone, rtol=1e-5, atol=1e-5)


@given(num_experts=counts, seed=seeds)
def test_e2_before_the_first_token_the_weights_are_the_prior(num_experts: int, seed: int) -> None:
    log_prior = prior_of(num_experts, seed)
    weights = log_posterior(token_log_probs_of(num_experts, 3, 5, seed=seed), log_prior)
    expected = log_prior[:, None].expand(-1, 3)
    torch.testing.assert_close(weights[..., 0], expected, rtol=0, atol=1e-15)


@given(num_experts=counts, seed=seeds)
def test_e3_the_weights_sum_to_one_and_follow_a_permutation(num_experts: int, seed: int) -> None:
    log_prior = prior_of(num_experts, seed)
    token_log_probs = token_log_probs_of(num_experts, 2, 9, seed=seed)
    weights = log_posterior(token_log_probs, log_prior)
    torch.testing.assert_close(weights.exp().sum(0), torch.ones(2, 9, dtype=torch.float64))
    order = torch.randperm(num_experts, generator=generator(seed))
    permuted = log_posterior(token_log_probs[order], log_prior[order])
    torch.testing.assert_close(permuted, weights[order], rtol=1e-12, atol=1e-12)


@given(gap=st.floats(1e-3, 1e6), num_experts=st.integers(2, 6))
def test_e4_the_weight_of_a_better_expert_rises_to_one(gap: float, num_experts: int) -> None:
    token_log_probs = torch.full((num_experts, 1, 50), -2.0 - gap, dtype=torch.float64)
    token_log_probs[0] = -2.0
    text = token_log_probs.repeat(1, 1, 400)
    weight = log_posterior(text, log_prior_of(None, num_experts))[0, 0].exp()
    assert (weight.diff() >= -1e-15).all()
    assert weight[1] > weight[0]
    assert weight[-1].item() == pytest.approx(1.0, abs=1e-6)


def test_e4_an_expert_for_whom_the_text_is_impossible_has_no_weight_from_then_on() -> None:
    token_log_probs = torch.full((2, 1, 4), -1.0)
    token_log_probs[1, 0, 1] = -INF
    weights = log_posterior(token_log_probs, log_prior_of(None, 2)).exp()
    expected = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(weights[:, 0], expected)


@given(num_experts=counts, seed=seeds, spread=st.floats(0.1, 1000.0))
def test_e5_a_sequence_costs_at_most_the_best_expert_and_its_prior(
    num_experts: int, seed: int, spread: float
) -> None:
    token_log_probs = token_log_probs_of(num_experts, 3, 40, seed=seed, spread=spread).double()
    log_prior = prior_of(num_experts, seed)
    weights = log_posterior(token_log_probs, log_prior)
    nll = -mixture_log_probs(token_log_probs, weights).sum(-1)
    bound = (-token_log_probs.sum(-1) - log_prior[:, None]).min(0).values
    assert (nll <= bound * (1 + 1e-12) + 1e-9).all()
    # It is not only bounded: token by token it adds up to the mixture of whole sequences.
    whole = -(token_log_probs.sum(-1) + log_prior[:, None]).logsumexp(0)
    torch.testing.assert_close(nll, whole, rtol=1e-10, atol=1e-9)


@given(num_experts=st.integers(2, 6), seed=seeds)
def test_e6_the_mixture_sums_to_one_and_mean_logarithms_do_not(num_experts: int, seed: int) -> None:
    log_probs = log_probs_of(num_experts, 2, 6, 11, seed=seed)
    weights = log_posterior(log_probs[..., 0], log_prior_of(None, num_experts))
    mixture = mixture_log_probs(log_probs, weights)
    torch.testing.assert_close(mixture.exp().sum(-1), torch.ones(2, 6), rtol=1e-5, atol=1e-5)
    simple_avg = log_probs.mean(0)  # as in the authors' code
    assert (simple_avg.exp().sum(-1) < 0.999).any()


def test_bayes_rule_in_fractions() -> None:
    probs = [  # expert, token
        [Fraction(1, 3), Fraction(1, 7), Fraction(5, 9), Fraction(1, 2)],
        [Fraction(1, 2), Fraction(2, 7), Fraction(1, 9), Fraction(1, 1000)],
        [Fraction(1, 11), Fraction(6, 7), Fraction(1, 8), Fraction(0)],
    ]
    prior = [Fraction(1, 2), Fraction(1, 6), Fraction(1, 3)]
    log_probs = torch.tensor([[float(p) for p in row] for row in probs], dtype=torch.float64).log()
    weights = log_posterior(log_probs[:, None], log_prior_of([float(p) for p in prior], 3))
    mixture = mixture_log_probs(log_probs[:, None], weights)
    for t in range(4):
        joint = [prior[j] * math.prod(probs[j][:t]) for j in range(3)]
        expected = [w / sum(joint) for w in joint]
        assert weights[:, 0, t].exp().tolist() == pytest.approx([float(w) for w in expected])
        said = sum(w * probs[j][t] for j, w in enumerate(expected))
        assert mixture[0, t].exp().item() == pytest.approx(float(said))


@given(num_experts=counts, seed=seeds, split=st.integers(1, 8))
def test_evidence_kept_from_token_to_token_gives_the_weights_of_the_whole(
    num_experts: int, seed: int, split: int
) -> None:
    token_log_probs = token_log_probs_of(num_experts, 2, 9, seed=seed)
    log_prior = prior_of(num_experts, seed)
    whole = log_posterior(token_log_probs, log_prior)
    evidence = torch.zeros(num_experts, 2, dtype=torch.float64)
    for t in range(9):
        weights = log_weights(evidence, log_prior)
        torch.testing.assert_close(weights, whole[..., t], rtol=1e-12, atol=1e-12)
        evidence = evidence + token_log_probs[..., t]
    halves = evidence_before(
        token_log_probs[..., split:], token_log_probs[..., :split].double().sum(-1)
    )
    resumed = log_weights(halves, log_prior)
    torch.testing.assert_close(resumed, whole[..., split:], rtol=1e-12, atol=1e-12)


def test_evidence_of_long_texts_keeps_small_differences() -> None:
    # 200,000 bytes at 2 nats, and one that is better by a hundredth of a nat in all.
    token_log_probs = torch.full((2, 1, 200_001), -2.0)
    token_log_probs[0, 0, 1::20] += 1e-6
    better = token_log_probs.double().sum(-1).diff(dim=0).item()
    weights = log_posterior(token_log_probs, log_prior_of(None, 2))[:, 0, -1]
    assert (weights[1] - weights[0]).item() == pytest.approx(better, rel=1e-6)
    assert better < -0.005


@given(seed=seeds, num_experts=st.integers(2, 6))
def test_all_of_k_is_the_full_mixture_and_fewer_renormalize(seed: int, num_experts: int) -> None:
    token_log_probs = token_log_probs_of(num_experts, 2, 9, seed=seed)
    log_prior = prior_of(num_experts, seed)
    full = log_posterior(token_log_probs, log_prior)
    assert torch.equal(log_posterior(token_log_probs, log_prior, top_k=num_experts), full)
    for top_k in range(1, num_experts):
        top = log_posterior(token_log_probs, log_prior, top_k=top_k).exp()
        assert ((top > 0).sum(0) == top_k).all()
        heaviest, indices = full.exp().topk(top_k, dim=0)
        expected = heaviest / heaviest.sum(0)
        torch.testing.assert_close(top.gather(0, indices), expected)


def test_who_has_no_prior_has_no_say_and_makes_no_nan() -> None:
    log_prior = log_prior_of([0.0, 2.0, 6.0], 3)
    token_log_probs = torch.tensor([[-INF, -1.0], [-1.0, -INF], [-1.0, -1.0]])[:, None]
    weights = log_posterior(token_log_probs, log_prior)
    expected = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64)
    torch.testing.assert_close(weights[:, 0].exp().T, expected.expand(2, 3))
    mixture = mixture_log_probs(token_log_probs, weights)
    torch.testing.assert_close(mixture[0], torch.tensor([-1.0, math.log(0.75) - 1.0]))


def test_what_nobody_can_explain_leaves_the_prior() -> None:
    log_prior = log_prior_of([1.0, 3.0], 2)
    token_log_probs = torch.tensor([[-9.0, -INF, -1.0], [-1.0, -INF, -2.0]])[:, None]
    weights = log_posterior(token_log_probs, log_prior)
    torch.testing.assert_close(weights[:, 0, 2].exp(), torch.tensor([0.25, 0.75]).double())
    assert mixture_log_probs(token_log_probs, weights)[0, 1] == -INF


@given(seed=seeds, num_experts=st.integers(1, 5), least=st.floats(0.0, 0.19))
def test_each_step_of_em_explains_the_sequences_better(
    seed: int, num_experts: int, least: float
) -> None:
    sequence_log_probs = -5 * torch.rand(num_experts, 12, generator=generator(seed)).double()
    log_prior = log_prior_of(None, num_experts)
    likelihoods = []
    for _ in range(30):
        likelihoods.append((sequence_log_probs + log_prior[:, None]).logsumexp(0).sum().item())
        log_prior = likelier_prior(sequence_log_probs, log_prior, least_weight=least)
        assert log_prior.exp().sum().item() == pytest.approx(1.0)
        assert log_prior.exp().min() >= least * (1 - 1e-9)
    gains = torch.tensor(likelihoods).double().diff()
    assert (gains >= -1e-9).all()


def held_out(planted: list[float], *, num_sequences: int, length: int, seed: int) -> Tensor:
    """Return `[K, N]`: each sequence is drawn by one expert, all of them score it."""
    num_experts = len(planted)
    log_probs = log_probs_of(num_experts, 8, seed=seed, spread=1.5).double()
    drawn_by = torch.multinomial(
        torch.tensor(planted), num_sequences, replacement=True, generator=generator(seed)
    )
    texts = torch.multinomial(
        log_probs[drawn_by].exp(), length, replacement=True, generator=generator(seed + 1)
    )
    return log_probs[:, texts].sum(-1)


@pytest.mark.parametrize("length", [4, 64], ids=["hard to tell", "plain"])
def test_the_estimated_prior_is_the_planted_one(length: int) -> None:
    planted = [0.6, 0.25, 0.15]
    sequence_log_probs = held_out(planted, num_sequences=20_000, length=length, seed=3)
    found = estimated_prior(sequence_log_probs).exp()
    assert found.tolist() == pytest.approx(planted, abs=0.03)


def test_the_estimated_prior_is_the_likeliest_of_a_grid() -> None:
    sequence_log_probs = held_out([0.8, 0.2], num_sequences=40, length=3, seed=5)

    def likelihood(first: float) -> float:
        log_prior = torch.tensor([first, 1 - first]).double().log()
        return (sequence_log_probs + log_prior[:, None]).logsumexp(0).sum().item()

    found = estimated_prior(sequence_log_probs, least_weight=0.0).exp()
    best = max(likelihood(i / 1000) for i in range(1, 1000))
    assert likelihood(found[0].item()) >= best - 1e-4


def test_an_expert_that_explains_nothing_keeps_the_least_weight() -> None:
    sequence_log_probs = torch.tensor([[-10.0, -10.0], [-50.0, -50.0], [-INF, -INF]])
    found = estimated_prior(sequence_log_probs, least_weight=0.01).exp()
    assert found.tolist() == pytest.approx([0.98, 0.01, 0.01])


def test_the_authors_recursion_forgets_what_em_counts() -> None:
    # Two domains in turn: whoever counts finds one half each.
    sequence_log_probs = torch.tensor([[-10.0, -50.0], [-50.0, -10.0]]).repeat(1, 50).double()
    log_prior = torch.zeros(2).double()
    for n, totals in enumerate(sequence_log_probs.T):  # eval_ensemble.py, decay 0.3
        posterior = (totals + log_prior).softmax(0)
        log_prior = (0.3 ** (n + 1) * log_prior.exp() + posterior).log()
    assert log_prior.softmax(0).max() > 0.9
    assert estimated_prior(sequence_log_probs).exp().tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("prior", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, INF], [1.0, math.nan]])
def test_what_is_no_prior_is_refused(prior: list[float]) -> None:
    with pytest.raises(ValueError, match="the prior"):
        log_prior_of(prior, 2)


def test_a_prior_needs_sequences_and_room() -> None:
    with pytest.raises(ValueError, match="hold some text out"):
        estimated_prior(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="for each of 2 experts"):
        estimated_prior(torch.zeros(2, 1), least_weight=0.6)
