"""The page's server over real sockets on loopback: what it answers, to whom, and for how long."""

import contextlib
import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files

import pytest

import peer.watch.web.visitors as visitors_module
from peer.watch.view import SwarmView, as_data
from peer.watch.web.server import FILES, WebPage
from protocol.errors import ConfigError
from tests.swarm_views import dozen, swarm_of, training_peer

pytestmark = pytest.mark.net

WAIT_S = 10.0


class Shown:
    """A page that shows whatever `view` is."""

    def __init__(self) -> None:
        self.view: SwarmView | None = swarm_of((training_peer(1), training_peer(2)))
        self.page = WebPage(("127.0.0.1", 0), lambda: self.view)

    def ask(
        self, path: str, *, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=WAIT_S)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.page.port), timeout=WAIT_S)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    monkeypatch.setattr("peer.watch.web.server.LOOK_S", 0.02)
    made = Shown()
    with made.page:
        yield made


def test_the_status_is_the_view_as_data_and_follows_it(shown: Shown) -> None:
    for view in (shown.view, replace(dozen(), peers=dozen().peers[:5])):
        shown.view = view
        status, headers, content = shown.ask("/status.json")
        assert status == 200
        assert headers["Content-Type"] == "application/json"
        assert view is not None
        assert json.loads(content) == json.loads(json.dumps(as_data(view)))


def test_what_json_cannot_spell_is_said_to_be_unknown(shown: Shown) -> None:
    odd = training_peer(1, loss_bits_per_byte=math.nan, utilisation_frac=math.inf)
    shown.view = swarm_of((odd,), tokens_per_s=-math.inf)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    seen = json.loads(shown.ask("/status.json")[2], parse_constant=refuse)
    assert seen["peers"][0]["loss_bits_per_byte"] is None
    assert seen["peers"][0]["utilisation_frac"] is None
    assert seen["tokens_per_s"] is None
    assert seen["peers"][0]["step"] == odd.step


def test_before_there_is_a_view_it_says_that_it_comes(shown: Shown) -> None:
    shown.view = None
    status, _, content = shown.ask("/status.json")
    assert status == 503
    assert b"entering" in content
    assert shown.ask("/")[0] == 200


def test_each_file_of_the_page_is_served_and_each_has_its_kind(shown: Shown) -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    for name in FILES:
        status, headers, content = shown.ask("/" if name == "index.html" else f"/{name}?v=1")
        assert status == 200, name
        assert headers["Content-Type"].startswith(kinds[name.rpartition(".")[2]])
        assert content == files("peer.watch.web").joinpath(name).read_bytes()


@pytest.mark.parametrize("path", ["/", "/app.js", "/status.json", "/healthz", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "BREW"])
def test_every_answer_has_the_strict_headers(shown: Shown, path: str, method: str) -> None:
    _, headers, _ = shown.ask(path, method=method)
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Access-Control-Allow-Origin"] is None
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize("path", ["/", "/style.css", "/status.json", "/healthz", "/nothing"])
def test_head_is_get_without_the_content(shown: Shown, path: str) -> None:
    full, head = shown.ask(path), shown.ask(path, method="HEAD")
    assert head[0] == full[0]
    assert head[1]["Content-Length"] == full[1]["Content-Length"] == str(len(full[2]))
    assert head[2] == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_done_but_reading(shown: Shown, method: str) -> None:
    status, headers, _ = shown.ask("/status.json", method=method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        *("/server.py", "/__init__.py", "/../server.py", "/..%2fserver.py", "/%2e%2e/server.py"),
        *("/./app.js", "//etc/passwd", "/../../../../etc/passwd", "/index.html/", "/app.js/.."),
        *("/index.html", "/..\\server.py", "/app.js%00", "*"),
    ],
)
def test_there_is_nothing_beside_the_page(shown: Shown, path: str) -> None:
    assert shown.ask(path)[0] == 404


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:9", "192.168.1.7:80", "[::1]:8080"],
)
def test_it_answers_to_addresses_and_to_localhost(shown: Shown, host: str) -> None:
    assert shown.ask("/status.json", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("", " ", "user@127.0.0.1", "127.0.0.1:8080:1", "[::1", "[evil]", "0x7f000001", "1.2.3"),
    ],
)
def test_a_name_that_others_can_point_here_is_not_answered(shown: Shown, host: str) -> None:
    status, _, content = shown.ask("/status.json", Host=host)
    assert status == 421
    assert b"peers" not in content


def test_a_request_without_a_host_or_with_two_is_not_answered(shown: Shown) -> None:
    for hosts in (b"", b"Host: 127.0.0.1\r\nHost: evil.example\r\n"):
        with shown.connect() as visitor:
            visitor.sendall(b"GET /status.json HTTP/1.1\r\n" + hosts + b"\r\n")
            assert visitor.recv(65536).startswith(b"HTTP/1.0 421 ")


def test_the_name_that_it_listens_on_is_answered() -> None:
    name = socket.gethostname()
    view = swarm_of((training_peer(1),))
    try:
        page = WebPage((name, 0), lambda: view).__enter__()
    except ConfigError:
        pytest.skip(f"nothing can listen on this machine's name, {name}")
    try:
        connection = http.client.HTTPConnection(name, page.port, timeout=WAIT_S)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        connection.close()
    finally:
        page.__exit__(None, None, None)


def test_a_port_that_is_taken_is_told_in_one_line_with_another_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        page = WebPage(("127.0.0.1", port), lambda: None)
        with pytest.raises(
            ConfigError, match=f"--web: .* port {port} .*for example --web "
        ) as told:
            page.__enter__()
    assert "\n" not in str(told.value)


def test_an_address_of_another_machine_is_told_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"--web: cannot serve .*192\.0\.2\.1.* choose an address of"
    ):
        WebPage(("192.0.2.1", 8080), lambda: None).__enter__()


def test_who_sends_nothing_is_hung_up_on(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors_module._Handler, "timeout", 0.1)
    with shown.connect() as visitor:
        assert visitor.recv(1) == b""


def test_who_sends_a_letter_now_and_then_is_hung_up_on_all_the_same(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitors_module, "VISIT_S", 0.3)
    deadline_s = time.monotonic() + WAIT_S
    with shown.connect() as visitor, contextlib.suppress(ConnectionError):
        while visitor.send(b"G"):
            assert time.monotonic() < deadline_s, "it waits for ever"
            threading.Event().wait(0.05)


def test_those_beyond_the_most_are_hung_up_on_and_nobody_is_kept_out_for_ever(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitors_module, "MAX_VISITORS", 3)
    monkeypatch.setattr(visitors_module, "VISIT_S", 0.5)
    before = threading.active_count()
    visitors = [shown.connect() for _ in range(8)]
    try:
        assert visitors[-1].recv(1) == b""
        assert threading.active_count() <= before + 3
        for visitor in visitors[:3]:
            assert visitor.recv(1) == b""  # their time is up
    finally:
        for visitor in visitors:
            visitor.close()
    deadline_s = time.monotonic() + WAIT_S
    while True:  # until their threads have ended as well
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            assert shown.ask("/healthz")[0] == 200
            break
        assert time.monotonic() < deadline_s


@pytest.mark.parametrize(
    "nonsense",
    [b"\r\n", b"\0" * 400, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70000],
)
def test_nonsense_is_answered_shortly_and_without_a_trace(
    shown: Shown, nonsense: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown.connect() as visitor:
        visitor.sendall(nonsense)
        visitor.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # it did not read to the end
            assert len(visitor.recv(65536)) < 2000
    assert shown.ask("/healthz")[0] == 200
    assert capsys.readouterr() == ("", "")


def test_nothing_is_left_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    made = Shown()
    with made.page:
        dawdler = made.connect()
        made.ask("/")
    with dawdler:
        assert dawdler.recv(1) == b""
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
    assert set(threading.enumerate()) <= before
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        made.connect()


def test_the_url_is_one_that_a_browser_on_this_machine_can_open() -> None:
    for host, shown_host in (("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")):
        with WebPage((host, 0), lambda: None) as page:
            assert page.url == f"http://{shown_host}:{page.port}/"
