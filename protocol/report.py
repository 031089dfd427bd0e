"""A peer's signed answer to "how are you?": its progress, its part in the swarm, what it waits for.

A peer vouches for what it says of itself. What it says of others' updates it has no reason to
invent, so a contribution counts as attested as far as others' `Witness` entries carry it.
"""

from dataclasses import dataclass
from typing import Literal

from protocol.identity import PeerId

Outcome = Literal["landed", "failed", "under way"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What became of this peer's work, over all its lives in the run that its folder knows."""

    trained_tokens: int = 0
    used_tokens: int = 0
    """Of those, in averages that this peer saw land."""
    used_rounds: int = 0
    """Landings that contained its work."""
    late_rounds: int = 0
    """Landings that it took over while its work was not in them: that goes with a later one."""
    refused: tuple[tuple[str, int], ...] = ()
    """Why exchanges or transfers came to nothing, and how often; the most frequent first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What this peer saw of another one's work: averages with it that landed here."""

    peer_id: PeerId
    rounds: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """One of the last exchanges."""

    fragment: int
    round: int
    partners: tuple[PeerId, ...]
    outcome: Outcome
    reason: str = ""
    """Why it failed."""
    began_unix_s: float = 0.0
    took_s: float = 0.0
    """Up to now, of one under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What this peer waits for."""

    name: str
    whom: str = ""
    for_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """A peer that this one is connected to."""

    peer_id: PeerId
    way: str
    """direct, reverse or relayed."""
    round_trip_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """See the module docstring. Numbers that are not known are None."""

    peer_id: PeerId
    at_unix_s: float
    """By the clock of the peer."""
    phase: str = ""
    domain: str = ""
    step: int = 0
    round: int = 0
    tokens: int = 0
    """Trained, in this life and those before."""
    tokens_per_s: float = 0.0
    loss_bits_per_byte: float | None = None
    validation_bits_per_byte: float | None = None
    validation_round: int = 0
    utilisation_frac: float | None = None
    """The part of the time since training began that went into inner steps."""
    sent_bytes: int = 0
    received_bytes: int = 0
    num_members: int = 0
    """Other peers that it sees training."""
    contribution: Contribution = Contribution()
    witnesses: tuple[Witness, ...] = ()
    exchanges: tuple[Exchanged, ...] = ()
    """The last ones, the newest last."""
    waits: tuple[Waiting, ...] = ()
    ties: tuple[Tie, ...] = ()
    notices: tuple[str, ...] = ()
