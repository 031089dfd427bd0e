"""A piece of a file in memory, while it comes over several connections in any order."""

from collections.abc import Callable

import numpy

from peer.run_files import GRAIN_BYTES


class FileWindow:
    """See the module docstring; implements `peer.ports.Sink`.

    Args:
        size_bytes: Of the whole file.
        start, stop: Which bytes of it.
        on_bytes: Told how much of the file is here, if all before the window is.
    """

    grain_bytes = GRAIN_BYTES
    is_divisible = True

    def __init__(
        self, size_bytes: int, start: int, stop: int, *, on_bytes: Callable[[int], None]
    ) -> None:
        self.size_bytes = size_bytes
        self._on_bytes = on_bytes
        self._start, self._stop = start, stop
        self._data = numpy.empty(stop - start, dtype=numpy.uint8).data
        self._come: dict[int, int] = {}
        """By start, where what has come stops."""

    @property
    def prefix(self) -> memoryview:
        """What has come, from the window's beginning up to the first gap."""
        at = self._start
        while at in self._come:
            at = self._come[at]
        return self._data[: at - self._start]

    def missing(self) -> list[tuple[int, int]]:
        """Returns what is still to come; see `peer.ports.Sink`."""
        ranges, at = [], self._start
        for start, stop in [*sorted(self._come.items()), (self._stop, self._stop)]:
            if at < start:
                ranges.append((at, start))
            at = stop
        return ranges

    def begin(self, round: int) -> None:
        """Does nothing: the file's digest says all."""

    async def put(self, start: int, data: bytes | memoryview) -> None:
        """Takes one grain; see `peer.ports.Sink`."""
        self._data[start - self._start : start - self._start + len(data)] = data
        self._come[start] = start + len(data)
        self._on_bytes(self._start + sum(stop - start for start, stop in self._come.items()))
