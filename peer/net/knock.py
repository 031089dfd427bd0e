"""Knocking: whether anybody listens at an address at all, said in words for people."""

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from typing import Literal

from protocol.ticket import Address

KNOCK_S = 5.0

Outcome = Literal["open", "refused", "silent", "unreachable", "nameless"]

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
    """Connects to an address, and says nothing there."""
    began_s = time.perf_counter()
    try:
        async with asyncio.timeout(wait_s):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except ConnectionRefusedError:
        return Knock(address, "refused")
    except TimeoutError:
        return Knock(address, "silent")
    except socket.gaierror:
        return Knock(address, "nameless")
    except OSError:
        return Knock(address, "unreachable")
    trip_s = time.perf_counter() - began_s
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Knock(address, "open", trip_s)
