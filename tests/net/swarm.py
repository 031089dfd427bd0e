"""Real peers as processes, for tests: started by the command, watched through their events."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootstrap.found import found
from peer.settings import read_settings

RUN_TOML = """
name = "test"
[method]
preset = "{preset}"
[method.schedule]
interval_steps = {interval_steps}
[method.codec]
name = "{codec}"
[model]
dim = 256
layers = 2
heads = 2
ffn_dim = 512
context = 16
[data]
recipe = "stdlib:asyncio/*.py"
[inner]
batch_sequences = 1
[round]
grace_s = 1.0
progress_s = {progress_s}
"""
PROGRESS_S = 2.0
INTERVAL_STEPS = 20
PATIENCE_S = 120.0


class Actor:
    """One `thinwire` process, whose trainer is unhurried, or another module's; and its folder."""

    def __init__(
        self, name: str, folder: Path, *arguments: str, module: str = "tests.net.unhurried"
    ) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "out.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return (self.folder / "out.log").read_text()

    def events(self, *names: str) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if not names or event["event"] in names]

    @property
    def peer_id(self) -> str:
        return str(self.events("joined")[0]["peer_id"])

    @property
    def round(self) -> int:
        reached = [event["round"] for event in self.events("joined", "landed", "caught_up")]
        return int(reached[-1]) if reached else -1

    @property
    def step(self) -> int:
        return int(self.events("progress")[-1]["step"])

    def open_exchange(self) -> str | None:
        """Returns the exchange that has begun and neither landed nor failed."""
        for event in reversed(self.events("exchange_begins", "exchange_failed", "landed")):
            return event["exchange_id"] if event["event"] == "exchange_begins" else None
        return None

    def signal(self, number: int) -> None:
        """To the peer, its trainer and its daemon at once, as if the machine stopped."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            os.kill(pid, number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        self.process.wait()
        self._log.close()


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        found += (below := children.get(todo.pop(), []))
        todo += below
    return found


def wait_for(what: str, condition: Callable[[], Any], *actors: Actor, every_s: float = 0.1) -> Any:
    """Returns the first true value of `condition`; dead actors end the wait at once."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        if value := condition():
            return value
        for actor in actors:
            assert actor.process.poll() is None, f"{actor.name} died:\n{actor.log[-2000:]}"
        time.sleep(every_s)
    logs = "\n".join(f"--- {actor.name}\n{actor.log[-1500:]}" for actor in actors)
    raise AssertionError(f"waited in vain for: {what}\n{logs}")


class Swarm:
    """A bootstrap node and peers below one folder; `more` is for the end of run.toml."""

    def __init__(
        self,
        folder: Path,
        preset: str,
        codec: str,
        more: str = "",
        *,
        node_options: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.actors: dict[str, Actor] = {}
        settings = folder / "run.toml"
        text = RUN_TOML.format(
            preset=preset, codec=codec, progress_s=PROGRESS_S, interval_steps=INTERVAL_STEPS
        )
        settings.write_text(text + more)
        found(read_settings(settings), folder / "run")
        self.bootstrap = self._add("bootstrap", "bootstrap", str(folder / "run"), *node_options)
        ticket = folder / "run" / "ticket.txt"
        wait_for("the ticket", ticket.exists, self.bootstrap)
        self.ticket = ticket.read_text().strip()

    def join(self, name: str, *options: str, ticket: str | None = None) -> Actor:
        folder = self.folder / name
        return self._add(
            name,
            *("join", ticket or self.ticket, "--dir", str(folder), "--device", "cpu"),
            *("--threads", "1", "--plain", "--evaluate-every", "1000"),
            *options,
        )

    def resume(self, actor: Actor) -> Actor:
        """Starts a peer that has left again, with nothing but its folder."""
        actor.end()
        options = ("--device", "cpu", "--threads", "1", "--plain", "--evaluate-every", "1000")
        return self._add(actor.name, "join", "--resume", str(actor.folder), *options)

    def come_back(self, actor: Actor, *options: str) -> Actor:
        """Starts a peer that has gone again: it is told its folder and no more."""
        actor.end()
        common = ("--device", "cpu", "--threads", "1", "--plain", "--evaluate-every", "1000")
        return self._add(actor.name, "join", "--dir", str(actor.folder), *common, *options)

    def end(self) -> None:
        for actor in self.actors.values():
            actor.end()

    def _add(self, name: str, *arguments: str) -> Actor:
        actor = self.actors[name] = Actor(name, self.folder / name, *arguments)
        return actor
