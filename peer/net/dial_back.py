"""Trying whether somebody can be dialled, because it asks.

We dial only the host that the question comes from, so nobody can make us knock at other doors; and
say no more than Hello there, to nobody but the one who asks: anybody else fails the TLS handshake.
"""

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from google.protobuf.message import DecodeError

from protocol.errors import LimitExceeded, MalformedMessage, ThinwireError
from protocol.identity import PeerId
from protocol.pb import thinwire_pb2 as pb

MAX_ADDRESSES = 8
MAX_REQUEST_BYTES = 1024
EVERY_S = 10.0
"""Nobody gets more than one answer in this time."""
MAX_AT_ONCE = 16
MAX_REMEMBERED = 1024

Dial = Callable[[PeerId, str], Awaitable[object]]
Host = ipaddress.IPv4Address | ipaddress.IPv6Address


class DialBack:
    """Answers the question whether a peer can be dialled.

    Args:
        dial: Says Hello to a peer at an address, over a connection of its own; raises a
            `ThinwireError` when that fails.
    """

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._asked_at_s: OrderedDict[PeerId, float] = OrderedDict()
        self._num_active = 0

    async def answer(self, src: PeerId, request: bytes, *, caller: str) -> bytes:
        """Returns which of its addresses `src` can be dialled at.

        Args:
            src: Who asks.
            request: A `DialBack`. An unspecified host, 0.0.0.0, is the one that asks.
            caller: Where the question comes from, as gRPC says it.

        Raises:
            RemoteError: not such a question.
        """
        addresses = _parse(request)
        host, now_s = caller_host(caller), asyncio.get_running_loop().time()
        refusal = ""
        if host is None:
            refusal = "you do not ask from an address"
        elif now_s - self._asked_at_s.get(src, -EVERY_S) < EVERY_S:
            refusal = "you have asked just now"
        elif self._num_active >= MAX_AT_ONCE:
            refusal = "too many ask at once"
        if refusal or host is None:
            refused: bytes = pb.DialBackReply(refusal=refusal).SerializeToString()
            return refused
        self._asked_at_s.pop(src, None)
        self._asked_at_s[src] = now_s
        if len(self._asked_at_s) > MAX_REMEMBERED:
            self._asked_at_s.popitem(last=False)
        tried = list(dict.fromkeys(_at(host, each) for each in addresses))
        self._num_active += 1
        try:
            outcomes = await asyncio.gather(*(self._try(src, each) for each in filter(None, tried)))
        finally:
            self._num_active -= 1
        reply = pb.DialBackReply(
            reached=[address for address, is_reached in outcomes if is_reached],
            failed=[address for address, is_reached in outcomes if not is_reached],
        )
        data: bytes = reply.SerializeToString()
        return data

    async def _try(self, peer_id: PeerId, address: str) -> tuple[str, bool]:
        try:
            await self._dial(peer_id, address)
        except ThinwireError:
            return address, False
        return address, True


def caller_host(caller: str) -> Host | None:
    """Returns the host in what gRPC calls a peer, such as `ipv4:192.0.2.7:4000`; None in a tunnel.

    IPv4 in IPv6 clothes is IPv4.
    """
    scheme, _, address = unquote(caller).partition(":")
    parsed = parse_address(address)
    if scheme not in ("ipv4", "ipv6") or parsed is None:
        return None
    return getattr(parsed[0], "ipv4_mapped", None) or parsed[0]


def parse_address(address: str) -> tuple[Host, int] | None:
    """Returns host and port of `192.0.2.7:4000` or `[2001:db8::7]:4000`; None for anything else."""
    text, _, port = address.rpartition(":")
    try:
        host = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
    return (host, int(port)) if is_port else None


def _at(caller: Host, address: str) -> str | None:
    """Returns the address if it is at the caller, with its host filled in; else None."""
    parsed = parse_address(address)
    if parsed is None:
        return None
    host, port = parsed
    if host.is_unspecified:
        host = caller
    if host != caller and not (host.is_loopback and caller.is_loopback):
        return None
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def _parse(request: bytes) -> list[str]:
    if len(request) > MAX_REQUEST_BYTES:
        raise LimitExceeded(f"a question of {len(request)} bytes")
    raw = pb.DialBack()
    try:
        raw.ParseFromString(request)
    except DecodeError:
        raise MalformedMessage("not a question") from None
    if len(raw.addresses) > MAX_ADDRESSES:
        raise LimitExceeded(f"{len(raw.addresses)} addresses to dial")
    return list(raw.addresses)
