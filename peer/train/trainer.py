"""The trainer's loop: inner steps, and between them whatever the wire process asks for.

One turn: answer what has come, land what is due, make an inner step, depart what is due, report.
Nothing in it waits for the wire process. Who owns which buffer is in `peer.train.interchange`.

Where somebody else's loop makes the steps (`peer.loop`), it drives the turns: `stepped` after each
step, and `turn` while there is none to make.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from optim.layout import Layout
from optim.schedule import Schedule
from peer.train.checkpoint import INNER
from peer.train.config import EVALUATION_BYTES
from peer.train.interchange import Interchange
from peer.train.lines import (
    Depart,
    Departed,
    Evaluate,
    Evaluated,
    Free,
    Hello,
    Land,
    Landed,
    Leave,
    Left,
    Message,
    Rest,
    Resume,
    Save,
    Start,
    Started,
)
from peer.train.meter import Meter
from peer.train.saver import Saver
from peer.train.tensor_file import read_tensors
from protocol.errors import ConfigError, LocalProtocolError
from protocol.manifest import Manifest

IDLE_POLL_S = 0.2
"""How long a trainer with nothing to train waits for the next message."""
SAVE_POLL_S = 0.01
"""The same while a checkpoint is being written."""


class Port(Protocol):
    """The trainer's way to the wire process; `peer.train.channel.LineChannel` is one."""

    @property
    def is_closed(self) -> bool:
        """The other side is gone."""

    @property
    def backlog_bytes(self) -> int:
        """What the other side has not taken yet."""

    def send(self, message: Message) -> None:
        """Queue a message without waiting."""

    def poll(self, *, wait_s: float = 0.0) -> Sequence[Message]:
        """Return what has come, waiting at most so long for the first."""


class Learner(Protocol):
    """What a trainer needs of a replica; `peer.train.replica.Replica` is one."""

    manifest: Manifest
    layout: Layout
    device: torch.device
    step: int
    tokens: int

    @property
    def step_tokens(self) -> int:
        """Tokens in one inner step."""

    def train_step(self) -> Tensor | None:
        """Make one inner step, or count one that was made; return its loss in nats, if known."""

    def load(self, flat: Tensor) -> None:
        """Take all parameters from `[n]`."""

    def snapshot(self, out: Tensor, fragment: int | None = None) -> None:
        """Copy parameters into `[n]`, one fragment's range or all."""

    def land(
        self,
        fragment: int,
        anchor: Tensor,
        base: Tensor,
        *,
        alpha: float | None = None,
        planned_frac: float = 1.0,
    ) -> None:
        """Let one fragment follow a new anchor."""

    def evaluate(self, flat: Tensor | None, *, max_bytes: int) -> float:
        """Return bits per byte on the validation text."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs; it changes with the next step."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""


class Trainer:
    """Trains a replica and answers the wire process.

    Args:
        replica: The replica.
        interchange: The shared buffers.
        port: The way to the wire process.
        data: What it trains on, for people.
        validation_problem: From `peer.train.data.check_validation`.
        max_steps: Train up to this step of the run's count, then only answer. None: for ever.
        evaluation_bytes: Validation text read by one evaluation.
        judges_loss: Whether a loss that is not finite ends training; else it is only told.
        clock: Seconds, monotonic.
        executor: Where checkpoints are written; None for a thread of low priority.
    """

    def __init__(
        self,
        replica: Learner,
        interchange: Interchange,
        port: Port,
        *,
        data: str = "",
        validation_problem: str | None = None,
        max_steps: int | None = None,
        evaluation_bytes: int = EVALUATION_BYTES,
        judges_loss: bool = True,
        clock: Callable[[], float] = time.monotonic,
        executor: Executor | None = None,
    ) -> None:
        spec = replica.manifest.method.schedule
        try:
            self._schedule = Schedule(spec.interval_steps, spec.fragments, spec.overlap_steps)
        except ValueError as error:
            raise ConfigError(f"method.schedule: {error}") from error
        self._merge_alpha = spec.merge_alpha
        self._replica = replica
        self._interchange = interchange
        self._port = port
        self._max_steps = max_steps
        self._evaluation_bytes = evaluation_bytes
        self._hello = Hello(
            num_elements=replica.layout.num_elements,
            num_fragments=spec.fragments,
            device=str(replica.device),
            data=data,
            validation_problem=validation_problem,
            pid=os.getpid(),
        )
        self._meter = Meter(replica.device, judges_loss=judges_loss, clock=clock)
        self._saver = Saver(
            replica.device,
            settle=self._settle,
            state=self._state,
            pause=lambda: self._meter.aside(is_overhead=True),
            send=port.send,
            executor=executor,
        )
        self._tokens = [0] * spec.fragments  # trained, and in no average yet
        self._departed: dict[int, Departed] = {}  # snapshots that the wire process owns
        self._landings: dict[int, Land] = {}  # here, but the overlap is not over yet
        self._asked: set[int] = set()  # departures beside the schedule
        self._is_started = False
        self._is_resting = False
        self._is_reported_done = False
        self.has_left = False

    def run(self, *, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Say hello, and take turns until `Leave`, or until the other side is gone.

        Args:
            is_wanted: Asked before each turn; False ends the loop, too.

        Raises:
            ConfigError: the operator has to change something.
            ThinwireError: training cannot go on.
        """
        self.say_hello()
        while not (self.has_left or self._port.is_closed) and is_wanted():
            self.turn()

    @property
    def waiting_tokens(self) -> tuple[int, ...]:
        """Of each fragment, the tokens that it was trained on and that are in no average yet."""
        return tuple(self._tokens)

    def say_hello(self) -> None:
        """Say what we are; comes before the first turn."""
        self._port.send(self._hello)

    def turn(self) -> None:
        """Answer, land, make one inner step if there is one to make, depart, report."""
        self.listen(wait_s=self._idle_s)
        if not self.has_left:
            self.act()

    def stepped(self) -> None:
        """Follow a step that somebody else made: count it, land, depart, report; then answer.

        The replica's `train_step` counts it. This never waits, whatever there is to do.
        """
        self.act()
        self.listen()

    def rest(self) -> None:
        """Make and count no further step; turns answer the wire process, as it leaves."""
        self._is_resting = True

    def listen(self, *, wait_s: float = 0.0) -> None:
        """Answer what has come, and land what is due: the half of a turn before the step.

        Args:
            wait_s: How long to wait for the first message, for somebody with nothing else to do.
        """
        for message in self._news(wait_s):
            self._answer(message)
            if self.has_left:
                return
        self._saver.turn()
        self._land_due()

    def act(self) -> None:
        """Make one inner step if there is one to make, depart, report."""
        due = sorted(self._asked)
        if self.is_training:
            self._meter.add_step(self._replica.train_step(), self._replica.step_tokens)
            self._tokens = [tokens + self._replica.step_tokens for tokens in self._tokens]
            self._land_due()  # an overlap of a whole interval ends where the next departure is
            due = sorted(self._asked.union(self._schedule.departures(self._replica.step)))
        elif self._is_started and self.is_done:  # the schedule will not send the rest any more
            rest = [fragment for fragment, tokens in enumerate(self._tokens) if tokens > 0]
            due = sorted(self._asked.union(rest))
        if self._is_started:
            self._asked.clear()
            for fragment in due:
                self._depart(fragment)
            self._report()

    def _news(self, wait_s: float) -> Sequence[Message]:
        if not self.is_training:
            return self._port.poll(wait_s=wait_s)
        with self._meter.talk():
            return self._port.poll()

    @property
    def _idle_s(self) -> float:
        return SAVE_POLL_S if self._saver.is_busy else IDLE_POLL_S

    @property
    def has_started(self) -> bool:
        """Whether the replica is the swarm's: `Start` or `Resume` is done."""
        return self._is_started

    @property
    def is_done(self) -> bool:
        """Whether the last step is made."""
        return self._max_steps is not None and self._replica.step >= self._max_steps

    @property
    def is_training(self) -> bool:
        """Whether there is an inner step to make."""
        is_over = self.is_done or self._is_resting or self._port.is_closed
        return self._is_started and not is_over

    def _answer(self, message: Message) -> None:
        match message:
            case Start():
                self._replica.load(self._interchange.anchor)
                self._replica.step, self._replica.tokens = message.step, message.tokens
                self._start()
            case Resume():
                self._resume(Path(message.folder))
                self._start()
            case Land():
                if message.fragment not in self._departed:
                    raise LocalProtocolError(f"{message} without a snapshot")
                self._landings[message.fragment] = message
            case Free():
                if self._departed.pop(message.fragment, None) is None:
                    raise LocalProtocolError(f"{message} without a snapshot")
            case Depart():
                self._asked.add(message.fragment)
            case Evaluate():
                self._evaluate(message)
            case Save():
                self._saver.ask(message)
            case Rest():
                self.rest()
            case Leave():
                self._saver.finish()
                self.has_left = True
                self._port.send(Left(step=self._replica.step))
            case _:
                raise LocalProtocolError(f"{message} is the trainer's to send")

    def _start(self) -> None:
        if self._is_started:
            raise LocalProtocolError("started twice")
        self._is_started = True
        self._meter.restart()
        self._port.send(Started(step=self._replica.step, tokens=self._replica.tokens))

    def _depart(self, fragment: int) -> None:
        if fragment in self._departed:  # not ours to overwrite; the delta keeps growing
            return
        with self._meter.aside(is_overhead=True):
            self._replica.snapshot(self._interchange.base, fragment)
        departed = Departed(
            fragment=fragment, step=self._replica.step, tokens=self._tokens[fragment]
        )
        self._departed[fragment] = departed
        self._port.send(departed)

    def _land_due(self) -> None:
        # The overlap makes landings regular for the method's sake. Without further steps there is
        # nothing to wait for.
        for landing in list(self._landings.values()):
            age_steps = self._replica.step - self._departed[landing.fragment].step
            is_over = age_steps >= self._schedule.overlap_steps
            if is_over or not landing.is_planned or self.is_done:
                self._land(landing)

    def _land(self, landing: Land) -> None:
        fragment = landing.fragment
        departed = self._departed.pop(fragment)
        del self._landings[fragment]
        age_steps = self._replica.step - departed.step
        planned_steps = self._schedule.overlap_steps
        with self._meter.aside(is_overhead=True):
            self._replica.land(
                fragment,
                self._interchange.anchor,
                self._interchange.base,
                alpha=self._merge_alpha if landing.is_planned else None,
                planned_frac=planned_steps / age_steps if age_steps > planned_steps else 1.0,
            )
        self._tokens[fragment] -= landing.tokens
        if not landing.is_planned and landing.tokens <= 0:  # a mere move, maybe in the way
            steps = range(departed.step, self._replica.step + 1)
            if any(fragment in self._schedule.departures(step) for step in steps):
                self._asked.add(fragment)
        self._port.send(Landed(fragment=fragment, round=landing.round, step=self._replica.step))

    def _evaluate(self, message: Evaluate) -> None:
        with self._meter.aside(is_overhead=False) as aside:
            bits = self._replica.evaluate(
                self._interchange.anchor, max_bytes=self._evaluation_bytes
            )
        self._port.send(
            Evaluated(
                round=message.round,
                step=self._replica.step,
                bits_per_byte=bits,
                took_s=aside.took_s,
            )
        )

    def _settle(self) -> tuple[int, int]:
        # All landings before a `Save` belong to the wire process's half of the checkpoint.
        for landing in list(self._landings.values()):
            self._land(landing)
        return self._replica.step, self._replica.tokens

    def _state(self) -> dict[str, Tensor]:
        tokens = torch.tensor(self._tokens, device="cpu")  # a loop may have another default
        return self._replica.state() | {"counter.fragment_tokens": tokens}

    def _resume(self, folder: Path) -> None:
        tensors = read_tensors(folder / INNER)
        self._replica.restore(tensors)
        saved = tensors["counter.fragment_tokens"].tolist()
        if len(saved) != len(self._tokens):
            raise ConfigError(f"{folder / INNER} has {len(saved)} fragments")
        self._tokens = saved

    def _report(self) -> None:
        is_done_now = self.is_done and not self._is_reported_done
        # A slow reader gets the newest numbers once it has taken the old ones.
        if is_done_now or (self._meter.is_due() and self._port.backlog_bytes == 0):
            self._is_reported_done = self.is_done
            step, tokens = self._replica.step, self._replica.tokens
            self._port.send(self._meter.report(step, tokens, is_done=self.is_done))
