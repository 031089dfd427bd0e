"""A circle of a group exchange while it is open: its host's view, and a guest's."""

from dataclasses import dataclass, field, replace

from protocol.exchange import ExchangeConfig
from protocol.identity import PeerId
from protocol.messages import Answer, Ready, Roster
from protocol.roster import roster_of

PATIENCE = 3.0
"""After a circle must have closed, so many times `resend_s` a guest waits for the roster."""


@dataclass(slots=True)
class Circle:
    """Ours: whom we invited, and who came.

    Attributes:
        exchange_id: Of the exchange that it becomes.
        invited: Who has not answered yet, and until when that counts.
        guests: Who came, with the last yes of each.
        declined: Who said no, and did not come since.
        closes_at_s: When it closes, full or not; None without guests.
    """

    exchange_id: bytes
    invited: dict[PeerId, float] = field(default_factory=dict)
    guests: dict[PeerId, Answer] = field(default_factory=dict)
    declined: set[PeerId] = field(default_factory=set)
    closes_at_s: float | None = None

    def num_free(self, size: int) -> int:
        """How many more may be invited to a circle of `size`, its host included."""
        return size - 1 - len(self.guests) - len(self.invited)

    def awaits_answers(self, *, now_s: float) -> bool:
        """Whether an invitation may still be answered."""
        return any(until_s > now_s for until_s in self.invited.values())

    def expire(self, *, now_s: float) -> None:
        """Forgets invitations that were not answered in time."""
        self.invited = {peer: until_s for peer, until_s in self.invited.items() if until_s > now_s}

    def seat(self, guest: PeerId, answer: Answer, *, closes_at_s: float) -> bool:
        """Takes a guest in, or what it brings now; returns whether it is new."""
        is_new = guest not in self.guests
        self.invited.pop(guest, None)
        self.declined.discard(guest)
        self.guests[guest] = answer
        if is_new:
            self.closes_at_s = closes_at_s
        return is_new

    def lose(self, peer: PeerId) -> None:
        """This one does not come, or has left."""
        self.invited.pop(peer, None)
        self.guests.pop(peer, None)
        if not self.guests:
            self.closes_at_s = None

    def roster(self, host: PeerId, ours: Ready) -> Roster:
        """Returns the roster of all who are here.

        Args:
            host: Us.
            ours: What we bring.
        """
        ready = {
            guest: replace(ours, tokens=yes.tokens, up_bps=yes.up_bps, codec=yes.codec)
            for guest, yes in self.guests.items()
        }
        return roster_of({**ready, host: ours}, self.exchange_id)


@dataclass(slots=True)
class Place:
    """Ours, in another's circle.

    Attributes:
        host: Whose circle it is.
        exchange_id: The circle's.
        until_s: When we give it up.
        repeat_at_s: When we say again that we are there.
    """

    host: PeerId
    exchange_id: bytes
    until_s: float
    repeat_at_s: float = 0.0


def place_of(host: PeerId, exchange_id: bytes, config: ExchangeConfig, *, now_s: float) -> Place:
    """Returns a place that is taken now: it is good for as long as a circle may stay open."""
    open_s = (config.group_size - 1) * config.grace_s
    return Place(host, exchange_id, now_s + open_s + PATIENCE * config.resend_s)
