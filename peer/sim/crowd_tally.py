"""What a peer of a crowd did and moved, as counters that can be added up."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Tally:
    """Counters of one peer, or of many."""

    intervals: int = 0
    """Of H inner steps that ended: the peer-rounds."""
    alone: int = 0
    """Of these, those at whose end the snapshot of an earlier one had not landed."""
    begun: int = 0
    """Exchanges."""
    done: int = 0
    failed: int = 0
    notes: int = 0
    """That were sent, with their bytes and those of their acknowledgements."""
    note_bytes: float = 0.0
    notes_to_dead: int = 0
    notes_from_strangers: int = 0
    """That came from whom the receiver did not know yet; they are not heard."""
    bulk_bytes: float = 0.0
    """Of parts, averages and states, as they arrived."""
    refreshes: int = 0
    topics_read: int = 0
    records_read: int = 0
    topics_published: int = 0
    trained_tokens: int = 0
    landed_tokens: int = 0
    lost_tokens: int = 0
    """That died with their peer, in no average."""

    def add(self, other: "Tally") -> None:
        """Adds another's counters to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
