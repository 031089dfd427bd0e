"""What a model must be before peers train it: parameters alone, that predict the next token."""

import torch
from torch import nn

from peer.train.library import one_line
from protocol.errors import ConfigError


def require_trainable(model: nn.Module) -> None:
    """Refuse a model that is more than parameters which training changes.

    Raises:
        ConfigError: says what else it has.
    """
    for name, param in model.named_parameters():
        if not param.requires_grad or not param.is_floating_point():
            raise ConfigError(f"model.config: {name} is no parameter that training changes")
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            raise ConfigError(
                "model.config: the model has statistics of its batches (batch norm), which peers "
                "cannot average"
            )


@torch.no_grad()
def require_language_model(model: nn.Module, *, vocab_size: int, context: int) -> None:
    """Refuse a model that does not predict each token from those before it alone.

    Args:
        model: Tokens `[B, T]` in, logits `[B, T, V]` out.
        vocab_size: Of the tokenizer.
        context: T.

    Raises:
        ConfigError: says what is wrong.
    """
    model.eval()
    tokens = torch.arange(context)[None] % vocab_size
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % vocab_size
    with one_line("model.config, where sizes left out (num_key_value_heads?) have defaults"):
        logits, changed = model(tokens), model(other)
    if logits.shape[:2] != tokens.shape or logits.shape[2] < vocab_size:
        raise ConfigError(f"model.config: the model's logits are {list(logits.shape)}")
    if not logits.isfinite().all():
        raise ConfigError("model.config: the model's logits are not finite")
    if (logits - changed)[:, :-1].abs().max() > 1e-4 * logits.abs().max():
        raise ConfigError(
            "model.config: the model looks at tokens that it should predict; it may need "
            "is_decoder = true"
        )
