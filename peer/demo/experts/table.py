"""The last word of the demo with domains in the terminal."""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer.demo.experts.report import Report
from peer.demo.screen import clock
from peer.demo.table import show_verdict
from peer.units import format_count


def show(report: Report, console: Console) -> None:
    """Prints the figures, and whether all promises were kept."""
    console.print(_domains(report))
    console.print(_story(report))
    show_verdict(report.problems, console)


def _domains(report: Report) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, header_style="dim")
    table.add_column("domain", no_wrap=True)
    table.add_column("its text")
    table.add_column("difficulty", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("done at", justify="right", no_wrap=True)
    for each in report.domains:
        table.add_row(
            each.name,
            each.text,
            "-" if each.difficulty is None else f"{each.difficulty:.2f}",
            format_count(each.parameters),
            str(each.total_steps),
            "-" if each.done_s is None else clock(each.done_s),
        )
    return table


def _story(report: Report) -> Table:
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    kill, rescue = report.kill, report.rescue
    if kill:
        table.add_row(
            f"{kill.peer} killed, alone in {kill.domain}",
            clock(kill.elapsed_s),
            f"at step {kill.step}; copy elsewhere of step {kill.copy_step}",
        )
    if kill and rescue:
        table.add_row(
            f"{rescue.peer} took {kill.domain} over",
            clock(rescue.elapsed_s),
            f"from step {rescue.step}, {rescue.elapsed_s - kill.elapsed_s:.0f} s later",
        )
    if report.complete_s is not None:
        table.add_row("every survivor had every expert", clock(report.complete_s), "")
    table.add_section()
    _add_figures(table, report)
    table.add_section()
    table.add_row("the whole demo", f"{report.took_s:.0f} s", f"{report.cpu_s:.0f} s of processors")
    return table


def _add_figures(table: Table, report: Report) -> None:
    experts = [each for each in report.judged if each.kind == "expert"]
    if experts:
        best = min(experts, key=lambda each: each.mean)
        table.add_row(
            "the best expert alone, bits/byte",
            f"{best.mean:.3f}",
            f"of {best.name}; mean of the domains' held-out text",
        )
    for each in report.judged:
        if each.kind == "ensemble":
            table.add_row(
                Text(f"all experts together, {each.name} prior", style="bold"),
                Text(f"{each.mean:.3f}", style="bold"),
                "",
            )
