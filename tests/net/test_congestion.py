"""Connections take the congestion control of the socket that they came in by."""

import socket
from pathlib import Path

import pytest

from peer.net import congestion
from peer.net.config import WireConfig
from peer.net.wire import GrpcWire
from protocol.identity import Identity
from protocol.manifest import RunId
from tests.blobs import BytesSource

pytestmark = pytest.mark.net
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


class Nobody:
    def on_note(self, src: object, note: object) -> None:
        raise NotImplementedError

    async def blob(self, src: object, ref: object) -> BytesSource:
        raise NotImplementedError


@pytest.fixture
def allowed() -> list[bytes]:
    if not hasattr(socket, "TCP_CONGESTION") or not ALLOWED.exists():
        pytest.skip("this system does not let us choose")
    return [name.encode() for name in ALLOWED.read_text().split()]


def chosen(listener: socket.socket) -> bytes:
    return listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).strip(b"\0")


def test_only_sockets_that_listen_on_the_port_are_asked(
    allowed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = next((name for name in allowed if name != b"bbr"), None)
    if other is None:
        pytest.skip("there is only one to choose")
    monkeypatch.setattr(congestion, "BBR", other)
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        socket.create_server(("127.0.0.1", 0)) as theirs,
    ):
        before = chosen(theirs)
        assert congestion.prefer_bbr(ours.getsockname()[1])
        assert chosen(ours) == other
        assert chosen(theirs) == before
        with socket.create_connection(ours.getsockname()):
            accepted, _ = ours.accept()
            with accepted:
                assert chosen(accepted) == other


def test_what_the_kernel_does_not_allow_changes_nothing(
    allowed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(congestion, "BBR", b"nothing")
    with socket.create_server(("127.0.0.1", 0)) as ours:
        before = chosen(ours)
        assert not congestion.prefer_bbr(ours.getsockname()[1])
        assert chosen(ours) == before


async def test_a_wire_s_listener_is_found(allowed: list[bytes]) -> None:
    wire = await GrpcWire.start(
        Identity(b"w" * 32),
        WireConfig(run_id=RunId("ab" * 32)),
        inbox=Nobody(),
        addresses=lambda _: [],
    )
    try:
        assert congestion.prefer_bbr(wire.listen_port) == (b"bbr" in allowed)
    finally:
        await wire.close()
