"""A text that grows token by token, and what an ensemble expects next.

Evidence is carried from token to token, also of those that no expert's window shows any more. At
each position the weights and the windows are those of `Ensemble.forward` on the whole text.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from optim.posterior import mixture_log_probs
from peer.experts.ensemble import Ensemble
from peer.experts.reading import log_softmax, window_start


class Stream:
    """See the module docstring.

    Args:
        ensemble: Of K experts with V words in their vocabulary.
        tokens: The text so far, at least one token.

    Attributes:
        tokens: The text so far.
        log_probs: `[V]`, of the next token.
        log_weights: `[K]` fp64, of the experts before it; -inf for who was not asked.

    Raises:
        ValueError: there is no token.
    """

    log_probs: Tensor
    log_weights: Tensor

    @torch.no_grad()
    def __init__(self, ensemble: Ensemble, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("a text must begin with a token, which nobody has to foretell")
        self.tokens = list(tokens)
        self._ensemble = ensemble
        self._evidence = torch.zeros_like(ensemble.log_prior, dtype=torch.float64).unsqueeze(1)
        self._is_asked = torch.ones_like(self._evidence, dtype=torch.bool)
        if len(tokens) > 1:
            text = torch.tensor([self.tokens], device=self._evidence.device)
            judged = ensemble.judge(text[:, :-1], text[:, 1:])
            self._evidence, self._is_asked = judged.evidence, judged.is_asked
        self._expect()

    @torch.no_grad()
    def append(self, token: int) -> None:
        """Goes on to the text with one token more."""
        self._evidence = torch.where(
            self._is_asked,
            self._evidence + self._by_expert[:, token, None],
            self._evidence + self.log_probs[token],
        )
        self.tokens.append(token)
        self._expect()

    def _expect(self) -> None:
        asking, log_prior = self._ensemble.asking, self._ensemble.log_prior
        position = len(self.tokens) - 1
        if asking.is_choice_due(position):
            self._is_asked = asking.likely(self._evidence, log_prior)
            self._is_asked |= asking.is_for_all(position)
        self._by_expert = self._ask(position)
        weights = asking.weigh(self._evidence, log_prior, self._is_asked)
        self.log_probs = mixture_log_probs(self._by_expert[:, None], weights)[0]
        self.log_weights = weights[:, 0]

    def _ask(self, position: int) -> Tensor:
        """Returns what each expert expects, `[K, V]`; 0 of those who are not asked."""
        answers = {}
        ensemble = self._ensemble
        for j, (model, context) in enumerate(zip(ensemble.models, ensemble.contexts, strict=True)):
            start = window_start(position, context)
            ensemble.dense_tokens += position + 1 - start
            if self._is_asked[j]:
                shown = torch.tensor([self.tokens[start:]], device=self._evidence.device)
                answers[j] = log_softmax(model(shown)[0, -1])
                ensemble.fed_tokens += shown.shape[1]
        silence = torch.zeros_like(next(iter(answers.values())))
        return torch.stack([answers.get(j, silence) for j in range(len(ensemble.models))])
