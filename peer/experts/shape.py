"""A model of about so many FLOPs for a token, in the proportions of another one.

The ladder: `dim` a multiple of 2 x heads, layers in proportion to it, rounded down or up, and
`ffn_dim` within an eighth of its proportion, there as near to the FLOPs as it gets (HDEE,
arXiv:2502.19385, varies `ffn_dim` alone). Heads, context, activation and tying stay. Of the rungs
within 1 % of what is asked for the one most like the base is taken, else the nearest one; so asking
for the base's own FLOPs gives the base.
"""

import math

from peer.experts.flops import flops_per_token
from protocol.models import ModelSpec

TOLERANCE_FRAC = 0.01
_FFN_SLACK = 1 / 8
_FFN_GRAIN = 8


def shape_near(base: ModelSpec, flops: float) -> ModelSpec:
    """Return the rung of the base's ladder for so many FLOPs of training one token.

    Args:
        base: Whose proportions.
        flops: Above 0.
    """
    grain = 2 * base.heads
    wide = base.dim * max(2.0, 2 * math.sqrt(flops / flops_per_token(base)))
    rungs = [
        _fitted(base, dim, layers, flops)
        for dim in range(grain, math.ceil(wide) + grain, grain)
        for layers in _layers_for(base, dim)
    ]

    def unlikeness(spec: ModelSpec) -> tuple[float, float, int]:
        error = abs(math.log(flops_per_token(spec) / flops))
        scale = spec.dim / base.dim
        depth = abs(math.log(spec.layers / (base.layers * scale)))
        ffn = abs(math.log(spec.ffn_dim / (base.ffn_dim * scale)))
        return max(error, TOLERANCE_FRAC), depth + ffn, spec.dim

    return min(rungs, key=unlikeness)


def _layers_for(base: ModelSpec, dim: int) -> set[int]:
    exact = base.layers * dim / base.dim
    return {max(1, math.floor(exact)), math.ceil(exact)}


def _fitted(base: ModelSpec, dim: int, layers: int, flops: float) -> ModelSpec:
    grain = _FFN_GRAIN if base.ffn_dim % _FFN_GRAIN == 0 else 1
    spec = base.model_copy(update={"dim": dim, "layers": layers, "ffn_dim": grain})
    narrow = flops_per_token(spec)
    for_one_grain = flops_per_token(spec.model_copy(update={"ffn_dim": 2 * grain})) - narrow
    usual = base.ffn_dim * dim / base.dim
    wished = grain * (1 + (flops - narrow) / for_one_grain)
    ffn_dim = min(max(wished, usual * (1 - _FFN_SLACK)), usual * (1 + _FFN_SLACK))
    return spec.model_copy(update={"ffn_dim": grain * max(1, round(ffn_dim / grain))})
