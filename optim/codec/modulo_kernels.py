"""The loops of the modulo codec. Compiled on first use.

**Symbols:** n = elements, B = blocks of `block` elements, the last one may be short. Lattice
indices are float64: those of fp32 numbers over a sensible scale are far below 2^53, and for a
senseless one nothing overflows.

`land` comes from another file, which numba's cache does not see: whoever edits it there touches
this file as well.
"""

import numpy as np
import numpy.typing as npt

from optim.codec.kernels import Bytes, Floats, kernel, land


@kernel
def measure_blocks(
    x: Floats,
    near: Floats,
    block: int,
    distances: npt.NDArray[np.float64],
    absmaxes: npt.NDArray[np.float64],
) -> None:
    """Write how far each block of `x` is from `near` at most, and its largest magnitude.

    Args:
        x: `[n]`.
        near: `[n]`.
        block: Elements a block.
        distances: `[B]`, written.
        absmaxes: `[B]`, written.
    """
    for b in range(distances.size):
        distance = absmax = 0.0
        for i in range(b * block, min((b + 1) * block, x.size)):
            distance = max(distance, abs(np.float64(x[i]) - np.float64(near[i])))
            absmax = max(absmax, abs(np.float64(x[i])))
        distances[b], absmaxes[b] = distance, absmax


@kernel
def write_residues(
    x: Floats,
    scales: Floats,
    block: int,
    bits: int,
    codes: Bytes,
) -> None:
    """Write the index of the lattice point next to each element, modulo 2^bits.

    Args:
        x: `[n]`.
        scales: `[B]`, positive.
        block: Elements a block.
        bits: 4 (two codes a byte, the lower four bits first) or 8.
        codes: `[ceil(n bits / 8)]`, zeros, written.
    """
    mask = (1 << bits) - 1
    for b in range(scales.size):
        scale = np.float64(scales[b])
        for i in range(b * block, min((b + 1) * block, x.size)):
            index = np.int64(np.rint(x[i] / scale))
            codes[i * bits >> 3] |= (index & mask) << (i * bits & 7)


@kernel
def read_residues(
    codes: Bytes,
    scales: Floats,
    block: int,
    bits: int,
    near: Floats,
    bound: float,
    into: Floats,
    frac: np.float32,
) -> None:
    """Move `into` by `frac` of the way towards each code's lattice point nearest to `near`.

    Args:
        codes: `[ceil(n bits / 8)]`, see `write_residues`.
        scales: `[B]`, positive.
        block: Elements a block.
        bits: 4 or 8.
        near: `[n]`.
        bound: The largest magnitude of what is decoded.
        into: `[n]`, written. May be `near`.
        frac: With 1 `into` is not read.
    """
    mask = (1 << bits) - 1
    period = np.float64(1 << bits)
    for b in range(scales.size):
        scale = np.float64(scales[b])
        for i in range(b * block, min((b + 1) * block, into.size)):
            code = np.float64((codes[i * bits >> 3] >> (i * bits & 7)) & mask)
            index = code + period * np.rint((near[i] / scale - code) / period)
            value = min(max(index * scale, -bound), bound)
            land(into, i, np.float32(value), frac)
