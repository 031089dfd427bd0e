"""What a peer tells everybody of itself, as the payload of a directory record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from google.protobuf.message import DecodeError

from protocol.errors import LimitExceeded, MalformedMessage
from protocol.identity import PeerId, parse_peer_id
from protocol.manifest import MAX_DOMAIN_CHARS, MAX_DOMAINS
from protocol.messages import MAX_BPS
from protocol.pb import thinwire_pb2 as pb

TOPIC = "peers"
ROLES = ("peer", "holder", "coming", "bootstrap", "left")
Reachability = Literal["direct", "reverse"]
"""Whether others can dial a peer, as far as it knows, or call it only where it listens."""
MAX_RELAYS = 8
LIFE_BYTES = 8
MAX_COUNT = 1 << 53
"""Below it, a count is the same in every language, and a sum of some cannot overflow."""
MAX_MEMORY_BYTES = 1 << 50
MAX_FLOPS_PER_S = 1 << 60
_MAX_BEGAN_UNIX_S = float(1 << 40)
_MAX_ADDRESSES = 8
_MAX_ADDRESS_CHARS = 256


@dataclass(frozen=True, slots=True)
class Kept:
    """A domain's state that a peer has on its disk, and gives to others."""

    domain: str
    round: int
    step: int
    is_final: bool
    """The domain has reached its budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A peer's addresses and progress."""

    wire_addresses: tuple[str, ...]
    """host:port of the gRPC listener; the first that answers is used."""
    multiaddrs: tuple[str, ...] = ()
    role: str = "peer"
    """A `holder` trains no more but has the model; who is `coming` loads what it needs to train, or
    looks for a domain; `left` says goodbye at once."""
    step: int = 0
    round: int = 0
    tokens: int = 0
    software: str = ""
    reach: Reachability = "direct"
    relays: tuple[PeerId, ...] = ()
    """Peers at which it listens, through which it can be called."""
    up_bps: int = 0
    down_bps: int = 0
    """What its link was seen to carry, or is allowed to; 0 is unknown."""
    life: str = ""
    """Which life of this peer it is, in hexadecimal digits: two at once are one too many."""
    began_unix_s: float = 0.0
    """When that life began, by its own clock, but later than the lives that it knows of."""
    domain: str = ""
    """Where it trains, in a run with domains; empty while it trains nowhere."""
    memory_bytes: int = 0
    """What a trainer may use there; 0 is unknown."""
    flops_per_s: int = 0
    """What its machine was seen to do; 0 is unknown."""
    kept: tuple[Kept, ...] = ()
    """The domains whose states it has on its disk."""
    unable: tuple[str, ...] = ()
    """Domains that it cannot train: it lacks their text, or may not read it."""
    stays: bool = False
    """It goes to no other domain before its own is done: its operator named that one."""

    def to_bytes(self) -> bytes:
        """Returns the card as a protobuf `thinwire.v1.PeerCard`."""
        data: bytes = pb.PeerCard(
            wire_addresses=self.wire_addresses,
            multiaddrs=self.multiaddrs,
            role=self.role,
            step=self.step,
            round=self.round,
            tokens=self.tokens,
            software=self.software,
            reach=self.reach,
            relays=self.relays,
            up_bps=self.up_bps,
            down_bps=self.down_bps,
            life=bytes.fromhex(self.life),
            began_unix_s=self.began_unix_s,
            domain=self.domain,
            memory_bytes=self.memory_bytes,
            flops_per_s=self.flops_per_s,
            kept=[
                pb.KeptState(domain=k.domain, round=k.round, step=k.step, is_final=k.is_final)
                for k in self.kept
            ],
            stays=self.stays,
            unable=self.unable,
        ).SerializeToString(deterministic=True)
        return data


def parse_card(data: bytes) -> Card:
    """Returns the card that `data` spells.

    Raises:
        MalformedMessage, LimitExceeded: it is none, or an unreasonable one.
    """
    raw = pb.PeerCard()
    try:
        raw.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage("not a peer's card") from None
    if raw.role not in ROLES:
        raise MalformedMessage(f"unknown role {raw.role[:16]!r}")
    addresses = (*raw.wire_addresses, *raw.multiaddrs)
    if len(addresses) > 2 * _MAX_ADDRESSES or any(len(a) > _MAX_ADDRESS_CHARS for a in addresses):
        raise LimitExceeded("a card with too many or too long addresses")
    if raw.reach not in ("", *get_args(Reachability)):
        raise MalformedMessage(f"unknown reach {raw.reach[:16]!r}")
    if max(raw.step, raw.round, raw.tokens) >= MAX_COUNT:
        raise LimitExceeded("a card with progress beyond all reason")
    if max(raw.up_bps, raw.down_bps) >= MAX_BPS:
        raise LimitExceeded("a card with a rate beyond all reason")
    if len(raw.relays) > MAX_RELAYS:
        raise LimitExceeded(f"a card with {len(raw.relays)} relays")
    if len(raw.life) not in (0, LIFE_BYTES):
        raise MalformedMessage(f"a life of {len(raw.life)} bytes")
    if not 0 <= raw.began_unix_s < _MAX_BEGAN_UNIX_S:  # also catches NaN
        raise LimitExceeded("a life that began beyond all reason")
    if len(raw.unable) > MAX_DOMAINS:
        raise LimitExceeded(f"a card with {len(raw.unable)} domains that it cannot train")
    if raw.memory_bytes >= MAX_MEMORY_BYTES or raw.flops_per_s >= MAX_FLOPS_PER_S:
        raise LimitExceeded("a card of a machine beyond all reason")
    return Card(
        wire_addresses=tuple(raw.wire_addresses),
        multiaddrs=tuple(raw.multiaddrs),
        role=raw.role,
        step=raw.step,
        round=raw.round,
        tokens=raw.tokens,
        software=raw.software[:64],
        reach="reverse" if raw.reach == "reverse" else "direct",
        relays=tuple(map(parse_peer_id, raw.relays)),
        up_bps=raw.up_bps,
        down_bps=raw.down_bps,
        life=raw.life.hex(),
        began_unix_s=raw.began_unix_s,
        domain=_domain(raw.domain),
        memory_bytes=raw.memory_bytes,
        flops_per_s=raw.flops_per_s,
        kept=_kept(raw.kept),
        stays=raw.stays,
        unable=tuple(map(_domain, raw.unable)),
    )


def _domain(name: str) -> str:
    if len(name) > MAX_DOMAIN_CHARS or not name.isprintable():
        raise LimitExceeded("a card of an unreasonable domain")
    return name


def _kept(raw: Sequence[pb.KeptState]) -> tuple[Kept, ...]:
    if len(raw) > MAX_DOMAINS:
        raise LimitExceeded(f"a card with the states of {len(raw)} domains")
    if any(max(kept.round, kept.step) >= MAX_COUNT for kept in raw):
        raise LimitExceeded("a card with a state beyond all reason")
    return tuple(Kept(_domain(k.domain), k.round, k.step, k.is_final) for k in raw)
