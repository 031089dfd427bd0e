"""A model's configuration as data: what a manifest may hold of a config.json.

A manifest comes from a stranger, and `transformers` would follow where a configuration leads: to
code, repositories, kernels. So all of it is looked at before the library is.
"""

import math
from collections.abc import Mapping
from typing import Any

from protocol.errors import ConfigError

_MAX_INT = 1 << 24
"""Of anything that could become a length."""
_MAX_LAYERS = 4096
_MAX_WORDS = 200
_MAX_VALUES = 4096
_MAX_DEPTH = 6
_LEFT_OUT = {
    "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache",
    "task_specific_params", "id2label", "label2id", "num_labels",
}  # fmt: skip
"""Of a config.json: what the build sets itself, or never reads."""
_BACKBONE = "names a model elsewhere, which the library would fetch"
_KERNELS = "chooses kernels, which is each machine's own matter"
_REFUSED = {
    "auto_map": "names code of its own, which is never run",
    "trust_remote_code": "asks for code of its own, which is never run",
    "quantization_config": "is of quantized weights, which cannot be trained",
    "backbone": _BACKBONE,
    "backbone_kwargs": _BACKBONE,
    "use_pretrained_backbone": _BACKBONE,
    "use_timm_backbone": _BACKBONE,
    "model_args": "is handed on to another library as it is",
    "attn_implementation": _KERNELS,
    "experts_implementation": _KERNELS,
    "num_labels": "is of classifiers, which list them all",
}


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest should hold of a config.json: the shape, and nothing of its making."""
    return {
        key: plain_config(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _LEFT_OUT and not key.startswith("_")
    }


def require_plain(config: Mapping[str, Any]) -> None:
    """Refuse what is no plain data: code, repositories, kernels, absurd numbers.

    Raises:
        ConfigError: says what, and where.
    """
    todo: list[tuple[str, Any, int]] = [("model.config", dict(config), 0)]
    num_values = 0
    while todo:
        where, value, depth = todo.pop()
        num_values += 1
        if num_values > _MAX_VALUES or depth > _MAX_DEPTH:
            raise ConfigError(f"{where[:80]}: a model's configuration is not that large")
        if isinstance(value, dict):
            for key in value:
                _require_key(where, key)
            todo += [(f"{where}.{key}", each, depth + 1) for key, each in value.items()]
        elif isinstance(value, list):
            todo += [(where, each, depth + 1) for each in value]
        else:
            _require_scalar(where, value)


def _require_key(where: str, key: object) -> None:
    if not isinstance(key, str) or not key.isidentifier():
        if isinstance(key, str) and key.isdecimal() and len(key) < 6:
            return  # of a table by layer
        raise ConfigError(f"{where[:80]}: {key!r:.40} is no name of a setting")
    if key in _REFUSED:
        raise ConfigError(f"{where[:80]}.{key} {_REFUSED[key]}; leave it out")
    if key.startswith("_"):
        raise ConfigError(f"{where[:80]}.{key[:40]} is not of a model's shape; leave it out")


def _require_scalar(where: str, value: object) -> None:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, str):
        if len(value) > _MAX_WORDS or not value.isprintable() or set("/\\:") & set(value):
            raise ConfigError(f"{where[:80]}: {value!r:.60} is no plain word")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{where[:80]} is not finite")
    elif isinstance(value, int):
        most = _most(where.rpartition(".")[2])
        if abs(value) > most:
            raise ConfigError(
                f"{where[:80]} is {value if value.bit_length() < 64 else 'huge'}, of at most {most}"
            )
    else:
        raise ConfigError(f"{where[:80]} is no plain data")


def _most(name: str) -> int:
    """Return how large an integer of such a name may be."""
    if name.endswith(("layer", "layers")):
        return _MAX_LAYERS
    # The base of rotary positions is often written as an integer, and is no length.
    return 1 << 53 if name.endswith("theta") else _MAX_INT
