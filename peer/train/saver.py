"""The trainer's half of checkpoints: copied between two steps, written beside them.

A save goes through three stages, one save after the other:

    make room   a thread makes memory for a copy of the replica, if that is not there yet
    copy        between two steps: the only time that training waits
    write       the thread writes the copy, hashes it, and forces it onto the disk

**Why a copy, and no fork.** A forked child sees the replica as it was, for a page table's price.
But then each page that the next step writes to is copied in a fault, which costs that step more
than copying all at once between steps; and a child of a process with a GPU and a pool of threads
may do almost nothing. A copy in slices, some at each step, would be of no moment at all. Figures
are in docs/results.md.

**Memory.** One copy of parameters and optimizer state in host memory, page-locked if the replica
is on a GPU. It is made at the first save and kept: a peak that comes every few minutes is no less
a peak, and fresh memory costs many times what copying into it does.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peer.train.checkpoint import INNER
from peer.train.lines import Save, Saved, Staged
from peer.train.tensor_file import write_tensors
from protocol.errors import ConfigError

NICENESS = 10
"""Of the writing thread: the cores are the training's first."""

Outlines = Mapping[str, tuple[torch.Size, torch.dtype]]


class Saver:
    """See the module docstring.

    Args:
        device: Where the replica is.
        settle: Brings the replica to the moment of the checkpoint; returns its step and tokens.
        state: Returns what to write: the replica's own tensors, which change with the next step;
            a `ConfigError` says why there is nothing to write.
        pause: Times what training waits for.
        send: To the wire process.
        executor: Where the slow work is done; None for a thread of low priority.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        settle: Callable[[], tuple[int, int]],
        state: Callable[[], Mapping[str, Tensor]],
        pause: Callable[[], AbstractContextManager[object]],
        send: Callable[[Staged | Saved], None],
        executor: Executor | None = None,
    ) -> None:
        self._is_pinned = device.type == "cuda"
        self._settle = settle
        self._state = state
        self._pause = pause
        self._send = send
        self._executor = executor
        self._copies: dict[str, Tensor] = {}
        self._asked: deque[Save] = deque()
        self._under_way: Iterator[Future[Any]] | None = None
        self._work: Future[Any] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way, or waits for its turn."""
        return self._under_way is not None or bool(self._asked)

    def ask(self, save: Save) -> None:
        """Take a save on; it begins when the one before it is done."""
        self._asked.append(save)

    def turn(self) -> None:
        """Do what can be done now without waiting; call it between two steps."""
        while self.is_busy and (self._work is None or self._work.done()):
            if self._under_way is None:
                self._under_way = self._stages(self._asked.popleft())
            self._work = next(self._under_way, None)
            if self._work is None:
                self._under_way = None

    def finish(self) -> None:
        """Wait until everything that was asked for is done; then let go of the copy's memory."""
        while self.is_busy:
            self.turn()
            if self._work is not None:
                wait((self._work,))
        self._copies.clear()  # the process may go on without us, where the loop is its own

    def _stages(self, save: Save) -> Iterator[Future[Any]]:
        path = Path(save.folder) / INNER
        problem, outlines = self._measure()
        if problem is None:
            room = self._beside(self._make_room, outlines)
            yield room
            problem = _problem(room)
        with self._pause():
            step, tokens = self._settle()
            if problem is None:
                problem = self._copy()
        # From here on the wire process may land again.
        self._send(Staged(step=step, tokens=tokens))
        num_bytes, digest = 0, ""
        if problem is None:
            writing = self._beside(write_tensors, path, self._copies)
            yield writing
            problem = _problem(writing)
            if problem is None:
                num_bytes, digest = writing.result().num_bytes, writing.result().digest
        self._send(
            Saved(
                step=step,
                tokens=tokens,
                path=str(path),
                num_bytes=num_bytes,
                digest=digest,
                problem=problem,
            )
        )

    def _measure(self) -> tuple[str | None, Outlines]:
        try:
            with self._pause():
                return None, _outlines(self._state())
        except ConfigError as error:  # a replica that no file can hold stops no training
            return str(error), {}

    def _copy(self) -> str | None:
        # The step that was made meanwhile may have been the optimizer's first.
        try:
            tensors = self._state()
            self._make_room(_outlines(tensors))
        except ConfigError as error:
            return str(error)
        for name, tensor in tensors.items():
            self._copies[name].copy_(tensor, non_blocking=self._is_pinned)
        return None

    def _make_room(self, outlines: Outlines) -> None:
        if outlines == _outlines(self._copies):
            return
        self._copies.clear()
        try:
            for name, (shape, dtype) in outlines.items():
                copy = torch.empty(shape, dtype=dtype, pin_memory=self._is_pinned, device="cpu")
                copy.reshape(-1).view(torch.uint8).numpy().fill(0)  # without torch's threads
                self._copies[name] = copy
        except (MemoryError, RuntimeError) as error:
            self._copies.clear()
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"no memory for a copy of the replica to write: {reason}") from error

    def _beside(self, work: Callable[..., Any], *arguments: object) -> Future[Any]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "checkpoint", initializer=_yield_to_training)
        return self._executor.submit(work, *arguments)


def _problem(work: Future[Any]) -> str | None:
    error = work.exception()
    if error is None or isinstance(error, ConfigError):  # a full disk stops no training
        return None if error is None else str(error)
    raise error


def _outlines(tensors: Mapping[str, Tensor]) -> Outlines:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _yield_to_training() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
