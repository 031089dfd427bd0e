"""What a training loop holds of its swarm: it says when a step is made, and all else follows.

The loop's process is the trainer, so nobody else ever touches the model, and only inside of `step`.
The network is another process's (`peer.loop.wire_process`), a child. If it dies, the loop goes on
alone with the model that it has; to come back it joins again, from its checkpoint or the swarm's
state, as any peer does.
"""

import atexit
import logging
import os
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from peer.loop.learner import LoopLearner
from peer.loop.port import WirePort
from peer.train.interchange import Interchange
from peer.train.lines import News
from peer.train.trainer import Trainer
from protocol.errors import ThinwireError

logger = logging.getLogger(__name__)

LEAVE_S = 20.0
"""Leaving in order may take so long: the exchange that is under way, and a last checkpoint."""
END_S = 15.0
"""A wire process that has left may take so long to exit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmStatus(News):
    """How it goes, here and with the others."""

    step: int
    """Inner steps done, on the run's count."""
    tokens: int
    """Tokens that this peer trained on in this run."""
    is_alone: bool
    """The wire process is gone: training goes on, and nothing is exchanged."""


class Swarm(ABC):
    """A loop's part in a swarm; made by `thinwire.join`, and left at the end of its `with` block.

    In a group of ranks all of them make the same calls.
    """

    @abstractmethod
    def step(self, tokens: int | None = None, loss: Tensor | float | None = None) -> None:
        """Count one inner step that the loop has made, and land and depart what is due.

        Call it after `optimizer.step()`. It never waits for the network.

        Args:
            tokens: Trained in this step, here: what weighs this peer's work in averages. Steps
                count alike if nobody in the run says; it is said by all or by none.
            loss: The step's mean loss in nats, for people; a tensor is not waited for.

        Raises:
            ValueError: tokens are negative, or the loss is not one number.
        """

    @abstractmethod
    def leave(self) -> None:
        """Leave in order, with a last checkpoint; a second call does nothing."""

    @property
    @abstractmethod
    def step_count(self) -> int:
        """Inner steps done, on the run's count: what a learning rate follows."""

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether `max_steps` are made; further ones would not count."""

    @property
    @abstractmethod
    def status(self) -> SwarmStatus:
        """How it goes. In a group only rank 0 knows of others."""

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """Leave because the loop failed."""

    def __enter__(self) -> Self:
        """Return the swarm itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave in order, also when the loop was interrupted."""
        if error is None:
            self.leave()
        else:
            self.fail(error)


class Leading(Swarm):
    """The process that has the wire process: the only one, or rank 0 of a group.

    Args:
        learner: The model, which holds the swarm's state.
        trainer: Has started.
        port: The way to the wire process.
        interchange: The shared memory.
        is_group: Whether other ranks follow.
    """

    def __init__(
        self,
        learner: LoopLearner,
        trainer: Trainer,
        port: WirePort,
        interchange: Interchange,
        *,
        is_group: bool = False,
    ) -> None:
        self._learner = learner
        self._trainer = trainer
        self._port = port
        self._interchange = interchange
        self._is_group = is_group
        self._is_alone = False
        self._has_said_why = False
        self._has_left = False
        self._pid = os.getpid()
        atexit.register(self._end_of_program)  # a loop without `with`, or a script that fails

    @property
    def step_count(self) -> int:
        """Inner steps done, on the run's count."""
        return self._learner.step

    @property
    def is_done(self) -> bool:
        """Whether `max_steps` are made."""
        return self._trainer.is_done

    @property
    def status(self) -> SwarmStatus:
        """How it goes, as far as the wire process has said."""
        if not (self._is_alone or self._has_left):
            self._port.look()
        news = asdict(self._port.news) | {"notices": tuple(self._port.notices)}
        step, tokens = self._learner.step, self._learner.tokens
        return SwarmStatus(**news, step=step, tokens=tokens, is_alone=self._is_alone)

    def step(self, tokens: int | None = None, loss: Tensor | float | None = None) -> None:
        """Count one inner step; see `Swarm.step`."""
        num_tokens = token_count(tokens)
        told = None if loss is None else _one_number(loss)
        try:
            self._learner.count(num_tokens, told)
            if self._is_alone or self._has_left:
                self._learner.train_step()
            else:
                self._trainer.stepped()
                self._is_alone = self._trainer.has_left or self._port.is_closed
            if self._is_alone and not (self._has_left or self._has_said_why):
                self._say_why_alone()
            if not self._learner.is_interrupted:
                self._learner.go_on()
        except BaseException as error:
            self._learner.stop(error)
            raise
        if self._learner.is_interrupted:
            self.leave()
            raise KeyboardInterrupt

    def leave(self) -> None:
        """Leave in order, with a last checkpoint; see `Swarm.leave`."""
        if self._has_left or os.getpid() != self._pid:  # a fork has nothing to leave
            return
        self._has_left = True
        wait_s = 1.0
        try:
            if not self._is_alone:
                self._leave_in_order()
            self._learner.leave()
            wait_s = END_S
        except BaseException as error:
            self._learner.stop(error)
            raise
        finally:
            self._end(wait_s)

    def fail(self, error: BaseException) -> None:
        """Leave in order, except that a group whose ranks are anywhere cannot save its state."""
        if not self._is_group:
            self.leave()
        elif not self._has_left:
            self._has_left = True
            try:
                self._learner.stop(error)
            finally:
                self._end(END_S)

    def _end_of_program(self) -> None:
        if os.getpid() == self._pid:
            self.fail(ThinwireError("rank 0 has ended without leaving the swarm"))

    def _leave_in_order(self) -> None:
        self._trainer.rest()
        self._port.ask_to_leave()
        deadline_s = time.monotonic() + LEAVE_S
        while not (self._trainer.has_left or self._port.is_closed):
            if time.monotonic() > deadline_s:
                logger.warning("left without goodbye: the wire process took over %g s", LEAVE_S)
                return
            self._trainer.turn()

    def _say_why_alone(self) -> None:
        self._port.look()
        if not self._port.is_closed:  # it has let go of us, and will say why when it ends
            return
        self._has_said_why = True
        reason = self._port.failure or "the wire process has ended"
        logger.warning(
            "%s; training goes on alone from step %d; to come back, leave the swarm and join again",
            *(reason, self._learner.step),
        )

    def _end(self, wait_s: float) -> None:
        atexit.unregister(self._end_of_program)
        self._port.end(wait_s=wait_s)
        self._interchange.close()


def token_count(tokens: int | None) -> int:
    """Return how many tokens a step counts: 1 if nobody says.

    Raises:
        ValueError: they are negative.
    """
    num_tokens = 1 if tokens is None else int(tokens)
    if num_tokens < 0:
        raise ValueError(f"tokens must be at least 0, not {num_tokens}")
    return num_tokens


def _one_number(loss: Tensor | float) -> Tensor:
    number = loss.detach() if isinstance(loss, Tensor) else torch.tensor(loss, device="cpu")
    if number.numel() != 1:
        raise ValueError(f"loss must be one number, the step's mean, not {list(number.shape)}")
    return number.reshape(())
