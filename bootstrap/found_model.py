"""Founding a run for a model that lives in its owners' training loops.

    folder = thinwire.found(model, "run", name="our model", method="noloco")

Whoever joins brings the same architecture, and takes the founder's parameters, whatever the seed.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bootstrap import found as founding
from optim.layout import shapes_of
from peer.loop.fit import bare
from peer.train.tensor_file import write_tensors
from protocol.errors import ConfigError
from protocol.manifest import INITIAL, MAX_MANIFEST_BYTES
from protocol.models import MAX_TENSORS


def found(
    model: nn.Module,
    folder: str | Path = "run",
    *,
    name: str = "run",
    method: str | dict[str, Any] = "diloco",
    data: str | None = None,
    **settings: Any,
) -> Path:
    """Found a run for a model of your own; `thinwire bootstrap FOLDER` serves it then.

    Its trainable parameters are what peers exchange, and theta_0 is what they are now. Frozen ones
    and buffers are each peer's own.

    Args:
        model: On any device, whole; it is not changed.
        folder: New, or that of the same run.
        name: For people.
        method: The name of a preset, or a table as `[method]` in a run.toml.
        data: In a few words, what the loops train on; for people.
        settings: Further parts of the manifest as tables, such as `membership` or `round`.

    Returns:
        The folder.

    Raises:
        ConfigError: a setting is wrong, the model is too large for a manifest, or the folder
            cannot be used.
    """
    if "files" in settings:
        raise ConfigError("files: the only one of a run for a model of your own is theta_0")
    folder, model = Path(folder), bare(model)
    tensors = _tensors(model)
    params = dict(model.named_parameters())
    given = {
        "name": name,
        "model": {"kind": "own", "tensors": tensors},
        "method": method,
        "data": {"recipe": data or "own"},
        **settings,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".initial-", dir=folder) as staged:
            path = Path(staged) / INITIAL
            write_tensors(
                path,
                {
                    tensor["name"]: params[tensor["name"]].detach().to("cpu", torch.float32)
                    for tensor in tensors
                },
            )
            founding.found(given | {"files": {INITIAL: str(path)}}, folder)
    except OSError as error:
        raise ConfigError(f"cannot use the folder {folder}: {error.strerror}") from None
    return folder


def _tensors(model: nn.Module) -> list[dict[str, Any]]:
    try:
        shapes = shapes_of(model)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    listed = [{"name": name, "shape": list(shape)} for name, shape in shapes.items()]
    if not listed:
        raise ConfigError("the model has no trainable parameters")
    size_bytes = sum(len(str(tensor)) for tensor in listed)
    if len(listed) > MAX_TENSORS or size_bytes > 0.9 * MAX_MANIFEST_BYTES:
        raise ConfigError(
            f"the model has {len(listed)} trainable parameters, and a manifest of at most "
            f"{MAX_MANIFEST_BYTES // 1024} KiB has no room to list them: shorten their names, or "
            "freeze some"
        )
    return listed
