"""The picture of the demo with domains: who trained where, how far, and who took over."""

from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file, never a window

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peer.demo.experts.play import Play
from peer.demo.experts.watch import MemberView
from peer.demo.picture import COLOURS
from protocol.manifest import DomainSpec

_GREY = "#888888"
_GREEN = "#009E73"
_WIDTHS = {"peer-1": 5.0, "peer-2": 3.8, "peer-3": 2.6, "peer-4": 1.4}
"""In points: peers that train together lie on each other."""


def draw(play: Play, path: Path) -> None:
    """Writes the picture as PNG: a panel for each domain."""
    specs = play.manifest.domains if play.manifest else []
    figure = Figure(figsize=(10, 0.6 + 1.9 * max(1, len(specs))), dpi=150, layout="constrained")
    panels = figure.subplots(max(1, len(specs)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, spec in zip(panels, specs, strict=False):
        for name, view in play.peers.items():
            _draw_stays(axes, play, name, view, spec.name)
        _draw_fate(axes, play, spec)
        _dress(axes, spec)
    panels[0].set_title(
        "Inner steps of each domain, and who made them; star: the budget is reached",
        loc="left",
        fontsize=11,
    )
    panels[-1].set_xlim(0, 1.02 * _last_s(play))
    panels[-1].set_xlabel("seconds since the demo began")
    lines = {name: panels[0].plot([], [], color=COLOURS[name], lw=3)[0] for name in play.peers}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Software": "thinwire demo"})


def _draw_stays(axes: Axes, play: Play, name: str, view: MemberView, domain: str) -> None:
    """Draws one line for each time that a peer was in a domain; who comes later lies on top."""
    told = [event for event in view.events if event["event"] in ("joined", "progress")]
    for where, stay in groupby(told, key=lambda event: event.get("domain")):
        if where != domain:
            continue
        events = list(stay)
        xs = [event["t_unix_s"] - play.began_unix_s for event in events]
        ys = [event["step"] for event in events]
        axes.plot(xs, ys, color=COLOURS[name], lw=_WIDTHS[name])
        if ys[0]:
            axes.plot(xs[0], ys[0], marker="o", ms=7, color=COLOURS[name], mec="white", zorder=5)


def _draw_fate(axes: Axes, play: Play, spec: DomainSpec) -> None:
    kill, rescue, done_s = play.kill, play.rescue(), play.done_s.get(spec.name)
    if kill and kill.domain == spec.name:
        colour = COLOURS[kill.peer]
        axes.plot(kill.elapsed_s, kill.step, marker="X", ms=11, color=colour, mec="white", zorder=5)
        _note(axes, f"{kill.peer} killed", kill.elapsed_s, kill.step, (0, 9), "center", "bottom")
        if rescue:
            words = f"{rescue.peer} takes over\nfrom a copy"
            _note(axes, words, rescue.elapsed_s, rescue.step, (9, -3), "left", "top")
            axes.axvspan(kill.elapsed_s, rescue.elapsed_s, color="#f0f0f0", zorder=0)
            middle_s = (kill.elapsed_s + rescue.elapsed_s) / 2
            _note(axes, "waits for a peer", middle_s, 0, (0, 5), "center", "bottom")
    if done_s is not None:
        total = spec.inner.total_steps
        axes.plot(done_s, total, marker="*", ms=13, color=_GREEN, mec="white", zorder=6)


def _last_s(play: Play) -> float:
    ends = [view.events[-1]["t_unix_s"] for view in play.peers.values() if view.events]
    return max(ends, default=play.began_unix_s + 1) - play.began_unix_s


def _note(
    axes: Axes, words: str, x: float, y: float, offset: tuple[int, int], ha: str, va: str
) -> None:
    axes.annotate(
        words,
        xy=(x, y),
        xytext=offset,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=9,
        color="#333333",
    )


def _dress(axes: Axes, spec: DomainSpec) -> None:
    total = spec.inner.total_steps
    axes.axhline(total, color=_GREY, lw=1, ls=":")
    axes.set_ylim(0, 1.12 * total)
    axes.set_yticks([0, total])
    axes.set_ylabel(spec.name, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
