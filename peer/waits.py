"""What this peer waits for now: every wait has a name, an end, and progress.

A wait that nobody can see looks like a hang, and one without an end may be one. So whatever may
take more than an instant says, while it waits, what for, for whom, when it gives up, and how far it
has come. The screen, the event log and the metrics are views of this one list; `peer.watchdog`
looks through it once a second. Nothing here ends a wait: each has its own deadline where it waits.
"""

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from protocol.identity import PeerId

SHOWN_S = 2.0
"""A shorter wait is nobody's concern."""
GRACE_S = 5.0
"""A wait may end so long after its deadline: ending takes time as well."""
MAX_NAMED = 8
"""So many peers of one wait are named in an event; the others are counted."""

Whom = tuple[PeerId, ...] | Callable[[], tuple[PeerId, ...]]
"""Peers; or what returns those of now, and is asked when somebody looks."""
Progress = Callable[[], tuple[int, int] | None]
"""Returns how much is done, of how much, in a unit of its own; or None while that is unknown."""


@dataclass(slots=True, kw_only=True, eq=False)
class Wait:
    """One wait. All times are on the event loop's clock."""

    what: str
    """Completes "waiting for"; one of a few such phrases, for it names a metric's series."""
    which: str = ""
    """Which of its kind."""
    whom: tuple[PeerId, ...] = ()
    """Without whom it does not end, when it was last looked at; nobody, when it is for a process or
    disk of ours."""
    who: Callable[[], tuple[PeerId, ...]] | None = None
    fragment: int | None = None
    since_s: float
    moved_s: float
    """When it last moved."""
    within_s: float | None = None
    """It ends by itself so long after it began,"""
    stall_s: float | None = None
    """and when it has not moved for so long."""
    until: str = ""
    """What it has instead of a deadline: in words, what ends it."""
    progress: Progress | None = None
    has_been_looked_at: bool = False
    done: tuple[int, int] | None = None
    """The progress when it was last looked at."""
    ended_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        """When it ends by itself; None if only what it waits for can end it."""
        ends = []
        if self.within_s is not None:
            ends.append(self.since_s + self.within_s)
        if self.stall_s is not None:
            ends.append(self.moved_s + self.stall_s)
        return min(ends, default=None)

    def is_overdue(self, now_s: float) -> bool:
        """Whether it should have ended by itself long ago."""
        deadline_s = self.deadline_s
        return deadline_s is not None and now_s > deadline_s + GRACE_S

    @property
    def name(self) -> str:
        """What it waits for, in words."""
        return f"{self.what} ({self.which})" if self.which else self.what

    def look(self, now_s: float) -> None:
        """Notes how far it has come by now, and for whom it still is."""
        before = self.done, self.whom
        if self.progress is not None:
            self.done = self.progress()
        if self.who is not None:
            self.whom = self.who()
        if self.has_been_looked_at and before != (self.done, self.whom):
            self.moved_s = now_s
        self.has_been_looked_at = True

    def facts(self, now_s: float) -> dict[str, Any]:
        """Returns all of it as plain data, for an event."""
        deadline_s = self.deadline_s
        end_s = now_s if self.ended_s is None else self.ended_s
        return {
            "what": self.what,
            "which": self.which,
            "whom": list(self.whom[:MAX_NAMED]),
            "num_whom": len(self.whom),
            "fragment": self.fragment,
            "waited_s": round(end_s - self.since_s, 3),
            "left_s": None if deadline_s is None else round(deadline_s - now_s, 3),
            "until": self.until,
            "done": self.done,
            "unmoved_s": round(now_s - self.moved_s, 3),
        }


class Waits:
    """Everything that one peer waits for now.

    Args:
        clock: Monotonic; without one it is that of the event loop in which the first wait begins.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._waits: dict[Hashable, Wait] = {}

    @contextlib.contextmanager
    def on(
        self,
        what: str,
        which: str = "",
        *,
        whom: Whom = (),
        fragment: int | None = None,
        within_s: float | None = None,
        stall_s: float | None = None,
        until: str = "",
        progress: Progress | None = None,
    ) -> Iterator[Wait]:
        """Is waited for while the block runs; the arguments are those of `Wait`.

        Raises:
            ValueError: it has no end, and does not say why.
        """
        key = object()
        wait = self.begin(
            key,
            what,
            which,
            whom=whom,
            fragment=fragment,
            within_s=within_s,
            stall_s=stall_s,
            until=until,
            progress=progress,
        )
        try:
            yield wait
        finally:
            self.end(key)

    def begin(
        self,
        key: Hashable,
        what: str,
        which: str = "",
        *,
        whom: Whom = (),
        fragment: int | None = None,
        within_s: float | None = None,
        stall_s: float | None = None,
        until: str = "",
        progress: Progress | None = None,
    ) -> Wait:
        """Says what is waited for under `key` from now on, until `end(key)` or the next `begin`.

        For a state machine, which does not wait in a block of code. To say the same `what` and
        `which` again changes nothing, and costs next to nothing.

        Raises:
            ValueError: it has no end, and does not say why.
        """
        if within_s is None and stall_s is None and not until:
            raise ValueError(f"waiting for {what}: give within_s, stall_s, or until in words")
        wait = self._waits.get(key)
        if wait is not None and (wait.what, wait.which) == (what, which):
            return wait
        self.end(key)
        now_s = self.now_s()
        wait = self._waits[key] = Wait(
            what=what,
            which=which,
            whom=() if callable(whom) else whom,
            who=whom if callable(whom) else None,
            fragment=fragment,
            since_s=now_s,
            moved_s=now_s,
            within_s=within_s,
            stall_s=stall_s,
            until=until,
            progress=progress,
        )
        return wait

    def end(self, key: Hashable) -> None:
        """Nothing is waited for under `key` any more; as often as one likes."""
        wait = self._waits.pop(key, None)
        if wait is not None:
            wait.ended_s = self.now_s()

    def now_s(self) -> float:
        """Returns the time on the clock of the waits."""
        if self._clock is None:
            self._clock = asyncio.get_running_loop().time
        return self._clock()

    def now(self, *, longer_than_s: float = 0.0) -> list[Wait]:
        """Returns what is waited for, the longest wait first, each as far as it has come.

        Args:
            longer_than_s: Shorter ones are left out.
        """
        if not self._waits:
            return []
        now_s = self.now_s()
        waits = [wait for wait in self._waits.values() if now_s - wait.since_s >= longer_than_s]
        for wait in waits:
            wait.look(now_s)
        return sorted(waits, key=lambda wait: wait.since_s)

    def longest(self, limit: int = 3) -> list[Wait]:
        """Returns the longest waits, if any is worth showing."""
        return self.now(longer_than_s=SHOWN_S)[:limit]

    def ages(self) -> dict[str, tuple[int, float]]:
        """Returns how many waits there are for each `what`, and the age of the oldest in seconds.

        Any thread may ask.
        """
        waits = list(self._waits.values())
        ages: dict[str, tuple[int, float]] = {}
        for wait in waits:
            number, oldest_s = ages.get(wait.what, (0, 0.0))
            ages[wait.what] = number + 1, max(oldest_s, self.now_s() - wait.since_s)
        return ages
