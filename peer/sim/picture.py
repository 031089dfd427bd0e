"""The picture of a simulated scenario: what was learned, where time and bytes went."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from peer.sim.ledger import CAUSES
from peer.sim.outcome import Outcome, PeerOutcome, Point, lost_s, utilisation_frac
from peer.sim.report import loss_unit, losses, subtitle, title
from peer.sim.style import (
    BLUE,
    GREEN,
    GREY,
    GRID,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    heading,
    new_figure,
    save,
    time_unit,
)
from peer.units import format_duration

GROUPS = (BLUE, GREEN, PURPLE, SKY, "#332288")
LOST = {
    "entering": ORANGE,
    "frozen": YELLOW,
    "slow": "#a6761d",
    "waiting": "#000000",
    "leaving": "#bbbbbb",
    "dead": RED,
}
FAULTS = {"crash": RED, "join": GREEN, "leave": GREY}
_OTHER_FAULT = PURPLE
_PLAIN: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "framealpha": 0.85}
_NUM_BINS = 40
_WARM_UP_FRAC = 0.05
"""The first losses would flatten all that follows: the scale begins after them."""


def draw(outcome: Outcome, path: Path) -> None:
    """Writes the picture as PNG."""
    figure = new_figure()
    grid = figure.add_gridspec(2, 6, height_ratios=(1.25, 1))
    loss, used = figure.add_subplot(grid[0, :4]), figure.add_subplot(grid[0, 4:])
    exchanges, spread = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:4])
    sent = figure.add_subplot(grid[1, 4:])
    time_s, unit = time_unit(outcome.simulated_s)
    _draw_loss(loss, outcome, time_s)
    _draw_time(used, outcome)
    _draw_exchanges(exchanges, outcome, time_s)
    _draw_spread(spread, outcome, time_s)
    _draw_bytes(sent, outcome)
    for axes in (loss, exchanges, spread):
        _draw_faults(axes, outcome, time_s, has_names=axes is loss)
        axes.set_xlim(0, outcome.simulated_s / time_s or 1)
        axes.set_xlabel(unit)
    save(figure, path, title=title(outcome), subtitle=subtitle(outcome))


def _draw_loss(axes: Axes, outcome: Outcome, time_s: float) -> None:
    training = [(s.t_s, s.training_loss) for s in outcome.samples if math.isfinite(s.training_loss)]
    binned = _binned(outcome.validation, outcome.simulated_s)
    axes.plot(*_scaled(training, time_s), color=GREY, lw=1.2, label="training, mean of the peers")
    axes.plot(
        *_scaled(outcome.validation, time_s),
        ls="",
        marker=".",
        ms=3,
        color=BLUE,
        alpha=0.25,
        mew=0,
    )
    axes.plot(*_scaled(binned, time_s), color=BLUE, lw=2.2, label="validation, of their anchors")
    after_s = _WARM_UP_FRAC * outcome.simulated_s
    heights = [y for t_s, y in (*training, *outcome.validation) if t_s >= after_s]
    if heights:
        room = 0.06 * (max(heights) - min(heights)) or 0.1
        axes.set_ylim(min(heights) - room, max(heights) + 3 * room)
    ends = [loss for loss in (outcome.first_loss, outcome.final_loss) if math.isfinite(loss)]
    said = " to ".join(f"{loss:.2f}" for loss in ends)
    heading(axes, "Loss", f"{said} {loss_unit(outcome)}")
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.legend(loc="upper right", fontsize=9, bbox_to_anchor=(1, 0.92), **_PLAIN)


def _draw_time(axes: Axes, outcome: Outcome) -> None:
    names = [group.name for group in outcome.scenario.groups if outcome.of_group(group.name)]
    seen = set()
    for row, name in enumerate(names):
        peers = outcome.of_group(name)
        alive_s = sum(peer.alive_s for peer in peers) or 1.0
        work = 100 * utilisation_frac(peers)
        axes.barh(row, work, color=_colour(outcome, name), height=0.55)
        if work > 15:
            axes.text(
                work / 2,
                row,
                f"{work:.1f} %",
                ha="center",
                va="center",
                color="white",
                fontsize=11,
                fontweight="bold",
            )
        left = work
        for cause in CAUSES:
            width = 100 * lost_s(peers)[cause] / alive_s
            label = cause if width >= 0.5 and cause not in seen else None
            if label:
                seen.add(cause)
            axes.barh(row, width, left=left, color=LOST[cause], height=0.55, label=label)
            left += width
    axes.set_yticks(range(len(names)), names)
    room = 0.5 + 0.5 * (len(names) <= 1)
    axes.set_ylim(max(len(names), 1) - 1 + room + 0.3 * len(names) * bool(seen), -room)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the peers' time")
    heading(axes, "Time at work", f"lost: {losses(outcome.peers)}")
    if seen:
        axes.legend(loc="lower left", ncols=3, fontsize=9, **_PLAIN)


def _draw_exchanges(axes: Axes, outcome: Outcome, time_s: float) -> None:
    landed = [(t_s, 1.0) for t_s, _, event, _ in outcome.trace.entries if event == "landed"]
    failed = [
        (t_s, 1.0) for t_s, _, event, _ in outcome.trace.entries if event == "exchange_failed"
    ]
    width_s = outcome.simulated_s / _NUM_BINS or 1.0
    done, lost = (_counts(points, width_s) for points in (landed, failed))
    at = [(index + 0.5) * width_s / time_s for index in range(_NUM_BINS)]
    axes.bar(at, done, width=0.86 * width_s / time_s, color=GREEN, label="landed")
    if failed:
        axes.bar(at, lost, bottom=done, width=0.86 * width_s / time_s, color=RED, label="failed")
        axes.legend(loc="upper left", frameon=False, fontsize=9, ncols=2)
    axes.set_ylim(0, 1.25 * max([*map(sum, zip(done, lost, strict=True)), 1]))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"in {format_duration(width_s)}")
    heading(axes, "Exchanges", f"{len(landed):,} landed, {len(failed):,} failed")


def _draw_spread(axes: Axes, outcome: Outcome, time_s: float) -> None:
    points = [(s.t_s, 100 * s.spread) for s in outcome.samples if math.isfinite(s.spread)]
    axes.plot(*_scaled(points, time_s), color=PURPLE, lw=1.8)
    late = [y for t_s, y in points if t_s >= _WARM_UP_FRAC * outcome.simulated_s]
    axes.set_ylim(0, 1.25 * max([*late, 1e-3]))
    axes.set_ylabel("% of the parameters' norm")
    axes.grid(axis="y", color=GRID, lw=0.8)
    heading(axes, "How far replicas are apart", f"{late[-1]:.1f} % in the end" if late else "")


def _draw_bytes(axes: Axes, outcome: Outcome) -> None:
    peers = sorted(outcome.peers, key=lambda peer: -peer.sent_bytes)
    scale, unit = _byte_unit(max(map(_most, peers), default=0.0))
    colours = [_colour(outcome, peer.group) for peer in peers]
    at = range(len(peers))
    axes.bar(at, [peer.sent_bytes / scale for peer in peers], color=colours, width=0.8)
    axes.plot(
        at,
        [peer.received_bytes / scale for peer in peers],
        ls="",
        marker="_",
        ms=max(3, 120 / max(len(peers), 8)),
        mew=2,
        color="#222222",
        label="received",
    )
    axes.set_xticks([])
    axes.set_ylim(0, 1.25 * max([*(_most(peer) / scale for peer in peers), 1e-9]))
    axes.set_xlabel("one bar a peer, coloured by group")
    axes.set_ylabel(unit)
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    mean = fmean([peer.sent_bytes for peer in peers]) / scale if peers else 0.0
    heading(axes, "Bytes sent", f"{mean:.1f} {unit} each on average")


def _draw_faults(axes: Axes, outcome: Outcome, time_s: float, *, has_names: bool) -> None:
    last_at = -math.inf
    for mark in outcome.faults:
        colour, at = FAULTS.get(mark.name, _OTHER_FAULT), mark.at_s / time_s
        if mark.for_s:
            axes.axvspan(at, at + mark.for_s / time_s, color=colour, alpha=0.12, lw=0, zorder=0)
        axes.axvline(at, color=colour, lw=1, ls=":", alpha=0.8, zorder=1)
        if has_names:
            is_near = at - last_at < 0.07 * outcome.simulated_s / time_s
            last_at = at if not is_near else -math.inf
            axes.annotate(
                mark.name,
                xy=(at, 0.94 if is_near else 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -2),
                textcoords="offset points",
                va="top",
                fontsize=8.5,
                color=colour,
            )


# ---- small things


def _colour(outcome: Outcome, group: str) -> str:
    names = [each.name for each in outcome.scenario.groups]
    return GROUPS[names.index(group) % len(GROUPS)]


def _most(peer: PeerOutcome) -> float:
    return max(peer.sent_bytes, peer.received_bytes)


def _byte_unit(num_bytes: float) -> tuple[float, str]:
    for scale, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if num_bytes >= scale:
            return scale, name
    return 1e3, "kB"


def _scaled(points: Sequence[Point], time_s: float) -> tuple[list[float], list[float]]:
    return [t_s / time_s for t_s, _ in points], [y for _, y in points]


def _binned(points: Sequence[Point], duration_s: float) -> list[Point]:
    """Returns the means of neighbours, at the means of their times."""
    bins: dict[int, list[Point]] = {}
    for point in points:
        bins.setdefault(int(_NUM_BINS * point[0] / duration_s), []).append(point)
    return [(fmean(t for t, _ in near), fmean(y for _, y in near)) for near in bins.values()]


def _counts(points: Sequence[Point], width_s: float) -> list[int]:
    counts = [0] * _NUM_BINS
    for t_s, _ in points:
        counts[min(_NUM_BINS - 1, int(t_s / width_s))] += 1
    return counts
