"""A model that its owner's loop trains, as the trainer's replica.

The loop makes the inner steps, with its own data, optimizer and learning rate; the learner counts
them, and does between them what a landing, a checkpoint or an evaluation asks for. As with any
replica, a landing changes parameters only: the optimizer's state stays.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from optim.inner import InnerOptimizer
from optim.landing import blend, rebase
from optim.layout import Layout, flatten_into, load_from
from peer.loop import optimizer_state
from peer.loop.buffers import saved_buffers
from peer.loop.evaluation import Evaluation, evaluated
from peer.loop.fit import bare, other_model, other_optimizer
from peer.loop.outline import require_storable
from peer.train.model import layout_of_run
from peer.train.trainer import Learner
from protocol.errors import ConfigError
from protocol.manifest import Manifest


class LoopLearner(Learner, Protocol):
    """A replica whose steps somebody else makes, perhaps as one of several ranks.

    Attributes:
        is_interrupted: Ctrl+C has come, and was not raised where it came.
    """

    is_interrupted: bool

    def count(self, tokens: int, loss: Tensor | None) -> None:
        """Take note of the step that has been made; `train_step` counts it."""

    def go_on(self) -> None:
        """Let other ranks make their next inner step."""

    def wait(self) -> None:
        """Tell other ranks that we are still there."""

    def leave(self) -> None:
        """Tell other ranks that there are no further steps."""

    def stop(self, error: BaseException) -> None:
        """Tell other ranks that we fail."""


class ModelLearner:
    """One process with the whole model.

    Args:
        model: On any device; its trainable parameters are the run's.
        optimizer: Its inner optimizer.
        manifest: The run.
        evaluation: How `evaluate` does it, if it can.

    Attributes:
        device: Where the model's first parameter is.
        step: Inner steps done, on the run's count.
        tokens: Tokens that this peer trained on.
        step_tokens: Tokens of the last step.

    Raises:
        ConfigError: the model is not the run's, and here is the first difference; or the
            optimizer is another model's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: InnerOptimizer,
        manifest: Manifest,
        *,
        evaluation: Evaluation | None = None,
    ) -> None:
        self.manifest = manifest
        self.model = bare(model)
        self.layout: Layout = layout_of_run(manifest)
        problem = other_model(self.model, self.layout) or other_optimizer(self.model, optimizer)
        if problem is not None:
            raise ConfigError(problem)
        self.step = 0
        self.tokens = 0
        self.step_tokens = 0
        self.is_interrupted = False
        self._loss: Tensor | None = None
        self._optimizer = optimizer
        self._evaluation = evaluation
        self.device = next(self.model.parameters()).device

    def count(self, tokens: int, loss: Tensor | None) -> None:
        """Take note of the step that the loop has made; `train_step` counts it.

        Args:
            tokens: In the step.
            loss: Its mean loss in nats, `[]` on any device; None if nobody says.
        """
        self.step_tokens = tokens
        self._loss = None if loss is None else loss.detach().to(self.device)

    def train_step(self) -> Tensor | None:
        """Count the step that was made; return its loss in nats, if known."""
        self.step += 1
        self.tokens += self.step_tokens
        return self._loss

    def go_on(self) -> None:
        """Do nothing: there are no other ranks."""

    def wait(self) -> None:
        """Do nothing: there are no other ranks."""

    def leave(self) -> None:
        """Do nothing: there are no other ranks."""

    def stop(self, error: BaseException) -> None:
        """Do nothing: there are no other ranks."""

    def load(self, flat: Tensor) -> None:
        """Take all parameters from `[n]` fp32; the optimizer's state stays."""
        load_from(flat, self.layout, self.model)

    def snapshot(self, out: Tensor, fragment: int | None = None) -> None:
        """Copy parameters into `[n]` fp32, one fragment's range or all. Mutates `out`."""
        flatten_into(out, self.layout, self.model, fragment)

    def land(
        self,
        fragment: int,
        anchor: Tensor,
        base: Tensor,
        *,
        alpha: float | None = None,
        planned_frac: float = 1.0,
    ) -> None:
        """Let one fragment follow a new anchor; see `peer.train.replica.Replica.land`.

        Args:
            fragment: Which one.
            anchor: `[n]` fp32, read in the fragment's range only.
            base: `[n]` fp32, theta at departure, read in the fragment's range only.
            alpha: See `optim.landing.blend`; None is `optim.landing.rebase`.
            planned_frac: See `optim.landing.blend`.
        """
        theta = torch.empty_like(base)  # only the fragment's pages are ever touched
        self.snapshot(theta, fragment)
        span = self.layout.fragments[fragment]
        part = slice(span.start, span.stop)
        if alpha is None:
            rebase(theta[part], anchor[part], base[part])
        else:
            blend(theta[part], anchor[part], base[part], alpha, planned_frac=planned_frac)
        load_from(theta, self.layout, self.model, fragment)

    def evaluate(self, flat: Tensor | None, *, max_bytes: int) -> float:
        """Return what the loop's own evaluation says; the parameters are unchanged afterwards.

        Args:
            flat: `[n]` fp32 parameters to evaluate; None for the model's own.
            max_bytes: Not used: the loop's evaluation knows how much it reads.

        Raises:
            ConfigError: the loop brought no evaluation.
        """
        if self._evaluation is None:
            raise ConfigError("this training loop has no evaluation: give join(evaluate=...)")
        own = None
        if flat is not None:
            own = torch.empty(self.layout.num_elements, dtype=torch.float32, device="cpu")
            self.snapshot(own)
            self.load(flat)
        try:
            return evaluated(self.model, self._evaluation)
        finally:
            if own is not None:
                self.load(own)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs; it changes with the next step.

        Names are `counter.NAME`, `theta.PARAMETER`, `buffer.BUFFER` and those of
        `peer.loop.optimizer_state`.

        Raises:
            ConfigError: there is something that a file of tensors cannot hold.
        """
        params = self._params()
        tensors = counters(step=self.step, tokens=self.tokens)
        tensors |= {f"theta.{name}": param.detach() for name, param in params.items()}
        tensors |= {f"buffer.{name}": buffer for name, buffer in saved_buffers(self.model).items()}
        for name, tensor in tensors.items():
            require_storable(name, tensor)
        return tensors | optimizer_state.tensors_of(self._optimizer, params)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned; training goes on as if it had not stopped.

        Args:
            tensors: They become the optimizer's own and must share no memory with another's.

        Raises:
            ConfigError: it is another model's, or another optimizer's.
        """
        problem = "the checkpoint does not fit the model"
        params, buffers = self._params(), saved_buffers(self.model)
        try:
            step, tokens = int(tensors["counter.step"]), int(tensors["counter.tokens"])
            for kind, targets in (("theta", params), ("buffer", buffers)):
                for name, target in targets.items():
                    _copy(tensors[f"{kind}.{name}"], target, name)
            optimizer_state.restore(self._optimizer, params, _of_optimizer(tensors))
        except KeyError as error:
            raise ConfigError(f"{problem}: it has no {error}") from None
        except ValueError as error:
            raise ConfigError(f"{problem}: {error}") from None
        self.step, self.tokens = step, tokens

    def _params(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}


def counters(**numbers: int) -> dict[str, Tensor]:
    """Return counts as a checkpoint's tensors, on the CPU whatever the default device is."""
    return {
        f"counter.{name}": torch.tensor(number, dtype=torch.int64, device="cpu")
        for name, number in numbers.items()
    }


def _of_optimizer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    others = ("counter.", "theta.", "buffer.")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(others)}


@torch.no_grad()
def _copy(tensor: Tensor, target: Tensor, name: str) -> None:
    if tensor.shape != target.shape:
        raise ValueError(f"{name} is {list(tensor.shape)}, not {list(target.shape)}")
    target.copy_(tensor)
