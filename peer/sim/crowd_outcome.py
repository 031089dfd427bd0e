"""What a simulated crowd came to, as data.

**Paper:** Kolehmainen et al. 2025, NoLoCo, arXiv:2506.10911v1, Eq. (2), (3): `random_pairs_factor`.
**Symbols:** as in `peer.sim.crowd_value`.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from peer.sim.crowd import CrowdSpec
from peer.sim.crowd_tally import Tally
from peer.sim.scenario import Scenario
from protocol.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdSample:
    """The crowd at one moment; counts are since the start."""

    t_s: float
    peers: int
    died: int
    """As many have come for them."""
    spread: float | None
    """Standard deviation of the peers' values; None if there are none, as with mixing `all`."""
    tally: Tally
    """Of all that ever were here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What was done between two samples."""

    begin: CrowdSample
    end: CrowdSample

    @property
    def duration_s(self) -> float:
        """How long it was."""
        return self.end.t_s - self.begin.t_s

    @property
    def died(self) -> int:
        """How many died."""
        return self.end.died - self.begin.died

    def count(self, name: str) -> float:
        """Returns a counter of `Tally`."""
        return float(getattr(self.end.tally, name) - getattr(self.begin.tally, name))

    def each(self, name: str) -> float | None:
        """Returns a counter for a peer and a round; None if no round ended."""
        peer_rounds = self.count("intervals")
        return self.count(name) / peer_rounds if peer_rounds else None

    @property
    def failed_frac(self) -> float | None:
        """Of the exchanges, each counted at both its sides."""
        begun = self.count("begun")
        return self.count("failed") / begun if begun else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdOutcome:
    """See the module docstring."""

    scenario: Scenario
    manifest: Manifest
    spec: CrowdSpec
    seed: int
    num_params: int
    """What bulk data weighed as much as."""
    simulated_s: float
    """Less than the scenario's duration if it was stopped."""
    wall_s: float
    num_events: int
    samples: list[CrowdSample]
    """From before the first came to the end."""
    digest: str
    """Of all landings and deaths: equal runs have equal ones."""

    @property
    def is_whole(self) -> bool:
        """Whether it ran to its end."""
        return self.simulated_s >= self.scenario.duration_s

    @property
    def times_real(self) -> float:
        """How many times faster than life the simulation was."""
        return self.simulated_s / self.wall_s

    @property
    def whole(self) -> Stretch:
        """All of it."""
        return Stretch(begin=self.samples[0], end=self.samples[-1])

    @property
    def settled(self) -> Stretch:
        """Since all founders were there; all of it, if it never came to that."""
        before_end = self.samples[:-1]
        begins = (sample for sample in before_end if sample.t_s >= self.spec.entry_s)
        return Stretch(begin=next(begins, self.samples[0]), end=self.samples[-1])

    def stretches(self) -> list[Stretch]:
        """Returns it cut into pieces of about a round, or of a sample if these are longer."""
        pieces, begin = [], self.samples[0]
        for sample in self.samples[1:]:
            if sample.t_s - begin.t_s >= 0.99 * self.spec.interval_s:
                pieces.append(Stretch(begin=begin, end=sample))
                begin = sample
        return pieces

    @property
    def spread_factor(self) -> float | None:
        """What became of the spread in an outer step, on average; None if nobody made one."""
        stretch = self.settled
        before, after = stretch.begin.spread, stretch.end.spread
        outer_steps = stretch.count("done") / self.spec.num_peers
        if not (before and after and outer_steps):
            return None
        return math.exp(math.log(after / before) / outer_steps)

    @property
    def random_pairs_factor(self) -> float | None:
        """What it would be if all made their outer steps at once, in pairs drawn anew."""
        if self.spec.mixing != "pairs":
            return None
        return random_pairs_factor(self.spec.momentum, self.spec.gamma)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        own = {name: getattr(self, name) for name in self.__slots__}
        del own["scenario"], own["manifest"], own["spec"], own["samples"]
        settled = self.settled
        return {
            "title": self.scenario.title,
            "level": self.scenario.level,
            "is_whole": self.is_whole,
            "times_real": self.times_real,
            "method": self.manifest.method.model_dump(mode="json"),
            "spec": asdict(self.spec),
            **own,
            "peers": settled.end.peers,
            "died": settled.died,
            "settled_s": settled.duration_s,
            "peer_rounds": int(settled.count("intervals")),
            "each": {field.name: settled.each(field.name) for field in fields(Tally)},
            "failed_frac": settled.failed_frac,
            "spread": settled.end.spread,
            "spread_factor": self.spread_factor,
            "random_pairs_factor": self.random_pairs_factor,
            "samples": [asdict(sample) for sample in self.samples],
        }


def random_pairs_factor(momentum: float, gamma: float) -> float:
    """Returns what becomes of the spread of many values in an outer step with random partners.

    With e a value's distance from the mean of all, a step takes (E e^2, E e delta, E delta^2) to a
    linear function of themselves, for partners know nothing of each other.

    Args:
        momentum: alpha.
        gamma: The pull towards the pair's mean.
    """
    delta_delta = np.array([gamma**2 / 2, -momentum * gamma, momentum**2])  # E delta_new^2
    e_delta = np.array([-gamma / 2, momentum, 0.0])  # E e delta_new
    e_e = np.array([1.0, 0.0, 0.0])
    step = np.stack([e_e + 2 * e_delta + delta_delta, e_delta + delta_delta, delta_delta])
    return math.sqrt(max(abs(np.linalg.eigvals(step))))
