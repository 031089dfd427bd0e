"""An inner optimizer's state as the tensors of a checkpoint, and back.

Names are `OPTIMIZER.KEY.PARAMETER`, such as `adamw.exp_avg.head.weight`. Python's own numbers are
tensors there, with their type after the optimizer's name (`counting:int.steps.head.weight`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from optim.inner import InnerOptimizer
from peer.train.tensor_file import DTYPES
from protocol.errors import ConfigError

Params = Mapping[str, nn.Parameter]

_NUMBERS = {"int": int, "float": float}


def name_of(optimizer: InnerOptimizer) -> str:
    """Return what an optimizer is called in a checkpoint."""
    return type(optimizer).__name__.lower()


def keeps_counts_on_device(optimizer: InnerOptimizer, param: Tensor) -> bool:
    """Return whether a parameter's numbers are where it is: torch has them on the CPU, mostly."""
    groups = optimizer.param_groups
    group = next((g for g in groups if any(p is param for p in g["params"])), {})
    return bool(group.get("capturable") or group.get("fused"))


def tensors_of(optimizer: InnerOptimizer, params: Params) -> dict[str, Tensor]:
    """Return the state of these parameters, by the names of a checkpoint.

    Raises:
        ConfigError: there is something in it that a file of tensors cannot hold.
    """
    own, tensors = name_of(optimizer), {}
    for name, param in params.items():
        for key, value in optimizer.state.get(param, {}).items():
            if value is not None:
                label, tensor = _stored(own, key, value)
                tensors[f"{label}.{key}.{name}"] = tensor
    return tensors


def restore(optimizer: InnerOptimizer, params: Params, tensors: Mapping[str, Tensor]) -> None:
    """Replace the whole state by what `tensors_of` returned. Mutates `optimizer`.

    Raises:
        ConfigError: it is another optimizer's.
        KeyError: there is no such parameter.
    """
    own = name_of(optimizer)
    optimizer.state.clear()
    for full_name, value in tensors.items():
        label, _, rest = full_name.partition(".")
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
        elif value.dim() > 0 or keeps_counts_on_device(optimizer, param):
            restored = value.to(param.device)
        optimizer.state[param][key] = restored


def _stored(own: str, key: str, value: Any) -> tuple[str, Tensor]:
    if isinstance(value, Tensor) and value.dtype in DTYPES:
        return own, value
    kind = type(value).__name__
    if kind in _NUMBERS:
        dtype = torch.float64 if kind == "float" else torch.int64
        return f"{own}:{kind}", torch.tensor(value, dtype=dtype, device="cpu")
    raise ConfigError(
        f"a checkpoint holds numbers and tensors, and {key} of the optimizer {own} is a "
        f"{value.dtype if isinstance(value, Tensor) else kind}"
    )
