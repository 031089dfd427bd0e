"""The shape of a Fetch on the wire: one request, then header, chunks and trailer.

Every message of the answer is one tag byte and a body. Chunks are raw bytes, since wrapping them in
protobuf would cost half as much again; the rest is protobuf. Each chunk but the last has exactly
the run's chunk size. The trailer is required: gRPC shows a dead server as a normal end of stream.
"""

from typing import NewType

from google.protobuf.message import DecodeError

from protocol.errors import LimitExceeded, MalformedMessage
from protocol.machine import BlobRef
from protocol.messages import EXCHANGE_ID_BYTES, MAX_ROUND
from protocol.pb import thinwire_pb2 as pb

SERVICE = "thinwire.v1.Peer"
HELLO = f"/{SERVICE}/Hello"
NOTE = f"/{SERVICE}/Note"
FETCH = f"/{SERVICE}/Fetch"

BLOB_KINDS = frozenset({"part", "average", "state"})
MAX_REQUEST_BYTES = 1024
MAX_BLOB_BYTES = 1 << 48

Tag = NewType("Tag", int)
HEADER = Tag(ord("H"))
CHUNK = Tag(ord("C"))
TRAILER = Tag(ord("T"))


def frame(tag: Tag, body: bytes | memoryview) -> bytes:
    """Returns one message of the answer; the body is copied once."""
    return b"".join((bytes((tag,)), body))


def request_of(ref: BlobRef, *, offset: int = 0) -> bytes:
    """Returns the request for a blob, from `offset` on."""
    data: bytes = pb.FetchRequest(
        kind=ref.kind,
        fragment=ref.fragment,
        exchange_id=ref.exchange_id,
        part=ref.part,
        offset=offset,
    ).SerializeToString()
    return data


def parse_request(data: bytes, *, num_fragments: int, max_peers: int) -> tuple[BlobRef, int]:
    """Returns the blob that is asked for, and the offset to begin at.

    Raises:
        LimitExceeded, MalformedMessage: no blob of our run can have this name.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise LimitExceeded(f"a request of {len(data)} bytes")
    raw = pb.FetchRequest()
    _parse(raw, data, "a request")
    if raw.kind not in BLOB_KINDS:
        raise MalformedMessage(f"there is no kind of blob {raw.kind!r:.40}")
    if raw.fragment >= num_fragments or raw.part >= max_peers:
        raise LimitExceeded("a request for a fragment or part that the run does not have")
    if len(raw.exchange_id) not in (0, EXCHANGE_ID_BYTES):
        raise MalformedMessage(f"an exchange id of {len(raw.exchange_id)} bytes")
    return BlobRef(raw.kind, raw.fragment, raw.exchange_id, raw.part), raw.offset


def parse_header(message: bytes) -> pb.FetchHeader:
    """Returns the header that must come first.

    Raises:
        MalformedMessage: something else came.
    """
    raw = pb.FetchHeader()
    _parse(raw, _body(message, HEADER, "header"), "a header")
    if raw.size_bytes > MAX_BLOB_BYTES or raw.round >= MAX_ROUND:
        raise MalformedMessage("a header beyond all reason")
    return raw


def parse_trailer(message: bytes) -> pb.FetchTrailer:
    """Returns the trailer that must come last.

    Raises:
        MalformedMessage: something else came.
    """
    raw = pb.FetchTrailer()
    _parse(raw, _body(message, TRAILER, "trailer"), "a trailer")
    return raw


def parse_chunk(message: bytes, *, size: int) -> memoryview:
    """Returns the bytes of a chunk that must have `size` bytes.

    Raises:
        MalformedMessage: it has not, or something else came.
    """
    if len(message) != size + 1 or message[0] != CHUNK:
        raise MalformedMessage(f"not a chunk of {size} bytes")
    return memoryview(message)[1:]


def _body(message: bytes, tag: Tag, what: str) -> bytes:
    if not 1 <= len(message) <= MAX_REQUEST_BYTES or message[0] != tag:
        raise MalformedMessage(f"a blob without its {what}")
    return message[1:]


def _parse(raw: pb.FetchRequest | pb.FetchHeader | pb.FetchTrailer, data: bytes, what: str) -> None:
    try:
        raw.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage(f"not {what}") from None
