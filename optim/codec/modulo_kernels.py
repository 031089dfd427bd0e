"""The compiled loops of the modulo codec: one pass, a block measured and written at once.

**Symbols:** s = a block's scale, p = 2^bits s, its period, x = what is sent [n], `near` = what an
end holds [n].

**Exactness.** A lattice index may have 26 bits, more than an fp32, so none is ever formed. A number
is split into whole periods and a remainder, and the fma that does it is exact: the remainder is no
larger than the number, or than p, and has no finer last bit. Scales have 8 bits, so small multiples
of s are exact, and so are their sums. An index times s is rounded once, at the end. Whatever lies
next to the middle between two points therefore goes to the nearer one, as if all were exact (but
for the smallest scales, beneath 2^-100, where the errors are those of subnormal numbers).

**Tiles**, as in `optim.codec.kernels`. What is imported here comes from files that numba's cache
does not see: whoever edits it there touches this file as well.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from optim.codec.frame import LARGEST_VALUE
from optim.codec.kernels import (
    MAGNITUDE,
    TILE,
    Bytes,
    Floats,
    Halves,
    bits_of,
    f32,
    float_of,
    fma,
    i32,
    inline,
    kernel,
    land,
    u8,
    u64,
)

SCALE_BOUNDS = 0x0080, 0x7100
"""The bits of the smallest and of the largest bf16 that is a scale: 2^-126, and 2^99, which is
enough: no two encodable numbers are farther apart than 3.2 of them."""
FINEST = 2.0**-25
"""The smallest scale in units of the block's largest magnitude."""
BOUND = f32(LARGEST_VALUE)
UNIT = f32(1.5 * 2**23)
"""Beside it the unit is the last bit, so a sum with it is rounded to an integer, ties to even."""
ALL_PERIODS = f32(2**24)
"""Beyond so many, fp32 numbers are more than a period apart: the one next to a point is `near`."""


def _rint(_typing: Any, x: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        name, real = "llvm.rint", ir.FloatType()
        return builder.call(builder.module.declare_intrinsic(name, [real]), args)

    return types.float32(types.float32), generate


rint = cast("Callable[[Any], Any]", intrinsic(_rint))
"""The nearest integer, ties to even, as an fp32."""


@kernel
def write_mod4(
    x: Floats, near: Floats, block: int, widening: float, scales: Halves, codes: Bytes
) -> float:
    """Write residues of 4 bits, see `_write_blocks`."""
    return _write_blocks(4, x, near, block, widening, scales, codes)


@kernel
def write_mod8(
    x: Floats, near: Floats, block: int, widening: float, scales: Halves, codes: Bytes
) -> float:
    """Write residues of 8 bits, see `_write_blocks`."""
    return _write_blocks(8, x, near, block, widening, scales, codes)


@kernel
def read_mod4(
    scales: Halves, codes: Bytes, block: int, near: Floats, into: Floats, frac: np.float32
) -> None:
    """Move `into` [n] by `frac` of the way towards what `write_mod4` wrote, as next to `near`."""
    _read_blocks(4, scales, codes, block, near, into, frac)


@kernel
def read_mod8(
    scales: Halves, codes: Bytes, block: int, near: Floats, into: Floats, frac: np.float32
) -> None:
    """Move `into` [n] by `frac` of the way towards what `write_mod8` wrote, as next to `near`."""
    _read_blocks(8, scales, codes, block, near, into, frac)


@inline
def _write_blocks(
    bits: Any, x: Floats, near: Floats, block: int, widening: float, scales: Halves, codes: Bytes
) -> float:
    # Writes each block's scale, `widening` times how far x is from `near` in it, and its residues.
    # Returns the largest magnitude of x, or NaN; where that may not be encoded, what is written is
    # rubbish.
    num, num_bytes, top_of_all = u64(x.size), u64(0), i32(0)
    for i in range(u64(scales.size)):
        start = i * u64(block)
        stop = min(num, start + u64(block))
        distance, top = _measure(x, near, start, stop)
        top_of_all = max(top_of_all, top)
        wanted = max(np.float64(float_of(distance)) * widening, np.float64(float_of(top)) * FINEST)
        upward = i32(i32(bits_of(f32(wanted)) + i32(0xFFFF)) >> i32(16))
        upward = min(max(upward, i32(SCALE_BOUNDS[0])), i32(SCALE_BOUNDS[1]))
        scales[i] = upward
        scale = float_of(i32(upward << i32(16)))
        while start < stop:
            if stop - start >= TILE:
                _write_tile(bits, x, start, TILE, scale, codes, num_bytes)
            else:
                _write_tile(bits, x, start, stop - start, scale, codes, num_bytes)
            num_bytes += _tile_bytes(bits, min(stop - start, TILE))
            start += TILE
    return float_of(top_of_all)


@inline
def _read_blocks(
    bits: Any, scales: Halves, codes: Bytes, block: int, near: Floats, into: Floats, frac: Any
) -> None:
    num, num_bytes = u64(into.size), u64(0)
    tile = np.empty(TILE, np.float32)  # so that no loop writes what it reads: near may be into
    for i in range(u64(scales.size)):
        start = i * u64(block)
        stop = min(num, start + u64(block))
        scale = float_of(i32(i32(scales[i]) << i32(16)))
        while start < stop:
            if stop - start >= TILE:
                _read_tile(bits, codes, num_bytes, scale, near, into, start, TILE, frac, tile)
            else:
                _read_tile(
                    bits, codes, num_bytes, scale, near, into, start, stop - start, frac, tile
                )
            num_bytes += _tile_bytes(bits, min(stop - start, TILE))
            start += TILE


@inline
def _measure(x: Floats, near: Floats, start: Any, stop: Any) -> tuple[Any, Any]:
    # The bits of the largest |x - near| and of the largest |x|.
    distance = top = i32(0)
    while start < stop:
        if stop - start >= TILE:
            for j in range(TILE):
                distance = max(distance, i32(bits_of(x[start + j] - near[start + j]) & MAGNITUDE))
                top = max(top, i32(bits_of(x[start + j]) & MAGNITUDE))
        else:
            for j in range(stop - start):
                distance = max(distance, i32(bits_of(x[start + j] - near[start + j]) & MAGNITUDE))
                top = max(top, i32(bits_of(x[start + j]) & MAGNITUDE))
        start += TILE
    return distance, top


@inline
def _write_tile(
    bits: Any, x: Floats, start: Any, num: Any, scale: Any, codes: Bytes, at: Any
) -> None:
    inverse = f32(f32(1) / scale)
    if bits == 8:
        for j in range(num):
            codes[at + j] = u8(_residue(bits, x[start + j], scale, inverse))
        return
    pairs, half = num // u64(2), (num + u64(1)) // u64(2)
    for j in range(pairs):
        low = _residue(bits, x[start + j], scale, inverse)
        high = _residue(bits, x[start + half + j], scale, inverse)
        codes[at + j] = u8((low & i32(15)) | i32(high << i32(4)))
    if pairs < half:
        codes[at + pairs] = u8(_residue(bits, x[start + pairs], scale, inverse) & i32(15))


@inline
def _read_tile(
    bits: Any,
    codes: Bytes,
    at: Any,
    scale: Any,
    near: Floats,
    into: Floats,
    start: Any,
    num: Any,
    frac: Any,
    tile: Floats,
) -> None:
    inverse = f32(f32(1) / scale)
    if bits == 8:
        for j in range(num):
            tile[j] = _value(bits, i32(codes[at + j]), scale, inverse, near[start + j])
    else:
        pairs, half = num // u64(2), (num + u64(1)) // u64(2)
        for j in range(half):
            tile[j] = _value(bits, i32(codes[at + j]), scale, inverse, near[start + j])
        for j in range(pairs):
            code = i32(codes[at + j]) >> i32(4)
            tile[half + j] = _value(bits, code, scale, inverse, near[start + half + j])
    for j in range(num):
        land(into, start + j, tile[j], frac)


@inline
def _tile_bytes(bits: Any, num: Any) -> Any:
    return num if bits == 8 else (num + u64(1)) // u64(2)


@inline
def _quotient(x: Any, y: Any, inverse: Any) -> Any:
    # x / y as IEEE rounds it (Markstein 1990), where `inverse` is 1 / y, rounded. It only is the
    # middle between two small integers if x / y is, for that middle times y is an fp32.
    rough = x * inverse
    return fma(fma(-rough, y, x), inverse, rough)


@inline
def _residue(bits: Any, x: Any, scale: Any, inverse: Any) -> Any:
    # An i32 whose low bits are those of the lattice index nearest to x.
    period, inverse_period = scale * f32(1 << bits), inverse * f32(1 / (1 << bits))
    rest = fma(-rint(x * inverse_period), period, x)
    return bits_of(_quotient(rest, scale, inverse) + UNIT)


@inline
def _value(bits: Any, code: Any, scale: Any, inverse: Any, near: Any) -> Any:
    # The lattice point nearest to `near` whose index has the low bits of `code`.
    period, inverse_period = scale * f32(1 << bits), inverse * f32(1 / (1 << bits))
    half = period * f32(0.5)
    quotient = _quotient(near, period, inverse_period)
    periods = rint(quotient)
    rest = fma(-periods, period, near)
    signed = i32(i32(code << i32(32 - bits)) >> i32(32 - bits))
    point = f32(signed) * scale
    up = period if rest > point + half else f32(0)
    down = period if rest < point - half else f32(0)
    value = fma(periods, period, point + up - down)
    value = value if abs(quotient) < ALL_PERIODS else near  # also where it is a NaN
    return min(max(value, -BOUND), BOUND)
