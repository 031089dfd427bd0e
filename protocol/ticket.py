"""A ticket: one string with all that a stranger needs to join a run.

    tw1 + base58(body + checksum of 4 bytes)
    body = version, flags, run id (32), founder (32), [secret (16)], count, addresses

An address is a libp2p listener: host, port, and the key of the peer that answers there. Nothing in
a ticket is trusted further than its hashes: the manifest is checked against the run id and the
founder's key, and every peer against its own.
"""

import hashlib
import re
from dataclasses import dataclass

import base58

from protocol.errors import ConfigError
from protocol.identity import PeerId, peer_id_of, public_bytes_of
from protocol.manifest import RunId

PREFIX = "tw1"
MAX_ADDRESSES = 16
SECRET_BYTES = 16
MAX_CHARS = 8192
"""More than `MAX_ADDRESSES` addresses with the longest hosts."""
_VERSION = 1
_HAS_SECRET = 1
_HOST = re.compile(r"[A-Za-z0-9:._][A-Za-z0-9:._%-]*")
"""It is shown, and may be in a command that somebody copies."""


@dataclass(frozen=True, slots=True)
class Address:
    """A libp2p listener and the peer that must answer there."""

    host: str
    port: int
    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class Ticket:
    """See the module docstring."""

    run_id: RunId
    founder: PeerId
    addresses: tuple[Address, ...]
    secret: bytes | None = None

    def __str__(self) -> str:
        parts = [
            bytes([_VERSION, _HAS_SECRET if self.secret else 0]),
            bytes.fromhex(self.run_id),
            public_bytes_of(self.founder),
            self.secret or b"",
            bytes([len(self.addresses)]),
        ]
        for address in self.addresses:
            host = address.host.encode()
            parts += [
                bytes([len(host)]),
                host,
                address.port.to_bytes(2, "big"),
                public_bytes_of(address.peer_id),
            ]
        body = b"".join(parts)
        encoded: bytes = base58.b58encode(body + _checksum(body))
        return PREFIX + encoded.decode()

    def __repr__(self) -> str:  # the secret must not reach a log
        return f"Ticket(run_id={self.run_id[:12]}, addresses={self.addresses})"


def parse_ticket(text: str) -> Ticket:
    """Returns the ticket that `text` spells.

    Raises:
        ConfigError: one line that says what is wrong with it.
    """
    text = "".join(text.split())  # mail programs break long lines
    if not text.startswith(PREFIX):
        raise ConfigError(f"this is no thinwire ticket: it should begin with {PREFIX!r}")
    if len(text) > MAX_CHARS:
        raise ConfigError("this is no thinwire ticket: it is far too long")
    try:
        raw = base58.b58decode(text[len(PREFIX) :])
    except ValueError:
        raise ConfigError(
            "the ticket is mistyped: it has a character that no ticket has; copy it again"
        ) from None
    body, checksum = raw[:-4], raw[-4:]
    if len(body) < 67 or _checksum(body) != checksum:
        raise ConfigError(
            f"the ticket is cut off or mistyped: its checksum does not fit the {len(text)} "
            "characters given; copy it again, all of it"
        )
    if body[0] != _VERSION:
        raise ConfigError(f"the ticket is of version {body[0]}, this program reads {_VERSION}")
    try:
        return _parse_body(body)
    except (IndexError, ValueError):
        raise ConfigError("the ticket is damaged: ask for a new one") from None


def _parse_body(body: bytes) -> Ticket:
    run_id, founder = RunId(body[2:34].hex()), peer_id_of(body[34:66])
    at = 66
    secret = None
    if body[1] & _HAS_SECRET:
        secret, at = body[at : at + SECRET_BYTES], at + SECRET_BYTES
    count, at = body[at], at + 1
    addresses = []
    for _ in range(count):
        end = at + 1 + body[at]
        host = body[at + 1 : end].decode("ascii")
        port = int.from_bytes(body[end : end + 2], "big")
        key = body[end + 2 : end + 34]
        if len(key) != 32 or not 0 < port < 65536 or not _HOST.fullmatch(host):
            raise ValueError("bad address")
        addresses.append(Address(host, port, peer_id_of(key)))
        at = end + 34
    if at != len(body) or not 1 <= count <= MAX_ADDRESSES:
        raise ValueError("bad length")
    return Ticket(run_id, founder, tuple(addresses), secret)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"thinwire ticket" + body).digest()[:4]
