"""The compiled loops of the codecs: one thread, one pass, at the speed of memory.

All loops are elementwise or an integer maximum, so they vectorize without fast-math and give the
same bits on every machine: nothing is contracted but the `fma` that is written here. Magnitudes
are compared as the bits of floats, where infinity and NaN are simply the largest.

**Tiles.** A block is a row of tiles of 64 elements and what is left. Whole tiles are compiled with
64 as a constant (several times faster than a loop of unknown length), and all indices are unsigned
(numba would ask each signed one whether it counts from the end).

**One file.** Numba's cache knows the file of a function, not the files of what it calls. Compiled
functions that call each other across files would stay as they were when only one of them changes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])
Floats: TypeAlias = npt.NDArray[np.float32]
Halves: TypeAlias = npt.NDArray[np.uint16]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Keys: TypeAlias = tuple[np.uint32, np.uint32]
f32, i32, u32, u64, u8 = np.float32, np.int32, np.uint32, np.uint64, np.uint8

INT8, INT4, E3M0 = 0, 1, 2
"""Kinds of blocks."""
BF16_MAX, FP16_MAX = 0x7149, 0x7BFF
"""The bits of the largest bf16 that is no more than `LARGEST_VALUE`, and of the largest fp16."""
TILE = u64(64)
MAGNITUDE = i32(0x7FFFFFFF)
SQRT_2 = f32(2**0.5)


def kernel(function: F) -> F:
    """Compile a function that Python calls; it gives up the interpreter's lock."""
    return cast("F", njit(nogil=True, cache=True, error_model="numpy")(function))


def inline(function: F) -> F:
    """Compile a function into the kernels that call it."""
    return cast("F", njit(nogil=True, error_model="numpy", forceinline=True)(function))


def _bits_of(_typing: Any, x: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


def _float_of(_typing: Any, x: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


def _fma(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


bits_of = cast("Callable[[Any], Any]", intrinsic(_bits_of))
"""The bits of an fp32 as an int32."""
float_of = cast("Callable[[Any], float]", intrinsic(_float_of))
"""The fp32 of these bits, an int32."""
fma = cast("Callable[[Any, Any, Any], Any]", intrinsic(_fma))
"""a * b + c, rounded once."""


@inline
def lerp(start: Any, end: Any, frac: Any) -> Any:
    """Return what `torch.lerp` does, to the bit on every CPU with an fma."""
    if frac < f32(0.5):
        return fma(frac, end - start, start)
    return fma(frac - f32(1), end - start, end)


@inline
def land(into: Floats, i: Any, value: Any, frac: Any) -> None:
    """Move one element towards `value`; frac = 1 never reads it."""
    into[i] = value if frac == f32(1) else lerp(into[i], value, frac)


@inline
def dither(index: Any, keys: Keys) -> Any:
    """Return 32 random bits of an element: Wellons' lowbias32 of a counter, u32."""
    h = u32(u32(index) ^ keys[0])
    h = u32(u32(h ^ (h >> u32(16))) * u32(0x21F0AAAD))
    h = u32(u32(h ^ (h >> u32(15))) * u32(0x735A2D97))
    return u32(u32(h ^ (h >> u32(15))) + keys[1])


def keys_of(seed: int) -> Keys:
    """Return the keys of `dither` for a 64-bit seed: Steele's splitmix64."""
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return u32(z & 0xFFFFFFFF), u32(z >> 32)


# ---- blocks


@kernel
def write_int8(
    x: Floats,
    block: int,
    is_stochastic: bool,
    keys: Keys,
    bounds: Any,
    scales: Halves,
    codes: Bytes,
) -> float:
    """Quantize to 8 bits, see `_write_blocks`."""
    if is_stochastic:
        return _write_blocks(INT8, True, x, block, keys, bounds, scales, codes)
    return _write_blocks(INT8, False, x, block, keys, bounds, scales, codes)


@kernel
def write_int4(
    x: Floats,
    block: int,
    is_stochastic: bool,
    keys: Keys,
    bounds: Any,
    scales: Halves,
    codes: Bytes,
) -> float:
    """Quantize to 4 bits, see `_write_blocks`."""
    if is_stochastic:
        return _write_blocks(INT4, True, x, block, keys, bounds, scales, codes)
    return _write_blocks(INT4, False, x, block, keys, bounds, scales, codes)


@kernel
def write_e3m0(
    x: Floats,
    block: int,
    is_stochastic: bool,
    keys: Keys,
    bounds: Any,
    scales: Halves,
    codes: Bytes,
) -> float:
    """Quantize to signs and exponents, to the nearest, see `_write_blocks`."""
    return _write_blocks(E3M0, False, x, block, keys, bounds, scales, codes)


@kernel
def read_int8(scales: Halves, codes: Bytes, block: int, into: Floats, frac: np.float32) -> None:
    """Move `into` [n] by `frac` of the way towards what `write_int8` wrote."""
    _read_blocks(INT8, scales, codes, block, into, frac)


@kernel
def read_int4(scales: Halves, codes: Bytes, block: int, into: Floats, frac: np.float32) -> None:
    """Move `into` [n] by `frac` of the way towards what `write_int4` wrote."""
    _read_blocks(INT4, scales, codes, block, into, frac)


@kernel
def read_e3m0(scales: Halves, codes: Bytes, block: int, into: Floats, frac: np.float32) -> None:
    """Move `into` [n] by `frac` of the way towards what `write_e3m0` wrote."""
    _read_blocks(E3M0, scales, codes, block, into, frac)


@inline
def _write_blocks(
    kind: Any,
    is_stochastic: Any,
    x: Floats,
    block: int,
    keys: Keys,
    bounds: Any,
    scales: Halves,
    codes: Bytes,
) -> float:
    # Quantizes x [n] into `scales`, the bits of bf16 within `bounds`, and `codes`. Returns the
    # largest magnitude of x, or NaN; where that may not be encoded, what is written is rubbish.
    largest = f32(127) if kind == INT8 else f32(7) if kind == INT4 else f32(1)
    num, num_bytes, top_of_all = u64(x.size), u64(0), i32(0)
    for i in range(u64(scales.size)):
        start = i * u64(block)
        stop = min(num, start + u64(block))
        top = _absmax_bits(x, start, stop)
        top_of_all = max(top_of_all, top)
        absmax = float_of(top)
        bits = _bf16_bits(bits_of(f32(absmax / largest)), is_stochastic)
        bits = min(max(bits, i32(bounds[0] << 16)), i32(bounds[1] << 16))
        scales[i] = bits >> i32(16)
        scale = float_of(i32(bits))
        if kind == E3M0:
            inverse = f32(SQRT_2 / scale)
        elif is_stochastic:  # absmax is only beyond where the bounds hold the scale down
            inverse = f32(largest / f32(max(f32(absmax), f32(largest * scale))))
        else:
            inverse = f32(f32(1) / scale)
        while start < stop:
            if stop - start >= TILE:
                _write_tile(kind, is_stochastic, x, start, TILE, inverse, keys, codes, num_bytes)
            else:
                rest = stop - start
                _write_tile(kind, is_stochastic, x, start, rest, inverse, keys, codes, num_bytes)
            num_bytes += _tile_bytes(kind, min(stop - start, TILE))
            start += TILE
    return float_of(top_of_all)


@inline
def _read_blocks(
    kind: Any, scales: Halves, codes: Bytes, block: int, into: Floats, frac: Any
) -> None:
    num, num_bytes = u64(into.size), u64(0)
    for i in range(u64(scales.size)):
        start = i * u64(block)
        stop = min(num, start + u64(block))
        scale = float_of(i32(i32(scales[i]) << i32(16)))
        while start < stop:
            if stop - start >= TILE:
                _read_tile(kind, codes, num_bytes, scale, into, start, TILE, frac)
            else:
                _read_tile(kind, codes, num_bytes, scale, into, start, stop - start, frac)
            num_bytes += _tile_bytes(kind, min(stop - start, TILE))
            start += TILE


@inline
def _write_tile(
    kind: Any,
    is_stochastic: Any,
    x: Floats,
    start: Any,
    num: Any,
    inverse: Any,
    keys: Keys,
    codes: Bytes,
    at: Any,
) -> None:
    # Byte j of a tile of nibbles has element j below and element half + j above.
    if kind == INT8:
        for j in range(num):
            random = dither(start + j, keys) >> u32(16) if is_stochastic else u32(0)
            codes[at + j] = u8(_code(kind, is_stochastic, x[start + j], inverse, random))
        return
    pairs, half = num // u64(2), (num + u64(1)) // u64(2)
    for j in range(pairs):
        random = dither(at + j, keys) if is_stochastic else u32(0)
        low = _code(kind, is_stochastic, x[start + j], inverse, random & u32(0xFFFF))
        high = _code(kind, is_stochastic, x[start + half + j], inverse, random >> u32(16))
        codes[at + j] = u8(low + i32(high << i32(4)))
    if pairs < half:
        random = dither(at + pairs, keys) if is_stochastic else u32(0)
        last = x[start + pairs]
        codes[at + pairs] = u8(_code(kind, is_stochastic, last, inverse, random & u32(0xFFFF)))


@inline
def _read_tile(
    kind: Any, codes: Bytes, at: Any, scale: Any, into: Floats, start: Any, num: Any, frac: Any
) -> None:
    if kind == INT8:
        for j in range(num):
            land(into, start + j, _value(kind, codes[at + j], scale), frac)
        return
    pairs, half = num // u64(2), (num + u64(1)) // u64(2)
    for j in range(pairs):
        byte = codes[at + j]
        land(into, start + j, _value(kind, byte & 15, scale), frac)
        land(into, start + half + j, _value(kind, byte >> 4, scale), frac)
    if pairs < half:
        land(into, start + pairs, _value(kind, codes[at + pairs] & 15, scale), frac)


@inline
def _tile_bytes(kind: Any, num: Any) -> Any:
    return num if kind == INT8 else (num + u64(1)) // u64(2)


@inline
def _code(kind: Any, is_stochastic: Any, x: Any, inverse: Any, random: Any) -> Any:
    # An i32 whose low byte is the code.
    if kind == E3M0:
        return _nearest_power(x, inverse)
    if is_stochastic:
        # zero + (r + 1/2) / 2^16, or with 14 bits where fp32 has only 16 after the point.
        if kind == INT8:
            dithered = float_of(i32(random & u32(0xFFFC)) | i32(0x43000002))
        else:
            dithered = float_of(i32(random << u32(4)) | i32(0x41000008))
        return i32(fma(x, inverse, dithered))
    # Beside 2^23 the unit is the last bit, so the low byte of the sum is the code, ties to even.
    zero = f32(8388608 + 128) if kind == INT8 else f32(8388608 + 8)
    return i32(bits_of(fma(x, inverse, zero)))


@inline
def _value(kind: Any, code: Any, scale: Any) -> Any:
    if kind == E3M0:
        exponent = i32(code) & i32(7)
        power = i32(bits_of(scale) + i32((exponent - i32(7)) << i32(23)))
        sign = i32((i32(code) & i32(8)) << i32(28))
        return float_of(i32((power if exponent > i32(0) else i32(0)) | sign))
    # Code 0, which nobody writes, reads as code 1: no value is beyond the block's largest.
    zero = i32(128) if kind == INT8 else i32(8)
    return f32(f32(max(i32(code), i32(1)) - zero) * scale)


@inline
def _nearest_power(x: Any, inverse: Any) -> Any:
    # sqrt(2) |x| / s has the exponent of the nearest power, and from s 2^-7 on s 2^-6 beats 0.
    bits = bits_of(x)
    ratio = bits_of(f32(float_of(i32(bits & MAGNITUDE)) * inverse))
    least = i32(1) if ratio >= i32(0x3C3504F3) else i32(0)  # sqrt(2) 2^-7
    return max(i32((ratio >> i32(23)) - i32(120)), least) | i32((bits >> i32(28)) & i32(8))


@inline
def _absmax_bits(x: Floats, start: Any, stop: Any) -> Any:
    top = i32(0)
    while start < stop:
        if stop - start >= TILE:
            for j in range(TILE):
                top = max(top, i32(bits_of(x[start + j]) & MAGNITUDE))
        else:
            for j in range(stop - start):
                top = max(top, i32(bits_of(x[start + j]) & MAGNITUDE))
        start += TILE
    return top


@inline
def _bf16_bits(bits: Any, is_upward: Any) -> Any:
    # A positive fp32 rounded to a bf16: upwards, or to the nearest and to even.
    step = i32(0xFFFF) if is_upward else i32(0x7FFF) + i32((bits >> i32(16)) & i32(1))
    return i32(i32(bits + step) & i32(-65536))


# ---- floats


@kernel
def write_fp32(x: Floats, out: Floats) -> float:
    """Copy `x`, and return its largest magnitude, or NaN."""
    top = i32(0)
    for i in range(u64(x.size)):
        top = max(top, i32(bits_of(x[i]) & MAGNITUDE))
        out[i] = x[i]
    return float_of(top)


@kernel
def write_bf16(x: Floats, out: Halves) -> float:
    """Round `x` to bf16, to even, at most `BF16_MAX`, and return its largest magnitude, or NaN."""
    top = i32(0)
    for i in range(u64(x.size)):
        magnitude = i32(bits_of(x[i]) & MAGNITUDE)
        top = max(top, magnitude)
        code = min(_bf16_bits(magnitude, False) >> i32(16), i32(BF16_MAX))
        out[i] = code | ((bits_of(x[i]) >> i32(16)) & i32(0x8000))
    return float_of(top)


@kernel
def write_fp16(x: Floats, out: Halves) -> float:
    """Round `x` to fp16, to even, at most 65504, and return its largest magnitude, or NaN."""
    top = i32(0)
    for i in range(u64(x.size)):
        magnitude = i32(bits_of(x[i]) & MAGNITUDE)
        top = max(top, magnitude)
        step = i32(0xFFF) + ((magnitude >> i32(13)) & i32(1)) - i32(112 << 23)
        normal = i32(min(magnitude, i32(0x477FE000)) + step) >> i32(13)
        # Beside 1/2 the last bit is 2^-24, the step of fp16 below 2^-14.
        small = i32(bits_of(float_of(min(magnitude, i32(0x38800000))) + f32(0.5)) - i32(0x3F000000))
        code = small if magnitude < i32(0x38800000) else normal
        out[i] = code | ((bits_of(x[i]) >> i32(16)) & i32(0x8000))
    return float_of(top)


@kernel
def read_fp32(values: Floats, into: Floats, frac: np.float32) -> None:
    """Move `into` by `frac` of the way towards `values`."""
    for i in range(u64(into.size)):
        land(into, i, values[i], frac)


@kernel
def read_bf16(codes: Halves, into: Floats, frac: np.float32) -> None:
    """Move `into` by `frac` of the way towards what `write_bf16` wrote."""
    for i in range(u64(into.size)):
        land(into, i, float_of(i32(i32(codes[i]) << i32(16))), frac)


@kernel
def read_fp16(codes: Halves, into: Floats, frac: np.float32) -> None:
    """Move `into` by `frac` of the way towards what `write_fp16` wrote."""
    for i in range(u64(into.size)):
        magnitude = i32(codes[i]) & i32(0x7FFF)
        normal = float_of(i32((magnitude << i32(13)) + i32(112 << 23)))
        value = f32(magnitude) * f32(2.0**-24) if magnitude < i32(0x400) else normal
        sign = i32((i32(codes[i]) & i32(0x8000)) << i32(16))
        land(into, i, float_of(i32(bits_of(value) | sign)), frac)


@kernel
def largest_fp32(values: Floats) -> float:
    """Return the largest magnitude, or NaN."""
    top = i32(0)
    for i in range(u64(values.size)):
        top = max(top, i32(bits_of(values[i]) & MAGNITUDE))
    return float_of(top)


@kernel
def largest_half(codes: Halves) -> int:
    """Return the largest code but for the sign: of bf16 or fp16, the code of the largest."""
    top = np.uint16(0)
    for i in range(u64(codes.size)):
        top = max(top, np.uint16(codes[i] & np.uint16(0x7FFF)))
    return int(top)
