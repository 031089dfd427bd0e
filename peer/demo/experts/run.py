"""The demo with domains from the first line to the last; `thinwire demo --experts` calls it."""

import resource
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from peer.demo.cast import Cast
from peer.demo.ending import FAILED, exit_code_of
from peer.demo.experts import script
from peer.demo.experts.play import Play
from peer.demo.experts.report import Judged, judged_of, report_of
from peer.demo.experts.stage import Stage
from peer.demo.experts.table import show
from peer.demo.experts.verdict import problems_of
from peer.demo.founding import manifest_in, prepare
from peer.demo.screen import Screen


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
        measured.judged,
        measured.parameters,
        method=method,
        seed=seed,
        evaluation_bytes=script.EVALUATION_BYTES,
        took_s=time.monotonic() - begin_s,
        cpu_s=_cpu_s(),
    )
    report = replace(report, problems=problems_of(report, play))
    report.write(directory / "report.json")
    show(report, console)
    console.print(f"Figures: {directory / 'report.json'}", highlight=False, soft_wrap=True)
    for path in (*measured.pictures, _draw(play, directory)):
        console.print(f"Picture: {path}", highlight=False, soft_wrap=True)
    if measured.folder:
        words = f"Try: thinwire generate {measured.folder} --prompt 'def read(' --show-experts"
        console.print(words, highlight=False, markup=False, soft_wrap=True)
    return FAILED if report.problems else 0


@dataclass(frozen=True, slots=True)
class _Measured:
    judged: list[Judged] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    folder: Path | None = None
    """Of the peer whose experts were judged."""


def _measure(play: Play, directory: Path, console: Console) -> _Measured:
    """Judges the experts in the folder of a survivor that has them all."""
    complete = play.complete()
    if not complete:
        return _Measured()
    folder = directory / complete[0]
    with console.status("loading the experts and the held-out text") as status:
        import torch

        from peer.experts.evaluation import evaluate
        from peer.experts.evaluation_report import as_data, labels
        from peer.experts.evaluation_report import show as show_evaluation
        from peer.experts.folder import read_folder
        from peer.experts.heat_map import draw
        from peer.experts.held_out import held_out_texts

        torch.set_num_threads(1)  # two wait for each other on a machine that is busy
        models = read_folder(folder)
        texts, _ = held_out_texts(models, None, {})
        evaluation = evaluate(
            models.experts,
            texts,
            max_bytes=script.EVALUATION_BYTES,
            on_progress=lambda done, total, text: status.update(
                f"measuring the experts in {folder}: {done / total:.0%}, {text}"
            ),
        )
        picture = directory / "experts.png"
        draw(evaluation, labels(evaluation), picture)
    show_evaluation(evaluation, console)
    return _Measured(
        judged_of(as_data(evaluation, models.run_id)["rows"]),
        {expert.name: expert.num_parameters for expert in models.experts},
        [picture],
        folder,
    )


def _draw(play: Play, directory: Path) -> Path:
    from peer.demo.experts.picture import draw  # matplotlib: a second or two

    path = directory / "domains.png"
    draw(play, path)
    return path


def _cpu_s() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
