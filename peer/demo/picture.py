"""The demo's picture: how the losses fell, and when the swarm was hurt."""

import math
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")  # a file, never a window

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peer.demo import script
from peer.demo.play import Play
from peer.demo.report import Report
from peer.demo.watch import Event

Series = tuple[list[float], list[float]]
"""Steps and values."""

COLOURS = {  # Okabe and Ito: told apart with any colour vision
    "peer-1": "#0072B2",
    "peer-2": "#E69F00",
    "peer-3": "#009E73",
    "peer-4": "#CC79A7",
}
_LONE = "#444444"
_SWARM = "#D55E00"
_SMOOTHED = 8
"""The lone replica reports so many times as often as a peer does."""
_WARM_UP_FRAC = 0.08
"""The first steps fall from 8 bits and would flatten all that follows: they are cut off."""


def draw(play: Play, report: Report, path: Path) -> None:
    """Writes the picture as PNG."""
    figure = Figure(figsize=(10, 5.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_training(axes, play)
    _draw_validation(axes, play, report)
    _draw_cues(axes, play)
    _dress(axes, play, report)
    figure.savefig(path, metadata={"Software": "thinwire demo"})


def _draw_training(axes: Axes, play: Play) -> None:
    for name, view in play.peers.items():
        xs, ys = _series(view.all("progress"), "loss_bits_per_byte")
        colour = COLOURS.get(name, _SWARM)
        label = {script.VICTIM: f"{name}, killed", script.NEWCOMER: f"{name}, joined late"}
        axes.plot(xs, ys, color=colour, lw=0.9, alpha=0.75, label=label.get(name, name))
        if name == script.VICTIM and xs:
            axes.plot(xs[-1], ys[-1], marker="X", ms=10, color=colour, mec="white", zorder=5)
        if name == script.NEWCOMER and xs:
            axes.plot(xs[0], ys[0], marker="o", ms=7, color=colour, mec="white", zorder=5)
    if play.lone:
        xs, ys = _series(_smoothed(play.lone.all("progress")), "loss_bits_per_byte")
        axes.plot(xs, ys, color=_LONE, lw=0.8, ls=(0, (2, 2)), alpha=0.6)


def _draw_validation(axes: Axes, play: Play, report: Report) -> None:
    end, alone = report.end_bits_per_byte, report.alone_bits_per_byte
    if play.lone:
        xs, ys = _with_last(_series(play.lone.all("evaluated"), "bits_per_byte"), play, alone)
        axes.plot(
            *(xs, ys), color=_LONE, lw=1.8, ls="--", marker="s", ms=4.5, mec="white", zorder=6,
            label="alone, validation",
        )  # fmt: skip
    points = _swarm_evaluations(play)
    xs, ys = _with_last(([x for x, _ in points], [y for _, y in points]), play, end)
    axes.plot(
        *(xs, ys), color=_SWARM, lw=1.8, marker="D", ms=5.5, mec="white", zorder=7,
        label="swarm's model, validation",
    )  # fmt: skip
    for value, other, colour in ((alone, end, _LONE), (end, alone, _SWARM)):
        if math.isfinite(value):
            is_upper = not value < other
            axes.annotate(
                f"{value:.3f}",
                xy=(play.steps, value),
                xytext=(8, 2 if is_upper else -2),
                textcoords="offset points",
                va="bottom" if is_upper else "top",
                color=colour,
                fontweight="bold",
                annotation_clip=False,
            )


def _with_last(series: Series, play: Play, last: float) -> Series:
    """Returns a series that ends with the final figure, which was measured on more text."""
    if not math.isfinite(last):
        return series
    kept = [(x, y) for x, y in zip(*series, strict=True) if x < 0.99 * play.steps]
    return [*(x for x, _ in kept), float(play.steps)], [*(y for _, y in kept), last]


def _swarm_evaluations(play: Play) -> list[tuple[float, float]]:
    """Returns step and loss of each evaluated round, the mean over its peers."""
    by_round: dict[int, list[Event]] = {}
    for view in play.peers.values():
        for event in view.all("evaluated"):
            by_round.setdefault(event["round"], []).append(event)
    return sorted(
        (fmean(e["step"] for e in same), fmean(e["bits_per_byte"] for e in same))
        for same in by_round.values()
    )


def _draw_cues(axes: Axes, play: Play) -> None:
    labels = {cue.name: cue.label for cue in script.CUES}
    for number, played in enumerate(sorted(play.played, key=lambda played: played.step)):
        step, elapsed_s = played.step, played.elapsed_s
        newcomer = play.peers.get(script.NEWCOMER)
        if played.cue == script.NEW_PEER.name and newcomer and newcomer.all("joined"):
            joined = newcomer.all("joined")[0]  # the process was started some seconds before
            step = joined["step"]
            elapsed_s += joined["t_unix_s"] - played.t_unix_s
        axes.axvline(step, color="#888888", lw=1, ls=":", zorder=1)
        axes.annotate(
            f"{labels[played.cue]}\nafter {elapsed_s:.0f} s",
            xy=(step, 0.99 - 0.1 * (number % 2)),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color="#333333",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            zorder=8,
        )


def _dress(axes: Axes, play: Play, report: Report) -> None:
    axes.set_xlim(0, play.steps * 1.01)
    heights = _heights(play, report)
    if heights:
        axes.set_ylim(min(heights) - 0.1, min(max(heights) + 0.25, 8.5))
    axes.set_xlabel("inner steps, on the run's count")
    axes.set_ylabel("bits per byte")
    axes.set_title(
        f"{report.method}: {report.end_bits_per_byte:.3f} bits/byte together, "
        f"{report.alone_bits_per_byte:.3f} alone, with {report.times_fewer_bytes:.0f} times "
        "fewer bytes than data parallel",
        loc="left",
        fontsize=11,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, fontsize=9)


def _heights(play: Play, report: Report) -> list[float]:
    """Returns all values that the picture has to have room for."""
    series = [_series(view.all("progress"), "loss_bits_per_byte") for view in play.peers.values()]
    points = _swarm_evaluations(play)
    series.append(([x for x, _ in points], [y for _, y in points]))
    if play.lone:
        series.append(_series(_smoothed(play.lone.all("progress")), "loss_bits_per_byte"))
    first = _WARM_UP_FRAC * play.steps
    heights = [y for xs, ys in series for x, y in zip(xs, ys, strict=True) if x >= first]
    return heights + [
        y for y in (report.end_bits_per_byte, report.alone_bits_per_byte) if math.isfinite(y)
    ]


def _series(events: list[Event], key: str) -> Series:
    """Returns steps and values, without those that are missing and steps that repeat."""
    points = {e["step"]: e[key] for e in events if math.isfinite(e.get(key) or math.nan)}
    return list(points), list(points.values())


def _smoothed(events: list[Event]) -> list[Event]:
    """Returns one event, with the mean of step and loss, for several."""
    key = "loss_bits_per_byte"
    groups = [events[i : i + _SMOOTHED] for i in range(0, len(events), _SMOOTHED)]
    return [
        {"step": fmean(e["step"] for e in group), key: fmean(e[key] for e in group)}
        for group in groups
    ]
