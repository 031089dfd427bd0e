"""What a former life of this peer delivered after its last checkpoint: it must not count twice.

A checkpoint holds work that was in no average yet. If that work was averaged afterwards, and then
the peer crashed, the swarm has it, and the next life must not bring it a second time. The event log
tells, since every landing is in it.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_MILESTONES = "joined", "landed", "checkpoint"


def delivered_since(
    events: Path, checkpoint: Path, rounds: Sequence[int], *, domain: str = ""
) -> list[int]:
    """Returns the fragments of a checkpoint whose own work has been in an average since.

    Args:
        events: `events.jsonl` of all lives.
        checkpoint: Its folder; the log tells when it was written.
        rounds: By fragment, that of the checkpoint's anchor.
        domain: To which it belongs; empty in a run without domains.
    """
    earlier_lives: set[int] = set()
    this_life: set[int] = set()
    for event in _milestones(events):
        if event.get("domain", "") != domain:
            continue
        if event["event"] == "joined":
            earlier_lives |= this_life
            this_life = set()
        elif event["event"] == "checkpoint":
            if event["path"].endswith(checkpoint.name):
                earlier_lives.clear()  # the life that wrote it may have begun anew, rounds too
        elif event["contributed"] and event["round"] > rounds[event["fragment"]]:
            this_life.add(event["fragment"])
    return sorted(earlier_lives | this_life)


def _milestones(path: Path) -> Iterator[dict[str, Any]]:
    """Yields them one by one: a log may be as long as a year."""
    if not path.exists():
        return
    with path.open("rb") as log:
        for line in log:
            if any(b'"%s"' % word.encode() in line for word in _MILESTONES):
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event.get("event") in _MILESTONES:
                        yield event
