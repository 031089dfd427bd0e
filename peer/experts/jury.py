"""Experts, ensembles and the average of all, judged on the same windows of a text.

Each expert reads a window once: what ensembles of any prior say of it follows from that. Only a
sparse ensemble reads for itself, as it leaves some experts out.

Shapes: K experts, B sequences, T bytes predicted in each.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from optim.posterior import log_posterior, mixture_log_probs
from peer.experts.ensemble import Ensemble
from peer.experts.expert import Expert
from peer.experts.mean import mean_of

Prior = Literal["uniform", "estimated"]
Kind = Literal["expert", "ensemble", "average"]


class Jury:
    """See the module docstring.

    Args:
        experts: At least one, all with one tokenizer.
        top_k: In ensembles, only so many experts have a weight; None is all.
        is_sparse: Ensembles ask only experts that are likely.

    Raises:
        ConfigError: the experts are no ensemble, or fewer than `top_k`.
    """

    def __init__(
        self, experts: Sequence[Expert], *, top_k: int | None = None, is_sparse: bool = False
    ) -> None:
        self._all = Ensemble.of(experts, top_k=top_k)
        self._is_sparse = is_sparse
        self._average = Ensemble.of([mean_of(experts)]) if _are_alike(experts) else None
        self._fed_tokens, self._dense_tokens = 0, 0

    @property
    def asked_frac(self) -> float:
        """How much ensembles asked so far, of what they would have, had they asked everybody."""
        return self._fed_tokens / self._dense_tokens if self._dense_tokens else 1.0

    @torch.no_grad()
    def sequence_log_probs(self, windows: Iterable[Tensor]) -> Tensor:
        """Returns what each expert gives to each window, in nats, `[K, N]` fp64.

        Args:
            windows: N in all, in batches `[B, T + 1]` int64.
        """
        return torch.cat([self._all.scores(tokens).sum(-1) for tokens in windows], dim=1)

    @torch.no_grad()
    def bits_per_byte(
        self, windows: Iterable[Tensor], priors: Mapping[Prior, Tensor | None]
    ) -> dict[tuple[Kind, str], float]:
        """Returns the bits per byte of everybody, by kind and name.

        Args:
            windows: In batches `[B, T + 1]` int64.
            priors: Of the ensembles to judge, by name, `[K]`; None is uniform.
        """
        ensembles = {name: self._with_prior(prior) for name, prior in priors.items()}
        nats: defaultdict[tuple[Kind, str], float] = defaultdict(float)
        num_bytes = 0
        for tokens in windows:
            num_bytes += tokens[:, 1:].numel()
            scores = self._all.scores(tokens)
            for expert, of_expert in zip(self._all.names, scores, strict=True):
                nats["expert", expert] -= of_expert.sum().item()
            for name, ensemble in ensembles.items():
                mixed = ensemble.score(tokens) if self._is_sparse else _dense(ensemble, scores)
                nats["ensemble", name] -= mixed.sum().item()
            if self._average is not None:
                nats["average", "average"] -= self._average.score(tokens).sum().item()
        self._fed_tokens += sum(ensemble.fed_tokens for ensemble in ensembles.values())
        self._dense_tokens += sum(ensemble.dense_tokens for ensemble in ensembles.values())
        return {who: total / num_bytes / math.log(2) for who, total in nats.items()}

    def _with_prior(self, prior: Tensor | None) -> Ensemble:
        return Ensemble(
            list(self._all.models),
            names=self._all.names,
            prior=None if prior is None else prior.tolist(),
            contexts=self._all.contexts,
            top_k=self._all.asking.top_k,
            is_sparse=self._is_sparse,
        )


def _are_alike(experts: Sequence[Expert]) -> bool:
    """Returns whether they are several of one shape; it does not depend on their contexts."""
    shapes = {expert.spec.model_copy(update={"context": 0}) for expert in experts}
    return len(experts) > 1 and len(shapes) == 1


def _dense(ensemble: Ensemble, scores: Tensor) -> Tensor:
    """Returns `ensemble.score` `[B, T]` of a text of which its experts' `[K, B, T]` are known."""
    weights = log_posterior(scores, ensemble.log_prior, top_k=ensemble.asking.top_k)
    return mixture_log_probs(scores, weights)
