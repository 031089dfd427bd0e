"""`thinwire new` and `thinwire bootstrap`."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from peer.cli.join import Down, Up, leave_on_signals, run_loop
from peer.config import cap_of, parse_listen
from peer.net.pace import Cap
from protocol.ticket import Ticket


def new(
    settings: Annotated[Path, typer.Argument(help="run.toml with the run's settings.")],
    directory: Annotated[Path, typer.Option("--dir", help="The run's folder.")] = Path("run"),
) -> None:
    """Found a run: check its settings, sign them, and write the run's folder."""
    console = Console()
    with console.status("loading"):
        from bootstrap.found import found
        from peer.settings import read_settings
        from peer.train.model import layout_of_run
    with console.status("reading the text"):
        manifest = found(read_settings(settings), directory)
    method = manifest.method
    console.print(f"founded run {manifest.run_id[:12]} in {directory}", highlight=False)
    console.print(
        f"  model   {layout_of_run(manifest).num_elements:,} parameters\n"
        f"  method  {method.preset}: mixing {method.mixing}, every {method.schedule.interval_steps}"
        f" steps, codec {method.codec.name}, outer rule {method.outer.rule}\n"
        f"  data    {manifest.data.recipe}, {manifest.data.validation_bytes:,} bytes of it to "
        "validate\n"
        f"next: thinwire bootstrap {directory}",
        highlight=False,
    )


def bootstrap(
    directory: Annotated[Path, typer.Argument(help="The run's folder.")],
    listen: Annotated[
        str, typer.Option(help="HOST[:PORT] to listen on; the next port is used too.")
    ] = "127.0.0.1",
    announce: Annotated[
        str | None, typer.Option(help="IP address that others reach this machine at.")
    ] = None,
    up: Up = None,
    down: Down = None,
) -> None:
    """Serve a run: print the ticket, and let others in."""
    host, port = parse_listen(listen)
    caps = cap_of("--up", up), cap_of("--down", down)
    run_loop(_serve(directory, host, port, announce, caps, Console()))


async def _serve(
    directory: Path,
    host: str,
    port: int,
    announce: str | None,
    caps: tuple[Cap, Cap],
    console: Console,
) -> None:
    with console.status("loading"):
        from bootstrap.node import serve
        from peer.presence import Presence

    seen = -1

    def on_ready(ticket: Ticket) -> None:
        console.print(f"serving run {ticket.run_id[:12]}; to join it:\n", highlight=False)
        console.print("thinwire join \\", highlight=False)
        console.print(str(ticket), soft_wrap=True, markup=False, highlight=False)
        console.print("\nCtrl+C ends this node; the swarm goes on without it.", highlight=False)

    def on_refresh(presence: Presence) -> None:
        nonlocal seen
        members = presence.members()
        if len(members) != seen:
            seen = len(members)
            rounds = [presence.cards[peer].round for peer in members]
            at = f", round {max(rounds)}" if rounds else ""
            console.print(f"{seen} peers{at}", highlight=False)

    serving = asyncio.create_task(
        serve(
            directory,
            listen_host=host,
            listen_port=port,
            announce_host=announce,
            up=caps[0],
            down=caps[1],
            on_ready=on_ready,
            on_refresh=on_refresh,
        )
    )

    def leave() -> None:
        serving.cancel()

    leave_on_signals(leave)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
