"""A stand-in for the trainer process, in this process, and the proof that it answers as one does.

The tests of whoever talks to a trainer use it: it keeps the rules of `peer.train.interchange`,
makes a step only when the test says so, and can be told to hold back its answers.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from optim.layout import Layout, layout_of
from peer.train import lines
from peer.train.channel import AsyncLineChannel
from peer.train.checkpoint import INNER
from peer.train.data import Corpus
from peer.train.interchange import Interchange
from peer.train.replica import Replica
from peer.train.tensor_file import read_tensors, write_tensors
from peer.train.trainer import Trainer
from peer.trainer_port import TrainerPort
from protocol.errors import ConfigError
from protocol.manifest import manifest_from
from tests.unit.peer.train.executors import Inline

Kind = TypeVar("Kind", bound=lines.Message)

SHAPES = {"a": (3, 5), "b": (7,), "c": (4, 3)}
NUM_ELEMENTS = 34
LAYOUT = layout_of(SHAPES)
TWO_FRAGMENTS = layout_of(SHAPES, num_fragments=2)
PATIENCE_S = 10.0
"""How long a test waits for what must come."""


class ScriptedTrainer:
    """See the module docstring.

    Attributes:
        theta: `[n]`, the live parameters.
        held: kinds of messages that are only answered when the test calls `answer`.
        received: all messages, in order.
    """

    def __init__(
        self, send: Callable[[lines.Message], None], interchange: Interchange, layout: Layout
    ) -> None:
        self.theta = torch.zeros(layout.num_elements)
        self.step = self.tokens = 0
        self.held: set[type[lines.Message]] = set()
        self.received: list[lines.Message] = []
        self.departed: set[int] = set()
        self._send = send
        self._interchange = interchange
        self._layout = layout
        self._unseen: asyncio.Queue[lines.Message] = asyncio.Queue()

    def on_message(self, message: lines.Message) -> None:
        self.received.append(message)
        self._unseen.put_nowait(message)
        if type(message) not in self.held:
            self.answer(message)

    async def next(self, kind: type[Kind]) -> Kind:
        """Returns the next message of this kind, skipping others."""
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(message := await self._unseen.get(), kind):
                pass
        return message

    def kinds(self) -> list[type[lines.Message]]:
        return [type(message) for message in self.received]

    # ---- what it does by itself

    def hello(self) -> None:
        hello = lines.Hello(
            num_elements=self._layout.num_elements,
            num_fragments=len(self._layout.fragments),
            device="cpu",
            data="",
            validation_problem=None,
            pid=os.getpid(),
        )
        self._send(hello)

    def train(self, drift: Tensor | float, tokens: int = 100) -> None:
        self.theta = self.theta + drift
        self.step, self.tokens = self.step + 1, self.tokens + tokens

    def depart(self, fragment: int = 0, tokens: int = 100) -> None:
        """Leaves a snapshot, unless one is out."""
        if fragment in self.departed:
            return
        self.departed.add(fragment)
        part = self._slice(fragment)
        self._interchange.base[part] = self.theta[part]
        self._send(lines.Departed(fragment=fragment, step=self.step, tokens=tokens))

    def fail(self, reason: str, *, is_config: bool) -> None:
        self._send(lines.Failed(reason=reason, is_config=is_config))

    # ---- what it is asked for

    def answer(self, message: lines.Message) -> None:
        match message:
            case lines.Start():
                self.theta = self._interchange.anchor.clone()
                self.step, self.tokens = message.step, message.tokens
                self._send(lines.Started(step=self.step, tokens=self.tokens))
            case lines.Resume():
                tensors = read_tensors(Path(message.folder) / INNER)
                self.theta = tensors["theta"]
                self.step, self.tokens = (int(value) for value in tensors["counters"])
                self._send(lines.Started(step=self.step, tokens=self.tokens))
            case lines.Depart():
                self.depart(message.fragment)
            case lines.Free():
                self.departed.remove(message.fragment)
            case lines.Land():
                self.departed.remove(message.fragment)
                part = self._slice(message.fragment)
                since = self.theta[part] - self._interchange.base[part]
                self.theta = self.theta.clone()
                self.theta[part] = self._interchange.anchor[part] + since
                landed = lines.Landed(
                    fragment=message.fragment, round=message.round, step=self.step
                )
                self._send(landed)
            case lines.Evaluate():
                bits = float(self._interchange.anchor.double().sum())
                self._send(
                    lines.Evaluated(
                        round=message.round, step=self.step, bits_per_byte=bits, took_s=0.0
                    )
                )
            case lines.Save():
                self._send(lines.Staged(step=self.step, tokens=self.tokens))
                self._send(self._saved(Path(message.folder) / INNER))
            case lines.Rest():
                pass  # it makes no step by itself anyway
            case lines.Leave():
                self._send(lines.Left(step=self.step))
            case _:
                raise AssertionError(f"{message} is not for a trainer")

    def _saved(self, path: Path) -> lines.Saved:
        counters = torch.tensor([self.step, self.tokens])
        size, digest, problem = 0, "", None
        try:
            written = write_tensors(path, {"theta": self.theta, "counters": counters})
            size, digest = written.num_bytes, written.digest
        except ConfigError as error:
            problem = str(error)
        return lines.Saved(
            step=self.step,
            tokens=self.tokens,
            path=str(path),
            num_bytes=size,
            digest=digest,
            problem=problem,
        )

    def _slice(self, fragment: int) -> slice:
        span = self._layout.fragments[fragment]
        return slice(span.start, span.stop)


class ScriptedProcess:
    """Stands for the Popen of a trainer."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def wait(self, timeout: float | None = None) -> int:
        self.calls.append("wait" if timeout is None else "wait a little")
        return 0

    def kill(self) -> None:
        self.calls.append("kill")


class Rig:
    """A `TrainerPort` whose trainer is scripted, connected by a socketpair."""

    port: TrainerPort
    life: "asyncio.Task[None]"
    """Of the port."""

    def __init__(self, layout: Layout) -> None:
        self.news: asyncio.Queue[lines.Progress | lines.Departed] = asyncio.Queue()
        self.on_news: Callable[[lines.Progress | lines.Departed], None] = lambda news: None
        self.process = ScriptedProcess()
        self.interchange = Interchange.create(layout.num_elements)
        self.layout = layout

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        self.port = TrainerPort(
            cast("subprocess.Popen[bytes]", self.process),
            await AsyncLineChannel.open(ours),
            self.interchange,
            self.layout,
            on_news=self._on_news,
        )
        self._theirs = await AsyncLineChannel.open(theirs)
        # A mapping of its own, as in another process.
        self._mapped = Interchange.open(os.dup(self.interchange.fd), self.layout.num_elements)
        self.trainer = ScriptedTrainer(self._theirs.send, self._mapped, self.layout)
        self.life = asyncio.create_task(self.port.run())
        self._acting = asyncio.create_task(self._act())

    async def die(self) -> None:
        """The trainer's end closes, after what it sent last."""
        await self._theirs.close()

    async def close(self) -> None:
        await self.port.close()
        await self._theirs.close()
        await asyncio.gather(self.life, return_exceptions=True)
        await self._acting
        self._mapped.close()

    def _on_news(self, news: lines.Progress | lines.Departed) -> None:
        self.news.put_nowait(news)
        self.on_news(news)

    async def _act(self) -> None:
        async for message in self._theirs:
            self.trainer.on_message(message)
            if isinstance(message, lines.Leave):
                await self._theirs.close()


@contextlib.asynccontextmanager
async def a_rig(layout: Layout = LAYOUT) -> AsyncIterator[Rig]:
    rig = Rig(layout)
    await rig.start()
    try:
        yield rig
    finally:
        await rig.close()


async def settle() -> None:
    """Lets everybody in this process do what they can do without a new event."""
    for _ in range(50):
        await asyncio.sleep(0)


# ---- the proof


class _Lines:
    """A trainer's port that holds what the test wants to say, and keeps what it answers."""

    is_closed = False
    backlog_bytes = 1  # so that it does not report

    def __init__(self) -> None:
        self.incoming: list[lines.Message] = []
        self.sent: list[lines.Message] = []

    def send(self, message: lines.Message) -> None:
        self.sent.append(message)

    def poll(self, *, wait_s: float = 0.0) -> Sequence[lines.Message]:
        messages, self.incoming = self.incoming, []
        return messages


def test_the_scripted_trainer_answers_as_the_real_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = {"dim": 8, "layers": 1, "heads": 1, "ffn_dim": 8, "context": 8}
    schedule = {"interval_steps": 2, "fragments": 2}
    manifest = manifest_from(
        {"founder": "nobody", "model": model, "method": {"schedule": schedule}}
    )
    text = np.zeros(2000, dtype=np.uint8)
    corpus = Corpus(text, text, "zeros")
    replica = Replica(manifest, corpus, peer_id="somebody", device=torch.device("cpu"))
    layout = replica.layout
    buffers = [Interchange.create(layout.num_elements) for _ in range(2)]
    real_lines, scripted_lines = _Lines(), _Lines()
    real = Trainer(replica, buffers[0], real_lines, max_steps=0, executor=Inline())
    scripted = ScriptedTrainer(scripted_lines.send, buffers[1], layout)

    generator = torch.Generator().manual_seed(1)
    start = torch.randn(layout.num_elements, generator=generator)
    after = torch.randn(layout.num_elements, generator=generator)
    part = slice(layout.fragments[1].start, layout.fragments[1].stop)
    folders = [tmp_path / "real", tmp_path / "scripted"]
    script: list[tuple[Callable[[Interchange, Path], lines.Message], str]] = [
        (lambda shared, _: _with(shared.anchor, start, lines.Start(step=5, tokens=6)), "start"),
        (lambda shared, _: lines.Depart(fragment=1), "depart"),
        (lambda shared, _: lines.Depart(fragment=1), "depart again"),
        (
            lambda shared, _: _with(
                shared.anchor[part],
                after[part],
                lines.Land(fragment=1, round=3, tokens=5, is_planned=True),
            ),
            "land",
        ),
        (lambda shared, _: lines.Depart(fragment=0), "depart the other"),
        (lambda shared, _: lines.Free(fragment=0), "free"),
        (lambda shared, _: lines.Depart(fragment=0), "depart what is free"),
        (lambda shared, folder: lines.Save(folder=str(folder)), "save"),
        (lambda shared, _: lines.Evaluate(round=3), "evaluate"),
        (lambda shared, _: lines.Rest(), "rest"),
        (lambda shared, _: lines.Leave(), "leave"),
    ]
    for folder in folders:
        folder.mkdir()
    for make, name in script:
        real_lines.incoming.append(make(buffers[0], folders[0]))
        real.turn()
        scripted.on_message(make(buffers[1], folders[1]))
        theirs = [line for line in real_lines.sent if not isinstance(line, lines.Progress)]
        assert [_outline(line) for line in scripted_lines.sent] == list(map(_outline, theirs)), name
        assert torch.equal(buffers[0].base, buffers[1].base), name
        assert (folders[0] / INNER).exists() == (folders[1] / INNER).exists(), name
        theta = torch.empty(layout.num_elements)
        replica.snapshot(theta)
        torch.testing.assert_close(theta, scripted.theta, msg=name)
    for buffer in buffers:
        buffer.close()


def _with(buffer: Tensor, values: Tensor, message: lines.Message) -> lines.Message:
    buffer.copy_(values)
    return message


def _outline(line: lines.Message) -> tuple[object, ...]:
    """What must be the same, whatever was trained."""
    names = ("fragment", "round", "step")
    return type(line), *(getattr(line, name, None) for name in names)
