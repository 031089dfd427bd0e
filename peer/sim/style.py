"""What the simulator's pictures have in common."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file, never a window

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe and Ito: told apart with any colour vision.
BLUE, GREEN, PURPLE, SKY = "#0072B2", "#009E73", "#CC79A7", "#56B4E9"
ORANGE, YELLOW, RED, GREY = "#E69F00", "#F0E442", "#D55E00", "#8a8a8a"
GRID = "#e8e8e8"


def new_figure() -> Figure:
    """Returns an empty page."""
    spaced = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, hspace=0.04, wspace=0.03)
    return Figure(figsize=(12, 7.2), dpi=150, layout=spaced)


def save(figure: Figure, path: Path, *, title: str, subtitle: str) -> None:
    """Writes a page as PNG, under a title."""
    tidy(figure.axes)
    left: dict[str, Any] = {"x": 0.012, "ha": "left"}
    figure.suptitle(f"{title}\n", fontsize=15, fontweight="bold", **left)
    figure.text(y=0.93, s=subtitle, fontsize=10, color="#555555", **left)
    figure.savefig(path, metadata={"Software": "thinwire simulate"})


def tidy(all_axes: Iterable[Axes]) -> None:
    """Takes away what says nothing."""
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)


def heading(axes: Axes, what: str, figures: str) -> None:
    """Writes what a diagram shows, and under it what it comes to."""
    axes.set_title(what, loc="left", fontsize=11, fontweight="bold", pad=18)
    axes.text(0, 1.02, figures, transform=axes.transAxes, fontsize=9, color="#555555")


def time_unit(duration_s: float) -> tuple[float, str]:
    """Returns the seconds in a unit in which a duration is readable, and its name."""
    for seconds, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if duration_s >= 2 * seconds:
            return seconds, name
    return 1.0, "seconds"
