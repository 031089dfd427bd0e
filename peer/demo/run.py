"""The demo from the first line to the last; `thinwire demo` calls it."""

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from peer.demo import script
from peer.demo.cast import ActorDied, Cast
from peer.demo.play import Play
from peer.demo.report import Report, Scores, report_of
from peer.demo.screen import Screen
from peer.demo.stage import Stage, TooSlow
from peer.demo.table import show
from peer.demo.verdict import problems_of
from peer.train.config import TrainerConfig
from protocol.errors import ConfigError, MalformedMessage
from protocol.manifest import Manifest, parse_manifest

FAILED, MISTAKEN, INTERRUPTED = 1, 2, 130


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
    try:
        with _signals_are_ctrl_c(), Cast(directory) as cast:
            settings = script.run_toml(method, seed=seed, steps=steps)
            _prepare(directory, settings)
            return _show(cast, console, directory, method=method, seed=seed, steps=steps)
    except ConfigError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return MISTAKEN
    except ActorDied as error:
        told = f"{error}. Its last lines:\n{error.actor.tail()}"
        console.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
        return FAILED
    except TooSlow as error:
        told = f"{error}; the logs are in {directory}"
        console.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
        return FAILED
    except KeyboardInterrupt:
        console.print(f"Interrupted. No process of the demo is left; the logs are in {directory}")
        return INTERRUPTED


def _show(
    cast: Cast, console: Console, directory: Path, *, method: str, seed: int, steps: int
) -> int:
    begin_s = time.monotonic()
    with Screen(console) as screen:
        stage = Stage(
            cast, screen, directory, steps=steps, interval_steps=script.interval_of(method, steps)
        )
        folder = stage.found()
        manifest = _manifest_in(folder)
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


@contextlib.contextmanager
def _signals_are_ctrl_c() -> Iterator[None]:
    """Ends in order also when it is terminated, or its terminal is closed."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _prepare(directory: Path, settings: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run.toml").write_text(settings)
    except OSError as error:
        raise ConfigError(f"cannot write into {directory}: {error}; choose another --dir") from None
    if (directory / "run").exists():
        raise ConfigError(f"{directory} has a demo in it already; choose another --dir")


def _manifest_in(folder: Path) -> Manifest:
    try:
        return parse_manifest((folder / "manifest.json").read_bytes())
    except (OSError, MalformedMessage) as error:
        raise ConfigError(f"thinwire new left no manifest in {folder}: {error}") from None


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
