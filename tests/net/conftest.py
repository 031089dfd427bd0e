import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from peer.net import frames, tls  # first, since it sets gRPC's environment

# isort: split
import grpc
import grpc.aio

from peer.net.config import WireConfig
from peer.net.wire import GrpcWire
from peer.ports import Source
from protocol.errors import NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note
from protocol.pb import thinwire_pb2 as pb

RUN_ID = RunId("ab" * 32)
Handler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[None]]


class FakeInbox:
    def __init__(self) -> None:
        self.notes: asyncio.Queue[tuple[PeerId, Note]] = asyncio.Queue()
        self.blobs: dict[BlobRef, Source] = {}

    def on_note(self, src: PeerId, note: Note) -> None:
        self.notes.put_nowait((src, note))

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        if ref not in self.blobs:
            raise NotAvailable("it was never made")
        return self.blobs[ref]


class NetPeer:
    def __init__(self, identity: Identity, wire: GrpcWire, inbox: FakeInbox) -> None:
        self.identity, self.wire, self.inbox = identity, wire, inbox
        self.peer_id = identity.peer_id


class Net:
    """Peers and hostile servers on loopback; all are closed after the test."""

    def __init__(self) -> None:
        self.ports: dict[PeerId, int] = {}
        self.wires: list[GrpcWire] = []
        self.servers: list[grpc.aio.Server] = []

    def addresses(self, peer_id: PeerId) -> list[str]:
        port = self.ports.get(peer_id)
        return [] if port is None else [f"127.0.0.1:{port}"]

    async def start(self, seed: int, **settings: object) -> NetPeer:
        identity, inbox = Identity(bytes([seed]) * 32), FakeInbox()
        config = WireConfig(**{"run_id": RUN_ID, "progress_s": 2.0, **settings})
        wire = await GrpcWire.start(identity, config, inbox=inbox, addresses=self.addresses)
        self.wires.append(wire)
        self.ports[identity.peer_id] = wire.listen_port
        return NetPeer(identity, wire, inbox)

    async def start_scripted(
        self, seed: int, fetch: Handler, *, credentials: grpc.ServerCredentials | None = None
    ) -> tuple[PeerId, grpc.aio.Server]:
        """A server that welcomes everybody, and answers a Fetch as the test says."""
        identity = Identity(bytes([seed]) * 32)

        async def hello(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return pb.HelloReply(welcome=True).SerializeToString()

        handlers = {
            "Hello": grpc.unary_unary_rpc_method_handler(hello),
            "Fetch": grpc.unary_stream_rpc_method_handler(fetch),
        }
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(frames.SERVICE, handlers),)
        )
        credentials = credentials or tls.server_credentials(identity)
        self.ports[identity.peer_id] = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        self.servers.append(server)
        return identity.peer_id, server

    async def close(self) -> None:
        for wire in self.wires:
            await wire.close()
        for server in self.servers:
            await server.stop(None)


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    made = Net()
    yield made
    await made.close()
