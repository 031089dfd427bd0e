"""The compiled loops of the modulo codec: one pass, a block measured and written at once.

**Symbols:** s = a block's scale, p = 2^bits s, its period, x = what is sent [n], `near` = what an
end holds [n].

**Exactness.** A lattice index may have 26 bits, more than an fp32, so none is ever one. A number is
split into whole periods and a remainder, and the fma that does it is exact: the remainder is no
larger than the number, or than p, and has no finer last bit. Scales have 8 bits, so small multiples
of s are exact, and so are their sums. An index times s is rounded once, at the end. Whatever lies
next to the middle between two points therefore goes to the nearer one, as if all were exact (but
for the smallest scales, beneath 2^-100, where the errors are those of subnormal numbers).

**Checks.** A tile's is the upper half of the sum of its lattice indices, as i32, each times a
random number of its place, modulo 2^32. Of indices that are off by whole periods it is another one,
but for one case in 2^16 (test_a_tile_out_of_reach_is_detected_but_for_one_in_thirty_thousand).

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
    keys_of,
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


MIX = np.array([keys_of(256 + place)[0] | 1 for place in range(TILE)], np.uint32).view(np.int32)
"""Of each place in a tile, an odd number: part of the format. Drawn from 256 on, for with these one
or two elements that are off by up to two periods never pass the check."""


def _rint(_typing: Any, x: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        name, real = "llvm.rint", ir.FloatType()
        return builder.call(builder.module.declare_intrinsic(name, [real]), args)

    return types.float32(types.float32), generate


rint = cast("Callable[[Any], Any]", intrinsic(_rint))
"""The nearest integer, ties to even, as an fp32."""


@kernel
def write_mod4(
    x: Floats,
    near: Floats,
    block: int,
    widening: float,
    scales: Halves,
    checks: Halves,
    codes: Bytes,
) -> float:
    """Write residues of 4 bits, see `_write_blocks`."""
    return _write_blocks(4, x, near, block, widening, scales, checks, codes)


@kernel
def write_mod8(
    x: Floats,
    near: Floats,
    block: int,
    widening: float,
    scales: Halves,
    checks: Halves,
    codes: Bytes,
) -> float:
    """Write residues of 8 bits, see `_write_blocks`."""
    return _write_blocks(8, x, near, block, widening, scales, checks, codes)


@kernel
def read_mod4(
    scales: Halves,
    checks: Halves,
    codes: Bytes,
    block: int,
    near: Floats,
    into: Floats,
    frac: np.float32,
) -> tuple[float, float, float]:
    """Move `into` [n] by `frac` of the way towards what `write_mod4` wrote, see `_read_blocks`."""
    return _read_blocks(4, scales, checks, codes, block, near, into, frac)


@kernel
def read_mod8(
    scales: Halves,
    checks: Halves,
    codes: Bytes,
    block: int,
    near: Floats,
    into: Floats,
    frac: np.float32,
) -> tuple[float, float, float]:
    """Move `into` [n] by `frac` of the way towards what `write_mod8` wrote, see `_read_blocks`."""
    return _read_blocks(8, scales, checks, codes, block, near, into, frac)


@inline
def _write_blocks(
    bits: Any,
    x: Floats,
    near: Floats,
    block: int,
    widening: float,
    scales: Halves,
    checks: Halves,
    codes: Bytes,
) -> float:
    # Writes each block's scale, `widening` times how far x is from `near` in it, and its tiles'
    # checks and residues. Returns the largest magnitude of x, or NaN; where that may not be
    # encoded, what is written is rubbish.
    num, num_bytes, num_tiles, top_of_all = u64(x.size), u64(0), u64(0), i32(0)
    indices = np.empty(TILE, np.int32)
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
                check = _write_tile(bits, x, start, TILE, scale, indices, codes, num_bytes)
            else:
                check = _write_tile(bits, x, start, stop - start, scale, indices, codes, num_bytes)
            checks[num_tiles] = check
            num_tiles += u64(1)
            num_bytes += _tile_bytes(bits, min(stop - start, TILE))
            start += TILE
    return float_of(top_of_all)


@inline
def _read_blocks(
    bits: Any,
    scales: Halves,
    checks: Halves,
    codes: Bytes,
    block: int,
    near: Floats,
    into: Floats,
    frac: Any,
) -> tuple[Any, Any, Any]:
    # Tiles whose check is another one become `near`. Returns three sums of scales, a summand a
    # tile: of all; of those that became `near`; and of the others that have an element more than
    # a quarter of what is reached away.
    num, num_bytes, num_tiles = u64(into.size), u64(0), u64(0)
    total, missed, far = 0.0, 0.0, 0.0
    tile = np.empty(TILE, np.float32)  # so that no loop writes what it reads: near may be into
    indices = np.empty(TILE, np.int32)
    for i in range(u64(scales.size)):
        start = i * u64(block)
        stop = min(num, start + u64(block))
        scale = float_of(i32(i32(scales[i]) << i32(16)))
        while start < stop:
            size = min(stop - start, TILE)
            if size == TILE:
                check, away = _read_tile(
                    bits, codes, num_bytes, scale, near, start, TILE, tile, indices
                )
            else:
                check, away = _read_tile(
                    bits, codes, num_bytes, scale, near, start, size, tile, indices
                )
            total += scale
            if check != i32(checks[num_tiles]):
                missed += scale
                for j in range(size):
                    tile[j] = near[start + j]
            elif away > f32(1 << (bits - 3)) * scale:
                far += scale
            if size == TILE:
                for j in range(TILE):
                    land(into, start + j, tile[j], frac)
            else:
                for j in range(size):
                    land(into, start + j, tile[j], frac)
            num_tiles += u64(1)
            num_bytes += _tile_bytes(bits, size)
            start += TILE
    return total, missed, far


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
    bits: Any, x: Floats, start: Any, num: Any, scale: Any, indices: Any, codes: Bytes, at: Any
) -> Any:
    # Returns the check.
    inverse = f32(f32(1) / scale)
    for j in range(num):
        indices[j] = _index(bits, x[start + j], scale, inverse)
    if bits == 8:
        for j in range(num):
            codes[at + j] = u8(indices[j])
    else:
        pairs, half = num // u64(2), (num + u64(1)) // u64(2)
        for j in range(pairs):
            codes[at + j] = u8((indices[j] & i32(15)) | i32(indices[half + j] << i32(4)))
        if pairs < half:
            codes[at + pairs] = u8(indices[pairs] & i32(15))
    return _check(indices, num)


@inline
def _read_tile(
    bits: Any,
    codes: Bytes,
    at: Any,
    scale: Any,
    near: Floats,
    start: Any,
    num: Any,
    tile: Floats,
    indices: Any,
) -> tuple[Any, Any]:
    # Returns the check of what is decoded, and how far that is from `near` at most.
    inverse = f32(f32(1) / scale)
    if bits == 8:
        for j in range(num):
            tile[j], indices[j] = _point(bits, i32(codes[at + j]), scale, inverse, near[start + j])
    else:
        pairs, half = num // u64(2), (num + u64(1)) // u64(2)
        for j in range(half):
            tile[j], indices[j] = _point(bits, i32(codes[at + j]), scale, inverse, near[start + j])
        for j in range(pairs):
            code = i32(codes[at + j]) >> i32(4)
            tile[half + j], indices[half + j] = _point(
                bits, code, scale, inverse, near[start + half + j]
            )
    away = i32(0)
    for j in range(num):
        away = max(away, i32(bits_of(tile[j] - near[start + j]) & MAGNITUDE))
    return _check(indices, num), float_of(away)


@inline
def _check(indices: Any, num: Any) -> Any:
    # Of a tile's lattice indices, 16 bits of an i32.
    total = i32(0)
    for j in range(num):
        total = i32(total + i32(indices[j] * MIX[j]))
    return i32(total >> i32(16)) & i32(0xFFFF)


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
def _index(bits: Any, x: Any, scale: Any, inverse: Any) -> Any:
    # The lattice index nearest to x, an i32.
    period, inverse_period = scale * f32(1 << bits), inverse * f32(1 / (1 << bits))
    periods = rint(x * inverse_period)
    rest = fma(-periods, period, x)
    in_period = i32(bits_of(_quotient(rest, scale, inverse) + UNIT) - bits_of(UNIT))
    return i32(i32(i32(periods) << i32(bits)) + in_period)


@inline
def _point(bits: Any, code: Any, scale: Any, inverse: Any, near: Any) -> tuple[Any, Any]:
    # The lattice point nearest to `near` whose index has the low bits of `code`, and that index.
    period, inverse_period = scale * f32(1 << bits), inverse * f32(1 / (1 << bits))
    half = period * f32(0.5)
    quotient = _quotient(near, period, inverse_period)
    is_sane = abs(quotient) < ALL_PERIODS  # not if it is a NaN
    periods = rint(quotient) if is_sane else f32(0)
    rest = fma(-periods, period, near)
    signed = i32(i32(code << i32(32 - bits)) >> i32(32 - bits))
    point = f32(signed) * scale
    turns = i32(1 if rest > point + half else 0) - i32(1 if rest < point - half else 0)
    value = fma(periods, period, point + f32(turns) * period)
    value = value if is_sane else near
    index = i32(i32(i32(i32(periods) + turns) << i32(bits)) + signed)
    return min(max(value, -BOUND), BOUND), index
