"""What happened in a simulated swarm, in order: the same seed gives the same lines."""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from peer.sim.network import VirtualHost
from protocol.identity import PeerId

Entry = tuple[float, PeerId, str, dict[str, Any]]
"""Time, peer, event and its fields."""


class Trace:
    """All events of all peers."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_over = False
        """Nothing that happens any more is part of it."""

    def of(self, host: VirtualHost, now_s: Callable[[], float]) -> "PeerTrace":
        """Returns where a peer writes its events."""
        return PeerTrace(self, host, now_s)

    def lines(self) -> list[str]:
        """Returns one JSON object an event, as in a peer's events.jsonl."""
        return [
            json.dumps(
                {"t_s": round(t_s, 9), "peer_id": peer, "event": event} | fields, default=str
            )
            for t_s, peer, event, fields in self.entries
        ]

    def digest(self) -> str:
        """Returns the SHA-256 of all lines."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()


class PeerTrace:
    """Implements `peer.telemetry.EventLog`; the dead write nothing."""

    def __init__(self, trace: Trace, host: VirtualHost, now_s: Callable[[], float]) -> None:
        self._trace = trace
        self._host = host
        self._now_s = now_s

    def write(self, event: str, **fields: Any) -> None:
        """Keeps one event."""
        if self._host.is_dead or self._trace.is_over:
            return
        known = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in fields.items()
        }
        self._trace.entries.append((self._now_s(), self._host.host_id, event, known))
