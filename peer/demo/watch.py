"""Following what the actors write while they write it."""

import json
import math
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Follower:
    """Reads a file of JSON lines as it grows; a last line that is not whole yet is left there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Event]:
        """Returns what was written since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = [line for line in whole.splitlines() if line.startswith(b"{")]
        return [json.loads(line) for line in lines]


class PeerView:
    """What a peer's `events.jsonl` says so far."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.events: list[Event] = []
        self.phase = "starting"
        self.newest: Event = {}
        """The newest `progress` or `left`."""
        self._follower = Follower(path)

    def look(self) -> bool:
        """Take in what is new; returns whether a round began or ended in it."""
        new = self._follower.read()
        for event in new:
            self._take(event)
        self.events += new
        return any(e["event"] in ("exchange_begins", "exchange_failed", "landed") for e in new)

    def all(self, name: str) -> list[Event]:
        """Returns all events with this name, in order."""
        return [event for event in self.events if event["event"] == name]

    @property
    def step(self) -> int:
        """Inner steps on the run's count."""
        return int(self.newest.get("step", 0))

    @property
    def is_done(self) -> bool:
        """It has made its last step."""
        return bool(self.newest.get("is_done", False))

    @property
    def has_contributed(self) -> bool:
        """Something has landed that contains its work."""
        return any(event.get("contributed") for event in self.all("landed"))

    def number(self, key: str) -> float:
        """Returns a number of the newest progress, NaN before there is one."""
        value = self.newest.get(key)
        return float(value) if isinstance(value, int | float) else math.nan

    def _take(self, event: Event) -> None:
        match event["event"]:
            case "joined":
                self.phase = "joined"
            case "progress":
                self.newest = event
                if event.get("is_done"):
                    self.phase = "done, answers the others"
                elif self.phase in ("starting", "joined") and event.get("step"):
                    self.phase = "trains"
            case "exchange_begins":
                self.phase = f"trains, exchanges with {len(event.get('partners', ()))}"
            case "exchange_failed":
                self.phase = "trains, an exchange failed"
            case "landed":
                self.phase = "trains"
            case "left":
                self.newest = self.newest | event
                self.phase = "left"
            case _:
                pass


class LoneView:
    """What the replica that trains alone says on its standard output."""

    def __init__(self, path: Path) -> None:
        self.events: list[Event] = []
        self.newest: Event = {}
        self._follower = Follower(path)

    def look(self) -> None:
        """Take in what is new."""
        new = self._follower.read()
        self.events += new
        for event in new:
            if event.get("kind") == "progress":
                self.newest = event

    def all(self, kind: str) -> list[Event]:
        """Returns all lines of this kind, in order."""
        return [event for event in self.events if event.get("kind") == kind]

    @property
    def step(self) -> int:
        """Inner steps done."""
        return int(self.newest.get("step", 0))

    @property
    def is_done(self) -> bool:
        """It has made its last step."""
        return bool(self.newest.get("is_done", False))
