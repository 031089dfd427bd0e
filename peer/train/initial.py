"""theta_0 from a file: `initial.safetensors`, a tensor for each parameter, by name, in fp32."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from optim.layout import Layout
from protocol.errors import ConfigError

MAX_HEADER_BYTES = 8 << 20
"""Of a stranger's file: the library takes ten times as much memory for it, before any check."""


def views_of(layout: Layout, fragments: list[Tensor]) -> dict[str, Tensor]:
    """Return the parameters by name, as views of the fragments' memory.

    Args:
        layout: Of the run.
        fragments: One `[m]` for each.
    """
    views = {}
    for entry in layout.entries:
        first = layout.fragments[entry.fragment].start
        part = fragments[entry.fragment][entry.start - first : entry.stop - first]
        views[entry.name] = part.view(entry.shape)
    return views


def load_initial(path: Path, places: Mapping[str, Tensor]) -> None:
    """Read theta_0 to where it shall lie, tensor by tensor. Mutates `places`.

    Raises:
        ConfigError: as `check_initial`.
    """
    shapes = {name: tuple(place.shape) for name, place in places.items()}
    for name, tensor in _tensors(path, shapes):
        places[name].copy_(tensor)


def check_initial(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a file that is not theta_0 of a model with such parameters.

    Raises:
        ConfigError: a tensor is missing, too many, of another shape or type, or not finite.
    """
    for _ in _tensors(path, shapes):
        pass


def _tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in the order of `shapes`; all shapes are checked before any is read."""
    try:
        _require_modest(path)
        with safe_open(path, framework="pt") as file:
            _require_shapes(path, file, shapes)
            for name in shapes:
                tensor: Tensor = file.get_tensor(name)
                if not tensor.isfinite().all():
                    raise ConfigError(f"{path}: {name} has values that are not finite")
                yield name, tensor
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _require_modest(path: Path) -> None:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ConfigError(
            f"cannot read {path}: its header has {header_bytes} bytes, of at most "
            f"{MAX_HEADER_BYTES}"
        )


def _require_shapes(path: Path, file: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    names = set(file.keys())
    if odd := sorted(names ^ shapes.keys()):
        problem = "it lacks" if odd[0] in shapes else "the model has no parameter"
        raise ConfigError(f"{path} does not fit the model: {problem} {odd[0]!r:.200}")
    for name, shape in shapes.items():
        piece = file.get_slice(name)
        found = piece.get_dtype(), tuple(piece.get_shape())
        if found != ("F32", shape):
            raise ConfigError(
                f"{path} does not fit the model: {name} is {found[0]} {list(found[1])} instead of "
                f"F32 {list(shape)}"
            )
