"""Lay a model out as one flat fp32 vector in which each fragment is one contiguous range.

The outer algorithms speak of vectors (theta, Theta, Delta), a model has named tensors. A `Layout`
is the agreed translation: it depends on names, shapes and their order only, so every replica of a
run derives the same one.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Sec. 2.2 (fragments).
**Deviations:** The paper's fragments are whole transformer blocks, strided by default; these are
contiguous runs of tensors of about equal size, for any model.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of one tensor: elements `[start, stop)` of the flat vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor and each fragment lies in the flat vector.

    Attributes:
        entries: One per tensor, in flat order, without gaps.
        fragments: Element ranges; together they cover `[0, num_elements)` once, in order.
        num_elements: Length of the flat vector.
    """

    entries: tuple[Entry, ...]
    fragments: tuple[range, ...]
    num_elements: int

    def entries_of(self, fragment: int | None) -> Iterator[Entry]:
        """Yield the tensors of one fragment, or all of them when `fragment` is None."""
        span = range(self.num_elements) if fragment is None else self.fragments[fragment]
        return (e for e in self.entries if span.start <= e.start and e.stop <= span.stop)


def layout_of(shapes: Mapping[str, tuple[int, ...]], *, num_fragments: int = 1) -> Layout:
    """Return the layout of tensors with these shapes, in the order given.

    A fragment is a run of whole tensors; the cuts are the tensor boundaries nearest to equal sizes.

    Args:
        shapes: Shape by parameter name, see `shapes_of`.
        num_fragments: How many fragments, at most one for each tensor.

    Raises:
        ValueError: `num_fragments` is below 1 or above the number of tensors.
    """
    if not 1 <= num_fragments <= len(shapes):
        raise ValueError(
            f"num_fragments must be between 1 and the number of tensors ({len(shapes)}), "
            f"not {num_fragments}"
        )
    entries, start = [], 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        entries.append(Entry(name, tuple(shape), start, stop))
        start = stop
    bounds = [0, *(e.stop for e in entries)]
    cuts = [0, *_balanced_cuts(bounds, num_fragments), start]
    fragments = tuple(range(a, b) for a, b in pairwise(cuts))
    return Layout(tuple(entries), fragments, start)


def _balanced_cuts(bounds: list[int], num_fragments: int) -> list[int]:
    # bounds[i] is where tensor i starts. Each fragment keeps at least one tensor, so cut p is
    # searched after the previous one and before the last num_fragments - p tensors.
    cuts: list[int] = []
    previous, num_tensors = 0, len(bounds) - 1
    for p in range(1, num_fragments):
        ideal = p * bounds[-1] / num_fragments
        allowed = range(previous + 1, num_tensors - (num_fragments - p) + 1)
        previous = min(allowed, key=lambda i: abs(bounds[i] - ideal))
        cuts.append(bounds[previous])
    return cuts


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trainable parameters, tied ones once, frozen ones left out."""
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def flatten_into(
    out: Tensor, layout: Layout, module: nn.Module, fragment: int | None = None
) -> None:
    """Copy live parameters, of any device and dtype, into the flat vector. Mutates `out`.

    Args:
        out: `[num_elements]` fp32 on the CPU.
        layout: The layout of `module`.
        module: The live model.
        fragment: Copy this fragment's range only; None copies all.

    Raises:
        ValueError: `out` or `module` does not fit the layout.
    """
    for part, param in _pairs(out, layout, module, fragment):
        part.copy_(param)


@torch.no_grad()
def load_from(flat: Tensor, layout: Layout, module: nn.Module, fragment: int | None = None) -> None:
    """Copy the flat vector into the live parameters. Mutates `module`.

    The parameters keep their own storage, device and dtype: they never alias `flat`, whose
    content may change at the next landing while the optimizer still holds the parameters.

    Args:
        flat: `[num_elements]` fp32 on the CPU.
        layout: The layout of `module`.
        module: The live model.
        fragment: Copy this fragment's range only; None copies all.

    Raises:
        ValueError: `flat` or `module` does not fit the layout.
    """
    for part, param in _pairs(flat, layout, module, fragment):
        param.copy_(part)


def _pairs(
    flat: Tensor, layout: Layout, module: nn.Module, fragment: int | None
) -> list[tuple[Tensor, nn.Parameter]]:
    # Everything is checked before anything is copied, so a refusal leaves no half-written model.
    fits = flat.shape == (layout.num_elements,) and flat.is_contiguous()
    if not fits or flat.dtype != torch.float32 or flat.device.type != "cpu":
        raise ValueError(
            f"the flat vector must be [{layout.num_elements}] float32, contiguous, on the CPU, "
            f"not {list(flat.shape)} {flat.dtype} on {flat.device}"
        )
    params = dict(module.named_parameters())
    pairs = []
    for entry in layout.entries_of(fragment):
        param = params.get(entry.name)
        if param is None or tuple(param.shape) != entry.shape:
            found = "no such parameter" if param is None else f"shape {tuple(param.shape)}"
            raise ValueError(f"{entry.name}: the layout has shape {entry.shape}, the model {found}")
        pairs.append((flat[entry.start : entry.stop].view(entry.shape), param))
    return pairs
