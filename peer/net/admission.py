"""Who may speak to us: the check behind Hello, on both sides. Opens nothing, waits for nothing.

A client whose TLS identity is proven says which run it means and, in invite runs, proves that it
knows the ticket's secret. The server answers the same way, so that neither side can be a stranger.
Proofs are bound to both peer ids in the order (prover, verifier), so one cannot be reflected or
passed on.
"""

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from peer.net.refusals import readable
from protocol.errors import MalformedMessage, RunMismatch
from protocol.identity import PeerId
from protocol.manifest import (
    MAX_MANIFEST_BYTES,
    RunId,
    manifest_diff,
    parse_manifest,
)
from protocol.messages import PROTOCOL_VERSION
from protocol.pb import thinwire_pb2 as pb

MAX_HELLO_BYTES = 4096
PROOF_KEY = "thinwire-invite-bin"
"""The metadata in which a server's own proof travels beside its HelloReply."""
MAX_ADMITTED = 1024
_NUM_DIFFERENCES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What we know of our run when we meet somebody."""

    run_id: RunId
    secret: bytes | None = None
    """The ticket's secret, in invite runs."""
    manifest: bytes = b""
    """Canonical bytes; empty while we have only a ticket."""
    signature: bytes = b""


def invite_proof(secret: bytes, prover: PeerId, verifier: PeerId) -> bytes:
    """Returns the proof by which `prover` shows `verifier` that it knows the ticket's secret."""
    message = b"thinwire invite" + prover.encode() + verifier.encode()
    return hmac.new(secret, message, hashlib.sha256).digest()


def is_invited(ours: Membership, proof: bytes, *, prover: PeerId, verifier: PeerId) -> bool:
    """Whether `proof` is what our run asks of `prover`; open runs ask nothing."""
    if ours.secret is None:
        return True
    return hmac.compare_digest(proof, invite_proof(ours.secret, prover, verifier))


def hello(ours: Membership, *, our_id: PeerId, their_id: PeerId, software: str) -> pb.Hello:
    """Returns what we say first to `their_id`."""
    return pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        run_id=bytes.fromhex(ours.run_id),
        invite_proof=invite_proof(ours.secret, our_id, their_id) if ours.secret else b"",
        software=software,
    )


def parse_hello(data: bytes) -> pb.Hello:
    """Returns a Hello within its limits.

    Raises:
        MalformedMessage: it is none.
    """
    if len(data) > MAX_HELLO_BYTES:
        raise MalformedMessage(f"a hello of {len(data)} bytes")
    message = pb.Hello()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage("not a hello") from None
    return message


def decide_hello(
    ours: Membership, message: pb.Hello, *, our_id: PeerId, their_id: PeerId
) -> pb.HelloReply:
    """Returns our answer to a Hello of `their_id`, whose identity is proven.

    The manifest goes to those we welcome, and to those of another run so that they can show the
    difference; in invite runs to nobody without a proof.
    """
    if message.protocol_version != PROTOCOL_VERSION:
        return pb.HelloReply(
            reason=f"you speak version {message.protocol_version} of the protocol, "
            f"this peer speaks {PROTOCOL_VERSION}"
        )
    invited = is_invited(ours, message.invite_proof, prover=their_id, verifier=our_id)
    theirs = message.run_id.hex()
    reason = ""
    if theirs != ours.run_id:
        reason = f"this peer is in run {ours.run_id[:12]}, not in {theirs[:12] or 'none'}"
    elif not invited:
        reason = "this run is by invitation: your ticket has no secret, or another one"
    reply = pb.HelloReply(welcome=not reason, reason=reason)
    if invited:
        reply.manifest, reply.signature = ours.manifest, ours.signature
    return reply


@dataclass(frozen=True, slots=True)
class Welcome:
    """A peer took us in; this is the manifest that it goes by, unchecked."""

    manifest: bytes
    signature: bytes


def parse_reply(
    data: bytes, *, ours: Membership, our_id: PeerId, their_id: PeerId, proof: bytes
) -> Welcome:
    """Returns the welcome that a server's answer spells.

    Raises:
        RunMismatch: they refuse us, with their reason and the settings that differ; or they cannot
            prove that they were invited themselves.
        MalformedMessage: not an answer to Hello.
    """
    message = pb.HelloReply()
    if len(data) > MAX_MANIFEST_BYTES + MAX_HELLO_BYTES:
        raise MalformedMessage(f"an answer to hello of {len(data)} bytes")
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage("not an answer to hello") from None
    if not message.welcome:
        words = readable(message.reason)
        differences = _differences(ours.manifest, message.manifest)
        raise RunMismatch("; ".join([f"{their_id} refuses us: {words}", *differences]))
    if not is_invited(ours, proof, prover=their_id, verifier=our_id):
        raise RunMismatch(f"{their_id} was not invited: it does not know the secret of our run")
    return Welcome(message.manifest, message.signature)


def _differences(ours: bytes, theirs: bytes) -> list[str]:
    """Returns the first settings that differ, if both manifests can be read."""
    if not ours or not theirs:
        return []
    try:
        lines = manifest_diff(parse_manifest(ours), parse_manifest(theirs))
    except MalformedMessage as error:
        return [f"their manifest cannot be read: {error}"]
    more = len(lines) - _NUM_DIFFERENCES
    shown = [line[:120] for line in lines[:_NUM_DIFFERENCES]]
    return [*shown, f"and {more} more"] if more > 0 else shown


class Admitted:
    """The peers that said Hello to us and were welcome; the oldest are forgotten first.

    Whoever is forgotten says Hello again: it costs one round trip.
    """

    def __init__(self, capacity: int = MAX_ADMITTED) -> None:
        self._capacity = capacity
        self._peers: OrderedDict[PeerId, None] = OrderedDict()

    def add(self, peer_id: PeerId) -> None:
        """Lets a peer in."""
        self._peers[peer_id] = None
        self._peers.move_to_end(peer_id)
        if len(self._peers) > self._capacity:
            self._peers.popitem(last=False)

    def discard(self, peer_id: PeerId) -> None:
        """Makes a peer say Hello again."""
        self._peers.pop(peer_id, None)

    def __contains__(self, peer_id: PeerId) -> bool:
        if peer_id not in self._peers:
            return False
        self._peers.move_to_end(peer_id)
        return True
