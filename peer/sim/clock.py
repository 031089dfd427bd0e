"""Virtual time: what is due runs in order, and nothing ever waits."""

import heapq
from collections.abc import Callable


class VirtualClock:
    """An event heap. Events of equal time run in the order in which they were set."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.num_events = 0
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def at(self, time_s: float, action: Callable[[], object]) -> None:
        """Runs `action` at that time; a time that is over counts as now."""
        self._count += 1
        due_s = time_s if time_s > self.now_s else self.now_s
        heapq.heappush(self._heap, (due_s, self._count, action))

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Runs `action` `delay_s` from now; a delay below zero counts as zero."""
        self._count += 1
        due_s = self.now_s + delay_s if delay_s > 0 else self.now_s
        heapq.heappush(self._heap, (due_s, self._count, action))

    def step(self) -> bool:
        """Runs the next event, and sets the time to it; returns False if there is none."""
        if not self._heap:
            return False
        self.now_s, _, action = heapq.heappop(self._heap)
        self.num_events += 1
        action()
        return True

    def run(self, until_s: float) -> None:
        """Runs everything that is due until then, and sets the time to it."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:  # as `step`, of which there are millions
            self.now_s, _, action = heapq.heappop(heap)
            self.num_events += 1
            action()
        self.now_s = until_s
