"""What a simulated swarm trains: a toy whose mathematics is known, or the run's real model.

Both are trained by the real trainer and mixed by the real mixing; only the inner step differs.
"""

import hashlib
import math
from typing import Protocol

import torch
from torch import Tensor

from optim.landing import blend, rebase
from optim.layout import Layout, layout_of
from peer.train.data import load_text
from peer.train.model import initial_anchor, layout_of_run
from peer.train.replica import Replica
from peer.train.trainer import Learner
from protocol.identity import PeerId
from protocol.manifest import Manifest


class Task(Protocol):
    """A run's model and data."""

    manifest: Manifest
    layout: Layout

    def anchor(self) -> Tensor:
        """Returns the initial anchor, a new `[n]`."""

    def learner(self, peer_id: PeerId) -> Learner:
        """Returns a replica with data of its own."""


class TextTask:
    """The run's model, on the run's text.

    Args:
        manifest: The run.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.layout = layout_of_run(manifest)
        self._corpus = load_text(manifest.data.recipe, manifest.data.validation_frac)

    def anchor(self) -> Tensor:
        """Returns the initial anchor, a new `[n]`."""
        return initial_anchor(self.manifest)

    def learner(self, peer_id: PeerId) -> Learner:
        """Returns a replica that reads its own stream of batches."""
        device = torch.device("cpu")
        return Replica(self.manifest, self._corpus, peer_id=peer_id, device=device)


class ToyTask:
    """Each peer is drawn towards a target of its own, and all targets lie around a common one.

    Args:
        manifest: The run; of its model nothing is used.
        num_elements: Parameters.
        rate: Of its distance to the target a replica goes so much in an inner step.
        spread: Standard deviation of the targets around the common one.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        num_elements: int = 40,
        rate: float = 0.05,
        spread: float = 1.0,
    ) -> None:
        self.manifest = manifest
        self.rate = rate
        self.common = torch.ones(num_elements)
        self._spread = spread
        schedule = manifest.method.schedule
        if num_elements % schedule.fragments:
            raise ValueError(f"{num_elements} elements are not {schedule.fragments} fragments")
        size = num_elements // schedule.fragments
        shapes = {f"blocks.{index}.theta": (size,) for index in range(schedule.fragments)}
        self.layout = layout_of(shapes, num_fragments=schedule.fragments)

    def anchor(self) -> Tensor:
        """Returns zeros, `[n]`."""
        return torch.zeros_like(self.common)

    def learner(self, peer_id: PeerId) -> "ToyLearner":
        """Returns a replica with a target of its own."""
        seed = int.from_bytes(hashlib.sha256(peer_id.encode()).digest()[:7])
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(self.common), generator=generator)
        return ToyLearner(self, self.common + self._spread * noise)


class ToyLearner:
    """Implements `peer.train.trainer.Learner`, and keeps account of all that its steps added.

    Attributes:
        theta: `[n]`, the live parameters.
        target: `[n]`.
        work: `[n]`, the sum of all inner steps.
    """

    @property
    def step_tokens(self) -> int:
        """Tokens in one inner step."""
        return 100

    def __init__(self, task: ToyTask, target: Tensor) -> None:
        self.manifest = task.manifest
        self.layout = task.layout
        self.device = torch.device("cpu")
        self.step = 0
        self.tokens = 0
        self.target = target
        self.theta = torch.zeros_like(target)
        self.work = torch.zeros_like(target)
        self._task = task

    def train_step(self) -> Tensor:
        """Go a part of the way to the target; return half the mean squared distance."""
        away = self.target - self.theta
        self.theta += self._task.rate * away
        self.work += self._task.rate * away
        self.step += 1
        self.tokens += self.step_tokens
        return away.square().mean() / 2

    def load(self, flat: Tensor) -> None:
        """Take all parameters from `[n]`."""
        self.theta.copy_(flat)

    def snapshot(self, out: Tensor, fragment: int | None = None) -> None:
        """Copy parameters into `[n]`."""
        part = self._part(fragment)
        out[part] = self.theta[part]

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
        part = self._part(fragment)
        if alpha is None:
            rebase(self.theta[part], anchor[part], base[part])
        else:
            blend(self.theta[part], anchor[part], base[part], alpha, planned_frac=planned_frac)

    def evaluate(self, flat: Tensor | None, *, max_bytes: int) -> float:
        """Return half the mean squared distance to the common target, as if in nats, in bits."""
        theta = self.theta if flat is None else flat
        return float((theta - self._task.common).square().mean()) / 2 / math.log(2)

    def state(self) -> dict[str, Tensor]:
        """Return the live parameters and counters."""
        counters = {"counter.step": self.step, "counter.tokens": self.tokens}
        return {"theta": self.theta} | {name: torch.tensor(n) for name, n in counters.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.theta.copy_(tensors["theta"])
        self.step = int(tensors["counter.step"])
        self.tokens = int(tensors["counter.tokens"])

    def _part(self, fragment: int | None) -> slice:
        if fragment is None:
            return slice(None)
        span = self.layout.fragments[fragment]
        return slice(span.start, span.stop)
