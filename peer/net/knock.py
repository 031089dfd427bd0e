"""Knocking: whether anybody listens at an address at all, said in words for people."""

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from typing import Literal, get_args

from protocol.ticket import Address

KNOCK_S = 5.0

Outcome = Literal["open", "refused", "silent", "unreachable", "nameless"]
"""The more comes of it, the earlier."""

ADVICE: dict[Outcome, str] = {
    "refused": "nobody listens there (connection refused); is the bootstrap node running, and on "
    "that port? Start it again, or ask for a newer ticket",
    "silent": "no answer, so a firewall drops what is sent there, or the address is wrong; open "
    "both ports of the node, or ask for a newer ticket",
    "unreachable": "there is no way there; is this machine online, and does it have IPv6?",
    "nameless": "there is no such name; is this machine online? If so, ask for a newer ticket",
}
"""What is wrong where nobody answers, and what to do."""


@dataclass(frozen=True, slots=True)
class Knock:
    """What a TCP connection to an address came to."""

    address: Address
    outcome: Outcome
    trip_s: float = 0.0


async def knock(address: Address, *, wait_s: float = KNOCK_S) -> Knock:
    """Connects to an address, and says nothing there.

    A name may have several IP addresses: the one where most comes of it counts.
    """
    try:
        async with asyncio.timeout(wait_s):
            hosts = await _hosts_of(address)
    except (OSError, ValueError):  # a name that cannot be one is a UnicodeError
        return Knock(address, "nameless")
    knocks = await asyncio.gather(*(_knock_at(host, address, wait_s) for host in hosts))
    return min(knocks, key=lambda each: get_args(Outcome).index(each.outcome))


async def _hosts_of(address: Address) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    )
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


async def _knock_at(host: str, address: Address, wait_s: float) -> Knock:
    began_s = time.perf_counter()
    try:
        async with asyncio.timeout(wait_s):
            _, writer = await asyncio.open_connection(host, address.port)
    except ConnectionRefusedError:
        return Knock(address, "refused")
    except TimeoutError:
        return Knock(address, "silent")
    except OSError:
        return Knock(address, "unreachable")
    trip_s = time.perf_counter() - began_s
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Knock(address, "open", trip_s)
