"""Plays a scenario: the swarm lives through it, and is looked at now and then."""

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median

import torch

from peer.method import method_of_run, warm
from peer.sim.faults import Fault, Partition, schedule
from peer.sim.outcome import FaultMark, Outcome, PeerOutcome, Sample
from peer.sim.peer import Seat, SimPeer
from peer.sim.scenario import FOUNDER, Scenario
from peer.sim.swarm import SimSwarm
from peer.sim.trace import Entry, Trace
from protocol.identity import PeerId

NUM_SAMPLES = 100
SLICES_PER_SAMPLE = 10
"""So often between two samples somebody may look at the progress, or stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a play has come."""

    now_s: float
    duration_s: float
    peers: int
    rounds: int
    num_events: int


def play(
    scenario: Scenario,
    *,
    seed: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Simulates a scenario; equal seeds give equal traces.

    Args:
        scenario: Which one.
        seed: Instead of its own.
        on_progress: Called about a thousand times.
        is_wanted: Asked as often; False ends the simulation where it is.

    Raises:
        ConfigError: the run's settings or text cannot be used.
    """
    with _one_thread():
        return _Play(scenario, scenario.seed if seed is None else seed).run(on_progress, is_wanted)


class _Play:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.manifest = scenario.manifest(seed)
        task = scenario.new_task(self.manifest)
        learner = task.learner(FOUNDER)
        self.first_loss = learner.evaluate(task.anchor(), max_bytes=scenario.evaluation_bytes)
        warm(method_of_run(self.manifest).codec)
        self.swarm = SimSwarm(
            task,
            seed=seed,
            byte_scale=scenario.byte_scale(self.manifest),
            evaluate_every_rounds=scenario.evaluate_every_rounds,
            evaluation_bytes=scenario.evaluation_bytes,
        )
        self.faults = scenario.all_faults(seed)
        self.seats = [(group, group.seat()) for group in scenario.groups]
        self.samples: list[Sample] = []
        self._num_read = 0
        self._num_done = 0
        self._num_failed = 0

    def run(
        self, on_progress: Callable[[Progress], None], is_wanted: Callable[[], bool]
    ) -> Outcome:
        began_s, duration_s = time.perf_counter(), self.scenario.duration_s
        num_slices = NUM_SAMPLES * SLICES_PER_SAMPLE
        with self.swarm as swarm:
            self._prepare()
            for number in range(1, num_slices + 1):
                if not is_wanted():
                    break
                swarm.run(duration_s * (number / num_slices))
                on_progress(self._progress())
                if number % SLICES_PER_SAMPLE == 0:
                    self._sample()
            return self._outcome(time.perf_counter() - began_s)

    def _prepare(self) -> None:
        swarm = self.swarm
        for distance in self.scenario.distances:
            swarm.network.distance_s[frozenset(distance.between)] = distance.latency_s
        everywhere: list[Seat] = []
        for group, seat in self.seats:
            everywhere += group.count * [seat]
            for _ in range(group.count):
                swarm.clock.at(group.joins_s, lambda seat=seat: swarm.join(seat))  # type: ignore[misc]
        schedule(self.faults, swarm, everywhere)

    def _progress(self) -> Progress:
        swarm = self.swarm
        return Progress(
            now_s=swarm.clock.now_s,
            duration_s=self.scenario.duration_s,
            peers=len(swarm.running()),
            rounds=_rounds(swarm),
            num_events=swarm.clock.num_events,
        )

    # ---- looking at it

    def _sample(self) -> None:
        swarm = self.swarm
        entries = swarm.trace.entries
        new, self._num_read = entries[self._num_read :], len(entries)
        self._num_done += sum(event == "landed" for _, _, event, _ in new)
        self._num_failed += sum(event == "exchange_failed" for _, _, event, _ in new)
        peers = [peer for peer in swarm.running() if peer.trained_from_s is not None]
        losses = [peer.status.loss_bits_per_byte for peer in peers]
        known = [loss for loss in losses if math.isfinite(loss)]
        sample = Sample(
            t_s=swarm.clock.now_s,
            peers=len(peers),
            training_loss=fmean(known) if known else math.nan,
            spread=_spread(peers),
            rounds=_rounds(swarm),
            exchanges_done=self._num_done,
            exchanges_failed=self._num_failed,
            sent_bytes=sum(peer.host.sent_bytes for peer in swarm.peers.values()),
        )
        self.samples.append(sample)

    def _outcome(self, wall_s: float) -> Outcome:
        swarm = self.swarm
        trace = Trace()
        entries = trace.entries = list(swarm.trace.entries)  # the end of all tasks adds to it
        now_s = swarm.clock.now_s
        exchange_s = _exchange_s(entries)
        return Outcome(
            scenario=self.scenario,
            manifest=self.manifest,
            seed=self.seed,
            num_params=swarm.task.layout.num_elements,
            simulated_s=now_s,
            wall_s=wall_s,
            num_events=swarm.clock.num_events,
            peers=[self._peer(peer, exchange_s[peer.peer_id]) for peer in swarm.peers.values()],
            samples=self.samples,
            first_loss=self.first_loss,
            validation=[
                (t_s, fields["bits_per_byte"])
                for t_s, _, event, fields in entries
                if event == "evaluated" and fields["bits_per_byte"] is not None
            ],
            fired=Counter({name: count for name, count in swarm.network.fired.items() if count}),
            faults=[_mark(fault) for fault in self.faults if fault.at_s <= now_s],
            failures=Counter(
                reason_of(fields.get("reason"))
                for _, _, event, fields in entries
                if event == "exchange_failed"
            ),
            digest=trace.digest(),
            trace=trace,
        )

    def _peer(self, peer: SimPeer, exchange_s: Sequence[float]) -> PeerOutcome:
        now_s, status = self.swarm.clock.now_s, peer.status
        is_dead, has_ended = peer.host.is_dead, peer.ended_at_s is not None
        end_s = now_s if is_dead or peer.ended_at_s is None else peer.ended_at_s
        busy_s, lost_s = peer.ledger.account(
            now_s, ended_at_s=peer.ended_at_s, is_dead=is_dead, frozen_s=peer.frozen_s
        )
        loss = math.nan
        if not has_ended and peer.trained_from_s is not None:
            loss = peer.learner.evaluate(None, max_bytes=self.scenario.evaluation_bytes)
        return PeerOutcome(
            peer_id=peer.peer_id,
            group=next(group.name for group, seat in self.seats if seat is peer.seat),
            fate="crashed" if is_dead else "left" if has_ended else "running",
            began_at_s=peer.began_at_s,
            ended_at_s=peer.ended_at_s,
            alive_s=end_s - peer.began_at_s,
            busy_s=busy_s,
            lost_s=lost_s,
            steps=peer.ledger.num_steps,
            rounds=min(peer.rounds),
            exchanges_done=status.exchanges_done,
            exchanges_failed=status.exchanges_failed,
            exchange_s=median(exchange_s) if exchange_s else math.nan,
            sent_bytes=peer.host.sent_bytes,
            received_bytes=peer.host.received_bytes,
            loss=loss,
        )


def reason_of(said: object) -> str:
    """Returns why an exchange failed without whom and how many it was about."""
    without_peers = re.sub(r"\b12D3KooW\w+", "a peer", str(said))
    return re.sub(r"\d+(\.\d+)?", "N", without_peers)


def _rounds(swarm: SimSwarm) -> int:
    return max((min(peer.rounds) for peer in swarm.peers.values()), default=0)


def _spread(peers: Sequence[SimPeer]) -> float:
    if not peers:
        return math.nan
    thetas = torch.empty(len(peers), peers[0].learner.layout.num_elements)
    for row, peer in zip(thetas, peers, strict=True):
        peer.learner.snapshot(row)
    mean = thetas.mean(dim=0)
    norm = float(mean.norm())
    return float((thetas - mean).norm(dim=1).mean()) / norm if norm else math.nan


def _exchange_s(entries: Sequence[Entry]) -> dict[PeerId, list[float]]:
    """Returns how long each peer's exchanges took that landed."""
    began: dict[tuple[PeerId, str], float] = {}
    took: dict[PeerId, list[float]] = defaultdict(list)
    for t_s, peer_id, event, fields in entries:
        if event in ("exchange_begins", "landed"):
            key = peer_id, f"{fields['fragment']} {fields['exchange_id']}"
            if event == "exchange_begins":
                began[key] = t_s
            elif key in began:
                took[peer_id].append(t_s - began.pop(key))
    return took


def _mark(fault: Fault) -> FaultMark:
    name = fault.shape if isinstance(fault, Partition) else fault.kind
    return FaultMark(fault.at_s, getattr(fault, "for_s", None) or 0.0, name)


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    """Sums must not depend on how many cores there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
