"""What a fragment's state is made of: its blocks' digests, its name, and where it comes from.

A state is anchor and outer state, thousands of times the size of its index. Equal states have equal
names, so whoever catches up asks several peers for their index, believes the one that most of them
have, and fetches blocks from all who have it: any block from anybody, each checked by itself.
A name is also how a broken transfer goes on: with the same state, though its giver has moved on.
"""

import hashlib
import struct
from dataclasses import dataclass

from protocol.errors import MalformedMessage
from protocol.lineage import LINEAGE_BYTES, Lineage, parse_lineage
from protocol.messages import DIGEST_BYTES, EXCHANGE_ID_BYTES, MAX_ROUND

BLOCK_BYTES = 256 * 1024
_HEAD = struct.Struct(f">Q{DIGEST_BYTES}s")


@dataclass(frozen=True, slots=True)
class StateIndex:
    """See the module docstring.

    Attributes:
        round: Of the anchor.
        anchor_digest: Of it; zeros where anchors are nobody else's.
        lineage: Of the anchor.
        blocks: The digest of each block of the state, in order.
    """

    round: int
    anchor_digest: bytes
    lineage: Lineage
    blocks: tuple[bytes, ...]

    @property
    def name(self) -> bytes:
        """What the state is called, whatever its past: peers may remember that differently."""
        head = _HEAD.pack(self.round, self.anchor_digest)
        return hashlib.sha256(head + b"".join(self.blocks)).digest()[:EXCHANGE_ID_BYTES]

    def to_bytes(self) -> bytes:
        """Returns `index_bytes(...)` bytes."""
        head = _HEAD.pack(self.round, self.anchor_digest)
        return head + self.lineage.to_bytes() + b"".join(self.blocks)


def num_blocks(state_bytes: int) -> int:
    """Returns the number of blocks of a state of this size."""
    return -(-state_bytes // BLOCK_BYTES)


def index_bytes(state_bytes: int) -> int:
    """Returns the exact size of the index of a state of this size."""
    return _HEAD.size + LINEAGE_BYTES + DIGEST_BYTES * num_blocks(state_bytes)


def parse_index(data: bytes) -> StateIndex:
    """Returns the index that `data` spells; its size was checked before it was fetched.

    Raises:
        MalformedMessage: it is none.
    """
    blocks = data[_HEAD.size + LINEAGE_BYTES :]
    if len(data) < _HEAD.size + LINEAGE_BYTES or len(blocks) % DIGEST_BYTES:
        raise MalformedMessage(f"an index of {len(data)} bytes")
    round, digest = _HEAD.unpack_from(data)
    if round >= MAX_ROUND:
        raise MalformedMessage(f"round {round} is beyond all reason")
    lineage = parse_lineage(data[_HEAD.size : _HEAD.size + LINEAGE_BYTES])
    if lineage.horizon > round or any(landed > round for landed, _ in lineage.tokens):
        raise MalformedMessage("a lineage that knows the future")
    starts = range(0, len(blocks), DIGEST_BYTES)
    return StateIndex(
        round, digest, lineage, tuple(blocks[at : at + DIGEST_BYTES] for at in starts)
    )
