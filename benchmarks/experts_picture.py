"""The picture of `benchmarks.experts`: who knows what, and what another division changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

from benchmarks.experts_figures import Bits, change
from peer.sim.style import BLUE, GREEN, GREY, GRID, ORANGE, PURPLE, heading, new_figure, save

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
_DPI = 110
_MOST_ABOVE = 1.5
"""Bits above the best of a column; from there on all have one colour."""


def draw(
    matrix: Mapping[str, Mapping[str, float]],
    arms: Mapping[str, Bits],
    baseline: Bits,
    *,
    num_own: int,
    path: Path,
    subtitle: str,
) -> None:
    """Writes the picture as PNG.

    Args:
        matrix: Bits per byte by predictor and domain; experts first, then ensembles.
        arms: What is compared with the baseline, by name.
        baseline: The equal division.
        num_own: How many of the domains are trained on; the others come after.
        path: Where.
        subtitle: What was trained.
    """
    figure = new_figure()
    grid = figure.add_gridspec(1, 2, width_ratios=(1.25, 1))
    domains = list(next(iter(matrix.values())))
    _draw_matrix(figure.add_subplot(grid[0]), matrix, domains, num_own)
    _draw_changes(figure.add_subplot(grid[1]), arms, baseline, domains, num_own)
    with matplotlib.rc_context({"savefig.dpi": _DPI}):
        save(figure, path, title="Domain experts at equal compute", subtitle=subtitle)


def _draw_matrix(
    axes: Axes, matrix: Mapping[str, Mapping[str, float]], domains: Sequence[str], num_own: int
) -> None:
    best = {domain: min(row[domain] for row in matrix.values()) for domain in domains}
    above = [[min(_MOST_ABOVE, row[d] - best[d]) for d in domains] for row in matrix.values()]
    axes.imshow(above, cmap="cividis", aspect="auto", vmin=0, vmax=_MOST_ABOVE)
    for y, row in enumerate(matrix.values()):
        for x, domain in enumerate(domains):
            is_dark = row[domain] - best[domain] < _MOST_ABOVE / 2
            words = f"{row[domain]:.2f}"
            colour = "white" if is_dark else "black"
            weight = "bold" if row[domain] == best[domain] else "normal"
            axes.text(
                x, y, words, ha="center", va="center", color=colour, fontsize=8, weight=weight
            )
    axes.set_xticks(range(len(domains)), domains, rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(len(matrix)), list(matrix), fontsize=9)
    axes.axvline(num_own - 0.5, color="white", lw=3)
    axes.axhline(num_own - 0.5, color="white", lw=3)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    heading(
        axes, "Who predicts what", "bits per byte of test text; brighter: further above the best"
    )


def _draw_changes(
    axes: Axes, arms: Mapping[str, Bits], baseline: Bits, domains: Sequence[str], num_own: int
) -> None:
    for number, (name, bits) in enumerate(arms.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        for y, domain in enumerate(domains):
            mean, least, greatest = (1000 * bit for bit in change(bits, baseline, domain))
            place = y + 0.16 * (number - (len(arms) - 1) / 2)
            axes.plot([least, greatest], [place, place], color=colour, lw=1.6, alpha=0.6)
            axes.plot(mean, place, "o", color=colour, ms=5, label=name if y == 0 else None)
    axes.axvline(0, color=GREY, lw=1.2)
    axes.axhline(num_own - 0.5, color=GREY, lw=1, ls=":")
    axes.set_yticks(range(len(domains)), domains, fontsize=9)
    axes.set_ylim(len(domains) - 0.5, -0.5)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_xlabel("thousandths of a bit per byte, less is better")
    axes.legend(fontsize=9, frameon=False, loc="best")
    heading(axes, "Other divisions against the equal one", "ensembles; dot: mean, line: all seeds")
