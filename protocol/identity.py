"""One Ed25519 key is a peer: its libp2p id, its TLS identity, and the signer of its records.

The peer id is libp2p's: base58 of an identity multihash around the protobuf-encoded public key,
"12D3Koo...". It embeds the key, so whoever knows an id can verify its owner's signatures.
"""

from typing import NewType

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.errors import BadSignature, MalformedMessage

PeerId = NewType("PeerId", str)

_PUBLIC_PREFIX = b"\x08\x01\x12\x20"  # libp2p PublicKey{type: Ed25519, 32 bytes}
_PRIVATE_PREFIX = b"\x08\x01\x12\x40"  # libp2p PrivateKey{type: Ed25519, 64 bytes}
_MULTIHASH_PREFIX = b"\x00\x24"  # identity hash, 36 bytes


class Identity:
    """A peer's private key, and what can be done with it.

    Args:
        seed: 32 secret bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self.private_key = Ed25519PrivateKey.from_private_bytes(seed)
        self._seed = seed
        self.public_bytes = self.private_key.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.public_bytes)

    def sign(self, data: bytes) -> bytes:
        """Returns a 64-byte signature."""
        return self.private_key.sign(data)

    def to_libp2p(self) -> bytes:
        """Returns the key in the form that libp2p keeps in identity files. Secret."""
        return _PRIVATE_PREFIX + self._seed + self.public_bytes

    @classmethod
    def from_libp2p(cls, data: bytes) -> "Identity":
        """Reads what `to_libp2p` wrote.

        Raises:
            MalformedMessage: these bytes are no Ed25519 identity.
        """
        if len(data) != 68 or not data.startswith(_PRIVATE_PREFIX):
            raise MalformedMessage("not an Ed25519 identity")
        identity = cls(data[4:36])
        if identity.public_bytes != data[36:]:
            raise MalformedMessage("the public half of the identity does not fit the private half")
        return identity


def peer_id_of(public_bytes: bytes) -> PeerId:
    """Returns the libp2p id that embeds this 32-byte Ed25519 public key."""
    return PeerId(base58.b58encode(_MULTIHASH_PREFIX + _PUBLIC_PREFIX + public_bytes).decode())


def public_bytes_of(peer_id: str) -> bytes:
    """Returns the 32-byte public key that a peer id embeds.

    Raises:
        MalformedMessage: not the id of an Ed25519 key.
    """
    if len(peer_id) > 64:
        raise MalformedMessage("a peer id is at most 64 characters")
    try:
        raw: bytes = base58.b58decode(peer_id)
    except ValueError:
        raise MalformedMessage(f"not a peer id: {peer_id!r}") from None
    if len(raw) != 38 or not raw.startswith(_MULTIHASH_PREFIX + _PUBLIC_PREFIX):
        raise MalformedMessage(f"not the id of an Ed25519 key: {peer_id!r}")
    if peer_id_of(raw[6:]) != peer_id:  # base58 ignores trailing blanks: one key, one id
        raise MalformedMessage(f"not how a peer id is written: {peer_id!r}")
    return raw[6:]


def parse_peer_id(text: str) -> PeerId:
    """Returns `text` as a peer id, checked.

    Raises:
        MalformedMessage: not the id of an Ed25519 key.
    """
    public_bytes_of(text)
    return PeerId(text)


def verify(peer_id: str, signature: bytes, data: bytes) -> None:
    """Checks that the owner of `peer_id` signed `data`.

    Raises:
        BadSignature: they did not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_bytes_of(peer_id)).verify(signature, data)
    except InvalidSignature:
        raise BadSignature(f"not signed by {peer_id}") from None
