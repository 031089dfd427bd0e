"""Where the CPU time of one end's exchange goes, by clocks around what it calls.

    encode, decode      the codec's calls; averaging is a part of decoding
    departure, step     the outer rule's calls: what is sent, and what becomes of the average
    digest              the anchor's hash
    mixing              the rest of the threads in which those run: copies, new memory
    event loop          asyncio and the wire's Python
    gRPC                all other threads: TLS, HTTP/2, sockets

Clocks are of CPU time and belong to threads, so that neither waiting nor another process on the
same core counts. Work inside other work counts once, as what it is.
"""

import functools
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optim.method import Method
from peer import mixing

_TASKS = Path("/proc/self/task")


class Stages:
    """Puts clocks around the calls of a method's codec and rule, for the whole process."""

    def __init__(self, method: Method) -> None:
        self._used_s: defaultdict[tuple[int, str], float] = defaultdict(float)
        """By thread and stage."""
        self._inside = threading.local()
        self._before: dict[int, float] = {}
        self._exchanges: list[dict[str, float]] = []
        for codec in {type(method.codec), type(method.codec.for_average(2))}:
            self._watch(codec, "encode", "encode")
            self._watch(codec, "decode", "decode")
            self._watch(codec, "accumulate", "decode")
        self._watch(type(method.outer.rule), "outgoing", "departure")
        self._watch(type(method.outer.rule), "step", "step")
        self._watch(mixing, "digest_of", "digest")

    def _watch(self, owner: Any, name: str, stage: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **named: Any) -> Any:
            with self._stage(stage):
                return function(*args, **named)

        setattr(owner, name, timed)

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        began_s, outer_s = time.thread_time(), getattr(self._inside, "s", 0.0)
        self._inside.s = 0.0
        try:
            yield
        finally:
            spent_s = time.thread_time() - began_s
            self._used_s[threading.get_native_id(), stage] += spent_s - self._inside.s
            self._inside.s = outer_s + spent_s

    def begin(self) -> None:
        """Counts from here on; to be called in the event loop, as is `end`."""
        self._used_s.clear()
        self._before = _thread_s()

    def end(self) -> None:
        """One exchange is over."""
        used = {tid: s - self._before.get(tid, 0.0) for tid, s in _thread_s().items()}
        stages: defaultdict[str, float] = defaultdict(float)
        for (tid, stage), s in self._used_s.items():
            stages[stage] += s
            used[tid] -= s
        stages["event loop"] = used.pop(threading.get_native_id())
        workers = {tid for tid, _ in self._used_s} & used.keys()
        stages["mixing"] = sum(used.pop(tid) for tid in workers)
        stages["gRPC"] = sum(used.values())
        self._exchanges.append(stages)

    def medians_ms(self) -> dict[str, float]:
        """Returns the median of each stage over all exchanges but the first."""
        counted = self._exchanges[1:]
        names = dict.fromkeys(name for each in counted for name in each)
        return {
            name: round(statistics.median(each.get(name, 0.0) for each in counted) * 1e3, 2)
            for name in names
        }


def _thread_s() -> dict[int, float]:
    # CPU time of each thread of ours so far, by its id.
    used = {}
    for task in _TASKS.iterdir():
        try:
            used[int(task.name)] = int((task / "schedstat").read_text().split()[0]) * 1e-9
        except FileNotFoundError:
            continue  # it has just ended
    return used
