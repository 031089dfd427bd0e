"""A partner whose process is stopped, over sockets: its kernel answers, and it does not.

It is a process of its own, for a test cannot stop itself.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peer.net.config import WireConfig
from peer.net.wire import GrpcWire
from peer.ports import Source
from peer.vigil import IDLE_S, PATIENCE_S, Vigil
from protocol.errors import NotAvailable, PeerSilent, TransportError
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note, Ready
from tests.blobs import BytesSource, KeptSink, fetched

pytestmark = pytest.mark.net

CONFIG = WireConfig(run_id=RunId("ab" * 32), progress_s=10.0)
NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
DATA = bytes(i % 251 for i in range(100_000))
WHOLE, HALF, NEVER = (BlobRef("part", 0, b"e" * 16, part) for part in range(3))
SLACK_S = 1.5
"""A busy machine may be late; `progress_s` is much longer."""


class Giver:
    """Has one blob, half of another, and waits for ever with the third."""

    def on_note(self, src: PeerId, note: Note) -> None:
        pass

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        if ref == NEVER:
            await asyncio.sleep(60)
        made_bytes = len(DATA) // 2 if ref == HALF else None
        return BytesSource(DATA, grain_bytes=10_000, made_bytes=made_bytes)


class Nobody:
    """Gives nothing."""

    def on_note(self, src: PeerId, note: Note) -> None:
        pass

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        raise NotAvailable("nothing")


async def give() -> None:
    """What the other process does."""
    identity = Identity(b"g" * 32)
    wire = await GrpcWire.start(identity, CONFIG, inbox=Giver(), addresses=lambda _: ())
    print(json.dumps([identity.peer_id, wire.listen_port]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await wire.close()


class Pair:
    """Our wire, and the process at the other end."""

    def __init__(
        self, wire: GrpcWire, peer_id: PeerId, process: asyncio.subprocess.Process
    ) -> None:
        self.wire, self.peer_id, self.process = wire, peer_id, process
        self.vigil = Vigil(wire, progress_s=CONFIG.progress_s)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.net.test_frozen"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    peer_id, port = json.loads(await process.stdout.readline())
    wire = await GrpcWire.start(
        Identity(b"u" * 32), CONFIG, inbox=Nobody(), addresses=lambda _: [f"127.0.0.1:{port}"]
    )
    made = Pair(wire, peer_id, process)
    yield made
    await wire.close()
    made.thaw()
    process.stdin.close()
    await process.wait()


async def test_a_frozen_process_answers_no_ping_until_it_goes_on(pair: Pair) -> None:
    await pair.wire.ping(pair.peer_id, wait_s=5.0)
    channel = await pair.wire._link(pair.peer_id).channel()
    pair.freeze()
    with pytest.raises(TransportError, match="no answer"):
        await pair.wire.ping(pair.peer_id, wait_s=0.3)
    pair.thaw()
    await pair.wire.ping(pair.peer_id, wait_s=5.0)
    assert await pair.wire._link(pair.peer_id).channel() is channel


async def test_who_is_frozen_is_not_dialled_for_longer_than_was_asked_for(pair: Pair) -> None:
    pair.freeze()
    began_s = time.monotonic()
    with pytest.raises(TransportError, match="not reached"):
        await pair.wire.ping(pair.peer_id, wait_s=0.3)
    assert time.monotonic() - began_s < 0.3 + SLACK_S
    pair.thaw()
    await pair.wire.ping(pair.peer_id, wait_s=5.0)


@pytest.mark.parametrize("ref", [HALF, NEVER], ids=["in the middle", "before it begins"])
async def test_a_fetch_from_a_frozen_process_is_given_up_soon(pair: Pair, ref: BlobRef) -> None:
    await pair.wire.ping(pair.peer_id, wait_s=5.0)
    sink = KeptSink(len(DATA), 10_000)
    fetching = asyncio.create_task(pair.vigil.fetch(pair.peer_id, ref, sink))
    await asyncio.sleep(0.3)
    pair.freeze()
    began_s = time.monotonic()
    with pytest.raises(PeerSilent):
        await fetching
    assert time.monotonic() - began_s < IDLE_S + PATIENCE_S + SLACK_S
    pair.thaw()
    assert await fetched(pair.wire, pair.peer_id, WHOLE, len(DATA), grain_bytes=10_000) == DATA


async def test_a_living_process_that_gives_nothing_yet_is_waited_for(pair: Pair) -> None:
    await pair.wire.ping(pair.peer_id, wait_s=5.0)
    fetching = asyncio.create_task(pair.vigil.fetch(pair.peer_id, NEVER, KeptSink(len(DATA))))
    await asyncio.sleep(2 * (IDLE_S + PATIENCE_S))
    assert not fetching.done()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching


async def test_a_note_to_a_frozen_process_is_given_up_soon(pair: Pair) -> None:
    await pair.vigil.send(pair.peer_id, NOTE)
    pair.freeze()
    began_s = time.monotonic()
    with pytest.raises(PeerSilent):
        await pair.vigil.send(pair.peer_id, NOTE)
    assert time.monotonic() - began_s < IDLE_S + PATIENCE_S + SLACK_S


if __name__ == "__main__":
    asyncio.run(give())
