"""One expert: a model of its own size, which knows one domain best."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optim.layout import load_from
from peer.train.model import VOCAB_SIZE, Transformer, layout_of_run
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from protocol.models import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expert:
    """See the module docstring.

    Attributes:
        name: Of its domain.
        spec: Its shape.
        theta: Its parameters by name, fp32 on the CPU, as `Transformer.named_parameters` has them.
        tokenizer: What all experts of an ensemble share.
        recipe: The text that it was trained on; empty if nobody knows.
        step: Inner steps behind it.
        total_steps: Of its budget; 0 if nobody knows.
    """

    name: str
    spec: ModelSpec
    theta: dict[str, Tensor] = field(repr=False)
    tokenizer: str = "bytes"
    recipe: str = ""
    step: int = 0
    total_steps: int = 0

    @property
    def num_parameters(self) -> int:
        """How many it has."""
        return sum(tensor.numel() for tensor in self.theta.values())

    def model(self) -> Transformer:
        """Returns the model with these parameters, on the CPU.

        Raises:
            ConfigError: they are not those of such a model.
        """
        with torch.device("meta"):
            model = Transformer(self.spec, VOCAB_SIZE[self.tokenizer])
        try:
            model.load_state_dict(self.theta, assign=True)
        except RuntimeError as error:
            words = str(error).splitlines()[-1].strip()
            raise ConfigError(f"expert {self.name} does not fit its shape: {words}") from None
        return model.requires_grad_(False).eval()


def require_one_tokenizer(tokenizers: Iterable[tuple[str, str]]) -> None:
    """Refuses experts that do not share a tokenizer, or have one that is not known here.

    Args:
        tokenizers: The name of each expert and its tokenizer.

    Raises:
        ConfigError: names two of them.
    """
    (first, ours), *others = tokenizers
    for name, tokenizer in others:
        if tokenizer != ours:
            raise ConfigError(
                f"experts share one tokenizer, and these do not: {first} has {ours!r}, {name} has "
                f"{tokenizer!r}"
            )
    if ours not in VOCAB_SIZE:
        raise ConfigError(f"the experts' tokenizer is {ours!r}; there is {', '.join(VOCAB_SIZE)}")


def expert_of(
    manifest: Manifest, flat: Tensor, *, name: str, recipe: str = "", step: int = 0
) -> Expert:
    """Returns the expert with these parameters.

    Args:
        manifest: Of its sub-swarm; see `protocol.domains.domain_manifest`.
        flat: `[n]` fp32, as the layout of that run has them, such as the anchors one by one.
        name: Of its domain.
        recipe: The text that it was trained on.
        step: Inner steps behind it.
    """
    vocab_size = VOCAB_SIZE[manifest.data.tokenizer]
    with torch.device("meta"):
        empty = Transformer(manifest.transformer, vocab_size)
    model = empty.to_empty(device="cpu")
    load_from(flat, layout_of_run(manifest), model)
    return Expert(
        name=name,
        spec=manifest.transformer,
        theta={key: param.detach() for key, param in model.named_parameters()},
        tokenizer=manifest.data.tokenizer,
        recipe=recipe or manifest.data.recipe,
        step=step,
        total_steps=manifest.inner.total_steps,
    )
