"""The demo's last word in the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from peer.demo.report import Report
from peer.demo.screen import megabytes


def show(report: Report, console: Console) -> None:
    """Prints the figures, and whether all promises were kept."""
    console.print(_table(report))
    show_verdict(report.problems, console)


def show_verdict(problems: Sequence[str], console: Console) -> None:
    """Prints one line for each promise that was not kept."""
    for problem in problems:
        console.print(Text.assemble(("Not as promised: ", "bold red"), problem), soft_wrap=True)
    if not problems:
        console.print(Text("All as promised.", style="bold green"))


def _table(report: Report) -> RenderableType:
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    _add_losses(table, report)
    table.add_section()
    _add_bytes(table, report)
    table.add_section()
    _add_times(table, report)
    title = Text.assemble(
        (f"{report.method} ({report.codec})", "bold"),
        f", {report.parameters / 1e6:.2f}M parameters, {report.steps} steps, ",
        f"a round every {report.interval_steps}",
    )
    return Group(Text(), title, table)


def _add_losses(table: Table, report: Report) -> None:
    text = f"{report.evaluation_bytes // 1024} KiB of validation text"
    table.add_row(
        "swarm's model at the start, bits/byte", f"{report.start_bits_per_byte:.3f}", text
    )
    if report.middle_bits_per_byte is not None:
        table.add_row(
            "  in the middle",
            f"{report.middle_bits_per_byte:.3f}",
            f"about step {report.middle_step}; the peers' own evaluations, on less text",
        )
    end, worst = report.end_bits_per_byte, report.worst_bits_per_byte
    remark = "the survivors' last checkpoints: equal to the bit"
    if report.different_anchors > 1:
        remark = f"mean of {report.different_anchors} models; the worst has {worst:.3f}"
    table.add_row(Text("  at the end", style="bold"), Text(f"{end:.3f}", style="bold"), remark)
    table.add_row(
        "a replica that trained alone",
        f"{report.alone_bits_per_byte:.3f}",
        "as many steps as one peer, the same text",
    )


def _add_bytes(table: Table, report: Report) -> None:
    how = "counted on its sockets" if report.is_counted_by_kernel else "payload only"
    table.add_row("sent by a peer", megabytes(report.sent_bytes_mean), f"mean; {how}")
    table.add_row("  at most", megabytes(report.sent_bytes_max), "of those that ran all the time")
    table.add_row(
        "data parallel would have sent",
        megabytes(report.data_parallel_bytes),
        "fp32 gradients, ring all-reduce, as many steps",
    )
    table.add_row(
        Text("  times fewer bytes", style="bold"),
        Text(f"{report.times_fewer_bytes:.0f} x", style="bold"),
        "by the peer that sent most",
    )


def _add_times(table: Table, report: Report) -> None:
    saved = sum(failed["landed_elsewhere"] for failed in report.exchanges_failed)
    remark = f"{saved} of them landed at another peer" if saved else ""
    table.add_row("exchanges done", str(report.rounds_landed), "")
    table.add_row("  failed", str(len(report.exchanges_failed)), remark)
    table.add_row(
        "trainer waited for the network", f"{report.waited_s:.1f} s", "the most of any peer"
    )
    table.add_row(
        "snapshots and landings between steps",
        f"{report.overhead_s:.1f} s",
        f"mean, in {report.training_s:.0f} s",
    )
    table.add_row("the whole demo", f"{report.took_s:.0f} s", "")
