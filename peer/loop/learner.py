"""A model that its owner's loop trains, as the trainer's replica.

The loop makes the inner steps, with its own data, optimizer and learning rate; the learner counts
them, and does between them what a landing, a checkpoint or an evaluation asks for. As with any
replica, a landing changes parameters only: the optimizer's state stays.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from optim.inner import InnerOptimizer
from optim.landing import blend, rebase
from optim.layout import Layout, flatten_into, load_from, shapes_of
from peer.train.model import layout_of_run
from peer.train.tensor_file import DTYPES
from peer.train.trainer import Learner
from protocol.errors import ConfigError
from protocol.manifest import Manifest

Evaluation = Callable[[], float]
"""Returns bits per byte, or any loss, of the model as it is now."""

_NUMBERS = {"int": int, "float": float}
"""Python's own numbers in an optimizer's state are tensors in a checkpoint, and numbers again."""


class LoopLearner(Learner, Protocol):
    """A replica whose steps somebody else makes, perhaps as one of several ranks.

    Attributes:
        is_interrupted: Ctrl+C has come, and was not raised where it came.
    """

    is_interrupted: bool

    def count(self, tokens: int, loss: Tensor | float | None) -> None:
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
        check_fit(self.model, self.layout)
        _check_optimizer(self.model, optimizer)
        self.step = 0
        self.tokens = 0
        self.step_tokens = 0
        self.is_interrupted = False
        self._loss: Tensor | None = None
        self._optimizer = optimizer
        self._evaluation = evaluation
        self.device = next(self.model.parameters()).device

    def count(self, tokens: int, loss: Tensor | float | None) -> None:
        """Take note of the step that the loop has made; `train_step` counts it.

        Args:
            tokens: In the step.
            loss: Its mean loss in nats, on any device; None if nobody says.
        """
        self.step_tokens = tokens
        self._loss = None if loss is None else torch.as_tensor(loss).detach().to(self.device)

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
        own, was_training = None, self.model.training
        if flat is not None:
            own = torch.empty(self.layout.num_elements)
            self.snapshot(own)
            self.load(flat)
        self.model.eval()
        try:
            with torch.no_grad():
                return float(self._evaluation())
        finally:
            self.model.train(was_training)
            if own is not None:
                self.load(own)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs; it changes with the next step.

        Names are `counter.NAME`, `theta.PARAMETER`, `buffer.BUFFER` and, with the inner optimizer's
        own name first, `adamw.exp_avg.PARAMETER`.

        Raises:
            ConfigError: the optimizer keeps something that a file of tensors cannot hold.
        """
        tensors = {"counter.step": torch.tensor(self.step)}
        tensors["counter.tokens"] = torch.tensor(self.tokens)
        params = self._params()
        tensors |= {f"theta.{name}": param.detach() for name, param in params.items()}
        tensors |= {f"buffer.{name}": buffer for name, buffer in self._buffers().items()}
        own = _name_of(self._optimizer)
        for name, param in params.items():
            for key, value in self._optimizer.state.get(param, {}).items():
                if value is not None:
                    label, tensor = _stored(own, key, value)
                    tensors[f"{label}.{key}.{name}"] = tensor
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned; training goes on as if it had not stopped.

        Args:
            tensors: They become the optimizer's own and must share no memory with another's.

        Raises:
            ConfigError: it is another model's, or another optimizer's.
        """
        problem = "the checkpoint does not fit the model"
        try:
            step, tokens = int(tensors["counter.step"]), int(tensors["counter.tokens"])
            for kind, targets in (("theta", self._params()), ("buffer", self._buffers())):
                for name, target in targets.items():
                    _copy(tensors[f"{kind}.{name}"], target, name)
            self._restore_optimizer(tensors)
        except KeyError as error:
            raise ConfigError(f"{problem}: it has no {error}") from None
        except ValueError as error:
            raise ConfigError(f"{problem}: {error}") from None
        self.step, self.tokens = step, tokens

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        params, own = self._params(), _name_of(self._optimizer)
        self._optimizer.state.clear()
        for full_name, value in tensors.items():
            label, _, rest = full_name.partition(".")
            if label in ("counter", "theta", "buffer"):
                continue
            owner, _, number = label.partition(":")
            if owner != own:
                raise ConfigError(
                    f"the checkpoint is of the inner optimizer {owner}, and yours is {own}"
                )
            key, _, name = rest.partition(".")
            param = params[name]
            restored: Any = value
            if number:
                restored = _NUMBERS[number](value)
            elif value.dim() > 0 or self._keeps_counters_on_device(param):
                restored = value.to(param.device)
            self._optimizer.state[param][key] = restored

    def _keeps_counters_on_device(self, param: Tensor) -> bool:
        # Torch keeps a parameter's count of steps on the CPU, unless it was told otherwise.
        groups = self._optimizer.param_groups
        group = next((g for g in groups if any(p is param for p in g["params"])), {})
        return bool(group.get("capturable") or group.get("fused"))

    def _params(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def _buffers(self) -> dict[str, Tensor]:
        saved = self.model.state_dict()
        return {name: b for name, b in self.model.named_buffers() if name in saved}


def bare(model: nn.Module) -> nn.Module:
    """Return the module inside of torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


def check_fit(model: nn.Module, layout: Layout) -> None:
    """Refuse a model that is not the run's.

    Raises:
        ConfigError: names the first parameter that differs.
    """
    try:
        ours = shapes_of(model)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    theirs = {entry.name: entry.shape for entry in layout.entries}
    for name in [*theirs, *ours]:
        if ours.get(name) == theirs.get(name):
            continue
        there, here = (
            "does not have it" if shape is None else f"has {list(shape)}"
            for shape in (theirs.get(name), ours.get(name))
        )
        raise ConfigError(f"your model is not the run's: {name}: the run {there}, yours {here}")


def _check_optimizer(model: nn.Module, optimizer: InnerOptimizer) -> None:
    ours = {id(param) for param in model.parameters() if param.requires_grad}
    held = {id(param) for group in optimizer.param_groups for param in group["params"]}
    if ours.isdisjoint(held):
        raise ConfigError(
            "the optimizer has none of the model's trainable parameters: make it of this very "
            "model, after whatever replaces its parameters"
        )


def _stored(own: str, key: str, value: Any) -> tuple[str, Tensor]:
    if isinstance(value, Tensor) and value.dtype in DTYPES:
        return own, value
    kind = type(value).__name__
    if kind in _NUMBERS:
        dtype = torch.float64 if kind == "float" else torch.int64
        return f"{own}:{kind}", torch.tensor(value, dtype=dtype)
    raise ConfigError(
        f"a checkpoint holds numbers and tensors, and {key} of the optimizer {own} is a "
        f"{value.dtype if isinstance(value, Tensor) else kind}"
    )


@torch.no_grad()
def _copy(tensor: Tensor, target: Tensor, name: str) -> None:
    if tensor.shape != target.shape:
        raise ValueError(f"{name} is {list(tensor.shape)}, not {list(target.shape)}")
    target.copy_(tensor)


def _name_of(optimizer: InnerOptimizer) -> str:
    return type(optimizer).__name__.lower()
