"""Visitors over HTTP: few at a time, none for long, and only to read.

A name that somebody points at this machine is not answered: else any web page in the operator's
browser could read along (DNS rebinding).
"""

import ipaddress
import logging
import math
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_VISITORS = 32
"""Connections at once; who comes beyond them is hung up on."""
QUIET_S = 5.0
"""A visitor who neither sends nor takes anything for so long is hung up on."""
VISIT_S = 15.0
"""As is one whose one request takes so long in all."""
LOOK_S = 0.2
"""Between two looks at whose time is up."""

_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")


class Server(ThreadingMixIn, HTTPServer):
    """A thread for each visitor, of whom there are few, and not for long.

    Args:
        host: Where to listen.
        port: There; 0 for any.
        pages: Of each path, the content and its kind.
        status: Returns what `/status.json` is; None while there is nothing to show.

    Raises:
        OSError: it cannot listen there.
        UnicodeError: the host is no name at all.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, tuple[bytes, str]],
        status: Callable[[], bytes | None],
    ) -> None:
        self.pages = pages
        self.status = status
        self.own_name = host.lower()
        self._visits: dict[socket.socket, float] = {}
        """With the times when they began."""
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__((str(address[0]), int(address[1])), _Handler)

    def server_bind(self) -> None:
        """Binds without HTTPServer's question to the DNS what we are called."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins a visit, or ends it at once if there are too many."""
        if len(self._visits) >= MAX_VISITORS:
            self.shutdown_request(request)
            return
        self._visits[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a visit."""
        self._visits.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called every `LOOK_S`: hangs up on who dawdles."""
        self._hang_up(before_s=time.monotonic() - VISIT_S)

    def server_close(self) -> None:
        """Listens no more, and hangs up on everybody."""
        super().server_close()
        self._hang_up(before_s=math.inf)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Notes why a visit ended early."""
        logger.debug("a visitor of the page was lost", exc_info=sys.exception())

    def _hang_up(self, *, before_s: float) -> None:
        """Ends visits that began before then; their threads see the end of their sockets."""
        for visit, began_s in list(self._visits.items()):
            if began_s < before_s:
                try:
                    visit.shutdown(socket.SHUT_RDWR)
                except OSError:  # it is over already
                    self._visits.pop(visit, None)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    timeout = QUIET_S

    def parse_request(self) -> bool:
        """Reads the request, and turns down what is not for reading."""
        if not super().parse_request():
            return False
        if self.command not in ("GET", "HEAD"):
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"this page is only for reading\n")
            return False
        return True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if not is_for_us(self.headers.get_all("Host", []), self.server.own_name):
            words = b"ask for localhost, for an IP address, or for the name given to --web\n"
            self._send(HTTPStatus.MISDIRECTED_REQUEST, words)
        elif path in self.server.pages:
            content, kind = self.server.pages[path]
            self._send(HTTPStatus.OK, content, kind)
        elif path == "/healthz":
            self._send(HTTPStatus.OK, b"ok\n")
        elif path == "/status.json":
            status = self.server.status()
            if status is None:
                words = b"still entering the run\n"
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, words)
            else:
                self._send(HTTPStatus.OK, status, "application/json")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page\n")

    def _send(
        self, status: HTTPStatus, content: bytes, kind: str = "text/plain; charset=utf-8"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def end_headers(self) -> None:
        """Ends the headers of every answer, also of those that the base class makes."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        """Who we are, without the versions that the base class tells."""
        return "thinwire"

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s: %r", self.address_string(), format % args)


def is_for_us(hosts: list[str], own_name: str) -> bool:
    """Whether a request's `Host` is one that nobody else can point at us."""
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return False
    name = (match["name"] or "").lower()
    if name in ("localhost", own_name) and name:
        return True
    try:
        ipaddress.ip_address(match["v6"] or name)
    except ValueError:
        return False
    return True
