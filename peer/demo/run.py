"""The demo from the first line to the last; `thinwire demo` calls it."""

import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from peer.demo import script
from peer.demo.cast import Cast
from peer.demo.ending import FAILED, exit_code_of
from peer.demo.founding import manifest_in, prepare
from peer.demo.play import Play
from peer.demo.report import Report, Scores, report_of
from peer.demo.screen import Screen
from peer.demo.stage import Stage
from peer.demo.table import show
from peer.demo.verdict import problems_of
from peer.train.config import TrainerConfig
from protocol.manifest import Manifest


def run_demo(method: str, *, seed: int, steps: int, directory: Path, console: Console) -> int:
    """Plays the demo and shows what came out; all its processes have ended when it returns.

    Args:
        method: One of `peer.demo.script.METHODS`.
        seed: Of the run.
        steps: Inner steps that a peer makes.
        directory: For everything that is written; made if it is not there.
        console: Where to show it.

    Returns:
        The exit code: 0 when every promise was kept, 1 when not or when an actor died, 2 when the
        operator has to change something, 130 after Ctrl+C.
    """

    def play(cast: Cast) -> int:
        prepare(directory, script.run_toml(method, seed=seed, steps=steps))
        return _show(cast, console, directory, method=method, seed=seed, steps=steps)

    return exit_code_of(play, directory, console)


def _show(
    cast: Cast, console: Console, directory: Path, *, method: str, seed: int, steps: int
) -> int:
    begin_s = time.monotonic()
    with Screen(console) as screen:
        stage = Stage(
            cast, screen, directory, steps=steps, interval_steps=script.interval_of(method, steps)
        )
        folder = stage.found()
        manifest = manifest_in(folder)
        stage.open(folder)
        stage.train(_lone_config(folder, manifest))
        stage.close()
        stage.say("the models are measured on the same validation text")
    play = stage.play_so_far
    scores = _score(manifest, play, directory)
    report = report_of(play, scores, method=method, seed=seed, took_s=time.monotonic() - begin_s)
    report = replace(report, problems=problems_of(report, play))
    report.write(directory / "report.json")
    _draw(play, report, directory / "losses.png")
    show(report, console)
    console.print(f"Figures: {directory / 'report.json'}", highlight=False, soft_wrap=True)
    console.print(f"Picture: {directory / 'losses.png'}", highlight=False, soft_wrap=True)
    return FAILED if report.problems else 0


def _score(manifest: Manifest, play: Play, directory: Path) -> Scores:
    from peer.demo.scores import score  # torch: a few seconds, which nobody has to wait for before

    return score(
        manifest,
        {name: directory / name for name in script.SURVIVORS if name in play.peers},
        directory / "alone.safetensors",
        evaluation_bytes=script.FINAL_EVALUATION_BYTES,
    )


def _draw(play: Play, report: Report, path: Path) -> None:
    from peer.demo.picture import draw  # matplotlib, likewise

    draw(play, report, path)


def _lone_config(folder: Path, manifest: Manifest) -> Path:
    """Writes what the replica that trains alone is told, and returns the path."""
    path = folder.parent / "alone.json"
    TrainerConfig(
        manifest=str(folder / "manifest.json"),
        run_id=manifest.run_id,
        peer_id=script.LONE,
        device="cpu",
        threads=1,
        evaluation_bytes=script.EVALUATION_BYTES,
    ).write(path)
    return path
