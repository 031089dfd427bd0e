"""The matrix of experts and texts as a picture.

Numbers are bits per byte; the colour is how much that is above the best of the column, as a text
that is hard for everybody says nothing about who knows it.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file, never a window

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from peer.experts.evaluation import Evaluation

_COLOURS = matplotlib.colormaps["cividis"]  # told apart with any colour vision
_GAP = 0.35
"""Between experts and ensembles, and between their own domains and unseen texts; in cells."""
_WORST = 1.0
"""From so many bits above the best on, all have one colour."""
_GREY = "#555555"


def draw(evaluation: Evaluation, labels: Sequence[str], path: Path) -> None:
    """Writes the picture as PNG.

    Args:
        evaluation: What it shows.
        labels: Of its rows.
        path: Where.
    """
    rows, columns = evaluation.rows, evaluation.columns
    longest = max(map(len, labels))
    names = max(len(column.name) for column in columns)
    width = 2.2 + 0.085 * longest + 0.78 * len(columns)
    height = 2.1 + 0.075 * names + 0.42 * len(rows)
    figure = Figure(figsize=(max(width, 5.5), max(height, 3.2)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    x = _places([column.is_unseen for column in columns])
    y = _places([row.kind != "expert" for row in rows])
    bits = [[row.bits_per_byte[column.name] for column in columns] for row in rows]
    best = [_least(column) for column in zip(*bits, strict=True)]
    top = min(_WORST, _greatest_above(bits, best)) or _WORST
    for row, y_place, values in zip(rows, y, bits, strict=True):
        for column, x_place, value, least in zip(columns, x, values, best, strict=True):
            _draw_cell(
                axes,
                (x_place, y_place),
                value,
                (value - least) / top,
                is_own=row.kind == "expert" and row.name == column.name,
            )
    _dress(axes, evaluation, labels, x, y)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, top), _COLOURS)
    is_clipped = _greatest_above(bits, best) > top
    bar = figure.colorbar(
        scale, ax=axes, shrink=0.9, aspect=30, pad=0.02, extend="max" if is_clipped else "neither"
    )
    bar.set_label("bits per byte above the column's best", fontsize=9)
    bar.outline.set_visible(False)
    figure.savefig(path, format="png", metadata={"Software": "thinwire experts eval"})


def _places(is_later: Sequence[bool]) -> list[float]:
    return [index + _GAP * later for index, later in enumerate(is_later)]


def _least(values: Sequence[float]) -> float:
    return min((value for value in values if math.isfinite(value)), default=math.nan)


def _greatest_above(bits: Sequence[Sequence[float]], best: Sequence[float]) -> float:
    above = [value - least for row in bits for value, least in zip(row, best, strict=True)]
    return max((each for each in above if math.isfinite(each)), default=0.0)


def _draw_cell(
    axes: Axes, place: tuple[float, float], value: float, above: float, *, is_own: bool
) -> None:
    """Draws one number on its colour; `above` is 0 for the best of the column."""
    x, y = place
    is_known = math.isfinite(value)
    red, green, blue, _ = _COLOURS(min(above, 1.0)) if is_known else (1.0, 1.0, 1.0, 1.0)
    axes.add_patch(
        Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=(red, green, blue), edgecolor="white", lw=1.5)
    )
    ink = "white" if red + green + blue < 1.5 else "black"
    axes.text(
        x,
        y,
        f"{value:.2f}" if is_known else "-",
        ha="center",
        va="center",
        fontsize=10,
        color=ink,
        fontweight="bold" if above == 0 else "normal",
    )
    if is_own:
        axes.add_patch(Rectangle((x - 0.43, y - 0.4), 0.86, 0.8, fill=False, ec=ink, lw=1.2))


def _dress(
    axes: Axes,
    evaluation: Evaluation,
    labels: Sequence[str],
    x: Sequence[float],
    y: Sequence[float],
) -> None:
    axes.set_xlim(-0.55, x[-1] + 0.55)
    axes.set_ylim(y[-1] + 0.55, -0.55)
    axes.set_xticks(
        x,
        [column.name for column in evaluation.columns],
        rotation=40,
        ha="left",
        rotation_mode="anchor",
    )
    axes.set_yticks(y, labels)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=10)
    axes.spines[:].set_visible(False)
    for is_unseen, words in ((False, "own domains"), (True, "unseen text")):
        of_kind = [
            place
            for place, column in zip(x, evaluation.columns, strict=True)
            if column.is_unseen == is_unseen
        ]
        if of_kind:
            middle = (of_kind[0] + of_kind[-1]) / 2
            axes.text(middle, y[-1] + 0.62, words, ha="center", va="top", color=_GREY, fontsize=9)
    axes.figure.suptitle("Bits per byte on held-out text", fontsize=12, fontweight="bold")
    axes.set_xlabel(
        "bold: best of its column    framed: the expert's own domain", labelpad=18, fontsize=9
    )
