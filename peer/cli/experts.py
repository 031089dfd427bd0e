"""`thinwire experts`: judge the experts in a folder, and give them away."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from peer.train.config import EVALUATION_BYTES
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from peer.experts.evaluation import Evaluation
    from peer.experts.folder import ModelFolder
    from peer.experts.held_out import HeldOut
    from peer.experts.jury import Prior

experts = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Judge the experts in a folder, and give them away.",
)

Folder = Annotated[Path, typer.Argument(help="An export, or a peer's folder.", metavar="DIR")]

SMALL_PARAMETERS = 5_000_000
"""Of experts below, each product of matrices is so small that threads wait for each other."""
_PRIORS = ("uniform", "estimated")


@experts.command("eval")
def evaluate(
    directory: Folder,
    domains: Annotated[
        str | None, typer.Option(help="Only these of the run's domains: law,code.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="A further text, unseen in training: NAME=RECIPE. Repeatable."),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="Of ensembles: uniform or estimated; default is both.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Only so many experts have a weight at a time.")
    ] = None,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Ensembles ask only experts that are likely.")
    ] = False,
    num_bytes: Annotated[
        int, typer.Option("--bytes", min=1, help="Tested of each text.")
    ] = EVALUATION_BYTES,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw the matrix there.")] = None,
) -> None:
    """Show how good experts are on held-out text: alone, as an ensemble, and averaged.

    In bits per byte: on their own domains, and on texts of --text.
    """
    if prior not in (None, *_PRIORS):
        raise ConfigError(f"--prior {prior}: it is uniform or estimated")
    if png is not None:
        _require_place_for_png(png)
    unseen = _named_recipes(text or [])
    notes = Console(stderr=True)
    with notes.status("loading"):  # torch takes seconds, and so may texts
        import torch

        from peer.experts.asking import require_top_k
        from peer.experts.evaluation_report import as_data, labels, show
        from peer.experts.folder import read_folder
        from peer.experts.held_out import held_out_texts

        models = read_folder(directory)
        try:
            require_top_k(top_k, len(models.experts))
        except ValueError as error:
            raise ConfigError(f"--{error}") from None
        if max(expert.num_parameters for expert in models.experts) < SMALL_PARAMETERS:
            torch.set_num_threads(1)
        chosen = None if domains is None else [name.strip() for name in domains.split(",")]
        texts, notices = held_out_texts(models, chosen, unseen)
    for notice in notices:
        notes.print(f"note: {notice}", markup=False, highlight=False, soft_wrap=True)
    evaluation = _evaluate(
        models,
        texts,
        priors=cast("tuple[Prior, ...]", _PRIORS if prior is None else (prior,)),
        top_k=top_k,
        is_sparse=sparse,
        max_bytes=num_bytes,
        console=notes,
    )
    if png is not None:
        from peer.experts.heat_map import draw

        try:
            draw(evaluation, labels(evaluation), png)
        except OSError as error:
            raise ConfigError(f"cannot write {png}: {error.strerror}") from None
    if as_json:
        print(json.dumps(as_data(evaluation, models.run_id), allow_nan=False))
    else:
        show(evaluation, Console())


def _require_place_for_png(png: Path) -> None:
    if png.suffix.lower() != ".png":
        raise ConfigError(f"--png {png}: the picture is a PNG; let its name end with .png")
    if png.is_dir():
        raise ConfigError(f"--png {png}: that is a folder; name a file in it")
    if not png.absolute().parent.is_dir():
        raise ConfigError(f"--png {png}: there is no folder {png.parent}")


def _named_recipes(given: list[str]) -> dict[str, str]:
    recipes: dict[str, str] = {}
    for each in given:
        name, _, recipe = each.partition("=")
        if not (name and recipe):
            raise ConfigError(f"--text {each}: give NAME=RECIPE, such as poems=text:poems/*.txt")
        if name in recipes:
            raise ConfigError(f"--text {each}: {name} is given twice; choose another name")
        recipes[name] = recipe
    return recipes


def _evaluate(
    models: "ModelFolder",
    texts: "list[HeldOut]",
    *,
    priors: "tuple[Prior, ...]",
    top_k: int | None,
    is_sparse: bool,
    max_bytes: int,
    console: Console,
) -> "Evaluation":
    from peer.experts.evaluation import evaluate as judge

    columns = (
        BarColumn(),
        TextColumn("{task.percentage:.0f} % of the text read"),
        TextColumn("{task.description}", style="dim", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        return judge(
            models.experts,
            texts,
            priors=priors,
            top_k=top_k,
            is_sparse=is_sparse,
            max_bytes=max_bytes,
            on_progress=lambda done, total, text: bar.update(
                task, completed=done, total=total, description=text
            ),
        )


@experts.command("export")
def export(
    directory: Folder,
    to: Annotated[Path, typer.Option(help="The new folder.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Also if some are missing, or not done.")
    ] = False,
    average: Annotated[
        bool,
        typer.Option("--average", help="One model: their mean, if all have one shape."),
    ] = False,
    evaluation: Annotated[
        Path | None, typer.Option(help="What eval --json printed: keeps its figures and prior.")
    ] = None,
) -> None:
    """Write experts to a folder that can be used without thinwire.

    It holds safetensors, what they are (experts.json), and a small loader for them.
    """
    if average and evaluation is not None:
        raise ConfigError(
            "--evaluation is of each expert, and --average makes one of all: give one of the two"
        )
    console = Console()
    with console.status("loading"):
        from peer.experts import export as exports
        from peer.experts.figures import Figures, read_figures
        from peer.experts.folder import read_folder
        from peer.experts.mean import mean_of

        models = read_folder(directory)
    if not partial:
        exports.require_complete(models)
    figures = (
        Figures() if evaluation is None else read_figures(evaluation, models.experts, models.run_id)
    )
    with console.status("writing"):
        if average:
            catalogue = exports.export(models, [mean_of(models.experts)], to)
        else:
            catalogue = exports.export(models, models.experts, to, figures)
    names = ", ".join(entry.name for entry in catalogue.experts)
    console.print(f"{to}: {names}", markup=False, highlight=False, soft_wrap=True)
    if catalogue.absent:
        absent = ", ".join(catalogue.absent)
        console.print(f"not in it: {absent}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f'try it: python {to / exports.LOADER} "Once upon a time"',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
