"""Windows of a stream of text, shuffled, and refilled beside the training.

The pool holds some thousands of windows. A batch is drawn from it at random, and the places of its
windows are filled with the stream's next ones by a thread. When the stream is slow the trainer does
not wait at once: what was used stays until there is something new, and may be drawn again.
"""

import atexit
import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peer.train.batches import generator_of
from peer.train.data import Text
from protocol.errors import ConfigError, ThinwireError

logger = logging.getLogger(__name__)

POOL_TOKENS = 1 << 22
MOST_USES = 4
"""So often, on average, a window is used; then the trainer waits for new ones."""
WAIT_S = 120.0
_CLOSE_S = 10.0
"""`datasets` takes 5 s to end its own threads."""


class WindowPool:
    """See the module docstring; used as `peer.train.batches.BatchStream` is.

    Args:
        blocks: Endless pieces of text, one after the other; read on a thread of ours.
        batch_sequences: Windows in a batch.
        context: Tokens predicted in a window.
        owner: What the order of draws follows from, with `step`.
        capacity: Windows in the pool; None for `POOL_TOKENS` tokens.
        wait_s: How long `next` waits for text.

    Attributes:
        step: The next batch's number.
    """

    def __init__(
        self,
        blocks: Generator[Text],
        *,
        batch_sequences: int,
        context: int,
        owner: str,
        capacity: int | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self.step = 0
        self._batch_sequences = batch_sequences
        self._owner = owner
        self._width = context + 1
        capacity = max(capacity or POOL_TOKENS // self._width, 2 * batch_sequences)
        self._windows = np.zeros((capacity, self._width), dtype=np.uint32)
        self._num_filled = 0
        self._fewest = min(capacity, 8 * batch_sequences)
        self._free = deque(range(capacity))
        self._is_free = np.ones(capacity, dtype=np.bool_)
        self._num_drawn = self._num_come = 0
        self._blocks = blocks
        self._wait_s = wait_s
        self._problem: Exception | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._refill, name="text", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # the library's threads want to end before the interpreter

    def next(self) -> Tensor:
        """Return the next batch, int64 `[batch_sequences, context + 1]`.

        Raises:
            ConfigError: there is no such text.
            ThinwireError: there was nothing new to train on for too long.
        """
        with self._changed:
            if not self._changed.wait_for(self._has_enough, timeout=self._wait_s):
                raise ThinwireError(f"no text came to train on within {self._wait_s:g} s")
            if self._problem is not None and not self._is_enough():
                if isinstance(self._problem, ConfigError):
                    raise self._problem
                raise ThinwireError(f"there is no more text to train on: {self._problem}")
            drawn = self._draw(generator_of(f"{self._owner}\0{self.step}"))
            batch = self._windows[drawn].astype(np.int64)
            self._num_drawn += len(drawn)
            self._free.extend(drawn[~self._is_free[drawn]].tolist())
            self._is_free[drawn] = True
            self._changed.notify_all()
        self.step += 1
        return torch.from_numpy(batch)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)
        atexit.unregister(self.close)

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the places of a batch: new windows, and used ones only if those are too few."""
        order = rng.permutation(self._num_filled)
        used = self._is_free[order]
        return np.concatenate([order[~used], order[used]])[: self._batch_sequences]

    def _is_enough(self) -> bool:
        wanted = self._num_drawn + self._batch_sequences
        return self._num_filled >= self._fewest and wanted <= MOST_USES * self._num_come

    def _has_enough(self) -> bool:
        return self._problem is not None or self._is_enough()

    def _refill(self) -> None:
        try:
            for window in self._packed():
                with self._changed:
                    self._changed.wait_for(lambda: self._free or self._is_closed)
                    if self._is_closed:
                        return
                    place = self._free.popleft()
                    self._windows[place] = window
                    self._is_free[place] = False
                    self._num_filled = max(self._num_filled, place + 1)
                    self._num_come += 1
                    self._changed.notify_all()
            raise ThinwireError("the stream has ended")
        except ThinwireError as error:
            self._fail(error)
        except Exception as error:  # the boundary: the trainer's thread must learn of it
            logger.exception("the stream of text broke")
            self._fail(error)
        finally:
            self._blocks.close()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._problem = error
            self._changed.notify_all()

    def _packed(self) -> Iterator[NDArray[Any]]:
        """Yield windows that together are the stream, each token once."""
        rest: list[Text] = []
        num_tokens = 0
        for block in self._blocks:
            rest.append(block)
            num_tokens += len(block)
            if num_tokens >= self._width:
                text = np.concatenate(rest)
                count = len(text) // self._width
                yield from text[: count * self._width].reshape(count, self._width)
                rest, num_tokens = [text[count * self._width :]], len(text) % self._width
            if self._is_closed:
                return
