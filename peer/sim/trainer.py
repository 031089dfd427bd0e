"""The trainer of a simulated peer: the real one, whose steps take virtual time.

The real `peer.train.trainer.Trainer` talks to the real `peer.trainer_port.TrainerPort`; only the
process and the socket between them are left out.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from peer.train import lines
from peer.train.interchange import Interchange
from peer.train.lines import Message
from peer.train.trainer import Learner, Trainer
from peer.trainer_port import TrainerPort


class Lines:
    """Both ends of the channel between a trainer and the wire's side."""

    backlog_bytes = 0

    def __init__(self) -> None:
        self.is_closed = False
        self.news = asyncio.Event()
        """Something has come for the trainer."""
        self._to_trainer: list[Message] = []
        self._to_wire: asyncio.Queue[Message | None] = asyncio.Queue()

    def poll(self, *, wait_s: float = 0.0) -> list[Message]:
        """Returns what has come for the trainer."""
        self.news.clear()
        messages, self._to_trainer = self._to_trainer, []
        return messages

    def answer(self, message: Message) -> None:
        """Sends to the wire's side."""
        self._to_wire.put_nowait(message)

    def send(self, message: Message) -> None:
        """Sends to the trainer."""
        self._to_trainer.append(message)
        self.news.set()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yields what comes for the wire's side, until the trainer ends."""
        while (message := await self._to_wire.get()) is not None:
            yield message

    async def close(self) -> None:
        """Tells the trainer to end."""
        self.is_closed = True
        self.news.set()
        self._to_wire.put_nowait(None)

    def wait(self, timeout: float | None = None) -> int:
        """Returns at once: there is no process."""
        return 0

    def kill(self) -> None:
        """Ends the trainer."""
        self.is_closed = True


class _TrainerEnd:
    """`peer.train.trainer.Port`: the other end of `Lines`."""

    backlog_bytes = 0

    def __init__(self, channel: Lines) -> None:
        self._channel = channel
        self.poll = channel.poll
        self.send = channel.answer

    @property
    def is_closed(self) -> bool:
        return self._channel.is_closed


class SimTrainer:
    """A trainer and the port to it.

    Args:
        learner: What is trained.
        step_s: Returns how long the next inner step takes.
        on_news: As of `TrainerPort`.
        max_steps, evaluation_bytes: As of `Trainer`.
    """

    def __init__(
        self,
        learner: Learner,
        step_s: Callable[[], float],
        *,
        on_news: Callable[[lines.Progress | lines.Departed], None],
        max_steps: int | None,
        evaluation_bytes: int,
    ) -> None:
        self.learner = learner
        self._channel = Lines()
        self._step_s = step_s
        interchange = Interchange.create(learner.layout.num_elements)
        self.port = TrainerPort(
            self._channel, self._channel, interchange, learner.layout, on_news=on_news
        )
        self._trainer = Trainer(
            learner,
            interchange,
            _TrainerEnd(self._channel),
            max_steps=max_steps,
            evaluation_bytes=evaluation_bytes,
            clock=asyncio.get_running_loop().time,
        )

    @property
    def waiting_tokens(self) -> tuple[int, ...]:
        """Of each fragment, the tokens that it was trained on and that are in no average yet."""
        return self._trainer.waiting_tokens

    async def run(self) -> None:
        """Trains until the wire's side ends it."""
        trainer, channel = self._trainer, self._channel
        trainer.say_hello()
        while not channel.is_closed:
            trainer.listen()
            if trainer.has_left:
                break
            if trainer.is_training:
                await asyncio.sleep(self._step_s())
                trainer.act()
            else:
                trainer.act()
                await channel.news.wait()
