"""Several experts as one model: the Bayesian mixture of `optim.posterior`, as an `nn.Module`.

Experts share a vocabulary and nothing else: they may differ in width, depth and context. Weights
begin with the prior in each sequence, and follow what the experts make of its tokens.

Shapes: K experts, B sequences, T positions, V words in the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from optim.posterior import evidence_before, log_prior_of, mixture_log_probs
from peer.experts.asking import Asking
from peer.experts.expert import Expert, require_one_tokenizer
from peer.experts.reading import Reading
from protocol.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """What an ensemble makes of a batch.

    Attributes:
        log_weights: `[K, B, T]` fp64, before the token after each position.
        token_log_probs: `[B, T]` fp64, of the token after each position, by the mixture.
        log_probs: `[B, T, V]` of the mixture, if the whole vocabulary was wanted.
        evidence: `[K, B]` fp64, after the last target.
        is_asked: bool `[K, B]`, in the last block.
    """

    log_weights: Tensor
    token_log_probs: Tensor
    log_probs: Tensor | None
    evidence: Tensor
    is_asked: Tensor


class Ensemble(nn.Module):
    """See the module docstring.

    Args:
        models: K of them: tokens `[B, T]` int64 in, logits `[B, T, V]` out, causal. Mode and device
            are the caller's, as with any module.
        names: Of the experts, all different.
        prior: K weights of any sum, 0 silences one; None is uniform.
        contexts: How many tokens each may be shown at once, None is no limit; a longer text is
            judged in windows.
        top_k: No more than so many experts count at a token; None is all.
        is_sparse: Whether only likely experts are asked, see `peer.experts.asking`.
        block_tokens: In sparse mode, for how long.
        least_weight: In sparse mode, who weighs less sleeps.

    Attributes:
        fed_tokens: Shown to experts so far, each token once for each expert that saw it.
        dense_tokens: What that would have been, had all been asked about everything.

    Raises:
        ValueError: The arguments do not fit each other.
    """

    log_prior: Tensor

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        names: Sequence[str] | None = None,
        prior: Sequence[float] | None = None,
        contexts: Sequence[int | None] | None = None,
        top_k: int | None = None,
        is_sparse: bool = False,
        block_tokens: int = 32,
        least_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        if not models:
            raise ValueError("an ensemble needs at least one model")
        self.names = tuple(names or (f"expert-{j}" for j in range(len(models))))
        self.contexts = tuple(contexts or [None] * len(models))
        if not len(self.names) == len(set(self.names)) == len(self.contexts) == len(models):
            raise ValueError(
                f"{len(models)} models need as many different names and contexts, not the names "
                f"{', '.join(self.names)} and the contexts {self.contexts}"
            )
        self.models = nn.ModuleList(models)
        self.register_buffer("log_prior", log_prior_of(prior, len(models)))
        self.asking = Asking(
            num_experts=len(models),
            top_k=top_k,
            is_sparse=is_sparse,
            block_tokens=block_tokens,
            least_weight=least_weight,
        )
        self.fed_tokens = 0
        self.dense_tokens = 0

    @classmethod
    def of(
        cls,
        experts: Sequence[Expert],
        *,
        prior: Sequence[float] | None = None,
        top_k: int | None = None,
        is_sparse: bool = False,
    ) -> "Ensemble":
        """Return the ensemble of these experts, on the CPU.

        Raises:
            ConfigError: they share no tokenizer or not their names, or one does not fit its shape.
        """
        if not experts:
            raise ConfigError("an ensemble needs at least one expert, and there is none")
        require_one_tokenizer((expert.name, expert.tokenizer) for expert in experts)
        models = [expert.model() for expert in experts]
        try:
            return cls(
                models,
                names=[expert.name for expert in experts],
                prior=prior,
                contexts=[expert.spec.context for expert in experts],
                top_k=top_k,
                is_sparse=is_sparse,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the log-probabilities `[B, T, V]` of the token after each position.

        Args:
            tokens: `[B, T]` int64. The last ones are no evidence: nothing comes after them.
        """
        judged = self.judge(tokens, functional.pad(tokens[:, 1:], (0, 1)), keeps_all=True)
        assert judged.log_probs is not None
        return judged.log_probs

    def posterior(self, tokens: Tensor) -> Tensor:
        """Return the weights `[B, T, K]` fp64 with which `forward` mixes at each position."""
        judged = self.judge(tokens, functional.pad(tokens[:, 1:], (0, 1)))
        return judged.log_weights.exp().permute(1, 2, 0)

    def score(self, tokens: Tensor) -> Tensor:
        """Return the mixture's log-probability of each token but the first, `[B, T]` fp64.

        Args:
            tokens: `[B, T + 1]` int64.
        """
        return self.judge(tokens[:, :-1], tokens[:, 1:]).token_log_probs

    def scores(self, tokens: Tensor) -> Tensor:
        """Return what `score` does for each expert alone, `[K, B, T]` fp64.

        All are asked, also in sparse mode. `optim.posterior` makes of it the mixture by any prior,
        and of its sum over T an estimated prior.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        readings = self._readings(inputs, targets, keeps_all=False)
        everywhere = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
        for reading in readings:
            reading.ask(everywhere, 0, inputs.shape[1], ahead=True)
        self._close(readings)
        return torch.stack([reading.token_log_probs for reading in readings])

    def judge(self, tokens: Tensor, targets: Tensor, *, keeps_all: bool = False) -> Judgement:
        """Return all there is to know about a batch.

        Args:
            tokens: `[B, T]` int64.
            targets: `[B, T]` int64, the token after each.
            keeps_all: Whether `Judgement.log_probs` is wanted.

        Raises:
            ValueError: there is no token, or the experts' vocabularies differ.
        """
        readings = self._readings(tokens, targets, keeps_all=keeps_all)
        evidence = self.log_prior.new_zeros((len(readings), len(tokens)), dtype=torch.float64)
        is_asked = torch.ones_like(evidence, dtype=torch.bool)
        weights, mixed = [], []
        for first, stop in self.asking.blocks(tokens.shape[1]):
            is_asked = self._ask(readings, evidence, first, stop)
            said = torch.stack([reading.token_log_probs[:, first:stop] for reading in readings])
            weights.append(
                self.asking.weigh(evidence_before(said, evidence), self.log_prior, is_asked)
            )
            mixed.append(mixture_log_probs(said, weights[-1]))
            evidence = evidence + torch.where(is_asked, said.sum(-1), mixed[-1].sum(-1))
        self._close(readings)
        log_weights = torch.cat(weights, dim=-1)
        log_probs = None
        if keeps_all:
            each = [reading.log_probs for reading in readings if reading.log_probs is not None]
            log_probs = mixture_log_probs(torch.stack(each), log_weights)
        return Judgement(
            log_weights=log_weights,
            token_log_probs=torch.cat(mixed, dim=-1),
            log_probs=log_probs,
            evidence=evidence,
            is_asked=is_asked,
        )

    def _readings(self, tokens: Tensor, targets: Tensor, *, keeps_all: bool) -> list[Reading]:
        if tokens.dim() != 2 or tokens.shape[1] == 0:
            raise ValueError(f"tokens must be [B, T] with T at least 1, not {list(tokens.shape)}")
        return [
            Reading(model, tokens, targets, context=context, keeps_all=keeps_all)
            for model, context in zip(self.models, self.contexts, strict=True)
        ]

    def _ask(self, readings: list[Reading], evidence: Tensor, first: int, stop: int) -> Tensor:
        """Returns who is asked in a block, bool `[K, B]`, once they have answered."""
        is_likely = self.asking.likely(evidence, self.log_prior)
        everywhere = torch.ones_like(is_likely)
        is_for_all = self.asking.is_for_all(first)
        for reading, rows in zip(readings, is_likely, strict=True):
            if first > 0:
                reading.ask(rows, first, stop, ahead=True)
            if is_for_all:  # in a sparse mode's first block nobody is known to be asked again
                reading.ask(everywhere[0], first, stop, ahead=not self.asking.is_sparse)
        if first == 0:
            self._require_one_vocabulary(readings)
        return everywhere if is_for_all else is_likely

    def _require_one_vocabulary(self, readings: list[Reading]) -> None:
        for name, reading in zip(self.names, readings, strict=True):
            if reading.vocab_size != readings[0].vocab_size:
                raise ValueError(
                    f"{self.names[0]} has {readings[0].vocab_size} words in its vocabulary, {name} "
                    f"has {reading.vocab_size}: the experts of an ensemble must share it"
                )

    def _close(self, readings: list[Reading]) -> None:
        self.fed_tokens += sum(reading.fed_tokens for reading in readings)
        self.dense_tokens += sum(reading.all_tokens for reading in readings)
