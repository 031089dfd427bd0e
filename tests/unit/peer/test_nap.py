import asyncio

import pytest

from peer.nap import BEAT_S, NAP_S, awake_or_not_s, watch_for_naps
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop


def naps_of(sleeps: dict[float, float], until_s: float) -> list[float]:
    """Returns what is noticed when the machine sleeps at these times for so long."""
    clock = VirtualClock()
    loop = VirtualLoop(clock)  # type: ignore[abstract]
    naps: list[float] = []
    slept_s = 0.0

    def sleep(duration_s: float) -> None:
        nonlocal slept_s
        slept_s += duration_s

    for at_s, duration_s in sleeps.items():
        clock.at(at_s, lambda duration_s=duration_s: sleep(duration_s))  # type: ignore[misc]
    loop.create_task(watch_for_naps(lambda: clock.now_s + slept_s, naps.append))
    loop.run_until(until_s)
    loop.close()
    return naps


def test_a_nap_is_noticed_once_with_its_length() -> None:
    """The loop's own clock stands still meanwhile, as that of a suspended laptop."""
    assert naps_of({12.0: 3600.0, 40.0: 100.0}, 200.0) == [pytest.approx(3600), pytest.approx(100)]


def test_a_moment_without_a_beat_is_no_nap() -> None:
    assert naps_of({}, 1000.0) == []
    assert naps_of({12.0: NAP_S - 1, 12 + 3 * BEAT_S: NAP_S - 1}, 1000.0) == []


async def test_the_clock_goes_on() -> None:
    before_s = awake_or_not_s()
    await asyncio.sleep(0)
    assert awake_or_not_s() >= before_s
