"""A scenario of `benchmarks.reality` in the simulator, measured in the same way."""

from typing import Any

from benchmarks.reality import Bytes, Outcome, PeerOutcome, Scenario
from peer.method import method_of_run, warm
from peer.settings import method_settings
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from peer.sim.task import ToyTask
from peer.train.model import layout_of_run
from protocol.identity import peer_id_of
from protocol.manifest import Manifest, manifest_from

MEET_S = 20.0
"""By then everybody has joined and knows the others; the first step begins."""


def measure_simulated(scenario: Scenario) -> Outcome:
    """Runs a scenario under a virtual clock and returns what became of it.

    The model is a toy of the same size: what is trained changes neither times nor bytes.
    """
    manifest = _manifest(scenario)
    warm(method_of_run(manifest).codec)
    num_elements = layout_of_run(manifest).num_elements
    link = LinkSpec(
        up_bps=scenario.link.up_bps,
        down_bps=scenario.link.down_bps,
        latency_s=scenario.link.delay_s,
        loss_frac=scenario.link.loss_frac,
    )
    with SimSwarm(ToyTask(manifest, num_elements=num_elements), seed=scenario.seed) as swarm:
        seat = Seat(link=link, step_s=scenario.step_s)
        peers = [swarm.join(seat) for _ in range(scenario.num_peers)]
        for number, peer in enumerate(peers):
            begins_s = MEET_S + number * scenario.stagger_s
            peer.next_step_s = _from(begins_s, scenario.step_s, swarm)  # type: ignore[method-assign]
        swarm.run(MEET_S)
        before = [_count(peer) for peer in peers]
        swarm.run(MEET_S + scenario.duration_s)
        after = [_count(peer) for peer in peers]
        outcomes = [
            _outcome(swarm, peer, scenario, *counts)
            for peer, *counts in zip(peers, before, after, strict=True)
        ]
    return Outcome(duration_s=scenario.duration_s, peers=tuple(outcomes))


def _from(begins_s: float, step_s: float, swarm: SimSwarm) -> Any:
    """Returns how long each step lasts: the first one begins at a common instant."""

    def next_step_s() -> float:
        return max(0.0, begins_s - swarm.clock.now_s) + step_s

    return next_step_s


def _manifest(scenario: Scenario) -> Manifest:
    settings = scenario.settings
    settings["method"] = method_settings(settings["method"])
    return manifest_from(settings | {"founder": peer_id_of(bytes(32))})


def _count(peer: SimPeer) -> dict[str, float]:
    status = peer.status
    return {
        "steps": peer.learner.step,
        "rounds": min(peer.rounds),
        "exchanges_done": status.exchanges_done,
        "exchanges_failed": status.exchanges_failed,
        "sent": peer.host.sent_bytes,
        "received": peer.host.received_bytes,
        "payload_sent": peer.wire.payload_sent_bytes,
        "payload_received": peer.wire.payload_received_bytes,
    }


def _outcome(
    swarm: SimSwarm,
    peer: SimPeer,
    scenario: Scenario,
    before: dict[str, float],
    after: dict[str, float],
) -> PeerOutcome:
    gained = {name: int(after[name] - before[name]) for name in after}
    began_s: dict[str, float] = {}
    exchange_s = []
    for now_s, peer_id, event, fields in swarm.trace.entries:
        if peer_id == peer.peer_id and event == "exchange_begins":
            began_s[fields["exchange_id"]] = now_s
        if peer_id == peer.peer_id and event == "landed" and fields["exchange_id"] in began_s:
            exchange_s.append(round(now_s - began_s[fields["exchange_id"]], 3))
    return PeerOutcome(
        utilisation=round(gained["steps"] * scenario.step_s / scenario.duration_s, 4),
        steps=gained["steps"],
        rounds=gained["rounds"],
        exchanges_done=gained["exchanges_done"],
        exchanges_failed=gained["exchanges_failed"],
        exchange_s=tuple(exchange_s),
        payload_bytes=Bytes(gained["payload_sent"], gained["payload_received"]),
        socket_bytes=Bytes(gained["sent"], gained["received"]),
    )
