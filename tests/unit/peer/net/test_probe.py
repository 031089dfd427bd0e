"""A probe is bounded in bytes, time and number, and goes at the cap of whoever sends."""

import asyncio
import math
import struct
from collections.abc import Coroutine
from typing import Any

import pytest

from peer.net import probe as probe_module
from peer.net.counters import ByteCounters
from peer.net.pace import NO_CAP, Cap, Pace
from peer.net.probe import EVERY_S, MAX_AT_ONCE, MAX_BYTES, MAX_S, WAIT_S, Probe, Tally
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.errors import LimitExceeded, MalformedMessage, NotAvailable, TransportError
from protocol.identity import PeerId

CALLER = "ipv4:81.2.69.142:4000"
A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


class Call:
    """A stranger's call: sends chunks of a size, as many as given; takes what it is sent."""

    def __init__(self, chunks: int = 0, chunk_bytes: int = 1024, takes_s: float = 0.0) -> None:
        self.sent: list[bytes] = []
        self._left, self._chunk, self._takes_s = chunks, bytes(chunk_bytes), takes_s

    async def read(self) -> bytes:
        if not self._left:
            return b""
        self._left -= 1
        return self._chunk

    async def write(self, message: bytes) -> None:
        await asyncio.sleep(self._takes_s)
        self.sent.append(message)


def served(probe: Probe, call: Call, src: PeerId = A, caller: str = CALLER) -> Any:
    return probe.answer(src, call.read, call.write, caller=caller)


def play(work: Coroutine[Any, Any, Any]) -> float:
    """Returns how long it took on a clock that nobody waits for."""
    loop = VirtualLoop(VirtualClock())  # type: ignore[abstract]
    loop.run_until_complete(work)
    return loop.time()


def test_a_probe_says_where_it_came_from_and_sends_no_more_than_its_bytes() -> None:
    call, counters = Call(), ByteCounters()
    play(served(Probe(Pace(NO_CAP), counters), call))
    host, *chunks, end, answer = call.sent
    assert host == b"81.2.69.142"
    assert sum(map(len, chunks)) == MAX_BYTES == counters.sent["probe"]
    assert end == b""
    assert struct.unpack(">d", answer) == (0.0,)  # nothing came


def test_through_a_tunnel_nobody_knows_where_it_came_from() -> None:
    call = Call()
    play(served(Probe(Pace(NO_CAP), ByteCounters()), call, caller="unix:"))
    assert call.sent[0] == b""


def test_under_a_cap_it_goes_at_the_cap_and_ends_in_time() -> None:
    call = Call()
    took_s = play(served(Probe(Pace(Cap(1e6)), ByteCounters()), call))
    sent = sum(map(len, call.sent[1:-2]))
    assert took_s == pytest.approx(MAX_S, rel=0.05)
    assert 8 * sent / took_s == pytest.approx(1e6, rel=0.05)


def test_who_reads_slowly_is_sent_to_no_longer_than_that() -> None:
    call = Call(takes_s=1.0)
    took_s = play(served(Probe(Pace(NO_CAP), ByteCounters()), call))
    assert took_s <= MAX_S + 4
    with pytest.raises(TransportError, match="took more than"):
        play(served(Probe(Pace(NO_CAP), ByteCounters()), Call(takes_s=2 * WAIT_S)))


def test_who_sends_too_much_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        play(served(Probe(Pace(NO_CAP), ByteCounters()), Call(MAX_BYTES // 1024 + 1)))


def test_each_has_one_probe_in_a_time_and_only_some_at_once() -> None:
    probe = Probe(Pace(NO_CAP), ByteCounters())

    async def ask() -> None:
        await served(probe, Call())
        with pytest.raises(NotAvailable, match="you have probed"):
            await served(probe, Call())
        await served(probe, Call(), B)  # another one may
        await asyncio.sleep(EVERY_S)
        slow = [asyncio.create_task(served(probe, Call(takes_s=0.5), s)) for s in (A, B)]
        await asyncio.sleep(0.1)
        assert len(slow) == MAX_AT_ONCE
        with pytest.raises(NotAvailable, match="too many"):
            await served(probe, Call(), C)
        await asyncio.gather(*slow)
        await served(probe, Call(), C)

    play(ask())


def test_the_rate_is_that_of_the_later_half() -> None:
    tally = Tally()
    for tick in range(10):  # slow at first, as TCP is
        tally.add(8000, tick * 1.0)
    for tick in range(100):
        tally.add(80_000, 9.1 + tick * 0.1)
    assert tally.rate_bps == pytest.approx(6.4e6, rel=0.05)


def test_too_little_says_nothing_and_small_messages_cost_nothing() -> None:
    tally = Tally()
    tally.add(16_384, 0.0)
    assert tally.rate_bps == 0.0
    for number in range(20_000):
        tally.add(1, number / 1000)
    assert len(tally.marks) < 10


@pytest.mark.parametrize(
    "data", [b"", b"1234567", *(struct.pack(">d", bps) for bps in (-1.0, 5e-324, math.inf))]
)
def test_an_answer_that_is_no_rate_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        probe_module._parse_answer(data)


@pytest.mark.parametrize("data", [b"x" * 65, b"\xff", b"somewhere", b"1.2.3.4:5"])
def test_a_host_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        probe_module._parse_host(data)


@pytest.mark.parametrize("host", ["81.2.69.142", "2001:db8::7", ""])
def test_hosts_are_numbers_or_unknown(host: str) -> None:
    assert probe_module._parse_host(host.encode()) == host
