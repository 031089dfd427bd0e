"""Assign a model's tensors to fragments, which take turns on the wire.

A block is what a list in the model holds: `blocks.3.ffn.up.weight` belongs to block `blocks.3`,
`h.0.attn.weight` to `h.0`, and in a plain `nn.Sequential` each layer is a block. Of nested lists
the outermost counts. Names without a number (embedding, final norm, head) lie outside of blocks.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512v1, Sec. 2.2 and 3.3.1.
**Symbols:** `P` = fragments that the pattern fills, `L` = number of blocks, `l` = a block's place
among them, in the order in which the model names them.
**Deviations:**
- "balanced", the default, is ours: it needs no blocks, and its largest fragment, the run's largest
  message, is as small as runs of whole tensors allow
  (test_balanced_has_the_smallest_peak_and_then_the_least_squares).
- What lies outside of blocks goes with the block before it, what comes before all blocks with the
  first (test_what_lies_outside_of_blocks_goes_with_its_neighbour), or all of it makes a fragment
  of its own (test_separate_embeddings_are_the_last_fragment).
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import accumulate

PATTERNS = ("balanced", "sequential", "strided")


def assign_fragments(
    sizes: Mapping[str, int],
    *,
    num_fragments: int = 1,
    pattern: str = "balanced",
    separate_embeddings: bool = False,
) -> dict[str, int]:
    """Return the fragment of each tensor, by name, in the order given.

    Args:
        sizes: Number of elements by parameter name, in the model's order.
        num_fragments: How many fragments in all, the embeddings' own included.
        pattern: "balanced": runs of tensors, about equal in size. "sequential": runs of blocks,
            equal in number or one apart. "strided": block l belongs to fragment l mod P.
        separate_embeddings: Make what lies outside of blocks the last fragment; the pattern then
            fills the others.

    Raises:
        ValueError: No such pattern, no blocks where they are needed, nothing outside of them where
            it is needed, or more fragments than there is content for.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"no pattern {pattern!r}; choose one of {', '.join(PATTERNS)}")
    apart = _outside_of_blocks(sizes) if separate_embeddings else set()
    rest = {name: size for name, size in sizes.items() if name not in apart}
    P = num_fragments - bool(apart)
    if pattern == "balanced":
        _require_enough(P, len(rest), "tensors", bool(apart))
        fragment_of = dict(zip(rest, _balanced_runs(list(rest.values()), P), strict=True))
    else:
        block_places, L = _places_of_blocks(rest, pattern)
        _require_enough(P, L, "blocks", bool(apart))
        deal = [place % P if pattern == "strided" else place * P // L for place in range(L)]
        fragment_of = {name: deal[place] for name, place in block_places.items()}
    fragment_of = {name: P if name in apart else fragment_of[name] for name in sizes}
    _require_elements(fragment_of, sizes)
    return fragment_of


def block_of(name: str) -> str | None:
    """Return the block that a parameter belongs to: its name up to the first number, or None."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return None if first is None else ".".join(parts[: first + 1])


def _outside_of_blocks(names: Collection[str]) -> set[str]:
    outside = {name for name in names if block_of(name) is None}
    if not 0 < len(outside) < len(names):
        raise ValueError(
            "separate_embeddings needs tensors inside of blocks, such as 'blocks.0.weight', and "
            f"outside of them, such as 'embedding.weight'; of {len(names)} tensors {len(outside)} "
            "are outside"
        )
    return outside


def _places_of_blocks(names: Iterable[str], pattern: str) -> tuple[dict[str, int], int]:
    places: dict[str, int] = {}
    place_of, latest = {}, 0
    for name in names:
        block = block_of(name)
        if block is not None:
            latest = places.setdefault(block, len(places))
        place_of[name] = latest
    if not places:
        raise ValueError(
            f"pattern {pattern!r} needs blocks, and no parameter's name has a number in it, as "
            "'blocks.0.weight' has; use pattern 'balanced'"
        )
    return place_of, len(places)


def _require_enough(P: int, most: int, units: str, has_embeddings: bool) -> None:
    if not 1 <= P <= most:
        plus = " plus the embeddings' own" if has_embeddings else ""
        raise ValueError(
            f"num_fragments must be between {1 + has_embeddings} and the number of {units}{plus} "
            f"({most + has_embeddings}), not {P + has_embeddings}"
        )


def _require_elements(fragment_of: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    filled = {fragment for name, fragment in fragment_of.items() if sizes[name] > 0}
    for name, fragment in fragment_of.items():
        if fragment not in filled:
            raise ValueError(
                f"num_fragments is too large: fragment {fragment}, with {name}, has no elements"
            )


def _balanced_runs(sizes: Sequence[int], num_runs: int) -> list[int]:
    # Of the cuts with the smallest peak those with the least sum of squares: else one giant tensor
    # would excuse any cut of the rest.
    starts = [0, *accumulate(sizes)]
    peak = _smallest_peak(sizes, num_runs)

    def square(start: int, stop: int) -> float:
        length = starts[stop] - starts[start]
        return length * length if length <= peak else math.inf

    least: list[float] = [0, *[math.inf] * len(sizes)]  # of the first j tensors, in no run yet
    last_cuts = []
    for _ in range(num_runs):
        least, cuts = _with_one_more_run(least, square)
        last_cuts.append(cuts)
    runs: list[int] = []
    stop = len(sizes)
    for run in reversed(range(num_runs)):
        start = last_cuts[run][stop]
        runs = [run] * (stop - start) + runs
        stop = start
    return runs


def _smallest_peak(sizes: Sequence[int], num_runs: int) -> int:
    def fits(peak: int) -> bool:
        runs, length = 1, 0
        for size in sizes:
            length += size
            if length > peak:
                runs, length = runs + 1, size
        return runs <= num_runs

    low, high = max(sizes), sum(sizes)
    return low + bisect_left(range(low, high), True, key=fits)


def _with_one_more_run(
    least: Sequence[float], square: Callable[[int, int], float]
) -> tuple[list[float], list[int]]:
    # One row of the dynamic programme, by divide and conquer: squared lengths satisfy the
    # quadrangle inequality, so the best last cut never moves left when the stop moves right.
    # Of equal cuts the rightmost counts, which keeps this true where nothing is feasible.
    num_tensors = len(least) - 1
    longer, cuts = [math.inf] * (num_tensors + 1), [0] * (num_tensors + 1)
    todo = [(1, num_tensors, 0, num_tensors - 1)]  # stops first..last, cuts low..high
    while todo:
        first, last, low, high = todo.pop()
        if first > last:
            continue
        stop = (first + last) // 2
        longer[stop], rightmost = min(
            (least[cut] + square(cut, stop), -cut) for cut in range(low, min(high, stop - 1) + 1)
        )
        cuts[stop] = -rightmost
        todo += [(first, stop - 1, low, cuts[stop]), (stop + 1, last, cuts[stop], high)]
    return longer, cuts
