"""How a directory finds others that come later, and what the terminal shows of it."""

import asyncio
import logging
import time
from collections.abc import Sequence

import pytest

from peer.net import directory_upkeep
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.directory_memory import MemoryBoard, MemoryDirectory
from peer.net.p2pd import free_port
from peer.net.record_rules import RecordRules
from peer.ports import Directory
from peer.presence import Presence
from protocol import rooms
from protocol.card import Card
from protocol.errors import TransportError
from protocol.identity import Identity, PeerId
from protocol.manifest import RunId
from protocol.rooms import Rooms
from protocol.ticket import Address

pytestmark = pytest.mark.net

RUN_ID = RunId("ab" * 32)
CROWD = [Identity(bytes([seed]) * 32) for seed in range(1, 9)]
A, B, C = CROWD[:3]


def _address(directory: HivemindDirectory) -> Address:
    _, _, host, _, port, _, peer_id = directory.multiaddrs()[0].split("/")
    return Address(host, int(port), peer_id)


async def test_a_peer_that_starts_first_finds_those_that_come_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(directory_upkeep, "HURRY_S", 0.2)
    port = free_port("127.0.0.1")
    early = await HivemindDirectory.start(
        A, RUN_ID, bootstrap=[Address("127.0.0.1", port, B.peer_id)]
    )
    try:
        assert "the known address does not answer" in caplog.text
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


async def settled_in_rooms(directories: Sequence[Directory]) -> dict[PeerId, tuple[PeerId, ...]]:
    """Returns whom each peer knows after some refreshes."""
    presences = [
        Presence(directory, peer.peer_id, Rooms(peer.peer_id, RUN_ID))
        for directory, peer in zip(directories, CROWD, strict=True)
    ]
    for _ in range(6):
        for presence in presences:
            await presence.refresh()
            await presence.announce(Card(wire_addresses=("127.0.0.1:1",)))
    assert all(presence.rooms and min(presence.rooms.depths) > 0 for presence in presences)
    return {
        peer.peer_id: presence.members() for peer, presence in zip(CROWD, presences, strict=True)
    }


async def test_a_crowd_settles_in_its_rooms_as_it_does_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, count in {"FULL": 4, "PLACES": 5, "SPARSE": 3, "LONELY": 2}.items():
        monkeypatch.setattr(rooms, name, count)
    board = MemoryBoard(RecordRules(RUN_ID), time.time)
    expected = await settled_in_rooms([MemoryDirectory(peer, board) for peer in CROWD])
    directories: list[HivemindDirectory] = []
    try:
        for peer in CROWD:
            entrance = [_address(directories[0])] if directories else []
            directories.append(await HivemindDirectory.start(peer, RUN_ID, bootstrap=entrance))
        assert await settled_in_rooms(directories) == expected
    finally:
        for directory in directories:
            await directory.close()
