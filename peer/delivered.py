"""What a former life of this peer delivered after its last checkpoint: it must not count twice.

A checkpoint holds work that was in no average yet. If that work was averaged afterwards, and then
the peer crashed, the swarm has it, and the next life must not bring it a second time. The event log
tells, since every landing is in it.
"""

from collections.abc import Sequence
from pathlib import Path

from peer.telemetry import read_events


def delivered_since(events: Path, rounds: Sequence[int]) -> list[int]:
    """Returns the fragments of a checkpoint whose own work has been in an average since.

    Args:
        events: `events.jsonl` of all lives.
        rounds: By fragment, that of the checkpoint's anchor.
    """
    if not events.exists():
        return []
    landed = (e for e in read_events(events) if e["event"] == "landed" and e["contributed"])
    late = {e["fragment"] for e in landed if e["round"] > rounds[e["fragment"]]}
    return sorted(late)
