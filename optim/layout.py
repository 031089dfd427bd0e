"""Lay a model out as one flat fp32 vector in which each fragment is one contiguous range.

The outer algorithms speak of vectors (theta, Theta, Delta), a model has named tensors. A `Layout`
is the agreed translation: it depends on names, shapes and their order only, so every replica of a
run derives the same one. The order of the vector is fragment by fragment, see `optim.fragments`,
and the model's own order within a fragment. With pattern "balanced" that is the model's order
throughout, whatever the number of fragments.

In the vector are the trainable parameters: tied ones once, frozen ones not. Buffers are not.
BatchNorm's statistics describe what this replica's parameters did with this replica's batches; a
counter or a mask has no mean. An outer step, which extrapolates, could even turn a variance
negative. So each replica keeps its own, and they follow a landing as they follow an inner step.
An anchor has none: before evaluating one in a model with BatchNorm, estimate them anew on some
batches (`torch.optim.swa_utils.update_bn`), or build the model with a norm without statistics.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Sec. 2.2 (fragments).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from optim.fragments import assign_fragments


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of one tensor: elements `[start, stop)` of the flat vector, in one fragment."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    fragment: int


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
        """Return the tensors of one fragment, or all of them when `fragment` is None.

        Raises:
            ValueError: No such fragment.
        """
        if fragment is not None and not 0 <= fragment < len(self.fragments):
            raise ValueError(f"no fragment {fragment}: the layout has {len(self.fragments)}")
        return (e for e in self.entries if fragment is None or e.fragment == fragment)


def layout_of(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    num_fragments: int = 1,
    pattern: str = "balanced",
    separate_embeddings: bool = False,
) -> Layout:
    """Return the layout of tensors with these shapes.

    Args:
        shapes: Shape by parameter name, in the model's order, see `shapes_of`.
        num_fragments: How many fragments, the embeddings' own included.
        pattern: "balanced", "sequential" or "strided", see `assign_fragments`.
        separate_embeddings: Make what lies outside of blocks the last fragment.

    Raises:
        ValueError: The tensors do not make so many fragments in this way, see `assign_fragments`.
    """
    fragment_of = assign_fragments(
        {name: math.prod(shape) for name, shape in shapes.items()},
        num_fragments=num_fragments,
        pattern=pattern,
        separate_embeddings=separate_embeddings,
    )
    entries, start = [], 0
    lengths = [0] * num_fragments
    for name in sorted(fragment_of, key=fragment_of.__getitem__):  # stable within a fragment
        shape, fragment = tuple(shapes[name]), fragment_of[name]
        stop = start + math.prod(shape)
        entries.append(Entry(name, shape, start, stop, fragment))
        lengths[fragment] += stop - start
        start = stop
    bounds = [0, *accumulate(lengths)]
    return Layout(tuple(entries), tuple(range(a, b) for a, b in pairwise(bounds)), start)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trainable parameters, tied ones once, frozen ones left out.

    Raises:
        ValueError: A trainable parameter is complex: the flat vector has no imaginary parts.
    """
    shapes = {}
    for name, param in module.named_parameters():
        if not param.requires_grad:
            continue
        if not param.is_floating_point():
            raise ValueError(
                f"{name} is {param.dtype}, and the flat vector holds real numbers; make its real "
                "and imaginary parts the parameter, and use torch.view_as_complex in forward"
            )
        shapes[name] = tuple(param.shape)
    return shapes


@torch.no_grad()
def flatten_into(
    out: Tensor, layout: Layout, module: nn.Module, fragment: int | None = None
) -> None:
    """Copy live parameters, of any device and real dtype, into the flat vector. Mutates `out`.

    bf16 and fp16 pass through fp32 unchanged; of fp64 the digits beyond fp32 are lost.

    Args:
        out: `[num_elements]` fp32 on the CPU.
        layout: The layout of `module`.
        module: The live model.
        fragment: Copy this fragment's range only; None copies all.

    Raises:
        ValueError: No such fragment, or `out` or `module` does not fit the layout.
    """
    for part, param in _pairs(out, layout, module, fragment):
        part.copy_(param)


@torch.no_grad()
def load_from(flat: Tensor, layout: Layout, module: nn.Module, fragment: int | None = None) -> None:
    """Copy the flat vector into the live parameters. Mutates `module`.

    The parameters keep their own storage, device and dtype: they never alias `flat`, whose
    content may change at the next landing while the optimizer still holds the parameters. Narrow
    parameters round what lands, and bf16 swallows most outer steps: keep parameters in fp32 and
    compute in bf16 under autocast.

    Args:
        flat: `[num_elements]` fp32 on the CPU.
        layout: The layout of `module`.
        module: The live model.
        fragment: Copy this fragment's range only; None copies all.

    Raises:
        ValueError: No such fragment, or `flat` or `module` does not fit the layout.
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
