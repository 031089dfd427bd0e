"""The libp2p daemon may die or freeze under a directory: a pause, and no more."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from peer.net import directory_node, directory_upkeep
from peer.net.address_book import AddressBook
from peer.net.directory_hivemind import HivemindDirectory
from peer.presence import address_of
from protocol.errors import TransportError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address

pytestmark = pytest.mark.net

RUN_ID = RunId("ab" * 32)
A, B, C = (Identity(bytes([seed]) * 32) for seed in range(1, 4))

Start = Callable[..., Awaitable[HivemindDirectory]]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(directory_upkeep, "LOOK_AFTER_EVERY_S", 0.3)
    monkeypatch.setattr(directory_node, "PING_S", 0.5)
    started: list[HivemindDirectory] = []

    async def start(identity: Identity, *bootstrap: Address, **others: object) -> HivemindDirectory:
        made = await HivemindDirectory.start(identity, RUN_ID, bootstrap=bootstrap, **others)
        started.append(made)
        return made

    yield start
    for directory in started:
        await directory.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def payloads(directory: HivemindDirectory) -> dict[str, bytes]:
    """Returns what is seen; nothing while there is no daemon."""
    try:
        return {record.owner: record.payload for record in await directory.read("peers")}
    except TransportError:
        return {}


async def until_seen(directory: HivemindDirectory, *expected: Identity) -> None:
    ids = {identity.peer_id for identity in expected}

    async def seen() -> bool:
        return (await payloads(directory)).keys() == ids

    await until(seen)


async def until_replaced(directory: HivemindDirectory, pid: int) -> None:
    async def replaced() -> bool:
        return directory.daemon_pid not in (pid, 0)

    await until(replaced)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_daemon_takes_the_place_of_one_that_died_or_froze(
    start: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], how: int
) -> None:
    one = await start(A)
    two = await start(B, address_of(one.multiaddrs()[0]))
    for directory in (one, two):
        await directory.publish("peers", b"x", lifetime_s=60)
        directory.meet([address_of(other.multiaddrs()[0]) for other in (one, two)])
    reunions: list[None] = []
    two.on_reunion = lambda: reunions.append(None)
    before, maddrs = two.daemon_pid, two.multiaddrs()
    os.kill(before, how)
    while two.daemon_pid in (before, 0):
        try:
            await two.publish("peers", b"meanwhile", lifetime_s=60)
        except TransportError:
            await asyncio.sleep(0.02)
    await until_seen(two, A, B)
    assert two.multiaddrs() == maddrs
    await two.publish("peers", b"again", lifetime_s=60)

    async def others_see_us_again() -> bool:
        return bool(reunions) and (await payloads(one)).get(B.peer_id) == b"again"

    await until(others_see_us_again)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == [
        r for r in caplog.records if "another one listens" in r.message
    ]
    assert "another one listens" in caplog.text
    assert capfd.readouterr().err == ""


async def test_another_port_serves_if_the_old_one_is_taken(start: Start) -> None:
    one = await start(A)
    two = await start(B, address_of(one.multiaddrs()[0]))
    await one.publish("peers", b"x", lifetime_s=60)
    port, before = address_of(two.multiaddrs()[0]).port, two.daemon_pid

    def take(reader: object, writer: asyncio.StreamWriter) -> None:
        writer.close()

    os.kill(before, signal.SIGKILL)
    while True:  # as soon as the daemon is gone
        try:
            server = await asyncio.start_server(take, "127.0.0.1", port)
            break
        except OSError:
            await asyncio.sleep(0)
    async with server:
        await until_replaced(two, before)
    await until_seen(two, A)
    assert address_of(two.multiaddrs()[0]).port != port
    three = await start(C, address_of(two.multiaddrs()[0]))
    await until_seen(three, A)


async def test_who_all_lost_their_daemons_at_once_find_each_other_by_their_books(
    start: Start,
) -> None:
    one = await start(A, book=AddressBook())
    two = await start(B, address_of(one.multiaddrs()[0]))
    three = await start(C, address_of(one.multiaddrs()[0]))
    everybody = (one, two, three)
    for directory in everybody:
        directory.meet([address_of(other.multiaddrs()[0]) for other in everybody])
    before = [directory.daemon_pid for directory in everybody]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for directory, pid in zip(everybody, before, strict=True):
        await until_replaced(directory, pid)
    for directory in everybody:
        await directory.publish("peers", b"x", lifetime_s=60)
    for directory in everybody:
        await until_seen(directory, A, B, C)
