"""What is read from a text, and in which order: training batches and validation windows.

Batch k of a peer is a pure function of (run id, peer id, k): two peers see different windows of the
same text, and a peer that resumes needs to know nothing but k.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peer.train.data import Text
from protocol.errors import ConfigError

_DOMAIN = "thinwire batches 1"


class BatchStream:
    """One peer's endless, deterministic stream of random windows.

    Args:
        train: The text, `[length]` tokens.
        batch_sequences: Windows in a batch.
        context: Tokens predicted in a window.
        run_id: The run.
        peer_id: Whose stream.
        start_step: The first batch's number, k.

    Raises:
        ConfigError: the text is shorter than one window.
    """

    def __init__(
        self,
        train: Text,
        *,
        batch_sequences: int,
        context: int,
        run_id: str,
        peer_id: str,
        start_step: int = 0,
    ) -> None:
        _require_window(train, context)
        self._train = train
        self._batch_sequences = batch_sequences
        self._context = context
        self._owner = f"{_DOMAIN}\0{run_id}\0{peer_id}"
        self.step = start_step

    def next(self) -> Tensor:
        """Return batch k, int64 `[batch_sequences, context + 1]`, and go on to k + 1."""
        rng = generator_of(f"{self._owner}\0{self.step}")
        starts = rng.integers(0, len(self._train) - self._context, size=self._batch_sequences)
        self.step += 1
        return _windows(self._train, starts, self._context)


def generator_of(name: str) -> np.random.Generator:
    """Return a generator whose draws follow from a name alone."""
    seed = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed)))


def validation_batches(
    validation: Text, *, context: int, max_tokens: int, batch: int
) -> Iterator[Tensor]:
    """Yield fixed windows, evenly spread over the text; none overlap in predicted tokens.

    Args:
        validation: The text, `[length]` tokens.
        context: Tokens predicted in a window.
        max_tokens: Tokens predicted in all, at least one window's.
        batch: Windows in a batch; the last one may have fewer.

    Yields:
        int64 `[<= batch, context + 1]`.

    Raises:
        ConfigError: the text is shorter than one window.
    """
    _require_window(validation, context)
    count = max(1, min(max_tokens, len(validation) - 1) // context)
    starts = np.arange(count, dtype=np.int64) * (len(validation) - 1) // count
    for first in range(0, count, batch):
        yield _windows(validation, starts[first : first + batch], context)


def _windows(text: Text, starts: NDArray[np.int64], context: int) -> Tensor:
    gathered = text[starts[:, None] + np.arange(context + 1)]
    return torch.from_numpy(gathered.astype(np.int64))


def _require_window(text: Text, context: int) -> None:
    if len(text) < context + 1:
        raise ConfigError(
            f"the text has {len(text)} tokens, fewer than one window of model.context + 1 = "
            f"{context + 1}"
        )
