"""Error feedback: what a lossy codec leaves out of one exchange goes into the next.

**Paper:** Sarfi et al. 2025, SparseLoCo, arXiv:2508.15706; the idea is Seide et al. 2014, 1-bit
SGD. With top-k it stands in for the outer momentum.
**Symbols:** `Delta` = theta - phi [n], e = `residual` [n], beta = `decay`, a = beta e + Delta [n] =
what should be sent, q = decode(encode(a)) [n] = what the others get to see.
**Deviations:**
- The residual is committed when the exchange is delivered, not when it departs, for exchanges do
  get lost here (test_what_a_lost_exchange_held_is_in_the_next).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ErrorFeedback:
    """What one replica still owes the others, for one vector with one exchange in flight at most.

        a = feedback.compensate(Delta)         # at departure; a and q stay with the exchange
        q = codec.decode(codec.encode(a), n)
        feedback = feedback.deliver(a, q)      # only when it landed with this contribution in it

    Nothing is done for an exchange that got lost. The residual is as it was, and the live
    parameters still hold their Delta, so that the next Delta contains it. A method that moves its
    live parameters ahead at departure has to move them back (`optim.outer.copy.Outer.lose`), or,
    which is the same, to deliver nothing, `deliver(a, zeros)`.

    Attributes:
        residual: e, `[n]`, zeros at first.
        decay: beta, in [0, 1]. With 1 nothing is ever forgotten; below it old errors fade, like
            gradients in a momentum (0.95 in the paper).

    Raises:
        ValueError: `decay` is out of its range.
    """

    residual: Tensor
    decay: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"the decay of a residual must be in [0, 1], not {self.decay}")

    def compensate(self, Delta: Tensor) -> Tensor:
        """Return a = decay e + Delta `[n]`, the vector to encode.

        Raises:
            ValueError: `Delta` is not of the residual's shape.
        """
        self._require_shape(Delta)
        return torch.add(Delta, self.residual, alpha=self.decay)

    def deliver(self, compensated: Tensor, sent: Tensor) -> "ErrorFeedback":
        """Return what is owed after a delivery: e <- a - q.

        Args:
            compensated: a `[n]`, from `compensate`.
            sent: q `[n]`, what the others decoded of it.

        Raises:
            ValueError: A vector is not of the residual's shape.
        """
        self._require_shape(compensated)
        self._require_shape(sent)
        return ErrorFeedback(compensated - sent, self.decay)

    def _require_shape(self, vector: Tensor) -> None:
        if vector.shape != self.residual.shape:
            raise ValueError(
                f"the residual has shape {list(self.residual.shape)}, not {list(vector.shape)}"
            )
