"""A swarm as somebody sees it who watches: the one thing that `status` and the web page show.

`status --json` and the page's `/status.json` are `as_data` of it, so they cannot disagree.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """One peer: what its card says, and, where it could be asked, its report."""

    peer_id: str
    role: str
    domain: str
    step: int
    round: int
    tokens: int
    reach: str
    up_bps: int
    down_bps: int
    software: str
    behind_rounds: int
    """Behind the middle of its domain's peers; who lags has 2 or more."""
    has_report: bool
    """Whether what follows is known; the rest is then of the report, else as if there were none."""
    phase: str = ""
    tokens_per_s: float = 0.0
    loss_bits_per_byte: float | None = None
    validation_bits_per_byte: float | None = None
    utilisation_frac: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    waits: tuple[dict[str, Any], ...] = ()
    """Each with `name`, `whom`, `for_s`; the longest first."""
    ties: tuple[dict[str, Any], ...] = ()
    """Each with `peer_id`, `way`, `round_trip_s`."""
    contribution: dict[str, Any] | None = None
    """`trained_tokens`, `used_tokens`, `used_rounds`, `late_rounds`, `refused` (reason, count)."""
    attested_tokens: int = 0
    """Of its used tokens, what others' reports carry."""
    attested_by: int = 0
    """How many others say so."""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """How the swarm was at one time; tokens and bytes with those of peers that are gone."""

    unix_s: float
    tokens: int
    loss_bits_per_byte: float | None
    validation_bits_per_byte: float | None
    sent_bytes: int
    utilisation_frac: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeView:
    """One exchange, as one of those in it tells."""

    peer_id: str
    partners: tuple[str, ...]
    fragment: int
    round: int
    outcome: str
    reason: str
    began_unix_s: float
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """Something worth a line: somebody came or left, lags, or an exchange failed."""

    unix_s: float
    kind: str
    """came, left, failed, lags, back, note."""
    peer_id: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmView:
    """The whole. Sums and means are over the peers below."""

    name: str
    run_id: str
    at_unix_s: float
    method: str
    parameters: int
    num_training: int
    round: int
    """The farthest of any peer."""
    tokens: int
    tokens_per_s: float
    loss_bits_per_byte: float | None
    """Training loss, the mean weighted by speed."""
    validation_bits_per_byte: float | None
    """The median of what peers found last."""
    utilisation_frac: float | None
    """The mean."""
    sent_bytes: int
    domains: tuple[dict[str, Any], ...] = ()
    peers: tuple[PeerView, ...] = ()
    history: tuple[Point, ...] = ()
    """Since somebody watches; thinned out, at most some hundreds."""
    exchanges: tuple[ExchangeView, ...] = ()
    """Of the last minute, and those under way; the newest last."""
    events: tuple[EventView, ...] = ()
    """The last hundred, the newest last."""


def as_data(view: SwarmView) -> dict[str, Any]:
    """Returns a view as plain data, for JSON."""
    return asdict(view)
