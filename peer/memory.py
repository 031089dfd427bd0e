"""Memory for large vectors, used again and again.

A fresh page costs the kernel more than the arithmetic that fills it: for 100 MB, 45 ms against 4.
So a vector's memory comes back here by itself when nobody holds the vector any more, and serves the
next one of about that size.
"""

import ctypes
import sys
import threading
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SLACK = 1.25
"""A vector may lie in memory that is so many times larger."""
KEPT = 2
"""Free buffers at most: whoever lands frees an anchor and a momentum, and needs as much again."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_THRESHOLD_BYTES, _MMAP_THRESHOLD_BYTES = 64 << 20, 4 << 20

Buffer = npt.NDArray[np.float32]


class Vectors:
    """Makes fp32 vectors on the CPU, whose values mean nothing. Safe to use from any thread."""

    def __init__(self) -> None:
        self._free: deque[Buffer] = deque(maxlen=KEPT)
        self._lock = threading.RLock()  # the collector may call _give_back in the midst of it

    def empty(self, num_elements: int) -> Tensor:
        """Returns a vector `[num_elements]`."""
        buffer = self._take(num_elements)
        if buffer is None:
            buffer = np.empty(num_elements, np.float32)
        array = buffer[:num_elements]
        # The tensor holds this array, and nothing else does.
        weakref.finalize(array, self._give_back, buffer).atexit = False
        return torch.from_numpy(array)

    def _take(self, num_elements: int) -> Buffer | None:
        with self._lock:
            for buffer in self._free:
                if num_elements <= len(buffer) <= SLACK * num_elements:
                    self._free = deque((b for b in self._free if b is not buffer), maxlen=KEPT)
                    return buffer
        return None

    def _give_back(self, buffer: Buffer) -> None:
        with self._lock:
            self._free.append(buffer)


def return_large_blocks() -> None:
    """Makes the C library give blocks of 4 MiB and more back, and keep the small change.

    glibc raises that limit by itself whenever such a block is freed; then the heap keeps tens of
    fragments (docs/results.md). And it gives back what is free at the heap's end, a grain's worth
    at a time, only to fetch it again. Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
