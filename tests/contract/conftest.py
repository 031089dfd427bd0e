import asyncio
from collections.abc import AsyncIterator

import pytest

from peer.net.config import WireConfig
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.ports import Source, Wire
from protocol.errors import NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note

RUN_ID = RunId("ab" * 32)


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


class WirePeer:
    def __init__(self, peer_id: PeerId, wire: Wire, inbox: FakeInbox) -> None:
        self.peer_id, self.wire, self.inbox = peer_id, wire, inbox


class Wires:
    """Starts peers whose wires are of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.network = MemoryNetwork()
        self.ports: dict[PeerId, int] = {}
        self.peers: list[WirePeer] = []

    async def start(self, **settings: object) -> WirePeer:
        identity = Identity(bytes([len(self.peers) + 1]) * 32)
        config = WireConfig(**{"run_id": RUN_ID, "chunk_bytes": 1024, **settings})
        inbox = FakeInbox()
        wire: Wire
        if self.kind == "memory":
            wire = MemoryWire(self.network, identity.peer_id, config, inbox=inbox)
        else:
            from peer.net.wire import GrpcWire

            wire = await GrpcWire.start(identity, config, inbox=inbox, addresses=self.addresses)
            self.ports[identity.peer_id] = wire.listen_port
        self.peers.append(WirePeer(identity.peer_id, wire, inbox))
        return self.peers[-1]

    def addresses(self, peer_id: PeerId) -> list[str]:
        port = self.ports.get(peer_id)
        return [] if port is None else [f"127.0.0.1:{port}"]


@pytest.fixture(params=["memory", pytest.param("grpc", marks=pytest.mark.net)])
async def wires(request: pytest.FixtureRequest) -> AsyncIterator[Wires]:
    made = Wires(request.param)
    yield made
    for peer in made.peers:
        await peer.wire.close()
