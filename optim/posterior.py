"""The Bayesian mixture of experts: which one a text comes from, judged anew before every token.

**Paper:** Gensyn 2025, HDEE, arXiv:2502.19385, whose ensemble is that of Branch-Train-Merge (Li et
al. 2022, arXiv:2208.03306, section 2.3) and DEMix (Gururangan et al. 2021, arXiv:2108.05036,
section 4). Experts that are not asked for a while are the specialists of Freund, Schapire, Singer
and Warmuth 1997 (Using and Combining Predictors that Specialize, STOC).
**Symbols:** K experts, B sequences, T tokens, V words in the vocabulary.
`p_j(x_t | x_<t)` = what expert j gives to token t. Its *evidence* before t is
`sum_{s<t} log p_j(x_s | x_<s)`, so an empty sum before the first token. The weights, `w_j(t)`, are
`prior_j exp(evidence_j(t))`, divided by their sum over j; the mixture is `sum_j w_j p_j`.
**Deviations:**
- Probabilities are averaged, as the paper has it. `simple_avg` of the authors' code averages their
  logarithms, which is no distribution (test_e6_the_mixture_sums_to_one_and_mean_logarithms_do_not).
- The prior is the likeliest one for held-out sequences, found by EM: each sequence has one vote,
  divided by its posterior. This is our reading of a "cached prior". The authors' recursion scales
  the old prior by decay^(n+1), so that after some sequences the last one alone decides, and it is
  estimated on the text of the test (test_the_authors_recursion_forgets_what_em_counts).
- A token that is impossible for all who have any weight cannot be explained by Bayes' rule (0/0):
  from there on the weights are the prior's (test_what_nobody_can_explain_leaves_the_prior).

Evidence grows without end, while what decides is the difference between two experts. In fp32 its
grain is 0.002 after 4,000 bytes and 0.03 after 200,000, so it is kept in fp64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MAX_ITERATIONS = 1000
_LEAST_GAIN = 1e-10
"""In nats for each sequence: EM ends below."""


def log_prior_of(prior: Sequence[float] | None, num_experts: int) -> Tensor:
    """Return a prior's logarithm, `[K]` fp64.

    Args:
        prior: K weights of any sum; 0 silences an expert. None is uniform.
        num_experts: K.

    Raises:
        ValueError: There are not K, or they are no weights.
    """
    weights = [1.0] * num_experts if prior is None else [float(weight) for weight in prior]
    if len(weights) != num_experts or not weights:
        raise ValueError(f"the prior has {len(weights)} weights for {num_experts} experts")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(
            f"the prior {weights} has a weight that is no number from 0 on, or none above 0"
        )
    log_weights = torch.tensor(weights, dtype=torch.float64).log()
    return log_weights - log_weights.logsumexp(0)


def evidence_before(token_log_probs: Tensor, start: Tensor | None = None) -> Tensor:
    """Return what speaks for each expert before each token, `[K, B, T]` fp64.

    To go on from token to token, add a token's `[K, B]` to the evidence before it.

    Args:
        token_log_probs: `[K, B, T]`, `log p_j(x_t | x_<t)` of the text itself.
        start: `[K, B]`, the evidence before the first of these tokens. None is none.
    """
    if start is None:
        start = torch.zeros_like(token_log_probs[..., 0], dtype=torch.float64)
    steps = torch.cat((start.double().unsqueeze(-1), token_log_probs[..., :-1].double()), dim=-1)
    return steps.cumsum(-1)


def log_weights(evidence: Tensor, log_prior: Tensor, *, top_k: int | None = None) -> Tensor:
    """Return the logarithm of each expert's weight, `[K, ...]` fp64; their exp sums to 1 over K.

    Args:
        evidence: `[K, ...]`.
        log_prior: `[K]`, or what broadcasts to `evidence`; of any sum, -inf for those without a
            say, who must not be all.
        top_k: Only so many experts have a weight, the heaviest. None is all of them.
    """
    if log_prior.dim() == 1:
        log_prior = log_prior.view(-1, *[1] * (evidence.dim() - 1))
    log_prior = log_prior.double()
    joint = evidence.double() + log_prior
    is_unexplained = (joint == -math.inf).all(dim=0)
    joint = torch.where(is_unexplained, log_prior, joint)
    if top_k is not None and top_k < len(joint):
        is_top = torch.zeros_like(joint, dtype=torch.bool)
        is_top.scatter_(0, joint.topk(top_k, dim=0).indices, True)
        joint = joint.masked_fill(~is_top, -math.inf)
    # Relative to the heaviest, or the grain of the evidence would be the grain of the weights.
    relative = joint - joint.detach().amax(dim=0)
    return relative - relative.logsumexp(dim=0)


def log_posterior(
    token_log_probs: Tensor, log_prior: Tensor, *, top_k: int | None = None
) -> Tensor:
    """Return the logarithm of the weights before each token, `[K, B, T]` fp64.

    Args:
        token_log_probs: `[K, B, T]`, `log p_j(x_t | x_<t)` of the text itself.
        log_prior: `[K]`; before the first token these are the weights.
        top_k: See `log_weights`.
    """
    return log_weights(evidence_before(token_log_probs), log_prior, top_k=top_k)


def mixture_log_probs(log_probs: Tensor, log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mixture `sum_j w_j p_j`, in the precision of `log_probs`.

    Args:
        log_probs: `[K, B, T]`, of the text itself, or `[K, B, T, V]`, of the whole vocabulary.
        log_weights: `[K, B, T]`.

    Returns:
        `[B, T]` or `[B, T, V]`.
    """
    for _ in range(log_probs.dim() - log_weights.dim()):
        log_weights = log_weights.unsqueeze(-1)
    return (log_weights.to(log_probs.dtype) + log_probs).logsumexp(dim=0)


def likelier_prior(
    sequence_log_probs: Tensor, log_prior: Tensor, *, least_weight: float = 0.0
) -> Tensor:
    """Return a prior that explains held-out sequences at least as well: one step of EM, `[K]` fp64.

    Args:
        sequence_log_probs: `[K, N]`, `sum_t log p_j(x_t | x_<t)` of each of N whole sequences.
        log_prior: `[K]`, the prior before, none of it below `least_weight`.
        least_weight: No expert gets less, so that none is lost for ever; at most 1/K.
    """
    votes = log_weights(sequence_log_probs, log_prior).exp().mean(dim=1)
    # The maximum of sum_j votes_j log w_j, where all w_j are at least the least: who would get
    # less gets just that, and the others share the rest as their votes are.
    is_least = torch.zeros_like(votes, dtype=torch.bool)
    weights = votes
    while (below := ~is_least & (weights < least_weight)).any():
        is_least |= below
        rest = 1.0 - least_weight * int(is_least.sum())
        shared = votes.masked_fill(is_least, 0.0)
        weights = torch.where(is_least, least_weight, rest * shared / shared.sum())
    return weights.log()


def estimated_prior(sequence_log_probs: Tensor, *, least_weight: float = 1e-3) -> Tensor:
    """Return the likeliest log-prior for held-out sequences, `[K]` fp64.

    These must not be the text on which the mixture is then judged.

    Args:
        sequence_log_probs: `[K, N]`, `sum_t log p_j(x_t | x_<t)` of each of N whole sequences,
            such as documents or windows as long as those to come.
        least_weight: Of an expert that explains none of them; at most 1/K.

    Raises:
        ValueError: There is no sequence, or the least weights of all are more than 1.
    """
    num_experts, num_sequences = sequence_log_probs.shape
    if num_sequences == 0:
        raise ValueError("a prior cannot be estimated on no sequence at all; hold some text out")
    if not 0 <= least_weight * num_experts <= 1:
        raise ValueError(
            f"least_weight {least_weight} for each of {num_experts} experts makes more than 1"
        )
    log_prior = log_prior_of(None, num_experts).to(sequence_log_probs.device)
    likelihood = _likelihood(sequence_log_probs, log_prior)
    for _ in range(_MAX_ITERATIONS):
        log_prior = likelier_prior(sequence_log_probs, log_prior, least_weight=least_weight)
        before, likelihood = likelihood, _likelihood(sequence_log_probs, log_prior)
        if not likelihood - before > _LEAST_GAIN:
            break
    return log_prior


def _likelihood(sequence_log_probs: Tensor, log_prior: Tensor) -> float:
    """Return the mean log-probability of a sequence under the mixture, in nats."""
    return float((sequence_log_probs.double() + log_prior[:, None]).logsumexp(0).mean())
