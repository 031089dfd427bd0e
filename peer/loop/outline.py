"""What a group's checkpoint holds, without the content: names, shapes and types.

All ranks know it before the first tensor is gathered or handed out, so a checkpoint that does not
fit is refused by all of them, and before anything is overwritten.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

from torch import Tensor

from peer.train.tensor_file import DTYPES
from protocol.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Outline:
    """One tensor; `shape` is that of the whole."""

    name: str
    """`theta.PARAMETER`, `buffer.BUFFER` or `OPTIMIZER.KEY.PARAMETER`."""
    shape: tuple[int, ...]
    dtype: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """Owner, key of the optimizer's state if it is one, and whose."""
        owner, _, rest = self.name.partition(".")
        if owner in ("theta", "buffer"):
            return owner, "", rest
        key, _, rest = rest.partition(".")
        return owner, key, rest


def outline_of(name: str, tensor: Tensor) -> Outline:
    """Return a tensor's outline."""
    return Outline(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def shapes_by_name(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors, those of the whole if they are sharded."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def packed(outlines: Iterable[Outline]) -> bytes:
    """Return outlines as bytes for the other ranks."""
    return json.dumps([astuple(outline) for outline in outlines]).encode()


def unpacked(payload: bytes) -> list[Outline]:
    """Return what `packed` was given."""
    return [Outline(name, tuple(shape), dtype) for name, shape, dtype in json.loads(payload)]


def require_storable(name: str, tensor: Tensor) -> None:
    """Refuse a tensor of a type that a file of tensors does not have.

    Raises:
        ConfigError: names it.
    """
    if tensor.dtype not in DTYPES:
        raise ConfigError(f"a checkpoint cannot hold {name}, which is {tensor.dtype}")


def require_restorable(outlines: Iterable[Outline], params: Shapes) -> None:
    """Check that each tensor of an optimizer can be handed out to shards again.

    Raises:
        ConfigError: it is neither a number nor shaped as its parameter.
    """
    for outline in outlines:
        if outline.parts[0] != "buffer" and not _fits(outline, params):
            raise ConfigError(
                f"{outline.name} of the optimizer is {list(outline.shape)}, neither a number nor "
                "shaped as its parameter, so it cannot be handed out again"
            )


def misfit(
    outlines: Iterable[Outline], params: Shapes, buffers: Shapes, *, optimizer: str
) -> str | None:
    """Return why a checkpoint is not of such a model and optimizer, in one sentence."""
    wanted = {f"theta.{name}" for name in params} | {f"buffer.{name}" for name in buffers}
    for outline in outlines:
        owner = outline.parts[0]
        if owner not in ("theta", "buffer", optimizer):
            return f"the checkpoint is of the inner optimizer {owner}, yours is {optimizer}"
        if not _fits(outline, buffers if owner == "buffer" else params):
            return f"the checkpoint does not fit the model: {outline.name} is {list(outline.shape)}"
        wanted.discard(outline.name)
    return f"the checkpoint does not fit the model: it has no {min(wanted)}" if wanted else None


def _fits(outline: Outline, shapes: Shapes) -> bool:
    _, key, name = outline.parts
    is_number = bool(key) and math.prod(outline.shape) == 1
    return name in shapes and (is_number or outline.shape == shapes[name])
