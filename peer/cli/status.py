"""`thinwire status`: how a run is, for anybody who has its ticket."""

import asyncio
import atexit
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from peer.cli.join import LONGEST_PATH, leave_on_signals, run_loop
from peer.cli.swarm_screen import swarm_screen
from peer.run_folder import read_ticket
from peer.watch.view import as_data
from protocol.ticket import Ticket, parse_ticket

if TYPE_CHECKING:
    from peer.watch.observer import Observer
    from peer.watch.visit import Visit

REFRESH_S = 1.0


def status(
    ticket: Annotated[
        str, typer.Argument(help="The ticket, or a file or a peer's folder that holds it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    wait: Annotated[
        float, typer.Option(min=1, help="Seconds to look for somebody who knows the run.")
    ] = 30.0,
) -> None:
    """Show how a run is: its peers, domains and links. Takes no part in it.

    In a terminal it goes on until Ctrl+C.
    """
    console = Console()
    is_live = console.is_terminal and not (once or as_json)
    parsed = ticket_of(ticket)
    load_visit()
    run_loop(_look_and_show(parsed, console, wait_s=wait, as_json=as_json, is_live=is_live))


def ticket_of(word: str) -> Ticket:
    """Returns the ticket that a word is, or that is in the file or folder that it names.

    Raises:
        ConfigError: none of them.
    """
    is_path = len(word) < LONGEST_PATH and Path(word).exists()
    return read_ticket(Path(word)) if is_path else parse_ticket(word)


def load_visit() -> None:
    """Imports what a visit needs, which takes seconds: outside a loop, where Ctrl+C ends it."""
    with Console(stderr=True).status("loading"):
        import peer.watch.visit  # noqa: F401
    # Else the interpreter looks through all of it once more at the end, which takes a second.
    atexit.register(gc.freeze)


@contextlib.asynccontextmanager
async def looking(ticket: Ticket, *, wait_s: float) -> AsyncIterator["Visit"]:
    """Visits a run, and has looked at it once; says meanwhile what it does.

    Raises:
        ConfigError: nobody could tell us.
    """
    from peer.watch.visit import visiting

    async with contextlib.AsyncExitStack() as stack:
        with Console(stderr=True).status(f"looking for run {ticket.run_id[:12]}") as doing:
            visit = await stack.enter_async_context(visiting(ticket, wait_s=wait_s))
            doing.update("asking the peers")
            await visit.observer.look_once()
        yield visit


async def _look_and_show(
    ticket: Ticket, console: Console, *, wait_s: float, as_json: bool, is_live: bool
) -> None:
    async with looking(ticket, wait_s=wait_s) as visit:
        if is_live:
            await _show_until_left(visit.observer, console)
        elif as_json:
            print(json.dumps(as_data(visit.observer.view), allow_nan=False))
        else:
            console.print(swarm_screen(visit.observer.view, width=console.width))


async def _show_until_left(observer: "Observer", console: Console) -> None:
    """Shows a swarm as it goes on, until Ctrl+C."""
    showing = asyncio.create_task(_show(observer, console))
    leave_on_signals(showing.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await showing


async def _show(observer: "Observer", console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        async with asyncio.TaskGroup() as group:
            group.create_task(observer.run())
            while True:
                screen = swarm_screen(observer.view, width=console.width, height=console.height)
                live.update(screen, refresh=True)
                await asyncio.sleep(REFRESH_S)
