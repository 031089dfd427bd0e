"""The last word on a simulated scenario, in the terminal."""

import math
from statistics import fmean

from rich.box import SIMPLE
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from peer.demo.report import data_parallel_bytes
from peer.sim.outcome import Outcome, PeerOutcome, exchange_s, lost_s, utilisation_frac
from peer.sim.scenario import Group
from peer.units import format_bytes, format_count, format_duration

HEADINGS = ("peers", "at work", "steps", "landed", "failed", "takes", "sent each", "uplink")
MOST_REASONS = 5
FATES = ("running", "left", "crashed")


def show(outcome: Outcome, console: Console) -> None:
    """Prints what matters, in a screenful."""
    console.print()
    console.print(Text(title(outcome), style="bold"))
    console.print(Text(subtitle(outcome), style="dim"))
    console.print(_groups(outcome))
    for name, value, remark in _facts(outcome):
        text = Text.assemble((f" {name:<22}", "dim"), value, (f"  {remark}", "dim"))
        console.print(text, highlight=False, soft_wrap=True)


def title(outcome: Outcome) -> str:
    """Returns what the scenario is called."""
    return outcome.scenario.title or outcome.manifest.name


def subtitle(outcome: Outcome) -> str:
    """Returns the method, the model, and how much time went by."""
    method, stands_for = outcome.manifest.method, outcome.scenario.stands_for_params
    fragments = method.schedule.fragments
    weight = f" that weigh like {format_count(stands_for)}" if stands_for else ""
    parts = [
        f"{method.preset or method.mixing} ({method.codec.name})",
        f"a round every {method.schedule.interval_steps} steps"
        + (f" in {fragments} fragments" if fragments > 1 else ""),
        f"{format_count(outcome.num_params)} parameters{weight}",
        format_duration(outcome.simulated_s),
        f"seed {outcome.seed}",
    ]
    return ", ".join(parts)


def _groups(outcome: Outcome) -> RenderableType:
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("group")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for group in outcome.scenario.groups:
        peers = outcome.of_group(group.name)
        if peers:
            table.add_row(Text(group.name), *_cells(group, peers))
    return table


def _cells(group: Group, peers: list[PeerOutcome]) -> list[str]:
    sent_bytes = sum(peer.sent_bytes for peer in peers)
    online_s = sum(peer.alive_s - peer.lost_s["dead"] for peer in peers)
    took_s, up_bps = exchange_s(peers), group.link.up_bps
    return [
        str(len(peers)),
        f"{100 * utilisation_frac(peers):.1f} %",
        f"{sum(peer.steps for peer in peers):,}",
        f"{sum(peer.exchanges_done for peer in peers):,}",
        f"{sum(peer.exchanges_failed for peer in peers):,}",
        "-" if math.isnan(took_s) else format_duration(took_s),
        format_bytes(sent_bytes / len(peers)),
        f"{800 * sent_bytes / (online_s * up_bps):.1f} %" if online_s else "-",
    ]


def _facts(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Returns name, value and remark of each line under the table."""
    peers, unit = outcome.peers, loss_unit(outcome)
    facts = []
    if not outcome.is_whole:
        whole = format_duration(outcome.scenario.duration_s)
        facts.append(("stopped after", format_duration(outcome.simulated_s), f"of {whole}"))
    if not peers:
        return facts
    spreads = [sample.spread for sample in outcome.samples if math.isfinite(sample.spread)]
    spread = f"replicas {100 * spreads[-1]:.1f} % apart" if spreads else ""
    facts.append(("loss", f"{outcome.first_loss:.3f} -> {outcome.final_loss:.3f} {unit}", spread))
    facts.append(("peers at the end", fates(peers), f"{len(peers)} in all"))
    facts.append(("time lost", losses(peers), "of all peers' time"))
    if any(peer.exchanges_done for peer in peers):
        facts.append(("data parallel", *_data_parallel(outcome)))
    for reason, count in outcome.failures.most_common(MOST_REASONS):
        facts.append(("failed exchanges", f"{count} x", reason))
    if rest := sum(count for _, count in outcome.failures.most_common()[MOST_REASONS:]):
        facts.append(("failed exchanges", f"{rest} x", "for other reasons"))
    if outcome.fired:
        fired = ", ".join(f"{name} {count}" for name, count in sorted(outcome.fired.items()))
        facts.append(("faults that happened", fired, ""))
    took = f"{format_duration(outcome.wall_s)}, {outcome.times_real:.0f} times as fast as life"
    facts.append(("took", took, f"{outcome.num_events:,} events"))
    facts.append(("trace", outcome.digest[:16], ""))
    return facts


def loss_unit(outcome: Outcome) -> str:
    """Returns what the losses are measured in."""
    return "bits per byte" if outcome.scenario.task == "text" else "(the toy's loss)"


def fates(peers: list[PeerOutcome]) -> str:
    """Returns how many peers run, left and crashed."""
    counts = {fate: sum(peer.fate == fate for peer in peers) for fate in FATES}
    return ", ".join(f"{count} {fate}" for fate, count in counts.items() if count)


def losses(peers: list[PeerOutcome]) -> str:
    """Returns the causes that took time, the largest first."""
    alive_s = sum(peer.alive_s for peer in peers) or 1.0
    parts = sorted(lost_s(peers).items(), key=lambda part: -part[1])
    said = [f"{cause} {100 * s / alive_s:.1f} %" for cause, s in parts if s / alive_s >= 0.0005]
    return ", ".join(said) or "nothing"


def _data_parallel(outcome: Outcome) -> tuple[str, str]:
    """Returns how many times more a ring all-reduce of each step's gradients would have sent."""
    num_params = int(outcome.scenario.stands_for_params or outcome.num_params)
    founders = sum(group.count for group in outcome.scenario.groups)
    steps = fmean(peer.steps for peer in outcome.peers)
    sent_bytes = fmean(peer.sent_bytes for peer in outcome.peers)
    ring_bytes = data_parallel_bytes(founders, num_params, round(steps))
    remark = f"each: {format_bytes(ring_bytes)} in fp32, as many steps"
    return f"{ring_bytes / sent_bytes:.0f} x the bytes", remark
