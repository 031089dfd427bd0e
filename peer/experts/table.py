"""The division as people see it: what each expert gets, and what the other divisions would cost."""

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from rich.table import Table

from peer.experts.division import DIVISIONS
from peer.experts.flops import flops_per_token
from peer.experts.memory import peer_bytes
from peer.experts.undivided import Undivided, division_of
from peer.train.model import VOCAB_SIZE, num_parameters
from peer.units import format_bytes, format_count
from protocol.errors import ConfigError
from protocol.manifest import DomainSpec, Manifest
from protocol.models import ModelSpec


class Row(NamedTuple):
    """One domain of a division."""

    name: str
    is_expert: bool
    difficulty: float | None
    source: str
    """Where the difficulty comes from: `given`, `probe`, or empty."""
    model: ModelSpec
    num_parameters: int
    total_steps: int
    tokens: int
    """Of all steps of one peer."""
    flops: float
    share_frac: float
    """Of the FLOPs of all domains."""
    memory_bytes: float
    """Of a peer that trains it."""


class Total(NamedTuple):
    """What a division costs in all, or why it cannot be had."""

    division: str
    flops: float | None
    problem: str


def rows_of(manifest: Manifest, probed: Container[str] = ()) -> list[Row]:
    """Return a row for each domain of a run.

    Args:
        manifest: With its domains divided.
        probed: The domains whose difficulty was measured.
    """
    costs = [_flops(domain) for domain in manifest.domains]
    return [
        Row(
            name=domain.name,
            is_expert=domain.is_expert,
            difficulty=domain.difficulty,
            source="" if not domain.difficulty else "probe" if domain.name in probed else "given",
            model=domain.model,
            num_parameters=num_parameters(domain.model, VOCAB_SIZE[domain.data.tokenizer]),
            total_steps=domain.inner.total_steps,
            tokens=_tokens(domain),
            flops=flops,
            share_frac=flops / sum(costs),
            memory_bytes=peer_bytes(manifest, domain.name),
        )
        for domain, flops in zip(manifest.domains, costs, strict=True)
    ]


def totals_of(found: Undivided, difficulties: Mapping[str, float]) -> list[Total]:
    """Return what each division would cost.

    Args:
        found: The run's domains.
        difficulties: Of those whose difficulty is not given, as far as they are known.
    """
    return [_total(found, difficulties, division) for division in DIVISIONS]


def render(rows: list[Row]) -> Table:
    """Return the rows as a table for a terminal of 80 columns."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("domain", overflow="fold")
    for column in ("difficulty", "shape", "params", "steps", "tokens", "FLOPs", "share", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        mark = " *" if row.source == "probe" else ""
        table.add_row(
            row.name,
            f"{row.difficulty:.3g}{mark}" if row.difficulty else "-",
            f"{row.model.layers} x {row.model.dim}, {row.model.ffn_dim}",
            format_count(row.num_parameters),
            f"{row.total_steps}",
            format_count(row.tokens),
            f"{row.flops:.3g}",
            f"{100 * row.share_frac:.1f} %",
            format_bytes(row.memory_bytes),
            style=None if row.is_expert else "dim",
        )
    return table


def notes(manifest: Manifest, rows: list[Row]) -> list[str]:
    """Return what a reader of the table must know."""
    experts, flops = manifest.experts, sum(row.flops for row in rows)
    budget = f" of a budget of {experts.budget_flops:.3g}" if experts.budget_flops else ""
    spread = "" if experts.division == "equal" else f", spread {experts.spread:.3g}"
    lines = [
        f"division {experts.division}{spread}: {flops:.3g} FLOPs{budget}, by one peer a domain"
    ]
    lines.append("shape: layers x dim, ffn_dim; memory: of a peer that trains it")
    if any(row.source == "probe" for row in rows):
        lines.append("* measured by a probe, in bits per byte")
    seeds = [row.name for row in rows if not row.is_expert]
    if seeds:
        lines.append(f"{', '.join(seeds)}: no expert, for others to branch from")
    return lines


def totals_lines(totals: list[Total]) -> list[str]:
    """Return a line for each division."""
    width = max(len(total.division) for total in totals)
    return [
        f"{total.division:<{width}}  "
        + (total.problem if total.flops is None else f"{total.flops:.4g} FLOPs")
        for total in totals
    ]


def as_data(manifest: Manifest, rows: list[Row], totals: list[Total]) -> dict[str, Any]:
    """Return all of it as plain data for JSON."""
    return {
        "division": manifest.experts.division,
        "spread": manifest.experts.spread,
        "budget_flops": manifest.experts.budget_flops,
        "flops": sum(row.flops for row in rows),
        "domains": [{**row._asdict(), "model": row.model.model_dump()} for row in rows],
        "totals": [total._asdict() for total in totals],
    }


def _total(found: Undivided, difficulties: Mapping[str, float], division: str) -> Total:
    if not difficulties.keys() >= set(found.unknown(division)):
        return Total(division, None, "needs difficulties; --probe measures them")
    try:
        shares = division_of(found, difficulties, division=division)
    except ConfigError as error:
        return Total(division, None, str(error))
    return Total(division, sum(share.flops for share in shares), "")


def _tokens(domain: DomainSpec) -> int:
    return domain.inner.total_steps * domain.inner.batch_sequences * domain.model.context


def _flops(domain: DomainSpec) -> float:
    return flops_per_token(domain.model) * _tokens(domain)
