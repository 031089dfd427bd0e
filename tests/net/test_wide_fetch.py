"""A large blob over several connections, some of which break off, beside notes and other blobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from peer.net.width import Width
from peer.net.wire import SMALL_BYTES
from protocol.errors import NotAvailable, TransportError
from protocol.machine import BlobRef
from protocol.messages import Ready
from tests.blobs import BytesSource, KeptSink, fetched

pytestmark = pytest.mark.net

NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
REF = BlobRef("part", 0, b"e" * 16, 0)
OTHER = BlobRef("part", 0, b"f" * 16, 0)
GRAIN = 256 * 1024
PATIENCE_S = 20.0


class Connection:
    """One TCP connection through a relay."""

    def __init__(self) -> None:
        self.to_client_bytes = 0
        self.is_dead = False
        self.flows = asyncio.Event()
        self.flows.set()
        self._writers: list[asyncio.StreamWriter] = []

    async def join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers = [writer, up_writer]
        try:
            await asyncio.gather(
                self._pump(reader, up_writer), self._pump(up_reader, writer, to_client=True)
            )
        except OSError:
            pass
        finally:
            self.kill()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        to_client: bool = False,
    ) -> None:
        while data := await reader.read(1 << 16):
            await self.flows.wait()
            writer.write(data)
            await writer.drain()
            self.to_client_bytes += len(data) * to_client
        writer.close()

    def kill(self) -> None:
        self.is_dead = True
        for writer in self._writers:
            writer.transport.abort()


class Relay:
    """Stands between a peer and those who dial it, so that a test can break connections."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> None:
        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = Connection()
            self.connections.append(connection)
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            await connection.join(reader, writer, port)

        self._server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def with_bulk(self) -> list[Connection]:
        return [each for each in self.connections if each.to_client_bytes > SMALL_BYTES]

    async def close(self) -> None:
        self._server.close()
        for connection in self.connections:
            connection.flows.set()
            connection.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class SlowSource(BytesSource):
    """Serves a grain whenever the test lets it."""

    def __init__(self, data: bytes, *, free_grains: int = 0) -> None:
        super().__init__(data, grain_bytes=GRAIN)
        self.free = asyncio.Semaphore(free_grains)
        self.reads: list[int] = []

    async def read(self, start: int, stop: int) -> bytes:
        if start % GRAIN == 0:
            await self.free.acquire()
            self.reads.append(start // GRAIN)
        return await super().read(start, stop)

    def go_on(self, num_grains: int) -> None:
        for _ in range(num_grains):
            self.free.release()


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    made = Relay()
    yield made
    await made.close()


async def pair(net: Any, relay: Relay, *, width: int, **settings: Any) -> tuple[Any, Any]:
    """Returns two peers, of which the first dials the second through the relay, that wide."""
    settings = {"progress_s": 10.0, "max_streams_per_peer": 8, **settings}
    a, b = await net.start(1, **settings), await net.start(2, **settings)
    await relay.start(net.ports[b.peer_id])
    net.ports[b.peer_id] = relay.port
    chosen = Width(8)
    chosen.wanted = width
    a.wire._bundle(b.peer_id).width = chosen
    return a, b


def data_of(num_grains: int) -> bytes:
    return bytes(i % 251 for i in range(251)) * (num_grains * GRAIN // 251)


async def until_grown(sink: KeptSink, num_grains: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(sink.order) < num_grains:
            sink.has_grown.clear()
            await sink.has_grown.wait()


def assert_whole(sink: KeptSink, data: bytes) -> None:
    assert sink.data == data  # and it took each grain once
    assert not sink.missing()


@pytest.mark.parametrize("width", [1, 4])
async def test_a_large_blob_goes_over_as_many_connections_as_wanted(
    net: Any, relay: Relay, width: int
) -> None:
    a, b = await pair(net, relay, width=width)
    data = data_of(32)
    b.inbox.blobs[REF] = BytesSource(data, grain_bytes=GRAIN)
    sink = KeptSink(len(data), GRAIN)
    await a.wire.fetch(b.peer_id, REF, sink)
    assert_whole(sink, data)
    assert len(relay.connections) == 1 + width  # one is for notes
    assert len(relay.with_bulk()) == width
    assert relay.connections[0] not in relay.with_bulk()


async def test_a_small_blob_needs_no_connection_of_its_own(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=4)
    b.inbox.blobs[REF] = BytesSource(bytes(SMALL_BYTES))
    await fetched(a.wire, b.peer_id, REF, SMALL_BYTES)
    assert len(relay.connections) == 1


async def test_connections_that_are_wanted_no_more_are_given_back(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=4)
    data = data_of(32)
    b.inbox.blobs[REF] = BytesSource(data, grain_bytes=GRAIN)
    await fetched(a.wire, b.peer_id, REF, len(data), grain_bytes=GRAIN)
    assert not any(each.is_dead for each in relay.connections)
    a.wire._bundle(b.peer_id).width.wanted = 1
    await fetched(a.wire, b.peer_id, REF, len(data), grain_bytes=GRAIN)
    async with asyncio.timeout(PATIENCE_S):
        while sum(each.is_dead for each in relay.connections) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await a.wire.send(b.peer_id, NOTE)
    assert await fetched(a.wire, b.peer_id, REF, len(data), grain_bytes=GRAIN) == data
    assert len(relay.connections) == 5
    assert sum(each.is_dead for each in relay.connections) == 3


async def test_who_was_forgotten_during_a_fetch_can_be_met_again(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=1)
    data = data_of(16)
    source = b.inbox.blobs[REF] = SlowSource(data, free_grains=5)
    sink = KeptSink(len(data), GRAIN)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    await until_grown(sink, 5)
    await a.wire.forget(b.peer_id)
    with pytest.raises(TransportError):
        await asyncio.wait_for(fetching, PATIENCE_S)
    source.go_on(100)
    await asyncio.wait_for(a.wire.fetch(b.peer_id, REF, sink), PATIENCE_S)
    assert_whole(sink, data)


@pytest.mark.parametrize("width", [1, 4])
async def test_what_breaks_off_in_the_middle_comes_whole(
    net: Any, relay: Relay, width: int
) -> None:
    a, b = await pair(net, relay, width=width)
    data = data_of(32)
    source = b.inbox.blobs[REF] = SlowSource(data, free_grains=12)
    sink = KeptSink(len(data), GRAIN)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    await until_grown(sink, 10)
    victim = max(relay.connections, key=lambda each: each.to_client_bytes)
    assert victim is not relay.connections[0]
    victim.kill()
    source.go_on(100)
    await asyncio.wait_for(fetching, PATIENCE_S)
    assert_whole(sink, data)
    assert len(relay.connections) > 1 + width  # the fault fired, and another was opened
    assert len(source.reads) < 32 + 16  # and only what was lost was sent again


async def test_even_if_all_break_off_it_comes_whole(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=2)
    data = data_of(32)
    source = b.inbox.blobs[REF] = SlowSource(data, free_grains=12)
    sink = KeptSink(len(data), GRAIN)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    await until_grown(sink, 10)
    killed = list(relay.connections)
    assert len(killed) == 3
    for connection in killed:
        connection.kill()
    source.go_on(100)
    await asyncio.wait_for(fetching, PATIENCE_S)
    assert_whole(sink, data)
    assert len(relay.connections) > len(killed)


async def test_what_broke_off_for_good_goes_on_where_it_stopped(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=1)
    data = data_of(16)
    source = b.inbox.blobs[REF] = SlowSource(data, free_grains=5)
    sink = KeptSink(len(data), GRAIN)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    await until_grown(sink, 5)
    del b.inbox.blobs[REF]
    relay.with_bulk()[0].kill()
    with pytest.raises(NotAvailable):
        await asyncio.wait_for(fetching, PATIENCE_S)
    source.go_on(100)
    b.inbox.blobs[REF] = source
    source.reads.clear()
    await a.wire.fetch(b.peer_id, REF, sink)
    assert_whole(sink, data)
    assert source.reads == list(range(5, 16))


async def test_notes_pass_while_a_blob_is_stuck(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=1)
    data = data_of(32)
    b.inbox.blobs[REF] = BytesSource(data, grain_bytes=GRAIN)
    sink = KeptSink(len(data), GRAIN)
    await a.wire.send(b.peer_id, NOTE)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    await until_grown(sink, 1)
    (bulk,) = relay.with_bulk()
    bulk.flows.clear()
    for _ in range(20):
        await asyncio.wait_for(a.wire.send(b.peer_id, NOTE), 5.0)
    small = BytesSource(b"small")
    b.inbox.blobs[OTHER] = small
    assert await asyncio.wait_for(fetched(a.wire, b.peer_id, OTHER, 5), 5.0) == b"small"
    assert not fetching.done()
    stuck_at = len(sink.order)
    bulk.flows.set()
    await asyncio.wait_for(fetching, PATIENCE_S)
    assert stuck_at < 32
    assert_whole(sink, data)
    assert b.inbox.notes.qsize() == 21


async def test_a_fetch_that_is_cancelled_leaves_the_others_alone(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=1)
    data = data_of(4)
    unwanted, wanted = SlowSource(data), SlowSource(data)
    b.inbox.blobs[OTHER], b.inbox.blobs[REF] = unwanted, wanted
    sink = KeptSink(len(data), GRAIN)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    doomed = asyncio.create_task(fetched(a.wire, b.peer_id, OTHER, len(data), grain_bytes=GRAIN))
    unwanted.go_on(1)
    async with asyncio.timeout(PATIENCE_S):
        while not relay.with_bulk() or not sink.rounds:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    await asyncio.sleep(0.1)
    wanted.go_on(100)
    await asyncio.wait_for(fetching, PATIENCE_S)
    assert_whole(sink, data)
    assert wanted.reads == [0, 1, 2, 3]  # in one go


async def test_a_blob_that_is_withdrawn_leaves_the_others_alone(net: Any, relay: Relay) -> None:
    a, b = await pair(net, relay, width=1)
    data = data_of(4)
    withdrawn = BytesSource(data, grain_bytes=GRAIN, made_bytes=GRAIN)
    withdrawn.error = NotAvailable("that exchange was given up")
    wanted = SlowSource(data)
    b.inbox.blobs[OTHER], b.inbox.blobs[REF] = withdrawn, wanted
    sink, half = KeptSink(len(data), GRAIN), KeptSink(len(data), GRAIN)
    fetching = asyncio.create_task(a.wire.fetch(b.peer_id, REF, sink))
    doomed = asyncio.create_task(a.wire.fetch(b.peer_id, OTHER, half))
    await until_grown(half, 1)
    del b.inbox.blobs[OTHER]
    withdrawn.made.set()
    with pytest.raises(TransportError):
        await asyncio.wait_for(doomed, PATIENCE_S)
    assert half.order == [0]
    wanted.go_on(100)
    await asyncio.wait_for(fetching, PATIENCE_S)
    assert wanted.reads == [0, 1, 2, 3]
