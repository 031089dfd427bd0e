"""The figures of the demo with domains: to one dataclass, and that to JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peer.demo.experts.play import Kill, Play, Rescue
from peer.demo.experts.script import DOMAINS
from peer.demo.json_report import machine, versions, write_report


@dataclass(frozen=True, slots=True)
class Judged:
    """An expert, an ensemble or an average on held-out text, in bits per byte."""

    name: str
    """Of an ensemble, its prior."""
    kind: str
    """`expert`, `ensemble` or `average`."""
    bits_per_byte: Mapping[str, float]
    """By domain."""
    mean: float


@dataclass(frozen=True, slots=True)
class DomainFigures:
    """One domain and its expert."""

    name: str
    text: str
    recipe: str
    difficulty: float | None
    parameters: int
    total_steps: int
    done_s: float | None
    """When it reached its budget, since the demo began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the demo found out."""

    method: str
    seed: int
    division: str
    domains: list[DomainFigures]
    judged: list[Judged]
    """Empty when the experts could not be measured."""
    evaluation_bytes: int
    """Held-out text of each domain."""
    kill: Kill | None
    rescue: Rescue | None
    peers: dict[str, list[str]]
    """By peer, the domains in which it trained."""
    complete_s: float | None
    took_s: float
    cpu_s: float
    """Processor time of all processes of the demo."""
    exit_codes: dict[str, int | None]
    versions: dict[str, str]
    machine: dict[str, Any]
    problems: list[str]
    """One sentence for each promise that was not kept; empty when all is well."""

    def write(self, path: Path) -> None:
        """Writes the report as JSON, without NaN."""
        write_report(asdict(self), path)


def judged_of(rows: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """Returns who was judged, of what `peer.experts.evaluation_report.as_data` has as `rows`."""
    return [
        Judged(row["name"], row["kind"], row["bits_per_byte"], fmean(row["bits_per_byte"].values()))
        for row in rows
    ]


def report_of(
    play: Play,
    judged: list[Judged],
    parameters: Mapping[str, int],
    *,
    method: str,
    seed: int,
    evaluation_bytes: int,
    took_s: float,
    cpu_s: float,
) -> Report:
    """Returns all figures of a play; the problems are `peer.demo.experts.verdict`'s to find.

    Args:
        play: What happened.
        judged: Who was judged, and how good it is.
        parameters: By domain, of its expert.
        method: The preset within the domains.
        seed: Of the run.
        evaluation_bytes: Of each domain, read at the end.
        took_s: Of all of the demo.
        cpu_s: Likewise, of its processes.
    """
    specs = play.manifest.domains if play.manifest else []
    texts = {domain.name: domain.text for domain in DOMAINS}
    return Report(
        method=method,
        seed=seed,
        division=play.manifest.experts.division if play.manifest else "",
        domains=[
            DomainFigures(
                name=spec.name,
                text=texts.get(spec.name, ""),
                recipe=spec.data.recipe,
                difficulty=spec.difficulty,
                parameters=parameters.get(spec.name, 0),
                total_steps=spec.inner.total_steps,
                done_s=play.done_s.get(spec.name),
            )
            for spec in specs
        ],
        judged=judged,
        evaluation_bytes=evaluation_bytes,
        kill=play.kill,
        rescue=play.rescue(),
        peers={
            name: [event["domain"] for event in view.all("domain_chosen")]
            for name, view in play.peers.items()
        },
        complete_s=play.complete_s,
        took_s=took_s,
        cpu_s=cpu_s,
        exit_codes=play.exit_codes,
        versions=versions(),
        machine=machine(),
        problems=[],
    )
