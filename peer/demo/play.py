"""What happened in a play: the stage writes it down, the report reads it."""

from dataclasses import dataclass, field

from peer.demo.watch import LoneView, PeerView


@dataclass(frozen=True, slots=True)
class Played:
    """When a cue was played."""

    cue: str
    step: int
    t_unix_s: float
    elapsed_s: float


@dataclass(slots=True)
class Play:
    """What happened, for the report."""

    steps: int
    interval_steps: int
    peers: dict[str, PeerView] = field(default_factory=dict)
    lone: LoneView | None = None
    played: list[Played] = field(default_factory=list)
    training_s: float = 0.0
    """From the first peer's start to the curtain."""
    curtain_unix_s: float = float("inf")
    """When the actors were told to leave; what fails from here on is no failure."""
    exit_codes: dict[str, int | None] = field(default_factory=dict)
    """Of those who were told to leave; None for one that had to be killed."""
    is_complete: bool = False
    """Every survivor reached the last step in time."""
