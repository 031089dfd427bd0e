"""What a simulated scenario came to, as data."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from peer.sim.ledger import CAUSES
from peer.sim.scenario import Scenario
from peer.sim.trace import Trace
from protocol.identity import PeerId
from protocol.manifest import Manifest

Point = tuple[float, float]
"""Virtual time, and a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOutcome:
    """What one peer did."""

    peer_id: PeerId
    group: str
    fate: str
    """`running`, `left` or `crashed`."""
    began_at_s: float
    ended_at_s: float | None
    alive_s: float
    """Since it was started; until it left, or until now."""
    busy_s: float
    """Of that, spent on inner steps, at this machine's own pace."""
    lost_s: dict[str, float]
    """The rest, by cause; see `peer.sim.ledger`."""
    steps: int
    rounds: int
    exchanges_done: int
    exchanges_failed: int
    exchange_s: float
    """The median from the beginning of an exchange to its landing; NaN if there was none."""
    sent_bytes: float
    received_bytes: float
    loss: float
    """Of its live parameters on the validation text, in the end; NaN unless it runs."""

    @property
    def utilisation_frac(self) -> float:
        """The part of its time that went to inner steps."""
        return self.busy_s / self.alive_s if self.alive_s else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The swarm at one moment; counts are since the start."""

    t_s: float
    peers: int
    """That train now."""
    training_loss: float
    """The mean of what they last reported; NaN if nobody has."""
    spread: float
    """The mean distance of their live parameters to the mean of these, over the norm of that."""
    rounds: int
    """Of the peer that is farthest."""
    exchanges_done: int
    exchanges_failed: int
    sent_bytes: float


@dataclass(frozen=True, slots=True)
class FaultMark:
    """When a fault came, and how long it lasted."""

    at_s: float
    for_s: float
    """0 for those that are over at once, or never."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """See the module docstring."""

    scenario: Scenario
    manifest: Manifest
    seed: int
    num_params: int
    """Of what was trained; on the links it may have stood for more."""
    simulated_s: float
    """Less than the scenario's duration if it was stopped."""
    wall_s: float
    num_events: int
    peers: list[PeerOutcome]
    samples: list[Sample]
    first_loss: float
    """Of the initial anchor on the validation text."""
    validation: list[Point]
    """Loss of an anchor on the validation text, whenever a peer looked."""
    fired: Counter[str]
    """Faults that happened, victim by victim, and what weather did to the network."""
    faults: list[FaultMark]
    """Those that were due, planned or drawn."""
    failures: Counter[str]
    """Failed exchanges at each peer, by reason."""
    digest: str
    """Of the trace: equal runs have equal ones."""
    trace: Trace = field(repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether it ran to its end."""
        return self.simulated_s >= self.scenario.duration_s

    @property
    def times_real(self) -> float:
        """How many times faster than life the simulation was."""
        return self.simulated_s / self.wall_s

    @property
    def final_loss(self) -> float:
        """The mean of the running peers' losses; NaN if there are none."""
        losses = [peer.loss for peer in self.peers if math.isfinite(peer.loss)]
        return fmean(losses) if losses else math.nan

    def of_group(self, name: str) -> list[PeerOutcome]:
        """Returns the peers of one group."""
        return [peer for peer in self.peers if peer.group == name]

    def to_json(self) -> dict[str, Any]:
        """Returns plain data, without the trace, and with None for NaN."""
        own = {name: getattr(self, name) for name in self.__slots__}
        del own["trace"], own["scenario"], own["manifest"]
        own["peers"] = [
            asdict(peer) | {"utilisation_frac": peer.utilisation_frac} for peer in self.peers
        ]
        own["samples"] = [asdict(sample) for sample in self.samples]
        own["faults"] = [asdict(mark) for mark in self.faults]
        plain: dict[str, Any] = _plain(
            {
                "title": self.scenario.title,
                "is_whole": self.is_whole,
                "final_loss": self.final_loss,
                "times_real": self.times_real,
                "utilisation_frac": utilisation_frac(self.peers),
                "lost_s": lost_s(self.peers),
                "method": self.manifest.method.model_dump(mode="json"),
                **own,
            }
        )
        return plain


def utilisation_frac(peers: Iterable[PeerOutcome]) -> float:
    """Returns the part of all peers' time that went to inner steps."""
    peers = list(peers)
    alive_s = sum(peer.alive_s for peer in peers)
    return sum(peer.busy_s for peer in peers) / alive_s if alive_s else math.nan


def lost_s(peers: Iterable[PeerOutcome]) -> dict[str, float]:
    """Returns all peers' lost time by cause."""
    peers = list(peers)
    return {cause: sum(peer.lost_s[cause] for peer in peers) for cause in CAUSES}


def exchange_s(peers: Iterable[PeerOutcome]) -> float:
    """Returns the median of the peers' medians; NaN if nobody landed anything."""
    known = [peer.exchange_s for peer in peers if math.isfinite(peer.exchange_s)]
    return median(known) if known else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
