"""What happened, as JSON lines for programs and as log lines for people."""

import contextlib
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol

from protocol.identity import PeerId
from protocol.manifest import RunId

logger = logging.getLogger("thinwire")

_LOUD = {"exchange_failed", "anchor_differs"}


class EventLog(Protocol):
    """Where a peer's events go."""

    def write(self, event: str, **fields: Any) -> None:
        """Keeps one event; `event` is a stable snake_case word."""


class Events:
    """Writes one peer's events, each with both clocks, to `events.jsonl`."""

    def __init__(self, path: Path, *, run_id: RunId, peer_id: PeerId) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._is_full = False
        if not _ends_a_line(path):
            self._put("\n")  # what a former life left half written is a line of its own
        self._common = {"run_id": run_id, "peer_id": peer_id}
        self.domain = ""
        """If there is one, each line has it."""

    def write(self, event: str, **fields: Any) -> None:
        """Writes one line; `event` is a stable snake_case word."""
        line = {"t_unix_s": time.time(), "t_mono_s": time.monotonic(), **self._common}
        line |= {"domain": self.domain} if self.domain else {}
        known = {key: None if _is_nan(value) else value for key, value in fields.items()}
        self._put(json.dumps(line | {"event": event} | known, default=str) + "\n")
        level = logging.WARNING if event in _LOUD else logging.DEBUG
        logger.log(level, "%s %s", event.replace("_", " "), fields)

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # what a full disk has not taken by now is lost
            self._file.close()

    def _put(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:  # a full disk makes gaps in the log, and ends no training
            if not self._is_full:
                logger.warning("cannot write events: %s", error)
            self._is_full = True
        else:
            self._is_full = False


def read_events(path: Path) -> list[dict[str, Any]]:
    """Returns the events in a file, without lines that a killed peer or a disk left damaged."""
    events = []
    for line in path.read_text("utf-8", errors="replace").split("\n")[:-1]:
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict):
                events.append(event)
    return events


def _ends_a_line(path: Path) -> bool:
    """Whether a file, of whatever size, is empty or ends with a line's end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
