"""Virtual time: what is due runs in order, and nothing ever waits."""

import heapq
from collections.abc import Callable


class VirtualClock:
    """An event heap. Events of equal time run in the order in which they were set."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Runs `action` `delay_s` from now; a delay below zero counts as zero."""
        self._count += 1
        heapq.heappush(self._heap, (self.now_s + max(0.0, delay_s), self._count, action))

    def run(self, until_s: float) -> None:
        """Runs everything that is due until then, and sets the time to it."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._heap)
            action()
        self.now_s = until_s
