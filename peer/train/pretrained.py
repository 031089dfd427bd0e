"""A model's folder, as `transformers` writes it, becomes theta_0: one file of fp32 tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optim.layout import shapes_of
from peer.train.huggingface import checked_config, skeleton
from peer.train.library import one_line
from peer.train.tensor_file import write_tensors
from protocol.errors import ConfigError
from protocol.models import HuggingFaceSpec


def write_initial(source: Path, config: dict[str, Any], out: Path) -> None:
    """Write the parameters of a pretrained model, in fp32 and with the names that peers use.

    Args:
        source: A folder with the model in safetensors files; others are never opened, since
            pickles can hold code.
        config: As in the manifest.
        out: The new file.

    Raises:
        ConfigError: there is no such model, a parameter of it is missing, or it is more than its
            parameters.
    """
    found = checked_config(config)
    from transformers import AutoModelForCausalLM

    if not any(source.glob("*.safetensors")):
        raise ConfigError(f"model.pretrained: there is no .safetensors file in {source}")
    with one_line("model.pretrained"):
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=found,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        shapes = shapes_of(model)
    odd = sorted({*map(str, report["missing_keys"]), *map(str, report["mismatched_keys"])})
    if odd:
        raise ConfigError(
            f"model.pretrained: the files in {source} lack {len(odd)} of the model's parameters, "
            f"such as {odd[0]:.100}"
        )
    _require_no_more(model, skeleton(HuggingFaceSpec(kind="huggingface", config=config)))
    parameters = dict(model.named_parameters())
    write_tensors(out, {name: parameters[name].detach() for name in shapes})


def _require_no_more(model: nn.Module, fresh: nn.Module) -> None:
    """Refuse a model with tables of values of its own: peers exchange parameters alone.

    Such are the biases by which some mixtures of experts balance their load.
    """
    theirs, ours = _buffers(model), _buffers(fresh)
    for name, buffer in theirs.items():
        if name not in ours or not torch.equal(buffer, ours[name].to(buffer.dtype)):
            raise ConfigError(
                f"model.pretrained: {name:.100} has values of its own and is no parameter, so "
                "peers would not have them; this model cannot be trained here"
            )


def _buffers(model: nn.Module) -> Mapping[str, Tensor]:
    """Return what a folder holds of a model besides parameters."""
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}
