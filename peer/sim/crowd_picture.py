"""The picture of a simulated crowd: how fast it agrees, and what that costs a peer in a round."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from peer.sim.crowd_outcome import CrowdOutcome, Stretch
from peer.sim.crowd_report import factor, number, percent, subtitle, title
from peer.sim.style import (
    BLUE,
    GREEN,
    GREY,
    GRID,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    heading,
    new_figure,
    save,
    time_unit,
)
from peer.units import format_bytes

_MEMBERSHIP = {
    "records_read": ("records read", PURPLE),
    "topics_published": ("records published", BLUE),
    "topics_read": ("topics read", SKY),
    "refreshes": ("refreshes", GREY),
}


def draw(outcome: CrowdOutcome, path: Path) -> None:
    """Writes the picture as PNG."""
    figure = new_figure()
    grid = figure.add_gridspec(2, 2)
    spread, exchanges = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    sent, membership = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    time_s, unit = time_unit(outcome.simulated_s)
    rounds = _Rounds(outcome, time_s)
    _draw_spread(spread, outcome, time_s)
    _draw_exchanges(exchanges, rounds)
    _draw_bytes(sent, rounds)
    _draw_membership(membership, rounds)
    for axes in figure.axes:
        axes.set_xlim(0, outcome.simulated_s / time_s or 1)
        axes.set_xlabel(unit)
        axes.axvspan(0, outcome.spec.entry_s / time_s, color=GREY, alpha=0.12, lw=0, zorder=0)
    save(figure, path, title=title(outcome), subtitle=subtitle(outcome))


class _Rounds:
    """What a peer did in a round, round by round; the first is that in which all come."""

    def __init__(self, outcome: CrowdOutcome, time_s: float) -> None:
        self.settled = outcome.settled
        self._interval_s = outcome.spec.interval_s
        self._stretches = outcome.stretches()
        self.at = [(s.begin.t_s + s.end.t_s) / 2 / time_s for s in self._stretches]
        self.width = 0.86 * min((s.duration_s for s in self._stretches), default=1.0) / time_s

    def each(self, name: str) -> list[float]:
        """Returns a counter over the rounds that fit into a stretch, whether they ended or not."""
        return [s.count(name) / self._peer_rounds(s) for s in self._stretches]

    def _peer_rounds(self, stretch: Stretch) -> float:
        peers = (stretch.begin.peers + stretch.end.peers) / 2
        return peers * stretch.duration_s / self._interval_s


def _draw_spread(axes: Axes, outcome: CrowdOutcome, time_s: float) -> None:
    points = [(s.t_s, s.spread) for s in outcome.samples if s.spread]
    ideal, begin = outcome.random_pairs_factor, outcome.settled.begin
    if points:
        axes.plot([t_s / time_s for t_s, _ in points], [y for _, y in points], color=PURPLE, lw=2.2)
    if ideal is not None and begin.spread:
        end_s = outcome.simulated_s
        least = begin.spread * ideal ** ((end_s - begin.t_s) / outcome.spec.interval_s)
        axes.plot(
            [begin.t_s / time_s, end_s / time_s],
            [begin.spread, least],
            color="#222222",
            lw=1,
            ls=(0, (4, 3)),
            label="if all met at random, once a round",
        )
        axes.legend(loc="upper right", frameon=False, fontsize=9)
    if points:
        _log(axes, [y for _, y in points])
    axes.set_ylabel("standard deviation")
    heading(axes, "How far peers are apart", factor(outcome))


def _draw_exchanges(axes: Axes, rounds: _Rounds) -> None:
    settled = rounds.settled
    axes.bar(rounds.at, rounds.each("done"), width=rounds.width, color=GREEN, alpha=0.35)
    axes.set_ylim(0, 1.5)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("landed, a peer and a round", color=GREEN)
    rare = axes.twinx()
    for name, colour in (("alone", ORANGE), ("failed", RED)):
        heights = [100 * height for height in rounds.each(name)]
        rare.plot(rounds.at, heights, color=colour, lw=1.8, label=name)
    rare.set_ylim(0, max(0.1, 1.5 * rare.get_ylim()[1]))
    rare.set_ylabel("alone and failed, %")
    rare.legend(loc="upper right", frameon=False, fontsize=9, ncols=2)
    figures = (
        f"{number(settled.each('done'))} landed, {percent(settled.each('alone'))} of rounds alone, "
        f"{percent(settled.failed_frac)} failed"
    )
    heading(axes, "Exchanges", figures)


def _draw_bytes(axes: Axes, rounds: _Rounds) -> None:
    series = {"bulk_bytes": ("parts and states", BLUE), "note_bytes": ("notes", ORANGE)}
    said = [
        f"{format_bytes(mean)} of {label}"
        for name, (label, _) in series.items()
        if (mean := rounds.settled.each(name)) is not None
    ]
    _draw_lines(axes, rounds, series)
    axes.set_ylabel("bytes, a peer and a round")
    heading(axes, "Bytes", ", ".join(said))


def _draw_membership(axes: Axes, rounds: _Rounds) -> None:
    _draw_lines(axes, rounds, _MEMBERSHIP)
    axes.set_ylabel("a peer and a round")
    means = [f"{number(rounds.settled.each(name))} {_MEMBERSHIP[name][0]}" for name in _MEMBERSHIP]
    heading(axes, "Membership", ", ".join(means))


def _draw_lines(axes: Axes, rounds: _Rounds, series: dict[str, tuple[str, str]]) -> None:
    heights: list[float] = []
    for name, (label, colour) in series.items():
        line = rounds.each(name)
        heights += line
        axes.plot(rounds.at, line, color=colour, lw=1.8, label=label)
    if any(heights):
        _log(axes, heights, room=20.0)
        axes.legend(loc="upper right", frameon=False, fontsize=9, ncols=2)


def _log(axes: Axes, heights: Sequence[float], *, room: float = 2.0) -> None:
    """Makes the scale logarithmic, with room for a legend."""
    known = [height for height in heights if height > 0]
    axes.set_yscale("log")
    axes.set_ylim(min(known) / 2, room * max(known))
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=GRID, lw=0.8)
