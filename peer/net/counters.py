"""Payload bytes by kind, both ways: what the application asked for, without TLS and headers."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class ByteCounters:
    """Bytes so far, by kind: `hello`, `note`, `part`, `average`, `state`.

    Chunks count when they are handed to the transport or taken from it, so transfers that broke off
    count for what they moved.
    """

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)

    @property
    def total_sent(self) -> int:
        """All kinds together."""
        return self.sent.total()

    @property
    def total_received(self) -> int:
        """All kinds together."""
        return self.received.total()
