"""What a peer knows of itself right now; the screen, the events and the card are views of it."""

from dataclasses import dataclass, field

from peer.waits import Waits
from protocol.identity import PeerId
from protocol.standings import Standing


@dataclass(slots=True)
class PeerStatus:
    """Kept up to date by the driver and the app; read by everybody."""

    phase: str = "starting"
    """In words, what this peer is doing or waiting for."""
    step: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0
    loss_bits_per_byte: float = float("nan")
    validation_bits_per_byte: float = float("nan")
    overhead_s: float = 0.0
    """What the trainer spent on snapshots and landings."""
    longest_gap_s: float = 0.0
    """The longest time between the ends of two inner steps."""
    waited_s: float = 0.0
    """What the trainer waited for the network: it never does."""
    is_done: bool = False
    round: int = 0
    members: tuple[PeerId, ...] = ()
    """Other live peers."""
    partners: tuple[PeerId, ...] = ()
    """Of the last exchange."""
    ways: dict[str, int] = field(default_factory=dict)
    """How many peers we are connected to `direct`, `reverse` and `relayed`; see `peer.net.link`."""
    exchanges_done: int = 0
    exchanges_failed: int = 0
    contributions: int = 0
    """Landings that contained our work."""
    contributed_tokens: int = 0
    swarm_tokens: int = 0
    """Tokens of all members, ours included, as their cards say."""
    sent_bytes: int = 0
    received_bytes: int = 0
    is_counted_by_kernel: bool = False
    """Whether the bytes are those of our sockets, or only of the payload."""
    notices: list[str] = field(default_factory=list)
    """Sentences for the user, the newest last."""
    waits: Waits = field(default_factory=Waits)
    """What this peer waits for now, and for whom."""
    validation_round: int = 0
    """Of the anchor that was evaluated last."""
    evaluated_s: float = 0.0
    """What the trainer spent on evaluations."""
    training_since_s: float | None = None
    """When training began in this life, on the event loop's clock; None before it does."""
    step_s: float = 0.0
    """The trainer's usual inner step."""
    progressed_s: float | None = None
    """When the trainer last told how it goes, on the event loop's clock; None before it does."""
    longest_lag_s: float = 0.0
    """The longest time by which the event loop was late."""
    domain: str = ""
    """Where this peer trains, in a run with domains; empty while it trains nowhere."""
    standings: tuple[Standing, ...] = ()
    """How the domains stand; none in a run without domains."""
    checkpointed_s: float | None = None
    """When the last checkpoint was complete, on the event loop's clock; None before the first."""

    def begin_life(self) -> None:
        """Forgets how far the life before came: the next one may train something else."""
        self.step = self.tokens = self.round = 0
        self.tokens_per_s = self.step_s = 0.0
        self.loss_bits_per_byte = self.validation_bits_per_byte = float("nan")
        self.validation_round, self.evaluated_s, self.training_since_s = 0, 0.0, None
        self.is_done, self.progressed_s = False, None
        self.members = self.partners = ()

    @property
    def utilisation_frac(self) -> float | None:
        """The part of the time since training began that went into inner steps."""
        if self.training_since_s is None or self.progressed_s is None:
            return None
        elapsed_s = self.progressed_s - self.training_since_s
        lost_s = self.overhead_s + self.waited_s + self.evaluated_s
        return max(0.0, 1 - lost_s / elapsed_s) if elapsed_s > 0 else None

    @property
    def ways_words(self) -> str:
        """The ways in words; empty when all are direct, as one would expect."""
        if not self.ways.keys() - {"direct"}:
            return ""
        return ", ".join(f"{number} {way}" for way, number in self.ways.items())

    @property
    def share_frac(self) -> float:
        """Our part of the swarm's tokens."""
        return self.tokens / self.swarm_tokens if self.swarm_tokens else 0.0
