"""What `plan` shows: a line, a table, a few sentences, and where the figures are from."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer.plan.advice import Plan, needed_settings
from peer.plan.answer import Answer, loss_in_words
from peer.plan.table import TARGETS, Row, render, utilisation_table
from peer.units import format_count, format_duration, format_rate

WIDEST = 100
WIDE_COLUMNS = 92
"""Below, what a trainer that waits would do is left out."""


def show(found: Answer, console: Console) -> None:
    """Prints an answer."""
    width = min(console.width, WIDEST)
    console.print(_heading(found), width=width)
    console.print()
    console.print(_table(found, is_wide=width >= WIDE_COLUMNS), width=width)
    for sentence in found.sentences:
        console.print(Text(sentence), width=width, highlight=False)
    console.print()
    console.print(Text("In run.toml:", style="bold"), width=width)
    for line in toml_lines(needed_settings(found.best, found.case.peers)):
        console.print(Text(line), soft_wrap=True, highlight=False)
    console.print()
    for study in found.studies:
        note = Text(f"{study.name}: {study.conditions}", style="dim")
        console.print(note, width=width, highlight=False)
    console.print(Text("How all of this is computed: docs/planner.md", style="dim"), width=width)


def show_table(console: Console, *, as_json: bool) -> None:
    """Prints the bandwidth that methods need, model by model."""
    rows = utilisation_table()
    if as_json:
        print(json.dumps([_row_data(row) for row in rows], allow_nan=False))
    else:
        console.print(render(rows))
        console.print(Text("Method and comparison: docs/planner.md", style="dim"))


def _row_data(row: Row) -> dict[str, Any]:
    workload = row.model.workload
    return {
        "model": row.model.name,
        "num_params": workload.num_params,
        "layers": workload.layers,
        "step_s": workload.step_s,
        "method": row.method.name,
        "bandwidth_bps": {
            f"{target:g}": bandwidth
            for target, bandwidth in zip(TARGETS, row.bandwidths_bps, strict=True)
        },
    }


def toml_lines(tables: dict[str, dict[str, Any]]) -> list[str]:
    """Returns tables of plain settings as TOML."""
    lines = []
    for name, settings in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items()]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {pairs} }}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _heading(found: Answer) -> Text:
    case, link = found.case, found.case.link
    lossy = f", {100 * link.loss_frac:g} % lost" if link.loss_frac else ""
    return Text.assemble(
        (f"{format_count(case.workload.num_params)} parameters", "bold"),
        f", {case.workload.layers} layers, {format_duration(case.workload.step_s)} a step, ",
        (f"{case.peers} peers", "bold"),
        f", up {format_rate(link.up_bps)}, down {format_rate(link.down_bps)}, "
        f"round trip {format_duration(link.rtt_s)}{lossy}",
    )


def _table(found: Answer, *, is_wide: bool) -> Table:
    caption = (
        "H: inner steps between exchanges -> on this link. Link: busy. GB/day: sent, and as many "
        "received. RAM: beside the trainer's. Loss: above data parallel's."
    )
    if is_wide:
        caption += " Waiting: the time that a trainer trains if it waits."
    table = Table(box=None, padding=(0, 1), pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("method", no_wrap=True)
    for name in ("H", "link", "exchange", "GB/day", "GB RAM", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    if is_wide:
        table.add_column("waiting", justify="right", no_wrap=True)
    for plan in found.presets:
        table.add_row(*_cells(found, plan, is_wide=is_wide))
    table.add_section()
    words = f"best: {found.best.preset}"
    table.add_row(words, *_cells(found, found.best, is_wide=is_wide)[1:], style="bold green")
    return table


def _cells(found: Answer, plan: Plan, *, is_wide: bool) -> list[str]:
    planned = plan.estimate
    interval = f"{planned.planned_steps}"
    if not planned.suffices:
        interval += f" -> {planned.interval_steps:.0f}"
    cells = [
        plan.preset,
        interval,
        f"{100 * planned.busy_frac:.0f} %",
        _short(planned.exchange_s),
        f"{planned.bytes_per_day / 1e9:.3g}",
        f"{planned.memory.total / 1e9:.3g}",
        loss_in_words(plan.loss),
    ]
    return [*cells, f"{100 * found.waiting_frac(plan):.3g} %"] if is_wide else cells


def _short(duration_s: float) -> str:
    """Returns a time in one unit: `38 s`, `52 min`."""
    if duration_s < 120:
        return f"{duration_s:.2g} s" if duration_s < 10 else f"{duration_s:.0f} s"
    if duration_s < 7200:
        return f"{duration_s / 60:.0f} min"
    return f"{duration_s / 3600:.0f} h"
