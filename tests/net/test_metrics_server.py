"""The metrics endpoint over a real socket: it answers, and leaves nothing behind."""

import socket
import sys
import threading
import urllib.error
import urllib.request

import pytest

from peer.metrics import MetricsServer
from peer.status import PeerStatus
from peer.waits import Waits
from protocol.errors import ConfigError

pytestmark = pytest.mark.net

TIMEOUT_S = 10.0


def scrape(port: int) -> str:
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read().decode())


def test_each_scrape_tells_what_is_known_then() -> None:
    clock_s = [0.0]
    status = PeerStatus(waits=Waits(lambda: clock_s[0]))
    server = MetricsServer(status, "127.0.0.1", 0)
    try:
        assert "thinwire_step 0.0" in scrape(server.port).splitlines()
        status.step = 7
        status.waits.begin("key", "a quorum", until="it is there")
        clock_s[0] = 12.0
        rows = scrape(server.port).splitlines()
    finally:
        server.close()
    assert "thinwire_step 7.0" in rows
    assert 'thinwire_waits{what="a quorum"} 1.0' in rows
    assert 'thinwire_oldest_wait_seconds{what="a quorum"} 12.0' in rows


def test_nothing_is_left_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    server = MetricsServer(PeerStatus(), "127.0.0.1", 0)
    scrape(server.port)
    server.close()
    assert {thread for thread in threading.enumerate() if "process_request" not in thread.name} == (
        before
    )
    with pytest.raises((ConnectionRefusedError, urllib.error.URLError)):
        scrape(server.port)
    MetricsServer(PeerStatus(), "127.0.0.1", server.port).close()  # the port is free again


@pytest.mark.skipif(sys.platform != "linux", reason="others have one loopback address")
def test_it_listens_only_where_it_was_told_to() -> None:
    server = MetricsServer(PeerStatus(), "127.0.0.2", 0)
    try:
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
            socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S).close()
    finally:
        server.close()


def test_a_port_in_use_is_told_in_one_line() -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--metrics: cannot listen on 127.0.0.1:{port}") as e:
            MetricsServer(PeerStatus(), "127.0.0.1", port)
    assert "\n" not in str(e.value)
    assert "None" not in str(e.value)
    assert set(threading.enumerate()) == before


def test_an_address_of_another_machine_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:9100") as e:
        MetricsServer(PeerStatus(), "192.0.2.1", 9100)
    assert "None" not in str(e.value)
