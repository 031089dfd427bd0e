"""The last word on a simulated crowd, in the terminal."""

from rich.console import Console
from rich.text import Text

from peer.sim.crowd_outcome import CrowdOutcome
from peer.units import format_bytes, format_count, format_duration

Fact = tuple[str, str, str]
"""Name, value and remark."""


def show(outcome: CrowdOutcome, console: Console) -> None:
    """Prints what matters, in a screenful."""
    console.print()
    console.print(Text(title(outcome), style="bold"))
    console.print(Text(subtitle(outcome), style="dim"))
    for facts in (_facts(outcome), _means(outcome)):
        console.print()
        for name, value, remark in facts:
            text = Text.assemble((f" {name:<22}", "dim"), f"{value:<18}", (f"  {remark}", "dim"))
            text.rstrip()
            console.print(text, highlight=False, soft_wrap=True)


def title(outcome: CrowdOutcome) -> str:
    """Returns what the scenario is called."""
    return outcome.scenario.title or outcome.manifest.name


def subtitle(outcome: CrowdOutcome) -> str:
    """Returns the method, the model, and how much time went by."""
    method, spec = outcome.manifest.method, outcome.spec
    parts = [
        f"{method.preset or method.mixing} ({method.codec.name})",
        f"a round every {spec.interval_steps} steps or {format_duration(spec.interval_s)}",
        f"{format_count(outcome.num_params)} parameters",
        format_duration(outcome.simulated_s),
        f"seed {outcome.seed}",
    ]
    return ", ".join(parts)


def percent(frac: float | None) -> str:
    """Returns a part of a whole."""
    return "-" if frac is None else f"{100 * frac:.2f} %"


def number(value: float | None) -> str:
    """Returns a mean."""
    return "-" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def factor(outcome: CrowdOutcome) -> str:
    """Returns what an outer step does to the spread, and what it would do in theory."""
    measured, ideal = outcome.spread_factor, outcome.random_pairs_factor
    if measured is None or ideal is None:
        return ""
    return f"x {measured:.3f} in an outer step; x {ideal:.3f} if all met at random"


def _facts(outcome: CrowdOutcome) -> list[Fact]:
    """Returns what is true of the crowd as a whole."""
    stretch, spec = outcome.settled, outcome.spec
    facts = []
    if not outcome.is_whole:
        duration = format_duration(outcome.scenario.duration_s)
        facts.append(("stopped after", format_duration(outcome.simulated_s), f"of {duration}"))
    rounds = f"{stretch.count('intervals'):,.0f} rounds"
    is_settled = stretch.begin.t_s >= spec.entry_s
    when = "since all were there" if is_settled else "while they were still coming"
    facts.append(("peers", f"{stretch.end.peers:,}", f"{rounds} {when}"))
    if stretch.died:
        frac = stretch.died * spec.interval_s / stretch.duration_s / spec.num_peers
        remark = f"{percent(frac)} in a round, and as many came"
        facts.append(("churn that happened", f"{stretch.died:,} crashed", remark))
    before, after = stretch.begin.spread, stretch.end.spread
    if before is not None and after is not None:
        facts.append(("spread", f"{before:.3g} -> {after:.3g}", factor(outcome)))
    speed = f"{outcome.times_real:.0f} times as fast as life"
    if peer_rounds := outcome.whole.count("intervals"):
        speed += f", {1e6 * outcome.wall_s / peer_rounds:.0f} us a peer and round"
    facts.append(("took", format_duration(outcome.wall_s), speed))
    facts.append(("digest", outcome.digest[:16], ""))
    return facts


def _means(outcome: CrowdOutcome) -> list[Fact]:
    """Returns what is true of one peer in one round, on average, since all were there."""
    stretch = outcome.settled
    notes, note_bytes = stretch.each("notes"), stretch.each("note_bytes")
    bulk_bytes = stretch.each("bulk_bytes")
    if notes is None or note_bytes is None or bulk_bytes is None:
        return []
    trouble = f"{percent(stretch.each('alone'))} alone, {percent(stretch.failed_frac)} failed"
    looks = [
        f"{number(stretch.each(name))} {said}"
        for name, said in (
            ("refreshes", "refreshes"),
            ("topics_read", "topics read"),
            ("topics_published", "records published"),
        )
    ]
    return [
        ("of a peer in a round", "", ""),
        ("exchanges", f"{number(stretch.each('done'))} landed", trouble),
        ("notes", number(notes), format_bytes(note_bytes)),
        ("parts and states", format_bytes(bulk_bytes), "received"),
        ("membership", f"{number(stretch.each('records_read'))} records read", ", ".join(looks)),
    ]
