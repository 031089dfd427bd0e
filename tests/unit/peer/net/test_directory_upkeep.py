"""What no error may end. How nodes meet, and daemons are replaced, is in tests/net."""

import asyncio
from typing import Any, cast

import pytest

from peer.net.directory_guard import BoundedStorage
from peer.net.directory_node import DirectoryNode
from peer.net.directory_upkeep import for_ever
from peer.net.p2pd import P2pd
from peer.net.record_rules import RecordRules
from peer.net.swarm_clock import SwarmClock
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.errors import TransportError
from protocol.identity import Identity
from protocol.manifest import RunId

RULES = RecordRules(RunId("ab" * 32))


def test_endless_work_that_fails_or_ends_is_begun_again_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = VirtualLoop(VirtualClock())  # type: ignore[abstract]
    began_s: list[float] = []

    async def work() -> None:
        began_s.append(loop.time())
        if len(began_s) % 2:
            raise AssertionError("no node")

    task = loop.create_task(for_ever(work))
    loop.run_until(600.0)
    assert len(began_s) > 15
    assert caplog.text.count("no node") >= len(began_s) // 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


class Daemon:
    """A daemon that answers nothing, and ends when it is told."""

    async def close(self) -> None:
        await asyncio.sleep(0)


async def test_who_waits_for_a_node_that_is_closed_is_told_so_and_not_cancelled() -> None:
    storage = BoundedStorage(RULES, Identity(bytes(32)).peer_id)
    node = DirectoryNode(cast("P2pd", Daemon()), RULES, storage, SwarmClock())

    class Dht:
        async def store(self, *_: Any, **__: Any) -> bool:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    node.dht = Dht()
    record, data = RULES.sign(
        *(Identity(bytes(32)), "peers", b"x"), lifetime_s=10.0, now_unix_s=1e9, previous=None
    )
    storing = asyncio.create_task(node.store(record, data))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await node.close()
    with pytest.raises(TransportError, match="being closed"):
        await storing


@pytest.mark.parametrize("error", [RuntimeError("control failure"), ValueError("no message")])
async def test_a_daemon_that_answers_nonsense_is_not_alive(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(self: DirectoryNode, request: object) -> None:
        raise error

    storage = BoundedStorage(RULES, Identity(bytes(32)).peer_id)
    node = DirectoryNode(cast("P2pd", Daemon()), RULES, storage, SwarmClock())
    monkeypatch.setattr(DirectoryNode, "_ask_daemon", ask)
    assert not await node.is_alive()
