"""The loops of the top-k codec: select, split, pack, unpack, mix in. Compiled on first use.

**Symbols:** n = elements, `chunk` = elements that compete with each other, K = all kept elements,
C = chunks. Every chunk but the last keeps k elements, and the last keeps no more, so that chunk c
owns the kept elements `[c k, (c + 1) k)`.

`land` comes from another file, which numba's cache does not see: whoever edits it there touches
this file as well.
"""

import numpy as np

from optim.codec.kernels import Bytes, Floats, Halves, kernel, land


@kernel
def select_largest(
    x: Floats,
    chunk: int,
    k: int,
    positions: Halves,
    values: Floats,
) -> None:
    """Write the places in its chunk, in increasing order, and the values of the k largest of each.

    The k-th largest magnitude is found bit by bit: non-negative floats are ordered like the
    integers of their bits, and counting is what a CPU does fastest. Of equal ones the first win.

    Args:
        x: `[n]`, finite.
        chunk: Elements a chunk.
        k: Elements to keep of each, or all if there are fewer.
        positions: `[K]`, written.
        values: `[K]`, written.
    """
    bits = x.view(np.int32)
    scratch = np.empty(min(chunk, x.size), np.int32)
    kept = 0
    for start in range(0, x.size, chunk):
        length = min(chunk, x.size - start)
        magnitudes = scratch[:length]
        for i in range(length):
            magnitudes[i] = bits[start + i] & np.int32(0x7FFFFFFF)
        wanted = min(k, length)
        threshold = np.int32(0)
        for bit in range(30, -1, -1):
            candidate = np.int32(threshold | np.int32(1 << bit))
            count = np.int32(0)
            for i in range(length):
                count = np.int32(count + np.int32(magnitudes[i] >= candidate))
            if count >= wanted:
                threshold = candidate
                if count == wanted:
                    break
        ties = wanted
        for i in range(length):
            ties -= magnitudes[i] > threshold
        for i in range(length):
            if magnitudes[i] < threshold:
                continue
            if magnitudes[i] == threshold:
                if ties == 0:
                    continue
                ties -= 1
            positions[kept] = i
            values[kept] = x[start + i]
            kept += 1


@kernel
def split_in_two(
    values: Floats,
    k: int,
    levels: Floats,
    codes: Bytes,
) -> None:
    """Write each chunk's two levels and each value's code: 1 for the upper level, 2 for negative.

    Of all ways to cut the sorted magnitudes in two, the one whose group means leave the least
    squared error, i.e. with the largest sum of (group sum)^2 / (group size).

    Args:
        values: `[K]`.
        k: Values a chunk.
        levels: `[C, 2]`, written: the means of the lower and of the upper group.
        codes: `[K]`, written.
    """
    for c in range(levels.shape[0]):
        mine = values[c * k : (c + 1) * k]
        magnitudes = np.sort(np.abs(mine))
        total = 0.0
        for magnitude in magnitudes:
            total += magnitude
        # One group, should no cut be better: of a single value, or of equal ones.
        levels[c, 0] = levels[c, 1] = total / mine.size
        best, cut, lower = total * total / mine.size, magnitudes[0], 0.0
        for i in range(1, mine.size):
            lower += magnitudes[i - 1]
            upper = total - lower
            explained = lower * lower / i + upper * upper / (mine.size - i)
            if explained > best and magnitudes[i] > magnitudes[i - 1]:
                best, cut = explained, magnitudes[i]
                levels[c, 0], levels[c, 1] = lower / i, upper / (mine.size - i)
        for j in range(mine.size):
            codes[c * k + j] = (abs(mine[j]) >= cut) + 2 * (mine[j] < 0)


@kernel
def pack_bits(numbers: Halves | Bytes, width: int, packed: Bytes) -> None:
    """Write numbers of `width` bits each one after the other, the lowest bits first.

    Args:
        numbers: `[K]`, below 2^width.
        width: 0 to 16.
        packed: `[ceil(K width / 8)]`, written; the last byte is filled up with zeros.
    """
    pending = np.int64(0)
    filled = at = 0
    for number in numbers:
        pending |= np.int64(number) << filled
        filled += width
        while filled >= 8:
            packed[at] = pending & 0xFF
            pending = pending >> np.int64(8)
            filled -= 8
            at += 1
    if filled:
        packed[at] = pending


@kernel
def unpack_bits(packed: Bytes, width: int, numbers: Halves | Bytes) -> int:
    """Undo `pack_bits`, and return the bits that are left over: zero, if it wrote them."""
    pending = np.int64(0)
    filled = at = 0
    for i in range(numbers.size):
        while filled < width:
            pending |= np.int64(packed[at]) << filled
            filled += 8
            at += 1
        numbers[i] = pending & ((1 << width) - 1)
        pending = pending >> np.int64(width)
        filled -= width
    return int(pending)


@kernel
def read_sparse(
    positions: Halves, values: Floats, chunk: int, k: int, into: Floats, frac: np.float32
) -> None:
    """Move `into` by `frac` of the way towards a vector that is zero but at the kept positions.

    Args:
        positions: `[K]`, each inside its chunk.
        values: `[K]`.
        chunk: Elements a chunk.
        k: Kept elements a chunk.
        into: `[n]`, written.
        frac: With 1 `into` is not read.
    """
    dense = np.zeros(min(chunk, into.size), np.float32)
    for c in range((into.size + chunk - 1) // chunk):
        first, last = c * k, min((c + 1) * k, positions.size)
        mine = into[c * chunk : (c + 1) * chunk]
        for j in range(first, last):
            dense[positions[j]] = values[j]
        for i in range(mine.size):
            land(mine, i, dense[i], frac)
        for j in range(first, last):
            dense[positions[j]] = 0
