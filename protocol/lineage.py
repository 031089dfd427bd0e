"""Where an anchor comes from: which exchanges are in it, so that two branches can be compared.

Peers that lost sight of each other go on in parts, and each part has its own anchor. When they
meet again, rounds alone do not say who knows what: a lineage does. It is the set of all landings
behind an anchor, each with its tokens, and a merge unites both sets. So

    what ours has and theirs lacks     tokens_beyond(theirs): the work that would be lost
    nothing beyond theirs              we are merely behind: their anchor takes the place of ours
    both have something                anchors and outer state are averaged, weighted by these

and nothing is applied twice: what both have counts for neither. Old entries are forgotten, and
rounds before the horizon count as known to everybody.
"""

import struct
from dataclasses import dataclass

from protocol.errors import MalformedMessage
from protocol.messages import MAX_ROUND, MAX_TOKENS

MAX_ENTRIES = 512
NAME_BYTES = 8
_HEAD = struct.Struct(">QI")
_ENTRY = struct.Struct(f">QQ{NAME_BYTES}s")
LINEAGE_BYTES = _HEAD.size + MAX_ENTRIES * _ENTRY.size
"""Of every packed lineage."""

Landing = tuple[int, bytes]
"""The round that it led to, and the beginning of that anchor's digest."""


def landing_of(round: int, digest: bytes) -> Landing:
    """Returns how a lineage names this anchor."""
    return round, digest[:NAME_BYTES]


@dataclass(frozen=True, slots=True)
class Lineage:
    """See the module docstring.

    Attributes:
        tokens: Of each landing, how many its average had.
        horizon: Landings up to this round are forgotten.
    """

    tokens: dict[Landing, int]
    horizon: int = 0

    def landed(self, round: int, digest: bytes, tokens: int) -> "Lineage":
        """Returns the lineage of the next anchor.

        Args:
            round: Its round.
            digest: Its digest.
            tokens: Behind the average that led to it; 0 for a merge.
        """
        tokens = min(tokens, MAX_TOKENS - 1)  # each member may have claimed as many
        return _bounded({**self.tokens, landing_of(round, digest): tokens}, self.horizon)

    def united(self, other: "Lineage") -> "Lineage":
        """Returns what both have."""
        tokens = {**self.tokens, **other.tokens}
        for landing in self.tokens.keys() & other.tokens.keys():  # somebody was told a wrong number
            tokens[landing] = max(self.tokens[landing], other.tokens[landing])
        return _bounded(tokens, max(self.horizon, other.horizon))

    def knows(self, round: int, digest: bytes) -> bool:
        """Whether this anchor is among our ancestors, or so old that it must be."""
        return round <= self.horizon or landing_of(round, digest) in self.tokens

    def beyond(self, other: "Lineage") -> dict[Landing, int]:
        """Returns the landings that the other one lacks."""
        return {
            landing: tokens
            for landing, tokens in self.tokens.items()
            if landing not in other.tokens and landing[0] > other.horizon
        }

    def tokens_beyond(self, other: "Lineage") -> int:
        """Returns the tokens of the landings that the other one lacks."""
        return sum(self.beyond(other).values())

    def to_bytes(self) -> bytes:
        """Returns `LINEAGE_BYTES` bytes."""
        entries = (_ENTRY.pack(round, n, name) for (round, name), n in sorted(self.tokens.items()))
        data = _HEAD.pack(self.horizon, len(self.tokens)) + b"".join(entries)
        return data.ljust(LINEAGE_BYTES, b"\0")


EMPTY = Lineage({})
"""Of an initial anchor."""


def parse_lineage(data: bytes) -> Lineage:
    """Returns the lineage that `data` spells.

    Raises:
        MalformedMessage: it is none.
    """
    if len(data) != LINEAGE_BYTES:
        raise MalformedMessage(f"a lineage of {len(data)} bytes")
    horizon, size = _HEAD.unpack_from(data)
    if size > MAX_ENTRIES or horizon >= MAX_ROUND:
        raise MalformedMessage("a lineage beyond all reason")
    tokens: dict[Landing, int] = {}
    for at in range(size):
        round, count, name = _ENTRY.unpack_from(data, _HEAD.size + at * _ENTRY.size)
        if round >= MAX_ROUND or count >= MAX_TOKENS:
            raise MalformedMessage("a landing beyond all reason")
        if round <= horizon:
            raise MalformedMessage("a landing that is forgotten")
        tokens[round, name] = count
    lineage = Lineage(tokens, horizon)
    if lineage.to_bytes() != data:
        raise MalformedMessage("a lineage that is spelled in another way")
    return lineage


def _bounded(tokens: dict[Landing, int], horizon: int) -> Lineage:
    tokens = {landing: n for landing, n in tokens.items() if landing[0] > horizon}
    if len(tokens) > MAX_ENTRIES:
        newest = sorted(tokens)[-MAX_ENTRIES:]
        horizon = sorted(tokens)[-MAX_ENTRIES - 1][0]
        tokens = {landing: tokens[landing] for landing in newest if landing[0] > horizon}
    return Lineage(tokens, horizon)
