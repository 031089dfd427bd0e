"""Models that `transformers` knows by name, built from a configuration and never from its code.

A manifest comes from a stranger, so a configuration is looked at as data first
(`peer.train.plain_config`), then the model is built without memory, where its size is counted as it
grows (`peer.train.census`), and only then on this machine. Nothing here reaches a network: no name
of a repository gets through.

What is built takes tokens `[B, T]` and returns logits `[B, T, V]`, and its parameters have the
library's names.
"""

import json
import math
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from optim.layout import shapes_of
from peer.train.census import counting, require_memory
from peer.train.language_model import require_trainable
from peer.train.library import one_line, require_library
from peer.train.plain_config import require_plain
from protocol.errors import ConfigError
from protocol.models import HuggingFaceSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def checked_config(config: Mapping[str, Any]) -> "PreTrainedConfig":
    """Return the library's configuration object.

    Raises:
        ConfigError: it is no plain data of a sensible size, or the library does not know it.
    """
    require_plain(config)
    require_library()
    from transformers import AutoConfig
    from transformers import __version__ as version
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(
            f"model.config.model_type {model_type!r:.80} is no causal language model that "
            f"transformers {version} knows; if it is one of a newer version: "
            "pip install --upgrade transformers"
        )
    with one_line("model.config"):
        return AutoConfig.for_model(model_type, **settings, use_cache=False)


def shapes_of_huggingface(spec: HuggingFaceSpec, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trainable parameters by name, in order; allocates none of them.

    Args:
        spec: The model.
        vocab_size: Tokens that it must know.

    Raises:
        ConfigError: such a model cannot be built, is absurdly large, or does not fit the run.
    """
    return dict(_shapes(json.dumps(spec.config, sort_keys=True), spec.context, vocab_size))


def build_huggingface(spec: HuggingFaceSpec, vocab_size: int) -> nn.Module:
    """Return the model on the CPU in fp32, in training mode; its matrices are uninitialized.

    Args:
        spec: The model.
        vocab_size: Tokens that it must know.

    Raises:
        ConfigError: as `shapes_of_huggingface`, or it does not fit into this machine's memory.
    """
    shapes = shapes_of_huggingface(spec, vocab_size)
    require_memory(sum(map(math.prod, shapes.values())))
    model: nn.Module = skeleton(spec)
    empty = {
        param: torch.empty(param.shape, dtype=param.dtype)
        for param in model.parameters()
        if param.is_meta
    }
    for module in model.modules():
        for name, param in module._parameters.items():
            if param is not None and param.is_meta:
                filled = empty[param]
                if not isinstance(filled, nn.Parameter):  # a tied one is met twice
                    filled = empty[param] = nn.Parameter(filled)
                module._parameters[name] = filled
    model.register_forward_hook(_logits)
    model.train()
    return model


def skeleton(spec: HuggingFaceSpec) -> Any:
    """Return the model with matrices on the meta device, and the rest as its own init makes it.

    Args:
        spec: The model, whose shapes were taken before: they say that it is modest.
    """
    found = checked_config(spec.config)
    owner = threading.get_ident()

    def without_memory(module: nn.Module, name: str, param: nn.Parameter | None) -> Any:
        if param is None or param.dim() < 2 or param.is_meta or threading.get_ident() != owner:
            return None
        return nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)

    hook = register_module_parameter_registration_hook(without_memory)
    try:
        # Vectors may be drawn before they are set; nobody else's draws are to change by it.
        with torch.random.fork_rng(devices=[]), one_line("model.config"):
            torch.default_generator.manual_seed(0)
            return _from_config(found)
    finally:
        hook.remove()


def _logits(module: nn.Module, arguments: object, output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits


@lru_cache(maxsize=8)
def _shapes(config: str, context: int, vocab_size: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    require_library()  # its import takes memory, and is not to be counted
    with counting(), one_line("model.config"):
        found = checked_config(json.loads(config))
        _require_fit(found.get_text_config(), context, vocab_size)
        model = _from_config(found)
    require_trainable(model)
    return tuple(shapes_of(model).items())


def _require_fit(text: Any, context: int, vocab_size: int) -> None:
    """Refuse a configuration that does not fit the run."""
    known = getattr(text, "vocab_size", 0)
    if known < vocab_size:
        raise ConfigError(
            f"model.config.vocab_size is {known}, and the tokenizer has {vocab_size} tokens: "
            "let it be as many, or more"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < context:
        raise ConfigError(f"model.context is {context}, and the model has {positions} positions")


def _from_config(config: "PreTrainedConfig") -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
