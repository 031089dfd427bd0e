"""The mixture as a module: E1-E7 with models, sparse mode, windows, and who is refused."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optim.posterior import log_posterior, log_prior_of, mixture_log_probs
from peer.experts.asking import Asking
from peer.experts.ensemble import Ensemble
from peer.experts.expert import Expert
from peer.experts.reading import window_start, windows
from peer.train.model import Transformer, build_model
from protocol.errors import ConfigError
from protocol.models import ModelSpec

few = settings(max_examples=15)
seeds = st.integers(0, 2**31)
SMALL = ModelSpec(dim=16, layers=1, heads=2, ffn_dim=24, context=64)
WIDE = ModelSpec(dim=24, layers=2, heads=3, ffn_dim=32, context=16, activation="gelu")
DEEP = ModelSpec(dim=8, layers=3, heads=1, ffn_dim=16, context=32, tied_embeddings=False)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expert_of(name: str, spec: ModelSpec, seed: int) -> Expert:
    model = build_model(spec, 256, generator=generator(seed))
    # Fresh models are all nearly uniform; these have opinions.
    theta = {key: 10 * param.detach() for key, param in model.named_parameters()}
    return Expert(name=name, spec=spec, theta=theta)


EXPERTS = [expert_of("math", SMALL, 1), expert_of("law", WIDE, 2), expert_of("tales", DEEP, 3)]


def tokens_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed))


class Bigram(nn.Module):
    """Knows one token's successor by a table of logits `[V, V]`, and counts what it is shown."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table
        self.shapes: list[tuple[int, int]] = []

    @property
    def shown_tokens(self) -> int:
        return sum(rows * length for rows, length in self.shapes)

    def forward(self, tokens: Tensor) -> Tensor:
        self.shapes.append((tokens.shape[0], tokens.shape[1]))
        return self.table[tokens]


def bigrams(num_experts: int, *, seed: int, words: int = 7, spread: float = 2.0) -> list[Bigram]:
    tables = spread * torch.randn(num_experts, words, words, generator=generator(seed))
    return [Bigram(table) for table in tables]


def text_of(model: Bigram, length: int, *, rows: int, seed: int) -> Tensor:
    """Return `[rows, length]` that this model would say."""
    tokens = torch.zeros(rows, 1, dtype=torch.long)
    draws = generator(seed)
    while tokens.shape[1] < length:
        probs = model.table[tokens[:, -1]].softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(probs, 1, generator=draws)), dim=1)
    return tokens


@few
@given(seed=seeds, weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=4))
def test_e1_identical_experts_are_one_expert_for_any_prior(seed: int, weights: list[float]) -> None:
    model = EXPERTS[0].model()
    tokens = tokens_of(2, 12, seed=seed)
    ensemble = Ensemble([model] * len(weights), prior=weights)
    alone = model(tokens).log_softmax(-1)
    torch.testing.assert_close(ensemble(tokens), alone, rtol=1e-5, atol=1e-5)


def test_e2_the_first_prediction_is_mixed_by_the_prior() -> None:
    ensemble = Ensemble.of(EXPERTS, prior=[0.5, 0.2, 0.3])
    tokens = tokens_of(3, 10)
    expected = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).expand(3, 3)
    torch.testing.assert_close(ensemble.posterior(tokens)[:, 0], expected)
    each = torch.stack([expert.model()(tokens[:, :1]).softmax(-1) for expert in EXPERTS])
    mixed = torch.einsum("k,kbtv->btv", torch.tensor([0.5, 0.2, 0.3]), each)
    torch.testing.assert_close(ensemble(tokens)[:, :1].exp(), mixed, rtol=1e-4, atol=1e-7)


@few
@given(seed=seeds, order=st.permutations(range(3)))
def test_e3_the_posterior_sums_to_one_and_follows_a_permutation(
    seed: int, order: list[int]
) -> None:
    tokens = tokens_of(2, 20, seed=seed)
    weights = Ensemble.of(EXPERTS, prior=[1, 2, 3]).posterior(tokens)
    assert weights.shape == (2, 20, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 20, dtype=torch.float64))
    permuted = Ensemble.of([EXPERTS[j] for j in order], prior=[j + 1.0 for j in order])
    torch.testing.assert_close(permuted.posterior(tokens), weights[..., order])


def test_e4_an_expert_of_the_text_takes_over() -> None:
    experts = bigrams(3, seed=4)
    tokens = text_of(experts[1], 200, rows=4, seed=5)
    weights = Ensemble(experts).posterior(tokens)[..., 1]
    assert (weights[:, -1] > 0.999999).all()


@few
@given(seed=seeds, num_experts=st.integers(1, 5), spread=st.floats(0.1, 50.0))
def test_e5_a_sequence_costs_at_most_the_best_expert_and_its_prior(
    seed: int, num_experts: int, spread: float
) -> None:
    experts = bigrams(num_experts, seed=seed, spread=spread)
    tokens = torch.randint(0, 7, (3, 50), generator=generator(seed))
    ensemble = Ensemble(experts, prior=[j + 1.0 for j in range(num_experts)])
    cost = -ensemble.score(tokens).sum(-1)
    of_experts = -ensemble.scores(tokens).sum(-1)
    bound = of_experts - log_prior_of([j + 1.0 for j in range(num_experts)], num_experts)[:, None]
    assert (cost <= bound.min(0).values + 1e-9).all()


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_e6_every_prediction_sums_to_one(is_sparse: bool, top_k: int | None) -> None:
    ensemble = Ensemble.of(EXPERTS, is_sparse=is_sparse, top_k=top_k)
    tokens = tokens_of(2, 100)
    torch.testing.assert_close(ensemble(tokens).exp().sum(-1), torch.ones(2, 100))
    of_models = [model(tokens[:, :16]).log_softmax(-1) for model in ensemble.models]
    simple_avg = torch.stack(of_models).mean(0)  # as in the authors' code
    assert (simple_avg.exp().sum(-1) < 0.9).all()


def test_e7_experts_share_the_vocabulary_and_nothing_else() -> None:
    ensemble = Ensemble.of(EXPERTS)
    tokens = tokens_of(2, 8)
    each = torch.stack([expert.model()(tokens).log_softmax(-1).double() for expert in EXPERTS])
    evidence = each[:, :, :-1].gather(-1, tokens[None, :, 1:, None].expand(3, -1, -1, -1))[..., 0]
    for t in range(8):  # by the definition, with products of probabilities
        joint = evidence[..., :t].sum(-1).exp()
        weights = joint / joint.sum(0)
        mixed = (weights[..., None] * each[:, :, t].exp()).sum(0)
        torch.testing.assert_close(ensemble(tokens)[:, t].exp().double(), mixed)


def test_e7_different_vocabularies_are_refused() -> None:
    ensemble = Ensemble([*bigrams(1, seed=0), *bigrams(1, seed=0, words=9)], names=["a", "b"])
    with pytest.raises(ValueError, match="a has 7 words in its vocabulary, b has 9"):
        ensemble(torch.zeros(1, 3, dtype=torch.long))
    other = dataclasses.replace(EXPERTS[1], tokenizer="words")
    with pytest.raises(ConfigError, match=r"share one tokenizer, .* law has 'words'"):
        Ensemble.of([EXPERTS[0], other])
    with pytest.raises(ConfigError, match="the experts' tokenizer is 'words'"):
        Ensemble.of([other])


def test_what_makes_no_ensemble_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="at least one expert"):
        Ensemble.of([])
    with pytest.raises(ConfigError, match="different names"):
        Ensemble.of([EXPERTS[0], EXPERTS[0]])
    with pytest.raises(ConfigError, match="top-k must be from 1 to 3"):
        Ensemble.of(EXPERTS, top_k=4)
    with pytest.raises(ConfigError, match="2 weights for 3 experts"):
        Ensemble.of(EXPERTS, prior=[1, 2])
    with pytest.raises(ValueError, match="at least 1, not"):
        Ensemble.of(EXPERTS)(torch.zeros(1, 0, dtype=torch.long))


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_scores_are_the_predictions_of_what_came(is_sparse: bool) -> None:
    ensemble = Ensemble.of(EXPERTS, is_sparse=is_sparse, prior=[3, 1, 1])
    tokens = tokens_of(2, 81)
    picked = ensemble(tokens[:, :-1]).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(ensemble.score(tokens).float(), picked)


def test_scores_of_experts_give_the_score_of_the_mixture() -> None:
    ensemble = Ensemble.of(EXPERTS, prior=[3, 1, 1], top_k=2)
    tokens = tokens_of(2, 40)
    scores = ensemble.scores(tokens)
    weights = log_posterior(scores, ensemble.log_prior, top_k=2)
    torch.testing.assert_close(mixture_log_probs(scores, weights), ensemble.score(tokens))


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_what_comes_later_changes_nothing_before(is_sparse: bool) -> None:
    ensemble = Ensemble.of(EXPERTS, is_sparse=is_sparse)
    tokens = tokens_of(2, 90)
    before, weights = ensemble(tokens), ensemble.posterior(tokens)
    for cut in (1, 31, 32, 33, 50, 64, 89):
        changed = tokens.clone()
        changed[:, cut:] = tokens_of(2, 90 - cut, seed=7)
        # The tokens up to cut - 1 are the same, and so is what is said after each of them.
        torch.testing.assert_close(ensemble(changed)[:, :cut], before[:, :cut])
        torch.testing.assert_close(ensemble.posterior(changed)[:, :cut], weights[:, :cut])
        assert not torch.allclose(ensemble(changed)[:, cut:], before[:, cut:])


@pytest.mark.parametrize("top_k", [None, 2])
def test_sparse_is_dense_when_nobody_is_skipped(top_k: int | None) -> None:
    experts = bigrams(4, seed=1)
    tokens = text_of(experts[2], 120, rows=3, seed=2)
    dense = Ensemble(experts, top_k=top_k)
    sparse = Ensemble(experts, top_k=top_k, is_sparse=True, least_weight=0.0)
    if top_k is None:
        torch.testing.assert_close(sparse(tokens), dense(tokens))
        torch.testing.assert_close(sparse.posterior(tokens), dense.posterior(tokens))
    else:  # whoever is skipped for a block is not among the heaviest; the first block has all
        torch.testing.assert_close(sparse(tokens)[:, :32], dense(tokens)[:, :32])


def test_sparse_mode_calls_only_likely_experts_for_their_own_sequences() -> None:
    experts = bigrams(4, seed=1)
    tokens = torch.cat([text_of(experts[j], 129, rows=2, seed=j) for j in range(3)])
    sparse = Ensemble(experts, is_sparse=True, block_tokens=32)
    score = sparse.score(tokens)
    # All see the first block of all 6 sequences; then each its own two, and nobody asks the last.
    assert [model.shapes for model in experts] == [[(6, 32), (2, 128)]] * 3 + [[(6, 32)]]
    assert sparse.fed_tokens == sum(model.shown_tokens for model in experts)
    assert sparse.fed_tokens == 4 * 6 * 32 + 3 * 2 * 128
    assert sparse.dense_tokens == 4 * 6 * 128
    dense = Ensemble(experts)
    assert (dense.score(tokens).sum(-1) - score.sum(-1)).abs().max() < 0.01
    assert dense.fed_tokens == dense.dense_tokens == 4 * 6 * 128


def test_who_sleeps_keeps_its_weight() -> None:
    experts = bigrams(3, seed=1)
    tokens = text_of(experts[0], 97, rows=1, seed=3)
    ensemble = Ensemble(experts, is_sparse=True, least_weight=0.4)
    judged = ensemble.judge(tokens[:, :-1], tokens[:, 1:])
    first = ensemble.judge(tokens[:, :32], tokens[:, 1:33])
    assert judged.is_asked[:, 0].tolist() == [True, False, False]
    torch.testing.assert_close(judged.evidence.softmax(0), first.evidence.softmax(0))
    assert (judged.evidence - first.evidence < -1).all()


def test_the_heaviest_never_sleeps_and_no_more_than_top_k_are_awake() -> None:
    log_prior = log_prior_of([5, 4, 3], 3)
    evidence = torch.zeros(3, 2, dtype=torch.float64)
    evidence[2, 1] = 1.0
    picky = Asking(num_experts=3, is_sparse=True, least_weight=0.9)
    assert picky.likely(evidence, log_prior).T.tolist() == [
        [True, False, False],
        [False] * 2 + [True],
    ]
    two = Asking(num_experts=3, is_sparse=True, top_k=2)
    assert two.likely(evidence, log_prior).T.tolist() == [[True, True, False], [True, False, True]]


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"block_tokens": 0}, {"least_weight": 1.5}, {"all_every_blocks": 0}]
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("top_k", "top-k")):
        Asking(num_experts=3, **wrong)


def test_a_sparse_mixture_costs_little_more_than_its_first_choice() -> None:
    # The bound E5 for specialists: none pays more than its own text and the logarithm of K.
    experts = bigrams(5, seed=8)
    tokens = text_of(experts[4], 400, rows=3, seed=9)
    sparse = Ensemble(experts, is_sparse=True)
    best = -sparse.scores(tokens)[4].sum(-1)
    assert (-sparse.score(tokens).sum(-1) <= best + math.log(5) + 1e-9).all()


def test_all_are_asked_again_so_that_a_new_subject_is_noticed() -> None:
    experts = bigrams(2, seed=1, spread=3.0)
    tokens = torch.cat(
        [text_of(experts[0], 512, rows=1, seed=1), text_of(experts[1], 512, rows=1, seed=2)], dim=1
    )
    ensemble = Ensemble(experts, is_sparse=True)
    weights = ensemble.posterior(tokens)[0]
    assert weights[500, 0] > 0.99
    assert weights[-1, 1] > 0.99
    # The second one is asked in every eighth block, and soon for good: two were its own.
    assert experts[0].shapes == [(1, 32), (1, 1024)]
    assert experts[1].shapes == [(1, 32), (1, 288), (1, 544), (1, 800), (1, 1024)]


def test_a_text_beyond_the_context_is_judged_in_windows_of_it() -> None:
    assert [(w.start, w.first, w.stop) for w in windows(30, 8)] == [
        (0, 0, 8),
        *((first - 4, first, min(first + 4, 30)) for first in range(8, 30, 4)),
    ]
    for context in (1, 2, 7, 8):
        judged = [t for w in windows(30, context) for t in range(w.first, w.stop)]
        assert judged == list(range(30))
        for w in windows(30, context):
            assert w.stop - w.start <= context
            assert all(window_start(t, context) == w.start for t in range(w.first, w.stop))


def test_each_expert_sees_its_own_tail() -> None:
    tokens = tokens_of(1, 80)
    ensemble = Ensemble.of(EXPERTS)
    scores = ensemble.scores(torch.cat((tokens, tokens[:, :1]), dim=1))
    for expert, by_expert in zip(EXPERTS, scores, strict=True):
        model = expert.model()
        for t in (3, 15, 16, 40, 79):
            start = window_start(t, expert.spec.context)
            assert min(t + 1, expert.spec.context // 2) <= t + 1 - start <= expert.spec.context
            said = model(tokens[:, start : t + 1])[0, -1].log_softmax(-1)
            target = tokens[0, (t + 1) % 80]
            assert by_expert[0, t].item() == pytest.approx(said[target].item(), abs=1e-4)


def test_one_model_is_an_ensemble_of_one() -> None:
    model = Transformer(SMALL, 256)
    tokens = tokens_of(2, 40)
    for is_sparse in (False, True):
        ensemble = Ensemble([model], contexts=[64], is_sparse=is_sparse)
        torch.testing.assert_close(ensemble(tokens), model(tokens).log_softmax(-1))
        assert ensemble.fed_tokens == 80
        assert (ensemble.posterior(tokens) == 1).all()


def test_it_is_a_module_that_can_be_trained_cast_and_frozen() -> None:
    models = [Transformer(SMALL, 256), Transformer(WIDE, 256)]
    ensemble = Ensemble(models)
    tokens = tokens_of(2, 9)
    (-ensemble.score(tokens).mean()).backward()
    assert all(param.grad is not None for param in ensemble.parameters())
    assert all(torch.isfinite(param.grad).all() for param in ensemble.parameters())
    with torch.no_grad():
        assert not ensemble(tokens).requires_grad
    half = ensemble.bfloat16()(tokens)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.exp().sum(-1), torch.ones(2, 9))
