"""The shape of a Fetch on the wire: one request, then header, chunks and trailer.

Header and trailer are protobuf. Chunks are raw bytes, since wrapping them in protobuf would cost
half as much again, and nothing but their place says what they are: all that comes between the
header and the last byte of the stripe. The trailer is required: gRPC shows a dead server as a
normal end of stream. That nobody altered the bytes is TLS's to see to, so they carry no hash.
"""

from google.protobuf.message import DecodeError

from protocol.errors import LimitExceeded, MalformedMessage
from protocol.machine import BlobRef
from protocol.manifest import MAX_DOMAIN_CHARS, MAX_FRAGMENTS
from protocol.messages import EXCHANGE_ID_BYTES, MAX_ROUND
from protocol.pb import thinwire_pb2 as pb

SERVICE = "thinwire.v1.Peer"
HELLO = f"/{SERVICE}/Hello"
NOTE = f"/{SERVICE}/Note"
PING = f"/{SERVICE}/Ping"
FETCH = f"/{SERVICE}/Fetch"
REPORT = f"/{SERVICE}/Report"

BLOB_KINDS = frozenset({"part", "average", "index", "state", "file"})
MAX_REQUEST_BYTES = 1024
MAX_BLOB_BYTES = 1 << 48


def request_of(ref: BlobRef, *, offset: int = 0, length: int = 0) -> bytes:
    """Returns the request for `length` bytes of a blob from `offset` on; 0 is all of them."""
    data: bytes = pb.FetchRequest(
        kind=ref.kind,
        fragment=ref.fragment,
        exchange_id=ref.exchange_id,
        part=ref.part,
        offset=offset,
        length=length,
        domain=ref.domain,
    ).SerializeToString()
    return data


def parse_request(
    data: bytes, *, num_fragments: int, max_peers: int, domain: str = ""
) -> tuple[BlobRef, int, int | None]:
    """Returns the blob that is asked for, and where the stripe starts and stops (None: its end).

    Raises:
        LimitExceeded, MalformedMessage: no blob of our run can have this name.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise LimitExceeded(f"a request of {len(data)} bytes")
    raw = pb.FetchRequest()
    _parse(raw, data, "a request")
    if raw.kind not in BLOB_KINDS:
        raise MalformedMessage(f"there is no kind of blob {raw.kind!r:.40}")
    if len(raw.domain) > MAX_DOMAIN_CHARS:
        raise LimitExceeded("a request for a domain that the run does not have")
    if raw.domain != domain:  # how many fragments that one has, who serves it knows
        num_fragments = MAX_FRAGMENTS
    # A part is a member's; of a file it is the number, and who serves files knows how many.
    num_parts = MAX_FRAGMENTS if raw.kind == "file" else max_peers
    if raw.fragment >= num_fragments or raw.part >= num_parts:
        raise LimitExceeded("a request for a fragment or part that the run does not have")
    if len(raw.exchange_id) not in (0, EXCHANGE_ID_BYTES):
        raise MalformedMessage(f"an exchange id of {len(raw.exchange_id)} bytes")
    stop = raw.offset + raw.length if raw.length else None
    ref = BlobRef(raw.kind, raw.fragment, raw.exchange_id, raw.part, raw.domain)
    return ref, raw.offset, stop


def parse_header(message: bytes) -> pb.FetchHeader:
    """Returns the header that must come first.

    Raises:
        MalformedMessage: something else came.
    """
    raw = pb.FetchHeader()
    _parse(raw, message, "a header")
    if raw.size_bytes > MAX_BLOB_BYTES or raw.round >= MAX_ROUND:
        raise MalformedMessage("a header beyond all reason")
    return raw


def parse_trailer(message: bytes) -> int:
    """Returns the number of bytes that the trailer, which must come last, says were sent.

    Raises:
        MalformedMessage: something else came.
    """
    raw = pb.FetchTrailer()
    _parse(raw, message, "a trailer")
    return raw.size_bytes


def _parse(raw: pb.FetchRequest | pb.FetchHeader | pb.FetchTrailer, data: bytes, what: str) -> None:
    if len(data) > MAX_REQUEST_BYTES:
        raise MalformedMessage(f"not {what}: {len(data)} bytes")
    try:
        raw.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage(f"not {what}") from None
