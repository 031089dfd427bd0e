"""How good the experts are in the end: alone and together, on text that none was trained on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from peer.demo.experts.report import Judged, judged_of
from peer.experts.evaluation import evaluate
from peer.experts.evaluation_report import as_data, labels, show
from peer.experts.folder import read_folder
from peer.experts.heat_map import draw
from peer.experts.held_out import held_out_texts


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found.

    Attributes:
        judged: Experts and ensembles.
        parameters: By domain, of its expert.
    """

    judged: list[Judged]
    parameters: dict[str, int]


def measure(folder: Path, picture: Path, console: Console, *, max_bytes: int) -> Measured:
    """Judges the experts that a peer keeps; prints and draws the matrix of experts and domains.

    Args:
        folder: The peer's.
        picture: Where to draw.
        console: Where to print.
        max_bytes: Held-out text of each domain.
    """
    torch.set_num_threads(1)  # on a machine that is busy, two wait for each other
    with console.status("loading the experts and the held-out text") as status:

        def tell(done: int, total: int, text: str) -> None:
            status.update(f"measuring the experts on text of {text}: {done / total:.0%}")

        models = read_folder(folder)
        texts, _ = held_out_texts(models, None, {})
        evaluation = evaluate(models.experts, texts, max_bytes=max_bytes, on_progress=tell)
        draw(evaluation, labels(evaluation), picture)
    show(evaluation, console)
    return Measured(
        judged_of(as_data(evaluation, models.run_id)["rows"]),
        {expert.name: expert.num_parameters for expert in models.experts},
    )
