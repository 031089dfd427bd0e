"""Who of an ensemble is asked, and how much it counts.

Dense, everybody is asked about every token. Sparse, a text is cut into blocks, and at the start of
each the posterior tells who is worth asking until its end. The others sleep: they count as if they
said what the mixture says, so that their weights stay as they are. The mixture is then still one of
K predictors, each of which sees the past only: it is causal and sums to 1 over the vocabulary.

Nothing that a sleeper would have said can wake it, so from time to time all are asked again. Its
evidence did not fall meanwhile, so when the text has changed its subject it needs few blocks to be
ahead.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from optim.posterior import log_weights


def require_top_k(top_k: int | None, num_experts: int) -> None:
    """Refuse to ask for more of the heaviest experts than there are, or for none; None is all.

    Raises:
        ValueError: says how many there may be.
    """
    if top_k is not None and not 1 <= top_k <= num_experts:
        most = "1, as there is one expert" if num_experts == 1 else f"from 1 to {num_experts} (all)"
        raise ValueError(f"top-k must be {most}, not {top_k}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asking:
    """See the module docstring.

    Attributes:
        num_experts: K.
        top_k: No more than so many count at a token, the heaviest; None is no limit.
        is_sparse: Whether experts may sleep.
        block_tokens: How long a decision holds.
        least_weight: Who weighs less at the start of a block sleeps. The heaviest never does.
        all_every_blocks: All are asked in the first block and in each of this many.

    Raises:
        ValueError: A number is out of its range.
    """

    num_experts: int
    top_k: int | None = None
    is_sparse: bool = False
    block_tokens: int = 32
    least_weight: float = 1e-3
    all_every_blocks: int = 8

    def __post_init__(self) -> None:
        require_top_k(self.top_k, self.num_experts)
        if min(self.block_tokens, self.all_every_blocks) < 1:
            raise ValueError("block_tokens and all_every_blocks must be at least 1")
        if not 0 <= self.least_weight <= 1:
            raise ValueError(f"least_weight must be from 0 to 1, not {self.least_weight}")

    def blocks(self, length: int) -> list[tuple[int, int]]:
        """Return where the blocks of a text of so many tokens begin and end."""
        step = self.block_tokens if self.is_sparse and self.num_experts > 1 else max(length, 1)
        return [(first, min(first + step, length)) for first in range(0, length, step)]

    def is_choice_due(self, position: int) -> bool:
        """Return whether a block begins at this position, from 0."""
        return self.is_sparse and position % self.block_tokens == 0

    def is_for_all(self, position: int) -> bool:
        """Return whether all are asked in the block of this position."""
        return not self.is_sparse or position // self.block_tokens % self.all_every_blocks == 0

    def likely(self, evidence: Tensor, log_prior: Tensor) -> Tensor:
        """Return who is worth asking, bool `[K, B]`.

        Args:
            evidence: `[K, B]` at the start of the block.
            log_prior: `[K]`.
        """
        weights = log_weights(evidence, log_prior, top_k=self.top_k)
        is_likely = (weights > -math.inf) & (weights.exp() >= self.least_weight)
        return is_likely.scatter(0, weights.argmax(dim=0, keepdim=True), True)

    def weigh(self, evidence: Tensor, log_prior: Tensor, is_asked: Tensor) -> Tensor:
        """Return the logarithm of the weights, fp64 like `evidence`; -inf for who is not asked.

        Args:
            evidence: `[K, B]` or `[K, B, T]`, of tokens of one block.
            log_prior: `[K]`.
            is_asked: bool `[K, B]`.
        """
        known = torch.where(is_asked, log_prior.double()[:, None], -math.inf)
        if evidence.dim() > 2:
            known = known.unsqueeze(-1)
        return log_weights(evidence, known, top_k=self.top_k)
