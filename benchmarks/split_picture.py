"""The picture of `benchmarks.split`: losses of both halves, and how far all replicas are apart."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from peer.sim.style import BLUE, GREY, GRID, ORANGE, PURPLE, heading, new_figure, save, time_unit

Pair = tuple[dict[str, Any], dict[str, Any]]
"""A swarm that was cut, and the same one that was not."""

_WARM_UP_FRAC = 0.1
"""The first losses would flatten all that follows."""


def draw(pairs: Sequence[Pair], path: Path) -> None:
    """Writes the picture as PNG: a column a method, of the first seed."""
    seed = pairs[0][0]["trial"]["seed"]
    pairs = [pair for pair in pairs if pair[0]["trial"]["seed"] == seed]
    trial = pairs[0][0]["trial"]
    figure = new_figure()
    grid = figure.add_gridspec(2, len(pairs), height_ratios=(1.15, 1))
    losses = [figure.add_subplot(grid[0, column]) for column in range(len(pairs))]
    spreads = [figure.add_subplot(grid[1, column]) for column in range(len(pairs))]
    end_s = trial["before_s"] + trial["split_s"] + trial["after_s"]
    time_s, unit = time_unit(end_s)
    for axes, (cut, uncut) in zip(losses, pairs, strict=True):
        _draw_loss(axes, cut, uncut, time_s)
    for axes, (cut, uncut) in zip(spreads, pairs, strict=True):
        _draw_spread(axes, cut, uncut, time_s)
    _share_heights(losses)
    for axes in (*losses, *spreads):
        heals_s = trial["before_s"] + trial["split_s"]
        axes.axvspan(trial["before_s"] / time_s, heals_s / time_s, color=PURPLE, alpha=0.12, lw=0)
        axes.set_xlim(0, end_s / time_s)
        axes.set_xlabel(unit)
        axes.grid(axis="y", color=GRID, lw=0.8)
    losses[0].set_ylabel("bits per byte")
    spreads[0].set_ylabel("% of the parameters' norm")
    losses[0].legend(loc="upper right", fontsize=9, frameon=False)
    spreads[0].legend(loc="upper left", fontsize=9, frameon=False)
    title = f"{trial['peers']} peers, cut in two for {trial['split_s'] / 60:g} minutes"
    save(figure, path, title=title, subtitle="shaded: neither half can reach the other")


def _draw_loss(axes: Axes, cut: dict[str, Any], uncut: dict[str, Any], time_s: float) -> None:
    half = cut["trial"]["peers"] // 2
    for name, colour, part in (
        ("one half", BLUE, slice(None, half)),
        ("the other", ORANGE, slice(half, None)),
    ):
        points = [(k["t_s"] / time_s, fmean(k["losses"][part])) for k in _evaluated(cut)]
        axes.plot(*zip(*points, strict=True), color=colour, lw=1.6, label=name)
    points = [(k["t_s"] / time_s, fmean(k["losses"])) for k in _evaluated(uncut)]
    axes.plot(*zip(*points, strict=True), color=GREY, lw=1.2, ls="--", label="never cut")
    figures = f"{cut['loss']:.3f} in the end, {uncut['loss']:.3f} if never cut"
    heading(axes, f"{cut['trial']['method']}: loss", figures)


def _draw_spread(axes: Axes, cut: dict[str, Any], uncut: dict[str, Any], time_s: float) -> None:
    for result, colour, line, name in (
        (uncut, GREY, "--", "never cut"),
        (cut, PURPLE, "-", "largest distance of two"),
    ):
        points = [(look["t_s"] / time_s, 100 * look["spread"]) for look in result["looks"]]
        axes.plot(*zip(*points, strict=True), color=colour, lw=1.2, ls=line, label=name)
    axes.axhline(150 * cut["level"], color="black", lw=1, ls=":", label="1.5 times before")
    axes.set_ylim(0, 135 * max(look["spread"] for look in cut["looks"]))
    over = cut["over"]
    words = f"{over['rounds']:.1f} rounds" if over else "not within this time"
    heading(axes, "How far replicas are apart", f"as before after: {words}")


def _evaluated(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [look for look in result["looks"] if look["losses"]]


def _share_heights(all_axes: Sequence[Axes]) -> None:
    heights = []
    for axes in all_axes:
        for line in axes.lines:
            ys = list(line.get_ydata())
            heights += ys[int(_WARM_UP_FRAC * len(ys)) :]
    room = 0.06 * (max(heights) - min(heights))
    for axes in all_axes:
        axes.set_ylim(min(heights) - room, max(heights) + 2 * room)
