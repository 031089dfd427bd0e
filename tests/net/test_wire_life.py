"""Peers that restart, move, leave; and how quickly a wire closes."""

import asyncio
import time
from typing import Any

import pytest

from peer.net import link
from protocol.errors import ConfigError, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Ready
from tests.blobs import BytesSource, fetched

pytestmark = pytest.mark.net

NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
REF = BlobRef("state")


async def _send_until_it_arrives(a: Any, peer_id: PeerId) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await a.wire.send(peer_id, NOTE)
            except TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_hello_is_said_again_to_a_server_that_forgot_us(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    b.inbox.blobs[REF] = BytesSource(b"x")
    await a.wire.send(b.peer_id, NOTE)
    b.wire._server.forget(a.peer_id)
    await a.wire.send(b.peer_id, NOTE)
    b.wire._server.forget(a.peer_id)
    assert await fetched(a.wire, b.peer_id, REF, 1) == b"x"


async def test_a_peer_that_restarts_is_found_again(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    await a.wire.send(b.peer_id, NOTE)
    await b.wire.close()
    b = await net.start(2, listen_port=b.wire.listen_port)
    await _send_until_it_arrives(a, b.peer_id)
    assert await b.inbox.notes.get() == (a.peer_id, NOTE)


async def test_a_peer_that_comes_back_elsewhere_is_found(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    await a.wire.send(b.peer_id, NOTE)
    await b.wire.close()
    with pytest.raises(TransportError):
        await a.wire.send(b.peer_id, NOTE)
    with pytest.raises(TransportError):
        await a.wire.send(b.peer_id, NOTE)
    b = await net.start(2)  # on another port
    await a.wire.send(b.peer_id, NOTE)  # despite the back-off, since the address is new
    assert await b.inbox.notes.get() == (a.peer_id, NOTE)


async def test_a_dead_peer_is_not_dialled_all_the_time(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dialled(*_: object, **__: object) -> None:
        raise AssertionError("it is dialled again")

    monkeypatch.setattr(link, "BACKOFF_S", (60.0, 60.0))
    a, b = await net.start(1), await net.start(2)
    await b.wire.close()
    with pytest.raises(TransportError, match="not reachable"):
        await a.wire.send(b.peer_id, NOTE)
    monkeypatch.setattr(link, "race", dialled)
    with pytest.raises(TransportError, match="next attempt in"):
        await a.wire.send(b.peer_id, NOTE)


async def test_a_forgotten_peer_can_be_met_again(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    await a.wire.send(b.peer_id, NOTE)
    await a.wire.forget(b.peer_id)
    await b.wire.forget(a.peer_id)
    await a.wire.send(b.peer_id, NOTE)
    assert b.inbox.notes.qsize() == 2


async def test_hello_at_an_address_needs_no_directory(net: Any) -> None:
    a, b = await net.start(1), await net.start(2, manifest_bytes=b"{}", manifest_signature=b"s")
    port = net.ports.pop(b.peer_id)
    welcome = await a.wire.hello(b.peer_id, f"127.0.0.1:{port}")
    assert (welcome.manifest, welcome.signature) == (b"{}", b"s")
    await a.wire.send(b.peer_id, NOTE)


async def test_closing_is_quick_and_ends_what_is_under_way(net: Any) -> None:
    a, b = await net.start(1, progress_s=20.0), await net.start(2, progress_s=20.0)

    async def never(src: str, ref: BlobRef) -> None:
        await asyncio.sleep(60)

    b.inbox.blob = never
    fetching = asyncio.create_task(fetched(a.wire, b.peer_id, REF, 1))
    await asyncio.sleep(0.2)
    began_s = time.monotonic()
    await a.wire.close()
    await b.wire.close()
    assert time.monotonic() - began_s < 1.0
    with pytest.raises(TransportError):
        await fetching
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_two_peers_cannot_share_a_port(net: Any) -> None:
    a = await net.start(1)
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{a.wire.listen_port}"):
        await net.start(2, listen_port=a.wire.listen_port)


async def test_payload_is_counted_by_kind(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    b.inbox.blobs[REF] = BytesSource(bytes(100_000))
    await a.wire.send(b.peer_id, NOTE)
    await fetched(a.wire, b.peer_id, REF, 100_000)
    assert a.wire.counters.received["state"] == b.wire.counters.sent["state"] == 100_000
    assert a.wire.counters.sent["note"] == b.wire.counters.received["note"] > 0
    assert a.wire.counters.total_received > 100_000
