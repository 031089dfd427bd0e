"""`thinwire simulate`: a swarm that is only imagined, down to its links and accidents."""

import json
import logging
import shlex
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from peer.units import format_duration, parse_duration_s
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from peer.sim.crowd_outcome import CrowdOutcome
    from peer.sim.outcome import Outcome
    from peer.sim.play import Progress as Played
    from peer.sim.scenario import Scenario


def simulate(
    scenario: Annotated[
        str | None, typer.Argument(help="A scenario.toml, or the name of a ready one.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of all that is drawn; default is the scenario's.")
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="Simulate so long instead, such as 90s or 2h.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="For picture.png and outcome.json; default runs/simulate-NAME-TIME."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON instead of the table.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write all events there, one JSON object a line.")
    ] = None,
    is_list: Annotated[bool, typer.Option("--list", help="List the ready scenarios.")] = False,
) -> None:
    """Simulate a swarm: the real peers, or thousands by sizes, on virtual machines and links.

    Equal seeds give equal runs. Ctrl+C ends early, with the report of what was simulated.
    """
    console = Console(stderr=as_json)
    with console.status("loading"):
        from peer.sim.scenario import packaged, read_scenario
    if is_list:
        for path in packaged():
            console.print(f"{path.stem:<14}{read_scenario(path.stem).title}", highlight=False)
        return
    if scenario is None:
        raise ConfigError("give a scenario.toml, or the name of a ready one; --list names them")
    chosen = read_scenario(scenario)
    if trace is not None and chosen.level == "sizes":
        raise ConfigError("--trace: at level sizes there is none, only a digest")
    if duration is not None:
        chosen = chosen.model_copy(update={"duration_s": _duration_s(duration)})
    folder = out or Path("runs") / time.strftime(f"simulate-{Path(scenario).stem}-%Y%m%d-%H%M%S")
    seed = chosen.seed if seed is None else seed
    replay = ["thinwire", "simulate", scenario, "--seed", str(seed)]
    replay += ["--duration", duration] if duration is not None else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if trace is not None:
            trace.touch()  # what cannot be written is better known now than in the end
        outcome = _play(chosen, seed, console)
        _write(outcome, folder, trace)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename or folder}: {error.strerror}") from None
    except Exception as error:
        error.add_note(f"replay: {shlex.join(replay)}")
        raise
    _show(outcome, folder, console, shlex.join(replay), as_json=as_json)


def _duration_s(text: str) -> float:
    try:
        duration_s = parse_duration_s(text)
    except ValueError as error:
        raise ConfigError(f"--duration: {error}") from None
    if not duration_s:
        raise ConfigError("--duration: nothing happens in no time")
    return duration_s


def _play(scenario: "Scenario", seed: int, console: Console) -> "Outcome | CrowdOutcome":
    with console.status("loading"):
        from peer.sim.crowd_play import play_crowd
        from peer.sim.play import play
    player: Callable[..., Outcome | CrowdOutcome]
    player = play_crowd if scenario.level == "sizes" else play
    logging.getLogger("peer").addHandler(logging.NullHandler())  # what imagined peers say
    columns = (
        BarColumn(bar_width=None),
        TextColumn("{task.fields[clock]}"),
        TextColumn("{task.fields[swarm]}", style="dim"),
        TextColumn("{task.fields[speed]}", style="dim"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    began_s = time.perf_counter()
    with (
        _stopped_by_ctrl_c() as is_wanted,
        Progress(*columns, console=console, expand=True, transient=True) as bar,
    ):
        task = bar.add_task("", total=scenario.duration_s, clock="", swarm="", speed="")

        def on_progress(progress: "Played") -> None:
            speed = progress.num_events / (time.perf_counter() - began_s)
            whole = format_duration(progress.duration_s)
            bar.update(
                task,
                completed=progress.now_s,
                clock=f"{format_duration(progress.now_s)} of {whole}",
                swarm=f"{progress.peers:,} peers, round {progress.rounds}",
                speed=f"{speed:,.0f} events/s",
            )

        return player(scenario, seed=seed, on_progress=on_progress, is_wanted=is_wanted)


@contextmanager
def _stopped_by_ctrl_c() -> Generator[Callable[[], bool], None, None]:
    """Yields whether nobody has pressed Ctrl+C; pressed again, it ends at once."""
    is_stopped = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal is_stopped
        is_stopped = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: not is_stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _write(outcome: "Outcome | CrowdOutcome", folder: Path, trace: Path | None) -> None:
    from peer.sim import crowd_picture, picture
    from peer.sim.outcome import Outcome

    (folder / "outcome.json").write_text(json.dumps(outcome.to_json(), indent=1) + "\n")
    if isinstance(outcome, Outcome):
        if trace is not None:
            trace.write_text("".join(f"{line}\n" for line in outcome.trace.lines()))
        picture.draw(outcome, folder / "picture.png")
    else:
        crowd_picture.draw(outcome, folder / "picture.png")


def _show(
    outcome: "Outcome | CrowdOutcome",
    folder: Path,
    console: Console,
    replay: str,
    *,
    as_json: bool,
) -> None:
    from peer.sim import crowd_report, report
    from peer.sim.outcome import Outcome

    if as_json:
        typer.echo(json.dumps(outcome.to_json()))
        return
    if isinstance(outcome, Outcome):
        report.show(outcome, console)
    else:
        crowd_report.show(outcome, console)
    for name, value in (("replay", replay), ("picture", str(folder / "picture.png"))):
        console.print(f" {name:<22}{value}", markup=False, highlight=False, soft_wrap=True)
