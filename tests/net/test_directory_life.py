"""How a directory finds others that come later, and what the terminal shows of it."""

import asyncio
import logging

import pytest

from peer.net import directory_hivemind
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.p2pd import free_port
from protocol.errors import TransportError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address

pytestmark = pytest.mark.net

RUN_ID = RunId("ab" * 32)
A, B, C = (Identity(bytes([seed]) * 32) for seed in range(1, 4))


def _address(directory: HivemindDirectory) -> Address:
    _, _, host, _, port, _, peer_id = directory.multiaddrs()[0].split("/")
    return Address(host, int(port), peer_id)


async def test_a_peer_that_starts_first_finds_those_that_come_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(directory_hivemind, "_REPING_S", 0.2)
    port = free_port("127.0.0.1")
    early = await HivemindDirectory.start(
        A, RUN_ID, bootstrap=[Address("127.0.0.1", port, B.peer_id)]
    )
    try:
        assert "none of 1 bootstrap addresses answers" in caplog.text
        with pytest.raises(TransportError, match="no peer of the directory"):
            await early.publish("peers", b"early", lifetime_s=60)
        late = await HivemindDirectory.start(B, RUN_ID, listen_port=port)
        try:
            await late.publish("peers", b"late", lifetime_s=60)
            async with asyncio.timeout(15):
                while len(await late.read("peers")) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            records = {record.payload for record in await early.read("peers")}
            assert records == {b"early", b"late"}
        finally:
            await late.close()
    finally:
        await early.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_peers_find_each_other_without_the_bootstrap_node(
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = await HivemindDirectory.start(A, RUN_ID)
    others = []
    for identity in (B, C):
        others.append(await HivemindDirectory.start(identity, RUN_ID, bootstrap=[_address(first)]))
    try:
        await others[0].publish("peers", b"b", lifetime_s=60)
        await first.close()
        await others[1].publish("peers", b"c", lifetime_s=60)
        for directory in others:
            payloads = {record.payload for record in await directory.read("peers")}
            assert payloads == {b"b", b"c"}
    finally:
        for directory in others:
            await directory.close()
    assert capfd.readouterr().err == ""


async def test_the_announced_address_is_the_one_that_others_need() -> None:
    directory = await HivemindDirectory.start(
        A, RUN_ID, listen_host="0.0.0.0", announce_host="127.0.0.1"
    )
    try:
        hosts = {maddr.split("/")[2] for maddr in directory.multiaddrs()}
        assert "127.0.0.1" in hosts
        assert all(maddr.endswith(f"/p2p/{A.peer_id}") for maddr in directory.multiaddrs())
        assert "0" not in {maddr.split("/")[4] for maddr in directory.multiaddrs()}
    finally:
        await directory.close()
