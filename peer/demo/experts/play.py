"""What happened in a play with domains: the stage writes it down, the report reads it."""

from dataclasses import dataclass, field

from peer.demo.experts.script import KILL_AT_FRAC
from peer.demo.experts.watch import MemberView
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.standings import Standing, standings


@dataclass(frozen=True, slots=True)
class Kill:
    """A peer that was alone in its domain was killed."""

    peer: str
    domain: str
    step: int
    copy_step: int
    """Of the newest copy that others kept."""
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Rescue:
    """A peer came to the domain of the one that was killed."""

    peer: str
    step: int
    """Where it went on, on the domain's count; 0 when it had to begin anew."""
    elapsed_s: float
    rounds_landed: int
    """In that domain since then, with its work in them."""


@dataclass(slots=True)
class Play:
    """What happened, for the report."""

    began_unix_s: float
    manifest: Manifest | None = None
    """None until the run is founded."""
    peers: dict[str, MemberView] = field(default_factory=dict)
    kill: Kill | None = None
    done_s: dict[str, float] = field(default_factory=dict)
    """By domain, when it reached its budget, since the demo began."""
    complete_s: float | None = None
    """When every survivor had every expert."""
    exit_codes: dict[str, int | None] = field(default_factory=dict)
    """Of those who were told to leave; None for one that had to be killed."""

    @property
    def survivors(self) -> dict[str, MemberView]:
        """All peers but the one that was killed."""
        dead = self.kill.peer if self.kill else ""
        return {name: view for name, view in self.peers.items() if name != dead}

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How the domains stand, as the survivors' cards would tell."""
        if self.manifest is None:
            return ()
        return standings(
            self.manifest, {PeerId(name): view.card() for name, view in self.survivors.items()}
        )

    def complete(self) -> list[str]:
        """Returns the survivors that have the last state of every domain."""
        names = [standing.domain for standing in self.standings]
        return [
            peer
            for peer, view in self.survivors.items()
            if names and all(view.has_final(name) for name in names)
        ]

    def rescue(self) -> Rescue | None:
        """Returns who came first to the domain of the killed peer, once somebody has."""
        if self.kill is None:
            return None
        arrivals = []
        killed_unix_s = self.began_unix_s + self.kill.elapsed_s
        for name, view in self.survivors.items():
            there = [e for e in view.events if e.get("domain") == self.kill.domain]
            joined = [e for e in there if e["event"] == "joined" and e["t_unix_s"] > killed_unix_s]
            if joined:
                landed = [e for e in there if e["event"] == "landed" and e.get("contributed")]
                since = [e for e in landed if e["t_unix_s"] > joined[0]["t_unix_s"]]
                elapsed_s = joined[0]["t_unix_s"] - self.began_unix_s
                arrivals.append(Rescue(name, joined[0]["step"], elapsed_s, len(since)))
        return min(arrivals, key=lambda rescue: rescue.elapsed_s, default=None)

    def victim(self) -> Standing | None:
        """Returns a domain whose only peer can be killed now, as others keep a copy; see script.

        Of several the one that has most steps left.
        """
        able = [
            standing
            for standing in self.standings
            if len(standing.peers) == 1
            and not standing.is_done
            and standing.copy_step
            and self.peers[standing.peers[0]].is_training
            and KILL_AT_FRAC <= standing.step / standing.total_steps < 1
        ]
        return max(able, key=lambda standing: standing.remaining_steps, default=None)
