"""Bytes counted by the kernel."""

import os
import socket
import threading

import pytest

from peer.net.sockets import SocketMeter

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(not SocketMeter.is_supported(), reason="needs Linux's sock_diag"),
]

SIZE = 20_000_000


def _transfer(client: socket.socket, server: socket.socket, size: int) -> None:
    def receive() -> None:
        left = size
        while left:
            left -= len(server.recv(min(left, 1 << 20)))

    thread = threading.Thread(target=receive)
    thread.start()
    client.sendall(bytes(size))
    thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_transfer_is_counted(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    meter = SocketMeter([os.getpid()])
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        server, _ = listener.accept()
        with server:
            before = meter.sample()
            _transfer(client, server, SIZE)
            sent, received = (b - a for a, b in zip(before, meter.sample(), strict=True))
            assert received == pytest.approx(SIZE, rel=0.01)
            assert 0.99 * SIZE < sent < 1.1 * SIZE  # the kernel may repeat some, which counts
            _transfer(client, server, 1000)
            last = meter.sample()
    assert meter.sample() == last, "closed sockets keep their figures"


def test_other_processes_are_not_counted() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.sendall(bytes(1000))
        assert SocketMeter([2**22 + 1]).sample() == (0, 0)
