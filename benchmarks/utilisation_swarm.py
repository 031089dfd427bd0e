"""A swarm of real peers whose links change while it trains; see `benchmarks.utilisation`.

The peers are those of `benchmarks.paced`. They are founded and joined over a fast link, once; then
one link after the other is tried, and what the peers did meanwhile is judged from their events and
from when each inner step ended.
"""

import contextlib
import itertools
import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.links import Lab, Link, Traffic
from benchmarks.paced import STEPS
from benchmarks.reality import (
    BOOTSTRAP,
    EVENTS,
    LOOK_S,
    RUN,
    begin_training,
    dismissing,
    start_swarm,
    wait_for,
)
from bootstrap.found import found
from optim.presets import PRESETS
from optim.schedule import Schedule
from peer.demo.cast import Cast
from peer.telemetry import read_events
from peer.train.model import layout_of_run

FAST = Link(up_bps=100e6, down_bps=100e6, delay_s=0.005)
"""While the peers join."""
STAGGER_S = 0.2
MIN_QUEUE_S = 0.1
MIN_QUEUE_BITS = 32 * 8 * 1500
"""No queue is shorter than 0.1 s and 32 packets."""
HELD_UTILISATION = 0.99
HELD_ROUNDS = 0.95
"""What a link must allow to count as enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained, and how it is measured."""

    preset: str
    codec: str | None = None
    """None for the preset's own."""
    peers: int = 2
    interval_s: float = 6.0
    """H inner steps: these last `interval_s / H` each."""
    intervals: int = 4
    """Of which departures are judged, on each link."""
    congestion: str = "cubic"
    loss_frac: float = 0.01
    dim: int = 256
    layers: int = 2
    heads: int = 4
    ffn_dim: int = 704
    chunk_bytes: int = 32 * 1024
    progress_s: float = 10.0

    @property
    def schedule(self) -> Schedule:
        """The preset's."""
        spec = PRESETS[self.preset]["schedule"]
        return Schedule(spec["interval_steps"], spec["fragments"], spec["overlap_steps"])

    @property
    def step_s(self) -> float:
        """How long an inner step lasts."""
        return self.interval_s / self.schedule.interval_steps

    @property
    def settings(self) -> dict[str, Any]:
        """What run.toml would say."""
        model = {name: getattr(self, name) for name in ("dim", "layers", "heads", "ffn_dim")}
        codec = {"codec": {"name": self.codec}} if self.codec else {}
        return {
            "name": "utilisation",
            "model": model | {"context": 16},
            "inner": {"batch_sequences": 1},
            "method": {"preset": self.preset} | codec,
            "round": {"progress_s": self.progress_s},
            "limits": {"chunk_bytes": self.chunk_bytes},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What became of training on one link; means over the peers, sums of their rounds."""

    capacity: float
    """Of each direction of each link, in bits per parameter and inner step."""
    round_trip_s: float
    rate_bps: float
    steps_per_s: float
    rounds_due: int
    rounds_done: int
    """Fragments that landed before they departed again."""
    landing_frac: float | None
    """Median time from departure to landing, as a part of the interval; None without landings."""
    landing_s: float | None
    sent_bits: float
    """Per parameter and inner step, whole IP packets that left one host."""
    waited_s: float
    """What trainers waited for the network."""
    exchanges_failed: int
    utilisation: float = 0.0
    """Inner steps per second over those with the network off, at the end of the same swarm."""

    @property
    def done_frac(self) -> float:
        """Rounds done, of those due."""
        return self.rounds_done / self.rounds_due if self.rounds_due else 0.0

    @property
    def keeps_up(self) -> bool:
        """Whether the exchanges keep up with the schedule."""
        return self.done_frac >= HELD_ROUNDS

    @property
    def holds(self) -> bool:
        """Whether the link is enough."""
        return self.keeps_up and self.utilisation >= HELD_UTILISATION

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it, rounded."""
        fields = asdict(self) | {"done_frac": self.done_frac, "holds": self.holds}
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in fields.items()
        }


class Swarm:
    """Peers that train; make it with `swarm`."""

    def __init__(self, plan: Plan, lab: Lab, cast: Cast, peers: list["Watched"]) -> None:
        self._plan = plan
        self._lab = lab
        self._cast = cast
        self._peers = peers

    def measure(self, capacity: float, round_trip_s: float) -> Cell:
        """Returns what becomes of training on links of this capacity.

        Args:
            capacity: In bits per parameter and inner step.
            round_trip_s: From peer to peer and back.
        """
        plan = self._plan
        rate_bps = capacity * self._peers[0].num_parameters / plan.step_s
        self._connect(
            Link(
                up_bps=rate_bps,
                down_bps=rate_bps,
                delay_s=round_trip_s / 4,
                loss_frac=plan.loss_frac,
                queue_s=max(MIN_QUEUE_S, MIN_QUEUE_BITS / rate_bps),
            )
        )
        self._settle()
        # The last of these departures has an interval, and a little more, to land.
        began_s = self._wait(0.0)
        before = [peer.look() for peer in self._peers]
        ended_s = self._wait((plan.intervals + 1) * plan.interval_s + 4 * plan.step_s)
        after = [peer.look() for peer in self._peers]
        rounds = [
            outcome
            for peer in self._peers
            for outcome in peer.rounds(plan.schedule, plan.step_s, began_s, ended_s)
        ]
        landing_s = [took_s for took_s in rounds if took_s is not None]
        gained = [later.since(earlier) for earlier, later in zip(before, after, strict=True)]
        steps = statistics.mean(peer.num_steps(began_s, ended_s) for peer in self._peers)
        sent_bits = 8 * statistics.mean(gain.traffic.sent_bytes for gain in gained)
        median_s = statistics.median(landing_s) if landing_s else None
        return Cell(
            capacity=capacity,
            round_trip_s=round_trip_s,
            rate_bps=rate_bps,
            steps_per_s=self._steps_per_s(began_s, ended_s),
            rounds_due=len(rounds),
            rounds_done=len(landing_s),
            landing_frac=median_s and median_s / plan.interval_s,
            landing_s=median_s,
            sent_bits=sent_bits / self._peers[0].num_parameters / steps,
            waited_s=max(gain.waited_s for gain in gained),
            exchanges_failed=sum(gain.exchanges_failed for gain in gained),
        )

    def steps_per_s_alone(self) -> float:
        """Returns the pace with the network off; nothing can be measured afterwards."""
        self._connect(Link(loss_frac=1.0))
        began_s = self._wait(self._plan.interval_s / 2)  # what was under way has landed or not
        ended_s = self._wait(2 * self._plan.interval_s)
        return self._steps_per_s(began_s, ended_s)

    def _connect(self, link: Link) -> None:
        for peer in self._peers:
            self._lab.change(peer.name, link)

    def _settle(self) -> None:
        """Waits until everybody has landed something on this link, but not for ever."""
        began_s = time.monotonic()
        give_up_at_s = began_s + 2 * self._plan.interval_s
        while time.monotonic() < give_up_at_s:
            now_s = self._wait(LOOK_S)
            if all(peer.has_landed(began_s, now_s) for peer in self._peers):
                return

    def _wait(self, wait_s: float) -> float:
        """Returns the time, so much later."""
        end_s = time.monotonic() + wait_s
        while (now_s := time.monotonic()) < end_s:
            self._cast.check()
            time.sleep(min(LOOK_S, end_s - now_s))
        return now_s

    def _steps_per_s(self, began_s: float, ended_s: float) -> float:
        return statistics.mean(peer.steps_per_s(began_s, ended_s) for peer in self._peers)


@dataclass(frozen=True, slots=True)
class Look:
    """At one peer, at one time."""

    traffic: Traffic
    waited_s: float
    exchanges_failed: int

    def since(self, earlier: "Look") -> "Look":
        """Returns what was added."""
        gained = {
            name: count - getattr(earlier.traffic, name)
            for name, count in asdict(self.traffic).items()
        }
        return Look(
            Traffic(**gained),
            self.waited_s - earlier.waited_s,
            self.exchanges_failed - earlier.exchanges_failed,
        )


class Watched:
    """One peer, seen through its events, its steps and its link."""

    def __init__(self, name: str, folder: Path, lab: Lab, num_parameters: int) -> None:
        self.name = name
        self.num_parameters = num_parameters
        self._folder = folder
        self._lab = lab

    def knows(self, num_others: int) -> bool:
        """Whether it has joined, and met so many."""
        return (self._folder / EVENTS).exists() and any(
            event["num_members"] == num_others for event in self._events("progress")
        )

    def look(self) -> Look:
        """Returns its counts so far; what it says itself is up to 0.3 s old."""
        report = self._events("progress")[-1]
        traffic = self._lab.traffic(self.name)
        return Look(traffic, report["waited_s"], report["exchanges_failed"])

    def has_landed(self, began_s: float, ended_s: float) -> bool:
        """Whether anything of its own has landed meanwhile."""
        return any(began_s < landed["t_mono_s"] <= ended_s for landed in self._events("landed"))

    def num_steps(self, began_s: float, ended_s: float) -> int:
        """Returns how many inner steps ended meanwhile."""
        ends_s = self._step_ends_s()
        return bisect_right(ends_s, ended_s) - bisect_left(ends_s, began_s)

    def steps_per_s(self, began_s: float, ended_s: float) -> float:
        """Returns its pace meanwhile."""
        ends_s = [end_s for end_s in self._step_ends_s() if began_s <= end_s <= ended_s]
        return (len(ends_s) - 1) / (ends_s[-1] - ends_s[0])

    def rounds(
        self, schedule: Schedule, step_s: float, began_s: float, ended_s: float
    ) -> list[float | None]:
        """Returns of each due departure how long its landing took, None if it was not in time.

        In time is before the fragment's next departure, or with it. Those are judged whose time
        was over within what is looked at.
        """
        ends_s = self._step_ends_s()
        landed = [event for event in self._events("landed") if event["contributed"]]
        outcomes: list[float | None] = []
        for step, departed_s in enumerate(ends_s, start=1):
            again = step + schedule.interval_steps
            if departed_s < began_s or again >= len(ends_s):
                continue
            latest_s = ends_s[again] + step_s  # the end of the step after the next departure's
            if latest_s > ended_s:
                break
            for fragment in schedule.departures(step):
                took_s = [
                    event["t_mono_s"] - departed_s
                    for event in landed
                    if event["fragment"] == fragment and departed_s < event["t_mono_s"] <= latest_s
                ]
                outcomes.append(min(took_s, default=None))
        return outcomes

    def _step_ends_s(self) -> list[float]:
        return [float(line) for line in (self._folder / STEPS).read_text().split("\n")[:-1]]

    def _events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self._folder / EVENTS) if event["event"] == name]


@contextlib.contextmanager
def swarm(plan: Plan, folder: Path) -> Iterator[Swarm]:
    """Yields a swarm that has begun to train, and ends it.

    Args:
        plan: Which one.
        folder: Empty; everything that the processes write goes there.

    Raises:
        ThinwireError: a process ended by itself, or was not there in time.
        OSError, subprocess.CalledProcessError: see `benchmarks.links.why_not`.
    """
    manifest = found(plan.settings, folder / RUN)
    num_parameters = layout_of_run(manifest).num_elements
    names = [f"peer-{number}" for number in range(1, plan.peers + 1)]
    links = dict.fromkeys(itertools.chain((BOOTSTRAP,), names), FAST)
    with Lab(links, congestion=plan.congestion) as lab, Cast(folder) as cast, dismissing(cast):
        start_swarm(folder, names, lab, cast, step_s=plan.step_s, stagger_s=STAGGER_S)
        peers = [Watched(name, folder / name, lab, num_parameters) for name in names]
        others = plan.peers - 1
        wait_for(cast, "the peers", lambda: all(peer.knows(others) for peer in peers))
        begin_training(folder)
        wait_for(
            cast, "the first steps", lambda: all((folder / name / STEPS).exists() for name in names)
        )
        yield Swarm(plan, lab, cast, peers)
