"""What training costs in time: speed, step time, and the time that exchanges take from it."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from peer.train.lines import Progress
from protocol.errors import ThinwireError

REPORT_S = 0.25
"""At most so often is progress reported."""


class Aside:
    """One piece of work between steps."""

    took_s: float = 0.0


class Meter:
    """Adds up steps and times between two reports.

    The loss stays on its device until a report, so that a GPU need not be waited for at each step.

    Args:
        device: Where training runs.
        judges_loss: Whether a loss that is not finite is an error; else it is only told.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        judges_loss: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.overhead_s = 0.0
        self.waited_s = 0.0
        self.longest_gap_s = 0.0
        self._step_ended_at_s: float | None = None
        self._excused_s = 0.0
        self._device = device
        self._judges_loss = judges_loss
        self._clock = clock
        self._since_s = clock()
        self._aside_s = 0.0
        self._num_steps = 0
        self._num_losses = 0
        self._num_tokens = 0
        self._nats = torch.zeros((), dtype=torch.float32, device=device)
        self._last: Progress | None = None

    def restart(self) -> None:
        """Forget the time since the last report: training begins now."""
        self._since_s, self._aside_s = self._clock(), 0.0

    def add_step(self, nats: Tensor | None, num_tokens: int) -> None:
        """Count one inner step with its mean loss, still on the device; None if nobody knows it."""
        if nats is not None:
            self._nats += nats
            self._num_losses += 1
        self._num_steps += 1
        self._num_tokens += num_tokens
        now_s = self._clock()
        if self._step_ended_at_s is not None:
            gap_s = now_s - self._step_ended_at_s - self._excused_s
            self.longest_gap_s = max(self.longest_gap_s, gap_s)
        self._step_ended_at_s, self._excused_s = now_s, 0.0

    @contextlib.contextmanager
    def aside(self, *, is_overhead: bool) -> Iterator[Aside]:
        """Time something between steps, so that it does not count as step time.

        Args:
            is_overhead: It is done for an exchange or a checkpoint, and adds to `overhead_s`.
        """
        self._wait_for_device()  # steps still under way are not this work's fault
        aside, before_s = Aside(), self._clock()
        try:
            yield aside
            self._wait_for_device()
        finally:
            aside.took_s = self._clock() - before_s
            self._aside_s += aside.took_s
            if is_overhead:
                self.overhead_s += aside.took_s
            else:
                self._excused_s += aside.took_s

    @contextlib.contextmanager
    def talk(self) -> Iterator[None]:
        """Time what the trainer spends in its socket to the wire process."""
        before_s = self._clock()
        try:
            yield
        finally:
            self.waited_s += self._clock() - before_s

    def is_due(self) -> bool:
        """Whether there is something new to report, and not too soon."""
        is_time = self._last is None or self._clock() - self._since_s >= REPORT_S
        return self._num_steps > 0 and is_time

    def report(self, step: int, tokens: int, *, is_done: bool = False) -> Progress:
        """Return the progress since the last report; without a step since, its numbers again.

        Without a loss since, the loss is NaN.

        Raises:
            ThinwireError: the loss is not finite, and that is judged.
        """
        if self._num_steps == 0:
            return self._repeat(step, tokens, is_done=is_done)
        nats = math.nan
        if self._num_losses:
            nats = self._nats.item() / self._num_losses  # waits for the device
        if self._judges_loss and self._num_losses and not math.isfinite(nats):
            raise ThinwireError(
                f"the training loss is {nats} at step {step}; restart from a checkpoint, "
                "or found a run with a smaller inner.lr"
            )
        elapsed_s = max(self._clock() - self._since_s, 1e-9)
        self._last = Progress(
            step=step,
            tokens=tokens,
            loss_bits_per_byte=nats / math.log(2),
            tokens_per_s=self._num_tokens / elapsed_s,
            step_s=max(elapsed_s - self._aside_s, 0.0) / self._num_steps,
            overhead_s=self.overhead_s,
            waited_s=self.waited_s,
            longest_gap_s=self.longest_gap_s,
            is_done=is_done,
        )
        self._num_steps = self._num_losses = self._num_tokens = 0
        self._nats.zero_()
        self.restart()
        return self._last

    def _repeat(self, step: int, tokens: int, *, is_done: bool) -> Progress:
        last = self._last
        return Progress(
            step=step,
            tokens=tokens,
            loss_bits_per_byte=last.loss_bits_per_byte if last else math.nan,
            tokens_per_s=0.0,
            step_s=last.step_s if last else 0.0,
            overhead_s=self.overhead_s,
            waited_s=self.waited_s,
            longest_gap_s=self.longest_gap_s,
            is_done=is_done,
        )

    def _wait_for_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
