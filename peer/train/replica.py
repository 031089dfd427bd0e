"""One peer's replica: model, inner optimizer and place in its stream of batches.

A replica knows inner steps and flat vectors; of rounds and exchanges it knows nothing. The inner
optimizer's state is its own: a landing changes parameters only.
"""

import torch
from torch import Tensor, nn

from optim.inner import InnerOptimizer, inner_optimizer, learning_rate
from optim.landing import blend, rebase
from optim.layout import flatten_into, load_from
from peer.train.batch_source import batches_of
from peer.train.data import Corpus
from peer.train.evaluate import bits_per_byte
from peer.train.model import layout_of_run, loss, model_of_run
from protocol.errors import ConfigError
from protocol.manifest import Manifest


def choose_device(name: str) -> torch.device:
    """Return the device that an operator asks for; `auto` is cuda, else mps, else cpu.

    Raises:
        ConfigError: there is no such device here.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is none of auto, cuda, cuda:N, mps, cpu") from None
    available = {"cuda": has_cuda, "mps": has_mps, "cpu": True}
    if not available.get(device.type, False):
        raise ConfigError(f"device {name!r} is not available here; use auto or cpu")
    return device


class Replica:
    """A model being trained, until `load` or `restore` with meaningless parameters.

    Args:
        manifest: The run.
        corpus: The text.
        peer_id: Whose stream of batches.
        device: Where to train.

    Attributes:
        step: Inner steps done, on the run's count.
        tokens: Tokens that this peer trained on.
    """

    def __init__(
        self, manifest: Manifest, corpus: Corpus, *, peer_id: str, device: torch.device
    ) -> None:
        self.manifest = manifest
        self.device = device
        self.step = 0
        self.tokens = 0
        self._validation, self._widths = corpus.validation, corpus.widths
        # What training tells is nats for each byte, about, whatever the tokens are.
        self._bytes_per_token = corpus.validation_bytes / max(1, len(corpus.validation))
        self.model = model_of_run(manifest).to(device)
        self.layout = layout_of_run(manifest)
        self.optimizer = self._fresh_optimizer()
        self._stream = batches_of(corpus, manifest, peer_id)
        # bf16 where the hardware has it; elsewhere emulation would only be slower.
        self._is_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )

    @property
    def step_tokens(self) -> int:
        """Tokens in one inner step."""
        return self.manifest.inner.batch_sequences * self.manifest.context

    def train_step(self) -> Tensor:
        """Make one inner step; return its loss in nats for each byte, still on the device.

        Batch and learning rate follow `step`, so a replica that resumes needs no other state.
        """
        self._stream.step = self.step
        tokens = self._stream.next().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_bf16):
            step_loss = loss(self.model(tokens[:, :-1]), tokens[:, 1:])
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(step_loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.manifest.inner.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.step += 1
        self.tokens += self.step_tokens
        step_loss = step_loss.detach()
        return step_loss if self._widths is None else step_loss / self._bytes_per_token

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
        """Let one fragment follow a new anchor; the optimizer's state stays.

        Args:
            fragment: Which one.
            anchor: `[n]` fp32, read in the fragment's range only.
            base: `[n]` fp32, theta at departure, read in the fragment's range only.
            alpha: See `optim.landing.blend`; None is `optim.landing.rebase`.
            planned_frac: See `optim.landing.blend`.
        """
        theta = torch.empty_like(base)  # only the fragment's pages are ever touched
        flatten_into(theta, self.layout, self.model, fragment)
        span = self.layout.fragments[fragment]
        part = slice(span.start, span.stop)
        if alpha is None:
            rebase(theta[part], anchor[part], base[part])
        else:
            blend(theta[part], anchor[part], base[part], alpha, planned_frac=planned_frac)
        load_from(theta, self.layout, self.model, fragment)

    def evaluate(self, flat: Tensor | None, *, max_bytes: int) -> float:
        """Return bits per byte on the validation text; the replica is unchanged afterwards.

        Args:
            flat: `[n]` fp32 parameters to evaluate; None for the replica's own.
            max_bytes: Bytes predicted in all.
        """
        own = None
        if flat is not None:
            own = torch.empty(self.layout.num_elements)
            self.snapshot(own)
            self.load(flat)
        try:
            return bits_per_byte(
                self.model,
                self._validation,
                context=self.manifest.context,
                max_bytes=max_bytes,
                device=self.device,
                widths=self._widths,
            )
        finally:
            if own is not None:
                self.load(own)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as tensors on the CPU.

        Names are `counter.NAME`, `theta.PARAMETER` and, with the inner optimizer's own name first,
        `adamw.exp_avg.PARAMETER`.
        """
        tensors = {"counter.step": torch.tensor(self.step)}
        tensors["counter.tokens"] = torch.tensor(self.tokens)
        for name, param in self.model.named_parameters():
            tensors[f"theta.{name}"] = param.detach()
            for key, value in self.optimizer.state[param].items():
                tensors[f"{self.manifest.inner.optimizer}.{key}.{name}"] = value
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned; training goes on as if it had not stopped.

        Args:
            tensors: They become the replica's own and must share no memory with another's.

        Raises:
            ConfigError: it is another model's, or another optimizer's.
        """
        try:
            self.step = int(tensors["counter.step"])
            self.tokens = int(tensors["counter.tokens"])
            self._restore_parameters(tensors)
            self._restore_optimizer(tensors)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"the checkpoint does not fit the run's model: {error}") from error

    def _restore_parameters(self, tensors: dict[str, Tensor]) -> None:
        for name, param in self.model.named_parameters():
            theta = tensors[f"theta.{name}"]
            if theta.shape != param.shape:
                raise ValueError(f"{name} is {list(theta.shape)}, not {list(param.shape)}")
            with torch.no_grad():
                param.copy_(theta)

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        params, own = dict(self.model.named_parameters()), self.manifest.inner.optimizer
        self.optimizer.state.clear()
        for full_name, value in tensors.items():
            owner, _, rest = full_name.partition(".")
            if owner in ("counter", "theta"):
                continue
            if owner != own:
                raise ConfigError(
                    f"the checkpoint is of the inner optimizer {owner}, the run's is {own}"
                )
            key, _, name = rest.partition(".")
            if key == "step":  # torch keeps this one on the CPU
                self.optimizer.state[params[name]][key] = value
                continue
            if value.shape != params[name].shape:
                raise ValueError(f"{full_name} is {list(value.shape)}, the parameter is not")
            self.optimizer.state[params[name]][key] = value.to(self.device)

    def _fresh_optimizer(self) -> InnerOptimizer:
        inner = self.manifest.inner
        try:
            return inner_optimizer(
                inner.optimizer,
                self.model,
                lr=inner.lr,
                weight_decay=inner.weight_decay,
                betas=(inner.beta1, inner.beta2),
                momentum=inner.momentum,
            )
        except ValueError as error:  # a name that this torch does not have
            raise ConfigError(str(error)) from error

    def _learning_rate(self) -> float:
        inner = self.manifest.inner
        return learning_rate(
            self.step,
            peak=inner.lr,
            warmup_steps=inner.warmup_steps,
            total_steps=inner.total_steps,
            final_frac=inner.final_lr_frac,
        )
