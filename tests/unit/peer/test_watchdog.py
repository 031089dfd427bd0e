import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop, host_context
from peer.status import PeerStatus
from peer.waits import GRACE_S, SHOWN_S, Waits
from peer.watchdog import BEAT_S, LAG_S, MAX_AGAIN_S, MIN_SILENT_S, SILENT_STEPS, Watchdog
from protocol.identity import PeerId

WHOM = (PeerId("12D3KooWsomebody"),)
DAY_S = 86_400.0


class Machine:
    """Implements `peer.sim.loop.Host`: while it is stopped, what is due is held."""

    def __init__(self) -> None:
        self.is_stopped = False
        self.held: list[Callable[[], object]] = []

    def admits(self, callback: Callable[[], object]) -> bool:
        if self.is_stopped:
            self.held.append(callback)
        return not self.is_stopped


class Scene:
    """A watchdog under a virtual clock.

    Attributes:
        said: Each event, with its time.
    """

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.status = PeerStatus(waits=Waits(self.loop.time))
        self.waits = self.status.waits
        self.said: list[tuple[float, str, dict[str, Any]]] = []
        self.machine = Machine()
        self.context = host_context(self.machine)
        self.loop.create_task(Watchdog(self.status, self).run(), context=self.context)

    def write(self, event: str, **fields: Any) -> None:
        self.said.append((self.clock.now_s, event, fields))

    def run(self, duration_s: float) -> None:
        self.loop.run_until(self.clock.now_s + duration_s)

    def stand_still(self, duration_s: float) -> None:
        """The loop does nothing for so long, as when its process is stopped by SIGSTOP."""
        self.machine.is_stopped = True
        self.run(duration_s)
        self.machine.is_stopped = False
        for callback in self.machine.held:
            self.loop.call_soon(callback)
        self.machine.held.clear()

    def times_s(self, event: str) -> list[float]:
        return [time_s for time_s, said, _ in self.said if said == event]

    def events(self) -> list[str]:
        return [event for _, event, _ in self.said]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.loop.close()
    assert scene.loop.problems == []


def test_nothing_is_said_of_short_waits(scene: Scene) -> None:
    for number in range(20):
        scene.waits.begin(number, "an average", within_s=60)
        scene.run(SHOWN_S - BEAT_S)
        scene.waits.end(number)
    assert scene.said == []


def test_a_long_wait_is_told_at_growing_intervals_and_its_end_once(scene: Scene) -> None:
    scene.waits.begin("key", "a quorum", whom=WHOM, until="it is there")
    scene.run(100.5)
    scene.waits.end("key")
    scene.run(100)
    times_s = scene.times_s("waiting")
    assert times_s[0] == SHOWN_S
    assert times_s == [2, 4, 8, 16, 32, 64]
    time_s, event, fields = scene.said[-1]
    assert (time_s, event) == (101, "waited")
    assert (fields["what"], fields["whom"], fields["waited_s"]) == ("a quorum", list(WHOM), 100.5)
    assert scene.events().count("waited") == 1


def test_even_the_longest_wait_is_told_now_and_then(scene: Scene) -> None:
    scene.waits.begin("key", "a quorum", until="it is there")
    scene.run(DAY_S / 4)
    times_s = scene.times_s("waiting")
    gaps_s = [late - early for early, late in pairwise(times_s)]
    assert max(gaps_s) == MAX_AGAIN_S
    assert times_s[-1] >= DAY_S / 4 - MAX_AGAIN_S


def test_a_wait_says_for_whom_and_how_far_it_has_come(scene: Scene) -> None:
    done = [10]
    scene.waits.begin(
        "key", "an average", "part 3", whom=WHOM, within_s=60, progress=lambda: (done[0], 40)
    )
    scene.run(3)
    done[0] = 20
    scene.run(2)
    first, second = [fields for _, event, fields in scene.said if event == "waiting"]
    assert (first["what"], first["which"], first["whom"]) == ("an average", "part 3", list(WHOM))
    assert (first["done"], second["done"]) == ((10, 40), (20, 40))
    assert (first["left_s"], second["left_s"]) == (58, 56)
    assert second["unmoved_s"] == 0


def test_a_wait_past_its_deadline_is_told_once_and_warned_of(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.waits.begin("key", "an average", "part 3", within_s=10)
    scene.run(10 + GRACE_S)
    assert "overdue" not in scene.events()
    scene.run(100)
    assert scene.times_s("overdue") == [10 + GRACE_S + BEAT_S]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "waiting for an average (part 3) for 16 s, and it should have ended 6 s ago"
    ]


def test_a_deadline_that_moves_on_can_be_missed_again(scene: Scene) -> None:
    done = [0]
    scene.waits.begin("key", "an average", stall_s=10, progress=lambda: (done[0], 9))
    scene.run(40)
    done[0] += 1
    scene.run(40)
    assert len(scene.times_s("overdue")) == 2


def test_a_wait_without_a_deadline_is_never_overdue(scene: Scene) -> None:
    scene.waits.begin("key", "a quorum", until="it is there")
    scene.run(DAY_S / 24)
    assert "overdue" not in scene.events()


def test_a_loop_that_stood_still_is_told_and_the_longest_lag_kept(scene: Scene) -> None:
    for late_s in (LAG_S, 3.0, 2.0):
        scene.run(BEAT_S / 2)  # after a late beat the next one is a whole beat later
        scene.stand_still(BEAT_S / 2 + late_s)
    scene.run(BEAT_S / 2)
    lags_s = [fields["late_s"] for _, event, fields in scene.said if event == "loop_lag"]
    assert lags_s == [3.0, 2.0]
    assert scene.status.longest_lag_s == 3.0


def test_a_wait_that_ends_when_a_stopped_loop_goes_on_was_not_overdue(scene: Scene) -> None:
    scene.run(1)
    scene.waits.begin("key", "an average", within_s=10)
    scene.run(5)
    scene.stand_still(600)
    scene.loop.call_later(BEAT_S / 2, scene.waits.end, "key")
    scene.run(5)
    assert scene.events() == ["waiting", "waiting", "loop_lag", "waiting", "waited"]


def test_a_wait_that_does_not_end_after_a_stop_is_overdue_all_the_same(scene: Scene) -> None:
    scene.waits.begin("key", "an average", within_s=10)
    scene.run(5)
    scene.stand_still(600)
    scene.run(5)
    assert scene.events().count("overdue") == 1


def progress(scene: Scene, step_s: float) -> None:
    scene.status.step_s, scene.status.progressed_s = step_s, scene.loop.time()


@pytest.mark.parametrize("step_s", [0.1, 30.0])
def test_a_silent_trainer_is_told_of_after_many_usual_steps(
    scene: Scene, caplog: pytest.LogCaptureFixture, step_s: float
) -> None:
    patience_s = max(MIN_SILENT_S, SILENT_STEPS * step_s)
    scene.run(50)  # loading says nothing
    progress(scene, step_s)
    scene.run(patience_s - BEAT_S)
    assert scene.said == []
    scene.waits.begin("land", "the trainer to land an anchor", until="it answers")
    scene.run(10 * patience_s)
    told_s = [fields["silent_s"] for _, event, fields in scene.said if event == "trainer_silent"]
    assert told_s == [patience_s * 2**power for power in range(4)]
    named = [fields["waits"] for _, event, fields in scene.said if event == "trainer_silent"]
    assert named[-1] == ["the trainer to land an anchor"]
    assert "the trainer has told nothing for" in caplog.text


def test_a_trainer_that_speaks_again_is_given_the_same_patience_again(scene: Scene) -> None:
    for _ in range(3):
        progress(scene, 0.1)
        scene.run(MIN_SILENT_S + 1.5 * BEAT_S)
    assert len(scene.times_s("trainer_silent")) == 3


@pytest.mark.parametrize("what", ["the trainer to evaluate", "the trainer to save"])
def test_a_trainer_that_evaluates_or_saves_makes_no_steps_and_is_not_silent(
    scene: Scene, what: str
) -> None:
    progress(scene, 0.1)
    scene.waits.begin("key", what, until="it answers")
    scene.run(DAY_S / 24)
    scene.waits.end("key")
    ended_s = scene.loop.time()
    scene.run(MIN_SILENT_S - 2 * BEAT_S)  # it has as long again for its next steps
    assert "trainer_silent" not in scene.events()
    scene.run(3 * BEAT_S)
    assert len(scene.times_s("trainer_silent")) == 1
    assert scene.times_s("trainer_silent")[0] <= ended_s + MIN_SILENT_S


def test_a_trainer_that_is_done_may_be_silent(scene: Scene) -> None:
    progress(scene, 0.1)
    scene.status.is_done = True
    scene.run(DAY_S / 24)
    assert scene.said == []


def test_a_mistake_in_the_watchdog_is_logged_and_ends_nothing_else(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.waits.begin("key", "an average", within_s=10, progress=lambda: (1 // 0, 1))
    scene.run(5)
    assert "the watchdog has ended" in caplog.text
    assert "ZeroDivisionError" in caplog.text
