"""What does a codec cost beside a plain copy, and beside other people's codecs?

    python -m benchmarks.codec
    python -m benchmarks.codec --elements 1_000_000 --rounds 31    # out of the L3 cache

One thread. Each round times every contender once, so that whatever else the machine does hits all
alike; figures are medians over the rounds, in GB of fp32 a second. Encoding includes everything up
to the frame: scales, checks, memory (warm: what is freed is kept). Decoding adds into a running
mean, because that is what a reducer does: `accumulate` here, reduce op ADD in piquant, `extract`
and an addition in hivemind, which has no fused one. Ends with one JSON object.

The roof is memory. Decoding into a mean reads and writes all of it, 8 bytes an element; memcpy
moves as much, or 12 where a write first fetches its line. So nobody decodes faster than 1 to 1.5
times memcpy, nor encodes faster than 2 to 3 times, however fast the arithmetic. Each target says
how far from there we are: one that is farther away than the roof cannot be met.

The rival in 4 bits is piquant (`pip install pypiquant==4.1.0`), which is no dependency of this
project; hivemind's BLOCKWISE_8BIT needs `pip install bitsandbytes`. Who is missing is left out, and
the result says why.
"""

import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and its kind read it

import numpy as np
import torch
from hivemind.compression import (
    BlockwiseQuantization,
    CompressionInfo,
    Float16Compression,
    Uniform8BitQuantization,
    deserialize_torch_tensor,
    quantization,
)
from torch import Tensor

from benchmarks.machine import facts
from optim.codec.codec import Codec, codec_named

GB = 1e9
OURS = [
    ("fp32", "nearest"),
    ("bf16", "nearest"),
    ("fp16", "nearest"),
    ("int8", "nearest"),
    ("int8", "stochastic"),
    ("int4", "nearest"),
    ("int4", "stochastic"),
    ("e3m0", "nearest"),
]
HIVEMINDS = {
    "FLOAT16": Float16Compression(),
    "UNIFORM_8BIT": Uniform8BitQuantization(),
    "BLOCKWISE_8BIT": BlockwiseQuantization(),
}
# Hivemind 1.1.12 reads its counts in a way that numpy 2.4 refuses: int() of an array of one.
quantization.int = np.ndarray.item
TARGETS = [
    # what, ours, theirs, at least so many times as fast
    ("int4 encode v piquant params + quantize", "int4.encode", "piquant uint4.encode", 0.8),
    ("int4 accumulate v piquant dequantize ADD", "int4.decode", "piquant uint4.decode", 0.8),
    (
        "int4 stochastic encode v piquant's",
        "int4 stochastic.encode",
        "piquant uint4 stochastic.encode",
        4.0,
    ),
    *(
        (f"{name} {half} v hivemind {rival}", f"{name}.{half}", f"hivemind {rival}.{half}", 10.0)
        for name in ("int8", "int4", "e3m0")
        for half in ("encode", "decode")
        for rival in ("UNIFORM_8BIT", "BLOCKWISE_8BIT")
    ),
]


@dataclass(frozen=True)
class Contender:
    """One codec with its input and output in place."""

    name: str
    encode: Callable[[], Any]
    decode: Callable[[], Any]
    """Adds into a running mean."""
    restored: Callable[[], Tensor]
    """What comes out at the other end, for the error."""
    bits: float
    quantize: Callable[[], Any] | None = None
    """Encoding without finding its parameters, where that can be had."""


def ours(x: Tensor, mean: Tensor, name: str, rounding: str) -> Contender:
    """Returns one of our codecs."""
    codec: Codec = codec_named(name, rounding=rounding)
    frame = codec.encode(x)
    return Contender(
        name if rounding == "nearest" else f"{name} {rounding}",
        encode=lambda: codec.encode(x, seed=1),
        decode=lambda: codec.accumulate(frame, mean, 0.25),
        restored=lambda: codec.decode(frame, x.numel()),
        bits=8 * len(frame) / x.numel(),
    )


def piquants(x: Tensor, mean: Tensor) -> list[Contender]:
    """Returns piquant's codecs: one scale and zero point for the whole tensor."""
    import piquant

    context = piquant.Context(1)
    fp32, n = piquant.DataType.F32, x.numel()

    def contender(bits: int, rounding: str) -> Contender:
        dtype = piquant.DataType[f"UINT{bits}"]
        mode = piquant.RoundMode[rounding.upper()]
        codes = torch.zeros(-(-n * bits // 8), dtype=torch.uint8)

        def parameters() -> tuple[float, int]:
            found: tuple[float, int] = context.compute_quant_params_ptr_float32(
                x.data_ptr(), dtype, n
            )
            return found

        scale, zero = parameters()

        def quantize(scale: float = scale, zero: int = zero) -> None:
            context.quantize_ptr(x.data_ptr(), fp32, codes.data_ptr(), dtype, n, scale, zero, mode)

        def dequantize(into: Tensor, op: Any) -> Tensor:
            context.dequantize_ptr(
                codes.data_ptr(), dtype, into.data_ptr(), fp32, n, scale, zero, op
            )
            return into

        quantize()
        return Contender(
            f"piquant uint{bits}" + ("" if rounding == "nearest" else f" {rounding}"),
            encode=lambda: quantize(*parameters()),
            decode=lambda: dequantize(mean, piquant.ReduceOp.ADD),
            restored=lambda: dequantize(torch.empty_like(x), piquant.ReduceOp.SET),
            bits=bits,
            quantize=quantize,
        )

    return [contender(bits, rounding) for bits in (8, 4) for rounding in ("nearest", "stochastic")]


def hiveminds(x: Tensor, mean: Tensor, name: str) -> Contender:
    """Returns one of hivemind's codecs, as its averager uses it."""
    codec = HIVEMINDS[name]
    info = CompressionInfo.from_tensor(x)
    message = codec.compress(x, info)
    return Contender(
        f"hivemind {name}",
        encode=lambda: codec.compress(x, info),
        decode=lambda: mean.add_(deserialize_torch_tensor(message)),
        restored=lambda: deserialize_torch_tensor(message),
        bits=8 * len(message.buffer) / x.numel(),
    )


def contenders(x: Tensor) -> tuple[list[Contender], dict[str, str]]:
    """Returns who is here, warm, and why the others are not."""
    mean = torch.zeros_like(x)
    found = [ours(x, mean, name, rounding) for name, rounding in OURS]
    missing = {}
    try:
        found += piquants(x, mean)
    except ImportError as error:
        missing["piquant"] = f"{error}; pip install pypiquant==4.1.0"
    for name in HIVEMINDS:
        try:
            found.append(hiveminds(x, mean, name))
        except ImportError as error:
            missing[f"hivemind {name}"] = " ".join(str(error).split())
    return found, missing


def keep_freed_memory() -> None:
    """Makes glibc reuse memory, for all alike: page faults would be half of what is measured."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: nothing is mapped apart
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: nothing is given back


def seconds(action: Callable[[], Any]) -> float:
    """Returns how long it took."""
    began_s = time.perf_counter()
    action()
    return time.perf_counter() - began_s


def measured(x: Tensor, found: list[Contender], rounds: int) -> dict[str, dict[str, float]]:
    """Returns rates, errors and sizes by name."""
    actions: dict[str, Callable[[], Any]] = {}
    copy = torch.empty_like(x)
    actions["memcpy.encode"] = lambda: copy.copy_(x)
    for one in found:
        actions |= {f"{one.name}.encode": one.encode, f"{one.name}.decode": one.decode}
        if one.quantize is not None:
            actions[f"{one.name}.quantize"] = one.quantize
    times_s: dict[str, list[float]] = {name: [] for name in actions}
    for i in range(-1, rounds):  # one more, to warm up
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
        for name, action in actions.items():
            took_s = seconds(action)
            if i >= 0:
                times_s[name].append(took_s)
    table: dict[str, dict[str, float]] = {}
    for name, took in times_s.items():
        who, _, what = name.rpartition(".")
        rate = 4 * x.numel() / statistics.median(took) / GB
        table.setdefault(who, {})[f"{what}_gb_per_s"] = round(rate, 3)
    for one in found:
        error = float((one.restored() - x).norm() / x.norm())
        table[one.name] |= {"bits": round(one.bits, 3), "rms_error": round(error, 6)}
    return table


def verdicts(table: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Returns how many times as fast we are, and whether that was the target."""
    result = {}
    for what, mine, theirs, target in TARGETS:
        (me, half), (they, _) = mine.rsplit(".", 1), theirs.rsplit(".", 1)
        if they in table:
            column = f"{half}_gb_per_s"
            ratio = table[me][column] / table[they][column]
            result[what] = {
                "ratio": round(ratio, 2),
                "target": target,
                "met": ratio >= target,
                "of_memcpy": round(table[me][column] / table["memcpy"]["encode_gb_per_s"], 2),
            }
    return result


def show(table: dict[str, dict[str, float]], targets: dict[str, dict[str, Any]]) -> None:
    """Prints both as tables."""
    columns = ["bits", "rms_error", "encode_gb_per_s", "quantize_gb_per_s", "decode_gb_per_s"]
    print("".join(f"{column:>19}" for column in ["", *columns]))
    for name, row in table.items():
        cells = (f"{row[c]:.5g}" if c in row else "" for c in columns)
        print(f"{name:>27}" + "".join(f"{c:>19}" for c in cells)[8:])
    print()
    for what, verdict in targets.items():
        met = "met" if verdict["met"] else "MISSED"
        of_memcpy = f"{verdict['of_memcpy']:.2f} of memcpy"
        print(f"{verdict['ratio']:8.2f} x {met:>7} {verdict['target']:4g}, {of_memcpy}: {what}")


def main() -> None:
    """Measures, prints tables and then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=25_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    machine = facts()
    x = torch.randn(options.elements, generator=torch.Generator().manual_seed(0))
    found, missing = contenders(x)
    table = measured(x, found, options.rounds)
    targets = verdicts(table)
    show(table, targets)
    result = {
        "benchmark": "codec",
        "machine": machine,
        "elements": options.elements,
        "rounds": options.rounds,
        "codecs": table,
        "targets": targets,
        "missing": missing,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
