"""What somebody measured: losses of DiLoCo and its relatives against data parallel, as data.

A figure is a part of the loss in nats: 0.01 is one per cent above data parallel's. Where a paper
prints perplexities, their logarithms are the losses.

Not used: DiLoCo's Table 2 (arXiv:2311.08105), where after 24,000 steps alone it beats data
parallel, whose rate was not tuned for that. SparseLoCo's authors claim to be better than DiLoCo
(arXiv:2508.15706), but we have read no table of theirs: only our own figure stands for it. The
same goes for CO2 (arXiv:2401.16265).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Study:
    """Where figures come from.

    Attributes:
        name: An arXiv id with the table, or a page of ours.
        conditions: What was trained, and how.
        noise_frac: How far a figure may be off: print rounding, or the spread of seeds.
    """

    name: str
    conditions: str
    noise_frac: float


SCALING = Study(
    "arXiv:2503.09799, Tables 4, 5",
    "DiLoCo, 35M to 10B, M to 8, H = 30, C4, 20 tokens a parameter",
    0.001,
)
STREAMING = Study(
    "arXiv:2501.18512, Tables 1, 5, 6",
    "Streaming DiLoCo, 35M to 4B, M = 2 and 4, H = 30 and 100, tau = 1, 4 bits",
    0.002,
)
DILOCO = Study(
    "arXiv:2311.08105, Sec. 3.1",
    "DiLoCo, 150M: perplexity 2.9 % higher with H = 1000 than with 50",
    0.002,
)
NOLOCO = Study(
    "arXiv:2506.10911, Table 2",
    "DiLoCo (H = 100) and NoLoCo (H = 50), 125M to 6.8B, M = 4 to 16, C4, 25,000 steps",
    0.002,
)
EAGER = Study(
    "arXiv:2502.12996",
    "eager updates, 1B, M = 2, 25 to 250 billion tokens; read in a summary",
    0.002,
)
OURS = Study(
    "docs/results.md, Convergence",
    "ours: 117 thousand parameters, M = 4, H = 30, only 80 rounds, three seeds",
    0.01,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A run of DiLoCo against data parallel.

    Attributes:
        num_params: Of the model.
        replicas: M.
        interval_steps: H.
        increase_frac: Of the loss: 0.01 is one per cent above data parallel's.
        study: Where it is from.
    """

    num_params: float
    replicas: int
    interval_steps: int
    increase_frac: float
    study: Study


@dataclass(frozen=True, slots=True)
class Difference:
    """A method against DiLoCo in the same study.

    Attributes:
        family: See `family_of`.
        num_params: Of the smallest model.
        low_frac, high_frac: Range of the increase of the loss.
        study: Where it is from.
    """

    family: str
    num_params: float
    low_frac: float
    high_frac: float
    study: Study


_BY_REPLICAS = {  # arXiv:2503.09799: loss of data parallel, and of DiLoCo with M = 2, 4 and 8
    35e6: (3.485, 3.508, 3.554, 3.621),
    90e6: (3.167, 3.182, 3.213, 3.265),
    180e6: (2.950, 2.957, 2.981, 3.019),
    335e6: (2.784, 2.788, 2.808, 2.841),
    550e6: (2.653, 2.657, 2.673, 2.698),
    1.3e9: (2.460, 2.464, 2.472, 2.493),
    2.4e9: (2.326, 2.323, 2.332, 2.351),
    4e9: (2.224, 2.220, 2.230),
    10e9: (2.090, 2.086, 2.096),
}
_BY_INTERVAL = {  # arXiv:2501.18512: data parallel; DiLoCo M = 2, H = 30; then streaming with
    # M = 2, H = 30; M = 2, H = 100; M = 4, H = 30; M = 4, H = 100
    35e6: (3.51, 3.54, 3.53, 3.56, 3.60, 3.64),
    100e6: (3.19, 3.21, 3.21, 3.22, 3.25, 3.29),
    200e6: (2.97, 2.98, 2.98, 3.00, 3.02, 3.05),
    300e6: (2.80, 2.81, 2.81, 2.83, 2.84, 2.87),
    500e6: (2.67, 2.68, 2.67, 2.69, 2.70, 2.73),
    1e9: (2.49, 2.49, 2.48, 2.50, 2.50, 2.53),
}
_PERPLEXITY = (  # arXiv:2506.10911, C4: size, replicas; perplexity with FSDP, DiLoCo and NoLoCo
    (125e6, 8, 29.1, 35.4, 34.5),
    (125e6, 4, 29.1, 32.1, 31.3),
    (125e6, 8, 29.1, 34.0, 33.1),
    (125e6, 16, 29.1, 39.1, 37.7),
    (1.3e9, 8, 18.8, 21.8, 21.1),
    (1.3e9, 16, 18.8, 23.2, 23.4),
    (1.3e9, 16, 18.8, 22.6, 22.9),
    (6.8e9, 16, 15.7, 17.3, 16.6),
)
_LATE_ROUND = (  # arXiv:2502.12996: eager; arXiv:2501.18512: an overlap of one step
    (2.69, 2.66),
    (2.53, 2.51),
    (2.46, 2.45),
)
_SLOPE_150M = 0.029 / math.log(15.02) / math.log(1000 / 50)  # arXiv:2311.08105
_OURS_DILOCO = 0.016
_OURS = {  # over DiLoCo
    "streaming": 0.011,
    "noloco": 0.016,
    "eager": 0.032,
    "co2": 0.037,
    "gossip-stream": 0.038,
    "sparseloco": 0.038,
}


def _figures() -> Iterator[Figure]:
    for size, (alone, *losses) in _BY_REPLICAS.items():
        for replicas, loss in zip((2, 4, 8), losses, strict=False):
            yield Figure(size, replicas, 30, loss / alone - 1, SCALING)
    for size, (alone, diloco, *_) in _BY_INTERVAL.items():
        yield Figure(size, 2, 30, diloco / alone - 1, STREAMING)
    for size, replicas, alone, diloco, _ in _PERPLEXITY:
        yield Figure(size, replicas, 100, math.log(diloco) / math.log(alone) - 1, NOLOCO)
    yield Figure(117_056, 4, 30, _OURS_DILOCO, OURS)


def _differences() -> Iterator[Difference]:
    fracs = [streaming / diloco - 1 for _, diloco, streaming, *_ in _BY_INTERVAL.values()]
    yield Difference("streaming", 35e6, min(fracs), max(fracs), STREAMING)
    # Their NoLoCo has half of their DiLoCo's interval, which is given back.
    half = [slope * math.log(2) for slope in interval_slopes(1e9)]
    fracs = [math.log(pairs) / math.log(all_) - 1 for *_, all_, pairs in _PERPLEXITY]
    yield Difference("noloco", 125e6, min(fracs) + min(half), max(fracs) + max(half), NOLOCO)
    fracs = [late / early - 1 for late, early in _LATE_ROUND]
    yield Difference("eager", 1e9, min(fracs), max(fracs), EAGER)
    for family, frac in _OURS.items():
        yield Difference(family, 117_056, 0.0, frac, OURS)


def interval_slopes(num_params: float) -> tuple[float, float]:
    """Return by how much the loss grows when H grows e-fold, at least and at most.

    From H = 30 to 100 at the nearest size, with M = 2 and 4 (arXiv:2501.18512), and from 50 to
    1000 with 150M (arXiv:2311.08105).
    """
    alone, _, two_30, two_100, four_30, four_100 = _BY_INTERVAL[_nearest(_BY_INTERVAL, num_params)]
    slopes = [
        later / alone / math.log(100 / 30) for later in (two_100 - two_30, four_100 - four_30)
    ]
    return min(*slopes, _SLOPE_150M), max(*slopes, _SLOPE_150M)


def replica_slopes(num_params: float) -> tuple[float, float]:
    """Return by how much the loss grows when M grows e-fold: from 2 to 8, and from 4 to 8."""
    sizes = [size for size, losses in _BY_REPLICAS.items() if len(losses) == 4]
    alone, two, four, eight = _BY_REPLICAS[_nearest(sizes, num_params)]
    slopes = (eight - two) / alone / math.log(4), (eight - four) / alone / math.log(2)
    return min(slopes), max(slopes)


def _nearest(sizes: Iterable[float], num_params: float) -> float:
    return min(sizes, key=lambda size: abs(math.log(size / num_params)))


FIGURES = tuple(_figures())
DIFFERENCES = tuple(_differences())
LATE = (2.46 / 2.45 - 1, _OURS["eager"])
"""What a whole round of delay costs: the least published, and what we measured."""
LONGEST = 1000
"""The largest H that was measured, in arXiv:2311.08105."""
