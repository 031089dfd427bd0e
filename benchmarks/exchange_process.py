"""One end of a system under comparison, in a process of its own, and the reins to hold it by.

A system is a module with a class `End`, which does blocking things one after the other. Its process
says a line when it has loaded everything and another when it is connected, and then answers each
command with a line:

    {"prepare": true}   do what must not count: new values, a group that is to be found
    {"at_s": T}         sleep until T on the monotonic clock, exchange, say when it was done
    {"report": true}    say what can be told at last, such as the anchor's digest

What can be seen from outside, `Reins` measures from outside: CPU time by the clocks of the process
and all below it, and memory as the kernel counts it.
"""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor

POLL_S = 0.02
SETTLE_S = 0.05
"""After the last answer, for what still runs in the background."""
CONNECT_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the two ends of a system meet before they know each other."""

    folder: Path
    rank: int

    def publish(self, name: str, text: str) -> None:
        """Leaves a word for the other end."""
        hidden = self.folder / f".{name}"
        hidden.write_text(text)
        hidden.rename(self.folder / name)

    def await_word(self, name: str) -> str:
        """Returns what the other end publishes."""
        give_up_s = time.monotonic() + CONNECT_S
        while not (self.folder / name).exists():
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"the other end says no {name}")
            time.sleep(POLL_S)
        return (self.folder / name).read_text()


class End(Protocol):
    """One end of a system; made before memory is measured, so that libraries do not count.

    Args:
        mode: One of the module's `MODES`: what an exchange is.
    """

    def __init__(self, mode: str) -> None: ...

    def start(self, place: Place, theta: Tensor) -> None:
        """Connects to the other end; `theta` [n] is this end's model."""

    def prepare(self) -> None:
        """Does what comes before an exchange, and does not count."""

    def exchange(self) -> None:
        """Exchanges once with the other end, which does the same."""

    def report(self) -> dict[str, Any]:
        """Returns what it tells of itself at last."""

    def close(self) -> None:
        """Leaves."""


def digest(x: Tensor) -> str:
    """Returns the SHA-256 of a vector, by which ends can see that they hold the same."""
    return hashlib.sha256(x.numpy().data).hexdigest()


def serve(end: End, place: Place, num_elements: int) -> None:
    """Answers commands until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    theta = torch.empty(num_elements)
    theta.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(place.rank))

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    answer(bare_bytes=Memory.of(os.getpid()).standing_bytes)
    end.start(place, theta)
    answer(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "prepare" in command:
            end.prepare()
            answer()
        elif "report" in command:
            answer(**end.report())
        else:
            time.sleep(max(0.0, command["at_s"] - time.monotonic()))
            end.exchange()
            answer(ended_s=time.monotonic())
    end.close()


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process holds beside files that are mapped.

    Attributes:
        standing_bytes: Now; what it shares with other processes, in equal parts.
        resident_bytes, peak_bytes: With mapped files, now and since the last `reset_peak`.
    """

    standing_bytes: int
    resident_bytes: int
    peak_bytes: int

    @classmethod
    def of(cls, pid: int) -> "Memory":
        """Asks the kernel; costs a walk over the process's pages."""
        rollup = _sizes(Path(f"/proc/{pid}/smaps_rollup"))
        status = _sizes(Path(f"/proc/{pid}/status"))
        standing = rollup["Pss_Anon"] + rollup["Pss_Shmem"]
        return cls(standing, status["VmRSS"], status["VmHWM"])

    @staticmethod
    def reset_peak(pid: int) -> None:
        """Makes the peak what is resident now."""
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _sizes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {word[0][:-1]: int(word[1]) * 1024 for word in lines if word[-1] == "kB"}


class Reins:
    """Holds one process of a system, and the processes that it started itself.

    Attributes:
        pids: All of them.
        bare_bytes: What the process held with libraries and model alone.
    """

    def __init__(self, module: str, mode: str, folder: Path, rank: int, num_elements: int) -> None:
        command = [sys.executable, "-m", "benchmarks.exchange_process", module, mode]
        environment = {"OMP_NUM_THREADS": "1", "RUST_LOG": "error"}
        self._process = subprocess.Popen(
            [*command, str(folder), str(rank), str(num_elements)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
            text=True,
        )
        self.pids: tuple[int, ...] = (self._process.pid,)
        self.bare_bytes = 0

    def await_ready(self) -> None:
        """Waits until it is connected."""
        self.bare_bytes = self.answer()["bare_bytes"]
        self.answer()
        self.pids = tuple(_family(self._process.pid))

    def order(self, **command: Any) -> None:
        """Gives a command."""
        print(json.dumps(command), file=_pipe(self._process.stdin), flush=True)

    def answer(self) -> dict[str, Any]:
        """Returns the answer to the oldest command that has none yet."""
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"process {self._process.pid} is gone: its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_s(self) -> float:
        """Returns the CPU time of the family so far, threads that are gone included."""
        # Linux: the clock of another process, see clock_getcpuclockid(3).
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self.pids)

    def close(self) -> None:
        """Lets the process go, and ends it if it does not."""
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def main() -> None:
    """Runs one end."""
    module, mode, folder, rank, num_elements = sys.argv[1:]
    torch.set_num_threads(1)
    end: End = importlib.import_module(module).End(mode)
    serve(end, Place(Path(folder), int(rank)), int(num_elements))


if __name__ == "__main__":
    main()
