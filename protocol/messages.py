"""Notes between exchange machines: frozen values here, protobuf on the wire.

`parse_note` is the gate: whatever comes out of it has fields within their limits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from protocol.errors import LimitExceeded, MalformedMessage, RunMismatch
from protocol.identity import PeerId, parse_peer_id
from protocol.pb import thinwire_pb2 as pb
from protocol.terms import Terms

PROTOCOL_VERSION = 1
MAX_ROUND = 1 << 48
MAX_TOKENS = 1 << 56
MAX_BPS = 1 << 50
MAX_SHARE = 1 << 16
MAX_CODECS = 16
"""How many codecs a run has, the machines know."""
EXCHANGE_ID_BYTES = 16
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Ready:
    """I have a contribution of `tokens` for `round`, on top of this anchor.

    I can send at `up_bps`, as far as I know (0: I do not), and should like codec `codec`. With no
    tokens it only asks where you are; `is_leaving` takes my word back, for I go.
    """

    fragment: int
    round: int
    tokens: int
    anchor_digest: bytes
    up_bps: int = 0
    codec: int = 0
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One place in a roster."""

    peer_id: PeerId
    tokens: int


@dataclass(frozen=True, slots=True)
class Roster:
    """These peers exchange in this round; each reduces the part with its index, if it has any."""

    fragment: int
    round: int
    exchange_id: bytes
    members: tuple[Member, ...]
    shares: tuple[int, ...]
    codec: int = 0

    @property
    def terms(self) -> Terms:
        """What the leader decided."""
        return Terms(self.shares, self.codec)

    @property
    def peer_ids(self) -> tuple[PeerId, ...]:
        """The members, in the order of their parts."""
        return tuple(member.peer_id for member in self.members)


@dataclass(frozen=True, slots=True)
class Committed:
    """My anchor is at `round`; this exchange took it there, and I still have its averages.

    An anchor that came some other way has no exchange: `exchange_id` is empty, and so are
    the shares. Whoever is at `base_digest` may replay the averages, of `tokens` in all.
    """

    fragment: int
    round: int
    anchor_digest: bytes
    exchange_id: bytes = b""
    shares: tuple[int, ...] = ()
    codec: int = 0
    base_digest: bytes = bytes(DIGEST_BYTES)
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Propose:
    """Shall the two of us mix? I bring `tokens`, and should like codec `codec`.

    Once I have `begun`, I only ask whether you have, too, and the codec is settled.
    """

    fragment: int
    round: int
    tokens: int
    exchange_id: bytes
    codec: int = 0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Yes, with my `tokens` and in codec `codec`; or no, I am busy or have nothing yet.

    Of groups, whose host divides the work, it has my `up_bps`, too, as in `Ready`.
    """

    fragment: int
    exchange_id: bytes
    accepted: bool
    tokens: int
    codec: int = 0
    up_bps: int = 0


Note = Ready | Roster | Committed | Propose | Answer


def note_to_bytes(note: Note, *, domain: str = "") -> bytes:
    """Returns the note as a protobuf `thinwire.v1.Note`.

    Args:
        note: The note.
        domain: Of the sub-swarm that it is meant for, in a run with domains.
    """
    out = pb.Note(fragment=note.fragment, domain=domain)
    match note:
        case Ready():
            out.ready.round = note.round
            out.ready.tokens = note.tokens
            out.ready.anchor_digest = note.anchor_digest
            out.ready.up_bps = note.up_bps
            out.ready.codec = note.codec
            out.ready.is_leaving = note.is_leaving
        case Roster():
            out.roster.round = note.round
            out.roster.exchange_id = note.exchange_id
            for member in note.members:
                out.roster.members.add(peer_id=member.peer_id, tokens=member.tokens)
            out.roster.shares.extend(note.shares)
            out.roster.codec = note.codec
        case Committed():
            out.committed.round = note.round
            out.committed.anchor_digest = note.anchor_digest
            out.committed.exchange_id = note.exchange_id
            out.committed.shares.extend(note.shares)
            out.committed.codec = note.codec
            out.committed.base_digest = note.base_digest
            out.committed.tokens = note.tokens
        case Propose():
            out.propose.round = note.round
            out.propose.tokens = note.tokens
            out.propose.exchange_id = note.exchange_id
            out.propose.codec = note.codec
            out.propose.begun = note.begun
        case Answer():
            out.answer.exchange_id = note.exchange_id
            out.answer.accepted = note.accepted
            out.answer.tokens = note.tokens
            out.answer.codec = note.codec
            out.answer.up_bps = note.up_bps
    data: bytes = out.SerializeToString(deterministic=True)
    return data


def parse_note(
    data: bytes, *, max_bytes: int, num_fragments: int, max_peers: int, domain: str = ""
) -> Note:
    """Returns the note that `data` spells.

    Raises:
        RunMismatch: it is meant for another domain than `domain`.
        LimitExceeded: a size or number beyond what the manifest allows.
        MalformedMessage: anything else that is no note.
    """
    if len(data) > max_bytes:
        raise LimitExceeded(f"a note of {len(data)} bytes, at most {max_bytes} are allowed")
    raw = pb.Note()
    try:
        raw.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage("not a note") from None
    if raw.domain != domain:
        raise RunMismatch("this peer does not train in that domain")
    if raw.fragment >= num_fragments:
        raise LimitExceeded(f"fragment {raw.fragment}: the run has {num_fragments}")
    match raw.WhichOneof("body"):
        case "ready":
            return Ready(
                raw.fragment,
                _below(raw.ready.round, MAX_ROUND, "round"),
                _below(raw.ready.tokens, MAX_TOKENS, "tokens"),
                _sized(raw.ready.anchor_digest, DIGEST_BYTES, "anchor digest"),
                _below(raw.ready.up_bps, MAX_BPS, "upload rate"),
                _below(raw.ready.codec, MAX_CODECS, "codec"),
                raw.ready.is_leaving,
            )
        case "roster":
            return _parse_roster(raw, max_peers)
        case "committed":
            return _parse_committed(raw, max_peers)
        case "propose":
            return Propose(
                raw.fragment,
                _below(raw.propose.round, MAX_ROUND, "round"),
                _below(raw.propose.tokens, MAX_TOKENS, "tokens"),
                _sized(raw.propose.exchange_id, EXCHANGE_ID_BYTES, "exchange id"),
                _below(raw.propose.codec, MAX_CODECS, "codec"),
                raw.propose.begun,
            )
        case "answer":
            return Answer(
                raw.fragment,
                _sized(raw.answer.exchange_id, EXCHANGE_ID_BYTES, "exchange id"),
                raw.answer.accepted,
                _below(raw.answer.tokens, MAX_TOKENS, "tokens"),
                _below(raw.answer.codec, MAX_CODECS, "codec"),
                _below(raw.answer.up_bps, MAX_BPS, "upload rate"),
            )
        case _:
            raise MalformedMessage("an empty note")


def _parse_committed(raw: pb.Note, max_peers: int) -> Committed:
    exchange_id = raw.committed.exchange_id
    if bool(exchange_id) != bool(raw.committed.shares):
        raise MalformedMessage("an exchange has parts, and parts have an exchange")
    if len(raw.committed.shares) > max_peers:
        raise LimitExceeded(f"an exchange of {len(raw.committed.shares)} peers")
    return Committed(
        raw.fragment,
        _below(raw.committed.round, MAX_ROUND, "round"),
        _sized(raw.committed.anchor_digest, DIGEST_BYTES, "anchor digest"),
        _sized(exchange_id, EXCHANGE_ID_BYTES if exchange_id else 0, "exchange id"),
        _parse_shares(raw.committed.shares) if exchange_id else (),
        _below(raw.committed.codec, MAX_CODECS, "codec"),
        _sized(raw.committed.base_digest, DIGEST_BYTES, "base digest"),
        _below(raw.committed.tokens, MAX_TOKENS, "tokens"),
    )


def _parse_roster(raw: pb.Note, max_peers: int) -> Roster:
    if not 1 <= len(raw.roster.members) <= max_peers:
        raise LimitExceeded(f"a roster of {len(raw.roster.members)} peers")
    members = tuple(
        Member(parse_peer_id(member.peer_id), _below(member.tokens, MAX_TOKENS, "tokens"))
        for member in raw.roster.members
    )
    if len({member.peer_id for member in members}) != len(members):
        raise MalformedMessage("a roster names a peer twice")
    if not all(member.tokens for member in members):
        raise MalformedMessage("a roster names a peer that brings nothing")
    if len(raw.roster.shares) != len(members):
        raise MalformedMessage(f"{len(members)} members, and {len(raw.roster.shares)} shares")
    return Roster(
        raw.fragment,
        _below(raw.roster.round, MAX_ROUND, "round"),
        _sized(raw.roster.exchange_id, EXCHANGE_ID_BYTES, "exchange id"),
        members,
        _parse_shares(raw.roster.shares),
        _below(raw.roster.codec, MAX_CODECS, "codec"),
    )


def _parse_shares(raw: Iterable[int]) -> tuple[int, ...]:
    shares = tuple(_below(share, MAX_SHARE, "share") for share in raw)
    if not any(shares):
        raise MalformedMessage("shares of nothing")
    return shares


def _below(value: int, limit: int, what: str) -> int:
    if value >= limit:
        raise LimitExceeded(f"{what} {value} is beyond all reason")
    return value


def _sized(value: bytes, size: int, what: str) -> bytes:
    if len(value) != size:
        raise MalformedMessage(f"{what} has {len(value)} bytes, not {size}")
    return value
