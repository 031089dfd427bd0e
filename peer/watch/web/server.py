"""The page of a swarm over HTTP: a few files that never change, and the view as JSON.

It only ever reads. Whoever reaches the port sees what `thinwire status` shows to those who have the
ticket; so by default it is this machine only.
"""

import errno
import json
import math
import threading
from collections.abc import Callable
from importlib.resources import files
from types import TracebackType
from typing import Any, Self

from peer.watch.view import SwarmView, as_data
from peer.watch.web.visitors import LOOK_S, Server
from protocol.errors import ConfigError

FILES = (
    *("index.html", "style.css", "icon.svg", "theme.js", "app.js", "charts.js", "detail.js"),
    *("dom.js", "format.js", "lists.js", "plot.js", "ring.js", "table.js", "wires.js"),
)
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "js": "text/javascript; charset=utf-8",
}
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class WebPage:
    """Serves the page while the `with` block runs, in threads of its own.

    Args:
        place: Host and port to listen at; port 0 for any.
        view: Returns what to show, at once and from any thread; None while there is nothing yet.
    """

    def __init__(self, place: tuple[str, int], view: Callable[[], SwarmView | None]) -> None:
        self._place = place
        self._view = view

    def __enter__(self) -> Self:
        """Listens.

        Raises:
            ConfigError: it cannot listen there.
        """
        host, port = self._place
        pages = {f"/{name}": _file(name) for name in FILES}
        pages["/"] = pages.pop("/index.html")
        try:
            self._server = Server(host, port, pages, _Status(self._view))
        except (OSError, UnicodeError) as error:
            raise ConfigError(_why_not(host, port, error)) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_S,), name="web page", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops listening, and hangs up on everybody; takes a fraction of a second."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What to open in a browser on this machine."""
        host = self._place[0]
        host = _EVERYWHERE.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"


class _Status:
    """The view as JSON; made once for all who ask while the view is the same."""

    def __init__(self, view: Callable[[], SwarmView | None]) -> None:
        self._view = view
        self._made: tuple[SwarmView, bytes] | None = None

    def __call__(self) -> bytes | None:
        """Returns the JSON, or None while there is nothing to show."""
        view, made = self._view(), self._made
        if view is None:
            return None
        if made is None or made[0] is not view:
            made = self._made = view, json.dumps(_finite(as_data(view)), allow_nan=False).encode()
        return made[1]


def _finite(data: Any) -> Any:
    """Returns plain data with None in place of numbers that JSON cannot spell."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def _file(name: str) -> tuple[bytes, str]:
    """Returns a file's content and kind."""
    return files(__package__).joinpath(name).read_bytes(), KINDS[name.partition(".")[2]]


def _why_not(host: str, port: int, error: OSError | UnicodeError) -> str:
    """Returns why nothing can listen there, and what to do about it."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EADDRINUSE, errno.EACCES):
        why = "another program listens there" if number == errno.EADDRINUSE else "it is reserved"
        other = port + 1 if 1024 <= port < 65535 else 8080
        place = f"[{host}]:{other}" if ":" in host else f"{host}:{other}"
        advice = f"choose another port, for example --web {place}"
    else:
        why = getattr(error, "strerror", None) or "no such name"
        advice = f"choose an address of this machine, for example --web 127.0.0.1:{port}"
    return f"--web: cannot serve the page on {host}, port {port} ({why}); {advice}"
