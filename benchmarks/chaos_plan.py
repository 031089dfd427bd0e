"""What `benchmarks.chaos` runs: the swarm, its training, its links, and where its files are."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.links import Link
from optim.presets import PRESETS

BOOTSTRAP, RUN = "bootstrap", "run"
PORT = 7000
"""Peers listen on it and on the next one, each on a host of its own."""
CODECS = {"diloco": "int8"}
"""Where a preset's own is not what one would use on a thin link."""


HOME = Link(up_bps=50e6, down_bps=50e6, delay_s=0.005)
"""20 ms from peer to peer and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A swarm; see the module docstring."""

    method: str = "diloco"
    peers: int = 8
    nodes: int = 2
    """Bootstrap nodes."""
    spares: int = 3
    """Seats for those who come in storms, and go again."""
    seed: int = 0
    step_s: float = 0.2
    """An inner step lasts so long, of which the processor is busy for some milliseconds."""
    interval_s: float = 5.0
    """What H inner steps take: a minute of a real run in five seconds."""
    checkpoint_every_s: float = 8.0
    exchange_s: float = 60.0
    progress_s: float = 3.0
    grace_s: float = 1.0
    link: Link = HOME
    congestion: str | None = "cubic"
    disk_bytes: int = 48 << 20
    """Of each peer."""

    @property
    def interval_steps(self) -> int:
        """H."""
        return round(self.interval_s / self.step_s)

    @property
    def step_tokens(self) -> int:
        """Of one peer."""
        inner, model = self.settings["inner"], self.settings["model"]
        return int(inner["batch_sequences"] * model["context"])

    @property
    def names(self) -> tuple[str, ...]:
        """Of all seats, the spare ones last."""
        return tuple(f"peer-{number}" for number in range(1, self.peers + self.spares + 1))

    @property
    def node_names(self) -> tuple[str, ...]:
        """Of the bootstrap nodes; the first one's folder is the run's."""
        return (BOOTSTRAP, *(f"{BOOTSTRAP}-{number}" for number in range(2, self.nodes + 1)))

    @property
    def num_fragments(self) -> int:
        """Of the model."""
        return int(PRESETS[self.method]["schedule"]["fragments"])

    @property
    def mixing(self) -> str:
        """Of the method."""
        return str(PRESETS[self.method]["mixing"])

    @property
    def settings(self) -> dict[str, Any]:
        """What run.toml would say."""
        codec = {"codec": {"name": CODECS[self.method]}} if self.method in CODECS else {}
        schedule = {"interval_steps": self.interval_steps}
        if PRESETS[self.method]["schedule"]["overlap_steps"] >= self.interval_steps:
            schedule["overlap_steps"] = self.interval_steps
        return {
            "name": "chaos",
            "seed": self.seed,
            "model": {"dim": 64, "layers": 2, "heads": 2, "ffn_dim": 176, "context": 32},
            "inner": {"batch_sequences": 4},
            "method": {"preset": self.method, "schedule": schedule} | codec,
            "round": {
                "exchange_s": self.exchange_s,
                "progress_s": self.progress_s,
                "grace_s": self.grace_s,
            },
        }


class Places:
    """Where the files of one measurement are.

    Args:
        folder: Of the measurement.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / RUN
        self.logs = folder / "logs"
        """What processes say; and, when all is over, the events of each peer."""
        self.chronicle = folder / "chronicle.jsonl"
        self.growth = folder / "growth.jsonl"
        self.anchors = folder / "anchors"
        for made in (self.logs, self.anchors, folder / "steps", folder / "clocks"):
            made.mkdir(parents=True, exist_ok=True)

    def node(self, name: str) -> Path:
        """The folder of a bootstrap node."""
        return self.run if name == BOOTSTRAP else self.folder / name

    def peer(self, name: str) -> Path:
        """The folder of a peer, on a disk of its own while it lives."""
        return self.folder / "peers" / name

    def clock(self, name: str) -> Path:
        """By how many seconds its wall clock is wrong."""
        return self.folder / "clocks" / name

    def steps(self, name: str) -> Path:
        """When its inner steps ended."""
        return self.folder / "steps" / name

    def events(self, name: str) -> Path:
        """Its history, when all is over."""
        return self.logs / name / "events.jsonl"


class Chronicle:
    """What the harness itself did and saw, as JSON lines with the machine's monotonic time.

    Args:
        path: Written anew.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)

    def write(self, event: str, **fields: Any) -> None:
        """Writes one line."""
        line = {"t_mono_s": time.monotonic(), "event": event} | fields
        self._file.write(json.dumps(line, default=str) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
