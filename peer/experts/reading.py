"""What one expert says of a batch of texts, computed only where it is asked.

A model sees no further back than its context. Of a longer text it is shown windows of that length,
each half a context after the one before. Which one a position is judged in depends on nothing but
the position, so that a text that grows is judged like one that is there.

Shapes: B sequences, T positions, V words in the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Window:
    """The model is shown the tokens `[start, stop)`, and judges from the position `first` on."""

    start: int
    first: int
    stop: int


def window_start(position: int, context: int | None) -> int:
    """Return where the window begins in which a position is judged; context None has no end."""
    if context is None or position < context:
        return 0
    stride = max(1, context // 2)
    return ((position - context) // stride + 1) * stride


def windows(length: int, context: int | None) -> list[Window]:
    """Return the windows of a text of so many tokens; each position is judged in one of them."""
    if context is None or length <= context:
        return [Window(0, 0, length)]
    stride = max(1, context // 2)
    later = [
        Window(first + stride - context, first, min(first + stride, length))
        for first in range(context, length, stride)
    ]
    return [Window(0, 0, context), *later]


class Reading:
    """See the module docstring.

    Args:
        model: Tokens `[B, T]` in, logits `[B, T, V]` out, causal.
        tokens: `[B, T]` int64.
        targets: `[B, T]` int64, the token after each.
        context: At most so many tokens are shown at once; None is no limit.
        keeps_all: Whether the whole vocabulary's log-probabilities are kept, too.

    Attributes:
        token_log_probs: `[B, T]` fp64, of the targets; 0 where it was not asked.
        log_probs: `[B, T, V]` if `keeps_all` and anything was asked.
        vocab_size: V, once anything was asked.
        fed_tokens: Shown to the model so far, sequence by sequence.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tensor,
        targets: Tensor,
        *,
        context: int | None,
        keeps_all: bool,
    ) -> None:
        self._model, self._tokens, self._targets = model, tokens, targets
        self._keeps_all = keeps_all
        self._windows = windows(tokens.shape[1], context)
        self._is_done = [
            torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device) for _ in self._windows
        ]
        self.token_log_probs = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        self.log_probs: Tensor | None = None
        self.vocab_size: int | None = None
        self.fed_tokens = 0

    @property
    def all_tokens(self) -> int:
        """What `fed_tokens` is once it has been asked about everything."""
        return len(self._tokens) * sum(window.stop - window.start for window in self._windows)

    def ask(self, rows: Tensor, first: int, stop: int, *, ahead: bool) -> None:
        """Makes sure that it has judged the positions `[first, stop)` of these sequences.

        Args:
            rows: bool `[B]`.
            first: A position.
            stop: One after it.
            ahead: Whether to go on to the end of the window, for less in all if it is asked again.
        """
        for window, is_done in zip(self._windows, self._is_done, strict=True):
            if window.stop <= first or stop <= window.first:
                continue
            (todo,) = torch.nonzero(rows & ~is_done, as_tuple=True)
            if len(todo) == 0:
                continue
            end = window.stop if ahead else min(window.stop, stop)
            if end == window.stop:
                is_done[todo] = True
            self._judge(todo, window.start, window.first, end)

    def _judge(self, rows: Tensor, start: int, first: int, stop: int) -> None:
        logits = self._model(self._tokens[rows, start:stop])
        self.fed_tokens += len(rows) * (stop - start)
        self.vocab_size = logits.shape[-1]
        log_probs = log_softmax(logits[:, first - start :])
        targets = self._targets[rows, first:stop].unsqueeze(-1)
        of_targets = log_probs.gather(-1, targets).squeeze(-1)
        self.token_log_probs[rows, first:stop] = of_targets.double()
        if self._keeps_all:
            if self.log_probs is None:
                self.log_probs = log_probs.new_zeros(*self._tokens.shape, logits.shape[-1])
            self.log_probs[rows, first:stop] = log_probs


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities over the last axis, at least fp32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
