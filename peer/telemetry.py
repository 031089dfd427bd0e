"""What happened, as JSON lines for programs and as log lines for people."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from protocol.identity import PeerId
from protocol.manifest import RunId

logger = logging.getLogger("thinwire")

_LOUD = {"exchange_failed", "anchor_differs"}


class Events:
    """Writes one peer's events, each with both clocks, to `events.jsonl`."""

    def __init__(self, path: Path, *, run_id: RunId, peer_id: PeerId) -> None:
        self._file = path.open("a", buffering=1)
        self._common = {"run_id": run_id, "peer_id": peer_id}

    def write(self, event: str, **fields: Any) -> None:
        """Writes one line; `event` is a stable snake_case word."""
        line = {"t_unix_s": time.time(), "t_mono_s": time.monotonic(), **self._common}
        self._file.write(json.dumps(line | {"event": event} | fields, default=str) + "\n")
        level = logging.WARNING if event in _LOUD else logging.DEBUG
        logger.log(level, "%s %s", event.replace("_", " "), fields)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """Returns the events in a file, without a last line that a killed peer left half written."""
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
