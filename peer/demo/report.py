"""The demo's figures: from what the actors wrote to one dataclass, and that to JSON and a table."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peer.demo import script
from peer.demo.json_report import machine, versions, write_report
from peer.demo.play import Play, Played
from peer.demo.watch import PeerView


@dataclass(frozen=True, slots=True)
class Scores:
    """Validation losses in bits per byte, all on the same bytes."""

    parameters: int
    evaluation_bytes: int
    start: float
    """Of the model that all begin with."""
    alone: float
    """Of the replica that trained alone; NaN when it did not get to the end."""
    peers: dict[str, float]
    """Of the last checkpoint's anchor, by peer; NaN when there is none."""
    anchors: int
    """How many different anchors the peers ended with: 1 when the method keeps them equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFigures:
    """What one peer did."""

    name: str
    part: str
    """Its part in the play: whole time, killed, or joined late."""
    joined_at_step: int | None
    step: int
    """Where it stopped, on the run's count."""
    tokens: int
    sent_bytes: int
    received_bytes: int
    is_counted_by_kernel: bool
    exchanges_done: int
    exchanges_failed: int
    contributions: int
    waited_s: float
    overhead_s: float
    final_bits_per_byte: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the demo found out; all losses are bits per byte of validation text."""

    method: str
    codec: str
    seed: int
    steps: int
    interval_steps: int
    parameters: int
    start_bits_per_byte: float
    middle_bits_per_byte: float | None
    """Mean of the peers' own evaluations nearest to half the steps, on less text."""
    middle_step: int | None
    end_bits_per_byte: float
    """Mean over the peers that were there at the end."""
    worst_bits_per_byte: float
    different_anchors: int
    alone_bits_per_byte: float
    evaluation_bytes: int
    sent_bytes_mean: float
    """Over the peers that ran the whole time, as are the maximum and the seconds below."""
    sent_bytes_max: int
    is_counted_by_kernel: bool
    data_parallel_bytes: float
    """What each peer would have sent: fp32 gradients, ring all-reduce, as many steps."""
    times_fewer_bytes: float
    """By the peer that sent most."""
    rounds_landed: int
    exchanges_failed: list[dict[str, Any]]
    waited_s: float
    """The most that any peer's trainer waited for the network."""
    overhead_s: float
    training_s: float
    took_s: float
    cues: list[Played]
    peers: list[PeerFigures]
    exit_codes: dict[str, int | None]
    versions: dict[str, str]
    machine: dict[str, Any]
    problems: list[str]
    """One sentence for each promise that was not kept; empty when all is well."""

    def write(self, path: Path) -> None:
        """Writes the report as JSON, without NaN."""
        write_report(asdict(self), path)


def report_of(play: Play, scores: Scores, *, method: str, seed: int, took_s: float) -> Report:
    """Returns all figures of a play; the problems are `peer.demo.verdict`'s to find."""
    peers = [_peer_figures(view, play, scores) for view in play.peers.values()]
    whole = [peer for peer in peers if peer.name in script.WHOLE_TIME]
    finals = list(scores.peers.values()) or [math.nan]
    middle = middle_of(play)
    sent_max = max((peer.sent_bytes for peer in whole), default=0)
    ring_bytes = data_parallel_bytes(len(script.FOUNDERS), scores.parameters, play.steps)
    return Report(
        method=method,
        codec=script.METHODS[method].codec,
        seed=seed,
        steps=play.steps,
        interval_steps=play.interval_steps,
        parameters=scores.parameters,
        start_bits_per_byte=scores.start,
        middle_bits_per_byte=middle[1] if middle else None,
        middle_step=middle[0] if middle else None,
        end_bits_per_byte=fmean(finals),
        worst_bits_per_byte=math.nan if any(map(math.isnan, finals)) else max(finals),
        different_anchors=scores.anchors,
        alone_bits_per_byte=scores.alone,
        evaluation_bytes=scores.evaluation_bytes,
        sent_bytes_mean=fmean(peer.sent_bytes for peer in whole) if whole else 0.0,
        sent_bytes_max=sent_max,
        is_counted_by_kernel=bool(whole) and all(peer.is_counted_by_kernel for peer in whole),
        data_parallel_bytes=ring_bytes,
        times_fewer_bytes=ring_bytes / sent_max if sent_max else 0.0,
        rounds_landed=len(landed_exchanges(play)),
        exchanges_failed=failed_exchanges(play),
        waited_s=max((peer.waited_s for peer in peers), default=0.0),
        overhead_s=fmean(peer.overhead_s for peer in whole) if whole else 0.0,
        training_s=play.training_s,
        took_s=took_s,
        cues=play.played,
        peers=peers,
        exit_codes=play.exit_codes,
        versions=versions(),
        machine=machine(),
        problems=[],
    )


def data_parallel_bytes(num_peers: int, parameters: int, steps: int) -> float:
    """Returns what one of N peers sends: fp32 gradients by a ring all-reduce in each step."""
    return 2 * (num_peers - 1) / num_peers * 4 * parameters * steps


def landed_exchanges(play: Play) -> set[str]:
    """Returns the ids of the exchanges that landed somewhere."""
    return {e["exchange_id"] for view in play.peers.values() for e in view.all("landed")}


def failed_exchanges(play: Play) -> list[dict[str, Any]]:
    """Returns the exchanges that failed at some peer before the curtain, one entry for each.

    Each has the time of its first failure, the reasons by peer, the partners, and whether it landed
    at another peer all the same.
    """
    landed = landed_exchanges(play)
    ids = {view.events[0].get("peer_id"): name for name, view in play.peers.items() if view.events}
    failed: dict[str, dict[str, Any]] = {}
    for name, view in play.peers.items():
        for event in view.all("exchange_failed"):
            if event["t_unix_s"] >= play.curtain_unix_s:
                continue
            key = event.get("exchange_id", f"{name} {event['t_unix_s']}")
            entry = failed.setdefault(
                key,
                {
                    "exchange_id": key,
                    "t_unix_s": event["t_unix_s"],
                    "partners": set(),
                    "reasons": {},
                    "landed_elsewhere": key in landed,
                },
            )
            entry["t_unix_s"] = min(entry["t_unix_s"], event["t_unix_s"])
            entry["partners"] |= {ids.get(peer, peer) for peer in event.get("partners", ())}
            entry["reasons"][name] = str(event.get("reason", ""))
    entries = sorted(failed.values(), key=lambda entry: float(entry["t_unix_s"]))
    return [entry | {"partners": sorted(entry["partners"])} for entry in entries]


def middle_of(play: Play) -> tuple[int, float] | None:
    """Returns step and loss near half the steps: of each peer the nearest evaluation, averaged."""
    nearest = []
    for view in play.peers.values():
        evaluated = view.all("evaluated")
        if evaluated:
            nearest.append(min(evaluated, key=lambda e: abs(e["step"] - play.steps / 2)))
    if not nearest:
        return None
    best = min(abs(e["step"] - play.steps / 2) for e in nearest)
    margin = best + play.interval_steps / 2
    close = [e for e in nearest if abs(e["step"] - play.steps / 2) <= margin]
    return round(fmean(e["step"] for e in close)), fmean(e["bits_per_byte"] for e in close)


def _peer_figures(view: PeerView, play: Play, scores: Scores) -> PeerFigures:
    newest, joined = view.newest, view.all("joined")
    parts = {script.VICTIM: "killed", script.NEWCOMER: "joined late"}
    return PeerFigures(
        name=view.name,
        part=parts.get(view.name, "whole time"),
        joined_at_step=joined[0].get("step") if joined else None,
        step=view.step,
        tokens=int(newest.get("tokens", 0)),
        sent_bytes=int(newest.get("sent_bytes", 0)),
        received_bytes=int(newest.get("received_bytes", 0)),
        is_counted_by_kernel=bool(newest.get("is_counted_by_kernel", False)),
        exchanges_done=len(view.all("landed")),
        exchanges_failed=sum(
            event["t_unix_s"] < play.curtain_unix_s for event in view.all("exchange_failed")
        ),
        contributions=sum(bool(event.get("contributed")) for event in view.all("landed")),
        waited_s=float(newest.get("waited_s", 0.0)),
        overhead_s=float(newest.get("overhead_s", 0.0)),
        final_bits_per_byte=scores.peers.get(view.name),
    )
