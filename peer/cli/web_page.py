"""The option `--web` of `join` and `bootstrap`: the swarm's page while the command runs."""

import contextlib
import ipaddress
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console

from peer.watch.view import SwarmView
from peer.watch.web.server import WebPage

Web = Annotated[
    str | None,
    typer.Option(help="[HOST:]PORT at which a browser shows the swarm; default is none."),
]


@contextlib.contextmanager
def page_served(
    place: tuple[str, int] | None, view: Callable[[], SwarmView | None], console: Console
) -> Iterator[None]:
    """Serves the page while the block runs, and says where.

    Args:
        place: Host and port; None for nowhere.
        view: See `WebPage`.
        console: Where to say it.

    Raises:
        ConfigError: nothing can listen there.
    """
    if place is None:
        yield
        return
    with WebPage(place, view) as page:
        others = "" if _is_only_ours(place[0]) else "; whoever can reach this port can read it"
        console.print(f"the swarm in a browser: {page.url}{others}", highlight=False, markup=False)
        yield


def _is_only_ours(host: str) -> bool:
    """Whether only this machine can ask there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
