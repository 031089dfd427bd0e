"""What messages weigh on the wire: measured once, by encoding one of each kind."""

from peer.net.frames import request_of
from peer.sim.wire import CHUNK_OVERHEAD_FRAC, NOTE_OVERHEAD_BYTES
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import (
    DIGEST_BYTES,
    EXCHANGE_ID_BYTES,
    Answer,
    Committed,
    Member,
    Note,
    Propose,
    Ready,
    Roster,
    note_to_bytes,
)

_ROUND, _TOKENS, _UP_BPS = 1_000, 1_000_000, 20_000_000
_EXCHANGE_ID, _DIGEST = bytes(EXCHANGE_ID_BYTES), bytes(DIGEST_BYTES)
_MEMBER = Member(PeerId("1" * 52), _TOKENS)
_SAMPLES = (
    Propose(0, _ROUND, _TOKENS, _EXCHANGE_ID),
    Answer(0, _EXCHANGE_ID, True, _TOKENS),
    Ready(0, _ROUND, _TOKENS, _DIGEST, _UP_BPS),
    Roster(0, _ROUND, _EXCHANGE_ID, (), ()),
    Committed(0, _ROUND, _DIGEST, _EXCHANGE_ID, (1,) * 100),
)
_NOTE_BYTES: dict[type[Note], float] = {
    type(note): len(note_to_bytes(note)) + 2 * NOTE_OVERHEAD_BYTES for note in _SAMPLES
}
_MEMBER_BYTES = float(
    len(note_to_bytes(Roster(0, _ROUND, _EXCHANGE_ID, (_MEMBER,) * 9, (1,) * 9)))
    - len(note_to_bytes(Roster(0, _ROUND, _EXCHANGE_ID, (_MEMBER,) * 8, (1,) * 8)))
)

REQUEST_BYTES = len(request_of(BlobRef("part", 0, _EXCHANGE_ID, 1))) + NOTE_OVERHEAD_BYTES
BULK_FACTOR = 1 + CHUNK_OVERHEAD_FRAC


def note_bytes(note: Note) -> float:
    """Returns the bytes of a note and of what acknowledges it, about."""
    num_bytes = _NOTE_BYTES[type(note)]
    if isinstance(note, Roster):
        num_bytes += _MEMBER_BYTES * len(note.members)
    return num_bytes
