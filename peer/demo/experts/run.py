"""The demo with domains from the first line to the last; `thinwire demo --experts` calls it."""

import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from peer.demo.cast import Cast
from peer.demo.ending import FAILED, exit_code_of
from peer.demo.experts import script
from peer.demo.experts.play import Play
from peer.demo.experts.report import report_of
from peer.demo.experts.stage import Stage
from peer.demo.experts.table import show
from peer.demo.experts.verdict import problems_of
from peer.demo.founding import manifest_in, prepare
from peer.demo.screen import Screen

if TYPE_CHECKING:
    from peer.demo.experts.measure import Measured

EXPERTS, DOMAINS = "experts.png", "domains.png"
"""The pictures: how good each expert is where, and who trained what."""


def run_experts_demo(
    method: str, *, seed: int, steps: int, directory: Path, console: Console
) -> int:
    """Plays the demo and shows what came out; all its processes have ended when it returns.

    Args:
        method: One of `peer.demo.experts.script.METHODS`, within each domain.
        seed: Of the run.
        steps: Inner steps of a domain, on average.
        directory: For everything that is written; made if it is not there.
        console: Where to show it.

    Returns:
        The exit code: 0 when every promise was kept, else see `peer.demo.ending.exit_code_of`.
    """

    def play(cast: Cast) -> int:
        prepare(directory, script.run_toml(method, seed=seed, steps=steps))
        return _show(cast, console, directory, method=method, seed=seed)

    return exit_code_of(play, directory, console)


def _show(cast: Cast, console: Console, directory: Path, *, method: str, seed: int) -> int:
    begin_s = time.monotonic()
    with Screen(console) as screen:
        stage = Stage(cast, screen, directory, width=console.width)
        folder = stage.found()
        stage.open(folder)
        stage.perform(manifest_in(folder))
        stage.close()
        stage.say("the experts are measured, on text that none was trained on")
    play = stage.play_so_far
    measured = _measure(play, directory, console)
    report = report_of(
        play,
        measured.judged if measured else [],
        measured.parameters if measured else {},
        method=method,
        seed=seed,
        evaluation_bytes=script.EVALUATION_BYTES,
        took_s=time.monotonic() - begin_s,
        cpu_s=_cpu_s(),
    )
    report = replace(report, problems=problems_of(report, play))
    report.write(directory / "report.json")
    show(report, console)
    pictures = [directory / name for name in (EXPERTS, DOMAINS) if (directory / name).exists()]
    told = [("Figures", directory / "report.json"), *(("Picture", path) for path in pictures)]
    for what, path in told:
        console.print(f"{what}: {path}", highlight=False, markup=False, soft_wrap=True)
    for name in play.complete()[:1]:
        words = f"Try: thinwire generate {directory / name} --prompt 'def read(' --show-experts"
        console.print(words, highlight=False, markup=False, soft_wrap=True)
    return FAILED if report.problems else 0


def _measure(play: Play, directory: Path, console: Console) -> "Measured | None":
    """Draws the pictures, and judges the experts of a survivor if one has them all."""
    from peer.demo.experts.picture import draw  # matplotlib: a second or two

    draw(play, directory / DOMAINS)
    complete = play.complete()
    if not complete:
        return None
    from peer.demo.experts.measure import measure  # torch, likewise

    folder, picture = directory / complete[0], directory / EXPERTS
    return measure(folder, picture, console, max_bytes=script.EVALUATION_BYTES)


def _cpu_s() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
