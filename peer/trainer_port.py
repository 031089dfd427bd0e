"""The driver's view of its trainer process: requests that can be awaited, and its news.

The rules of who may touch the shared buffers are in `peer.train.interchange`; this class keeps them
for the wire process's side.
"""

import asyncio
import contextlib
import signal
import subprocess
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from optim.layout import Layout
from peer.train import lines
from peer.train.channel import AsyncLineChannel
from peer.train.config import TrainerConfig
from peer.train.interchange import Interchange
from peer.train.launch import launch_trainer
from peer.waits import Waits
from protocol.errors import ConfigError, ThinwireError

Answer = TypeVar("Answer")

_AWAITED: dict[type[lines.ToTrainer], str] = {
    lines.Start: "the trainer to start",
    lines.Resume: "the trainer to resume",
    lines.Land: "the trainer to land an anchor",
    lines.Depart: "a snapshot of the trainer",
    lines.Evaluate: "the trainer to evaluate",
    lines.Save: "the trainer to save",
    lines.Leave: "the trainer to leave",
}
"""What a question waits for. None has a deadline: a step, or an evaluation, may be long."""

BETWEEN_STEPS = frozenset((_AWAITED[lines.Evaluate], _AWAITED[lines.Save]))
"""While it is asked for one of these, a trainer may make no step for long."""

END_S = 1.0
"""A trainer whose channel has closed may take so long to exit."""


class TrainerGone(ThinwireError):
    """The trainer process ended.

    Attributes:
        exit_code: How; negative is the number of the signal that ended it, None is unknown.
    """

    def __init__(self, reason: str, exit_code: int | None = None) -> None:
        super().__init__(reason)
        self.exit_code = exit_code

    @classmethod
    def of_process(cls, exit_code: int) -> "TrainerGone":
        """Returns what there is to say when the process itself said nothing."""
        if exit_code >= 0:
            return cls(f"the trainer process ended by itself, with code {exit_code}", exit_code)
        name = signal.Signals(-exit_code).name
        hint = " (perhaps for want of memory)" if name == "SIGKILL" else ""
        return cls(f"the trainer process was ended by {name}{hint}", exit_code)


class Process(Protocol):
    """What is left to do with a trainer process that does not listen; `subprocess.Popen` does."""

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended."""

    def kill(self) -> None:
        """Ends it."""


class Lines(Protocol):
    """The wire process's end of the channel; `peer.train.channel.AsyncLineChannel` is one."""

    def send(self, message: lines.Message) -> None:
        """Queues a message; lost when the trainer is gone."""

    def __aiter__(self) -> AsyncIterator[lines.Message]:
        """Yields messages until the trainer is gone."""

    async def close(self) -> None:
        """Tells the trainer to exit."""


OnNews = Callable[[lines.Progress | lines.Departed], None]


class Trainers(Protocol):
    """Where a peer has its trainers from: `Launched` makes processes, `peer.loop` has one."""

    comes_back: bool
    """Whether there will be another trainer after one that has died."""

    def on_found(self, manifest: Path, run_id: str) -> None:
        """The run is known, and this is its manifest's file; nothing has been fetched yet."""

    async def open(
        self,
        config: TrainerConfig,
        folder: Path,
        layout: Layout,
        *,
        on_news: OnNews,
        waits: Waits,
    ) -> "TrainerPort":
        """Returns the port to a trainer that will say hello.

        Raises:
            ConfigError: something that the operator can change.
        """


class Launched:
    """Trainers that are processes of this one."""

    comes_back = True

    def on_found(self, manifest: Path, run_id: str) -> None:
        """Does nothing: the trainer is told when it is launched."""

    async def open(
        self,
        config: TrainerConfig,
        folder: Path,
        layout: Layout,
        *,
        on_news: OnNews,
        waits: Waits,
    ) -> "TrainerPort":
        """Starts a trainer process; see `TrainerPort.launch`."""
        return await TrainerPort.launch(config, folder, layout, on_news=on_news, waits=waits)


class TrainerPort:
    """A trainer process, as the driver sees it. Make it with `launch`.

    Args:
        on_news: called with each `Progress`, and each `Departed` that nobody awaits.
        waits: where questions are listed while they have no answer.
    """

    def __init__(
        self,
        process: Process,
        channel: Lines,
        interchange: Interchange,
        layout: Layout,
        *,
        on_news: OnNews,
        waits: Waits | None = None,
    ) -> None:
        self._process = process
        self._has_left = False
        self._has_failed = False
        self._is_closing = False
        self._channel = channel
        self._interchange = interchange
        self._layout = layout
        self._on_news = on_news
        self.waits = waits or Waits()
        self._answers: defaultdict[tuple[type, int | None], deque[asyncio.Future[Any]]]
        self._answers = defaultdict(deque)
        """In the order of the questions; one that nobody awaits any more still has its answer."""
        self._is_over = False
        self._anchor_locks = [asyncio.Lock() for _ in layout.fragments]
        """Of each fragment of `anchor`; who needs the whole takes them in this order."""
        self._departure_lock = asyncio.Lock()
        self._snapshots: set[int] = set()
        """Fragments of which the snapshot in `base` is ours."""
        self.hello: asyncio.Future[lines.Hello] = asyncio.get_running_loop().create_future()
        self._failure: ThinwireError = TrainerGone("the trainer process ended by itself")

    @classmethod
    async def launch(
        cls,
        config: TrainerConfig,
        folder: Path,
        layout: Layout,
        *,
        on_news: OnNews,
        waits: Waits | None = None,
    ) -> "TrainerPort":
        """Starts a trainer process. Call it in the main thread, and `run` next.

        Raises:
            ConfigError: too little memory, or no process can be started.
        """
        path = folder / "trainer.json"
        config.write(path)
        interchange = Interchange.create(layout.num_elements)
        try:
            launched = launch_trainer(path, interchange)
        except OSError as error:
            interchange.close()
            raise ConfigError(f"cannot start the trainer process: {error.strerror}") from error
        channel = await AsyncLineChannel.open(launched.sock)
        return cls(launched.process, channel, interchange, layout, on_news=on_news, waits=waits)

    async def run(self) -> None:
        """Reads the trainer's lines until it is gone.

        Raises:
            TrainerGone: it ended without saying goodbye.
            ConfigError: it cannot run on this machine; says why.
        """
        try:
            async for message in self._channel:
                self._has_left = self._has_left or isinstance(message, lines.Left)
                self._on_message(message)
            if not (self._has_left or self._has_failed or self._is_closing):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    exit_code = await asyncio.to_thread(self._process.wait, END_S)
                    self._failure = TrainerGone.of_process(exit_code)
        finally:
            self._is_over = True
            for answer in chain(*self._answers.values(), (self.hello,)):
                if not answer.done():
                    answer.set_exception(self._failure)
                    answer.exception()  # whoever still awaits it gets it; nobody must
        if not self._has_left:
            raise self._failure

    def snapshot(self, fragment: int) -> Tensor:
        """Returns the snapshot that departed, `[m]`; valid until it lands or is freed."""
        return self._part(self._interchange.base, fragment)

    def has_snapshot(self, fragment: int) -> bool:
        """Whether a snapshot is in our hands."""
        return fragment in self._snapshots

    async def start(self, anchors: list[Tensor], *, step: int, tokens: int) -> None:
        """Starts training from these anchors, one `[m]` a fragment."""
        async with self._whole_anchor():
            self._write_anchors(anchors)
            await self._ask(lines.Start(step=step, tokens=tokens), lines.Started)

    async def resume(self, folder: str, anchors: list[Tensor]) -> lines.Started:
        """Continues from a checkpoint; the anchors are those that belong to it."""
        async with self._whole_anchor():
            self._write_anchors(anchors)
            return await self._ask(lines.Resume(folder=folder), lines.Started)

    async def land(
        self,
        fragment: int,
        round: int,
        anchor: Tensor,
        *,
        base: Tensor | None,
        tokens: int = 0,
        is_planned: bool = False,
    ) -> lines.Landed:
        """Lands a new anchor: theta = anchor + (theta - base), unless the method blends.

        Args:
            fragment: Of which fragment; its snapshot must be in our hands.
            round: That it belongs to.
            anchor: The new one, `[m]`.
            base: `[m]`, what the live parameters set out from; None for the snapshot itself.
            tokens: See `peer.train.lines.Land`.
            is_planned: See `peer.train.lines.Land`.
        """
        async with self._anchor_locks[fragment]:
            # Beside the loop: a fragment may have hundreds of megabytes.
            if base is not None:
                await asyncio.to_thread(self.snapshot(fragment).copy_, base)
            await asyncio.to_thread(self._part(self._interchange.anchor, fragment).copy_, anchor)
            self._snapshots.discard(fragment)
            land = lines.Land(fragment=fragment, round=round, tokens=tokens, is_planned=is_planned)
            return await self._ask(land, lines.Landed, fragment)

    async def refresh(self, fragment: int) -> lines.Departed:
        """Swaps a snapshot that has waited for one of the trainer's next step."""
        async with self._departure_lock:
            self._snapshots.discard(fragment)
            self._channel.send(lines.Free(fragment=fragment))
            return await self._ask(lines.Depart(fragment=fragment), lines.Departed, fragment)

    async def depart(self, fragment: int) -> lines.Departed | None:
        """Asks for a snapshot beside the schedule; None if there is one in our hands already."""
        async with self._departure_lock:
            if fragment in self._snapshots:  # the trainer would not answer
                return None
            return await self._ask(lines.Depart(fragment=fragment), lines.Departed, fragment)

    async def evaluate(self, round: int, anchors: Callable[[], list[Tensor]]) -> lines.Evaluated:
        """Evaluates the anchors, one `[m]` a fragment; they are asked for when it is their turn."""
        async with self._whole_anchor():
            self._write_anchors(anchors())
            return await self._ask(lines.Evaluate(round=round), lines.Evaluated)

    async def save(self, folder: str, capture: Callable[[], None]) -> lines.Saved:
        """Saves the replica into a staged folder; landings go on as soon as it is copied.

        `capture` is called when no landing is on its way, so what it takes belongs together with
        what the trainer writes.
        """
        if self._is_over:
            raise self._failure
        async with self._whole_anchor():
            capture()
            saved = self._expect(lines.Saved)
            await self._ask(lines.Save(folder=folder), lines.Staged)
        with self.waits.on("the trainer to write", until="its half of a checkpoint is on the disk"):
            return await saved

    def rest(self) -> None:
        """Asks for no further steps, only for answers."""
        self._channel.send(lines.Rest())

    async def leave(self) -> None:
        """Asks the trainer to stop and exit."""
        await self._ask(lines.Leave(), lines.Left)

    async def close(self) -> None:
        """Ends the trainer. Once it has left there is nothing that it could still do."""
        self._is_closing = True
        await self._channel.close()
        if not self._has_left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, END_S)
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._interchange.close()

    @contextlib.asynccontextmanager
    async def _whole_anchor(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for lock in self._anchor_locks:
                await stack.enter_async_context(lock)
            yield

    def _write_anchors(self, anchors: list[Tensor]) -> None:
        for fragment, anchor in enumerate(anchors):
            self._part(self._interchange.anchor, fragment).copy_(anchor)

    def _part(self, vector: Tensor, fragment: int) -> Tensor:
        span = self._layout.fragments[fragment]
        return vector[span.start : span.stop]

    async def _ask(
        self, question: lines.ToTrainer, kind: type[Answer], fragment: int | None = None
    ) -> Answer:
        if self._is_over:
            raise self._failure
        answer = self._expect(kind, fragment)
        self._channel.send(question)
        is_one_of_many = fragment is not None and len(self._layout.fragments) > 1
        with self.waits.on(
            _AWAITED[type(question)],
            f"fragment {fragment}" if is_one_of_many else "",
            fragment=fragment,
            until="the trainer answers",
        ):
            return await answer

    def _expect(self, kind: type[Answer], fragment: int | None = None) -> "asyncio.Future[Answer]":
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[kind, fragment].append(answer)
        return answer

    def _on_message(self, message: lines.Message) -> None:
        if isinstance(message, lines.Failed):
            self._has_failed = True
            error = ConfigError if message.is_config else TrainerGone
            self._failure = error(message.reason)
            return
        if isinstance(message, lines.Hello):
            self.hello.set_result(message)
            return
        if isinstance(message, lines.Departed):
            self._snapshots.add(message.fragment)
        fragment = getattr(message, "fragment", None)
        answers = self._answers[type(message), fragment]
        if answers:
            answer = answers.popleft()
            if not answer.done():
                answer.set_result(message)
        elif isinstance(message, lines.Progress | lines.Departed):
            self._on_news(message)
