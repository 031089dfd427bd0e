"""An evaluation for people in a terminal, and as data."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer.experts.evaluation import Column, Evaluation, Row
from peer.units import format_bytes

WIDEST = 160
_CELL = 12
"""Columns of a terminal for one text at most: longer names are folded."""
_BETWEEN = 3
_NAMES = {
    "expert": "{}",
    "ensemble": "ensemble, {} prior",
    "average": "average of parameters",
}


def labels(evaluation: Evaluation) -> list[str]:
    """Returns what the rows are called."""
    return [_NAMES[row.kind].format(row.name) for row in evaluation.rows]


def show(evaluation: Evaluation, console: Console) -> None:
    """Prints the matrix, in as many pieces as its width needs, and what it comes to."""
    width = min(console.width, WIDEST)
    room = width - max(map(len, (_CORNER, *labels(evaluation)))) - 2 * _BETWEEN
    piece: list[_Cells] = []
    for cells in _cells(evaluation):
        if piece and sum(map(_width, (*piece, cells))) > room:
            console.print(_table(evaluation, piece))
            piece = []
        piece.append(cells)
    console.print(_table(evaluation, piece))
    for line in _remarks(evaluation):
        console.print(Text(line), width=width)


_CORNER = "bits per byte"
_Cells = tuple[Text, list[Text]]
"""A column: its head, and a number for each row."""


def _cells(evaluation: Evaluation) -> Iterator[_Cells]:
    """Yields the texts, and after those of a kind their mean, if it is one of several."""
    for are_unseen in (False, True):
        columns = evaluation.of_texts(are_unseen=are_unseen)
        for column in columns:
            name = column.name if len(column.name) <= _CELL else column.name.replace("-", "-\n")
            yield Text(name + "*" * are_unseen), _marked(evaluation, _values(evaluation, [column]))
        if len(columns) > 1:
            head = Text("mean" + "*" * are_unseen, style="dim")
            yield head, _marked(evaluation, _values(evaluation, columns))


def _width(cells: _Cells) -> int:
    head, _ = cells
    longest = max(map(len, (*head.plain.splitlines(), "10.000")))
    return min(longest, _CELL) + _BETWEEN


def _values(evaluation: Evaluation, columns: Sequence[Column]) -> list[float]:
    """Returns each row's mean over some texts."""
    return [fmean(row.bits_per_byte[c.name] for c in columns) for row in evaluation.rows]


def _marked(evaluation: Evaluation, values: Sequence[float]) -> list[Text]:
    """Returns one column's numbers: the best expert bold, and all that is better, green."""
    alone = [
        value
        for row, value in zip(evaluation.rows, values, strict=True)
        if row.kind == "expert" and math.isfinite(value)
    ]
    best = min(alone, default=math.nan)
    return [
        Text(
            f"{value:.3f}" if math.isfinite(value) else "-",
            style="bold" * (value == best) or "bold green" * (value < best),
        )
        for value in values
    ]


def _table(evaluation: Evaluation, columns: Sequence[_Cells]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1))
    table.add_column(_CORNER, no_wrap=True)
    for head, _ in columns:
        table.add_column(head, justify="right", max_width=_CELL, overflow="fold")
    last: Row | None = None
    for index, (label, row) in enumerate(zip(labels(evaluation), evaluation.rows, strict=True)):
        if last is not None and last.kind == "expert" != row.kind:
            table.add_section()
        table.add_row(label, *(cells[index] for _, cells in columns))
        last = row
    return table


def _remarks(evaluation: Evaluation) -> Iterator[str]:
    for label, row in zip(labels(evaluation), evaluation.rows, strict=True):
        if row.kind == "ensemble":
            yield f"{label}: better than every single expert {_where_better(evaluation, row)}"
    if evaluation.top_k is not None:
        yield f"top {evaluation.top_k}: no more experts have a weight in an ensemble at a time"
    if evaluation.asked_frac is not None:
        yield f"sparse: experts read {100 * evaluation.asked_frac:.0f} % of what all would have"
    tested = max(column.tested_bytes for column in evaluation.columns)
    read = f"up to {format_bytes(tested)} of each held-out text"
    if fitted := max(column.prior_bytes for column in evaluation.columns):
        read += f"; priors from up to {format_bytes(fitted)} of another part, which is not tested"
    yield f"read: {read}"
    for expert in evaluation.experts:
        if expert.step < expert.total_steps:
            yield f"not done: {expert.name} is at step {expert.step} of {expert.total_steps}"
    if evaluation.of_texts(are_unseen=True):
        yield "*: no expert here is of this domain"


def _where_better(evaluation: Evaluation, row: Row) -> str:
    alone = [each for each in evaluation.rows if each.kind == "expert"]
    parts = []
    for are_unseen, what in ((False, "domains"), (True, "unseen texts")):
        names = [column.name for column in evaluation.of_texts(are_unseen=are_unseen)]
        if names:
            better = [
                name
                for name in names
                if row.bits_per_byte[name] < min(each.bits_per_byte[name] for each in alone)
            ]
            parts.append(f"on {len(better)} of {len(names)} {what}")
    return " and ".join(parts)


def as_data(evaluation: Evaluation, run_id: str) -> dict[str, Any]:
    """Returns the evaluation as one JSON object, which `peer.experts.figures` can read."""
    return {
        "run_id": run_id,
        "context": evaluation.context,
        "top_k": evaluation.top_k,
        "asked_frac": evaluation.asked_frac,
        "experts": [
            {
                "name": expert.name,
                "parameters": expert.num_parameters,
                "step": expert.step,
                "total_steps": expert.total_steps,
            }
            for expert in evaluation.experts
        ],
        "texts": [asdict(column) for column in evaluation.columns],
        "rows": [
            {
                "name": row.name,
                "kind": row.kind,
                "bits_per_byte": {
                    name: bits if math.isfinite(bits) else None
                    for name, bits in row.bits_per_byte.items()
                },
            }
            for row in evaluation.rows
        ],
        "prior": evaluation.prior,
    }
