"""theta_0 of a new Hugging Face model, a function of (configuration, seed).

Matrices are drawn from our own generator with the configuration's deviation: the library's init
draws from the global one, and changes with its version. Vectors (norms, biases) have the constant
that the model's own init gives them, which is 0 for some norms.

A model may start from something else, such as a state space's decay rates. Its vectors show it; of
matrices it is seen while the library's init writes to the meta device, where values are lost and
calls are not. Such a model has to come as a file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from peer.train.huggingface import skeleton
from protocol.errors import ConfigError
from protocol.models import HuggingFaceSpec

_STD = 0.02
"""Where a configuration does not say."""
_DRAWS = {"aten::normal_", "aten::uniform_"}
_SETTINGS = {"aten::copy_", "aten::fill_", "aten::zero_"}
"""Other writes, such as a clamp, only change what was there."""


def draw(spec: HuggingFaceSpec, places: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Write theta_0 where it belongs; equal generators give equal models, on every machine.

    Args:
        spec: The model.
        places: `[*shape]` fp32 on the CPU by parameter name. Mutated.
        generator: A CPU generator; the only randomness. Mutated.

    Raises:
        ConfigError: the model starts from something else than draws and constants.
    """
    with _Writes() as writes:
        model = skeleton(spec)
    std = _initializer_range(model.config)
    for name, param in model.named_parameters():
        if param.is_meta:
            is_ours = writes.is_drawn(param)
        else:
            is_ours = bool((param.detach() == param.detach().flatten()[:1]).all())
        if not is_ours:
            raise ConfigError(
                f"a new model of type {spec.config['model_type']} starts from values of its own "
                f"in {name}; begin from a folder with such a model: model.pretrained = PATH"
            )
        if param.is_meta:
            places[name].normal_(0.0, std, generator=generator)
        else:
            places[name].copy_(param.detach())


class _Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers how each tensor on the meta device was last written as a whole."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._last: dict[int, str] = {}
        self._alive: list[Tensor] = []  # or another tensor might have its storage's address

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name
        if name in _DRAWS | _SETTINGS and isinstance(args[0], Tensor) and args[0].is_meta:
            tensor: Tensor = args[0]
            if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize:
                self._alive.append(tensor)
                self._last[tensor.untyped_storage()._cdata] = name
        return func(*args, **(kwargs or {}))

    def is_drawn(self, param: Tensor) -> bool:
        """Return whether a matrix on the meta device has random values, and not others."""
        return self._last.get(param.untyped_storage()._cdata) in _DRAWS


def _initializer_range(config: Any) -> float:
    for each in (config.get_text_config(), config):
        for name in ("initializer_range", "init_std"):
            std = getattr(each, name, None)
            if isinstance(std, (int, float)) and 0 < std < 1:
                return float(std)
    return _STD
