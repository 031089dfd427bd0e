"""Plays a scenario of level `sizes`: a crowd lives through it, and is looked at now and then."""

import math
import time
from collections.abc import Callable

from peer.sim.crowd import Crowd
from peer.sim.crowd_outcome import CrowdOutcome, CrowdSample
from peer.sim.crowd_scenario import crowd_params, crowd_spec
from peer.sim.play import NUM_SAMPLES, SLICES_PER_SAMPLE, Progress
from peer.sim.scenario import Scenario


def play_crowd(
    scenario: Scenario,
    *,
    seed: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> CrowdOutcome:
    """Simulates a crowd; equal seeds give equal digests.

    Args:
        scenario: Which one.
        seed: Instead of its own.
        on_progress: Called about a thousand times.
        is_wanted: Asked as often; False ends the simulation where it is.

    Raises:
        ConfigError: the scenario's settings cannot be used at this level.
    """
    seed = scenario.seed if seed is None else seed
    manifest = scenario.manifest(seed)
    spec = crowd_spec(scenario, manifest)
    crowd = Crowd(spec, seed=seed)
    samples = [_sample(crowd)]
    began_s, num_slices = time.perf_counter(), NUM_SAMPLES * SLICES_PER_SAMPLE
    for number in range(1, num_slices + 1):
        if not is_wanted():
            break
        crowd.run(scenario.duration_s * (number / num_slices))
        on_progress(_progress(crowd, scenario.duration_s))
        if number % SLICES_PER_SAMPLE == 0:
            samples.append(_sample(crowd))
    if samples[-1].t_s < crowd.clock.now_s:
        samples.append(_sample(crowd))
    return CrowdOutcome(
        scenario=scenario,
        manifest=manifest,
        spec=spec,
        seed=seed,
        num_params=crowd_params(scenario, manifest),
        simulated_s=crowd.clock.now_s,
        wall_s=time.perf_counter() - began_s,
        num_events=crowd.clock.num_events,
        samples=samples,
        digest=crowd.digest(),
    )


def _sample(crowd: Crowd) -> CrowdSample:
    num_peers = len(crowd.peers)
    return CrowdSample(
        t_s=crowd.clock.now_s,
        peers=num_peers,
        died=len(crowd.network.hosts) - num_peers,
        spread=_spread(crowd),
        tally=crowd.total(),
    )


def _spread(crowd: Crowd) -> float | None:
    spread = crowd.spread() if crowd.spec.mixing == "pairs" else math.nan
    return None if math.isnan(spread) else spread


def _progress(crowd: Crowd, duration_s: float) -> Progress:
    return Progress(
        now_s=crowd.clock.now_s,
        duration_s=duration_s,
        peers=len(crowd.peers),
        rounds=int(crowd.clock.now_s / crowd.spec.interval_s),
        num_events=crowd.clock.num_events,
    )
