"""`thinwire new` and `thinwire bootstrap`."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from peer.cli.join import LONGEST_PATH, Down, Up, leave_on_signals, run_loop
from peer.cli.web_page import Web, page_served
from peer.config import cap_of, parse_listen, parse_place
from peer.domains.table import domain_line
from peer.net.pace import Cap
from peer.run_folder import Run, read_run, read_ticket
from protocol.errors import ConfigError
from protocol.standings import standings
from protocol.ticket import PREFIX, Address, Ticket, parse_ticket

if TYPE_CHECKING:
    from peer.presence import Presence
    from peer.watch.observer import Observer


def new(
    settings: Annotated[Path, typer.Argument(help="run.toml with the run's settings.")],
    directory: Annotated[Path, typer.Option("--dir", help="The run's folder.")] = Path("run"),
) -> None:
    """Found a run: check its settings, sign them, and write the run's folder."""
    console = Console()
    with console.status("loading"):
        from bootstrap.found import found
        from peer.cli.division_screen import show_division
        from peer.settings import read_settings
        from peer.train.model import layout_of_run
    with console.status("reading the text") as status:
        given = read_settings(settings)
        manifest = found(given, directory, on_progress=status.update)
    method = manifest.method
    console.print(f"founded run {manifest.run_id[:12]} in {directory}", highlight=False)
    if manifest.domains:
        show_division(manifest, given, console)
        console.print(f"next: thinwire bootstrap {directory}", highlight=False)
        return
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
    run: Annotated[
        str, typer.Argument(help="The run's folder; or a ticket, or a file that holds one.")
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="With a ticket, this node's folder; default thinwire-node-RUN."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Also enter by this ticket of the run, or file; may be repeated."),
    ] = None,
    listen: Annotated[
        str, typer.Option(help="HOST[:PORT] to listen on; the next port is used too.")
    ] = "127.0.0.1",
    announce: Annotated[
        str | None, typer.Option(help="IP address that others reach this machine at.")
    ] = None,
    up: Up = None,
    down: Down = None,
    wait: Annotated[
        float, typer.Option(min=1, help="With a ticket, seconds to look for who knows the run.")
    ] = 60.0,
    web: Web = None,
) -> None:
    """Serve a run: print the ticket, and let others in.

    A run may have several nodes: with a ticket of it, any machine becomes one.
    """
    host, port = parse_listen(listen)
    tickets = [_ticket_of(text) for text in peer or ()]
    if _is_folder(run):
        folder = Path(run)
        if directory is not None:
            raise ConfigError(f"{folder} is this node's folder already; leave --dir out")
        adopted = None
    else:
        adopted = _ticket_of(run)
        tickets.append(adopted)
        folder = directory or Path(f"thinwire-node-{adopted.run_id[:12]}")
    plan = _Plan(
        folder=folder,
        adopted=adopted,
        wait_s=wait,
        entrances=tuple(dict.fromkeys(a for ticket in tickets for a in ticket.addresses)),
        listen=(host, port, announce),
        caps=(cap_of("--up", up), cap_of("--down", down)),
        web=None if web is None else parse_place("--web", web),
    )
    run_loop(_serve(plan, Console()))


@dataclass(frozen=True, kw_only=True)
class _Plan:
    folder: Path
    adopted: Ticket | None
    """Whose run the folder shall hold, if it holds none yet."""
    wait_s: float
    entrances: tuple[Address, ...]
    listen: tuple[str, int, str | None]
    caps: tuple[Cap, Cap]
    web: tuple[str, int] | None


async def _serve(plan: _Plan, console: Console) -> None:
    with console.status("loading"):
        from bootstrap.adoption import adopt
        from bootstrap.node import serve

    news = _News(console)
    observers: list[Observer] = []

    def on_ready(ticket: Ticket) -> None:
        news.run = read_run(plan.folder, ticket)
        console.print(f"serving run {ticket.run_id[:12]}; to join it:\n", highlight=False)
        console.print("thinwire join \\", highlight=False)
        console.print(str(ticket), soft_wrap=True, markup=False, highlight=False)
        console.print("\nCtrl+C ends this node; the swarm goes on without it.", highlight=False)

    def on_notice(notice: str) -> None:
        console.print(notice, style="yellow", markup=False, highlight=False)

    async def live() -> None:
        if plan.adopted is not None:
            with console.status("fetching the run from somebody who knows it") as doing:
                await adopt(plan.adopted, plan.folder, wait_s=plan.wait_s, on_progress=doing.update)
        listen_host, listen_port, announce_host = plan.listen
        await serve(
            plan.folder,
            listen_host=listen_host,
            listen_port=listen_port,
            announce_host=announce_host,
            entrances=plan.entrances,
            up=plan.caps[0],
            down=plan.caps[1],
            on_ready=on_ready,
            on_refresh=news.on_refresh,
            on_notice=on_notice,
            on_observer=observers.append if plan.web is not None else None,
        )

    serving = asyncio.create_task(live())

    def leave() -> None:
        serving.cancel()

    leave_on_signals(leave)
    with (
        page_served(plan.web, lambda: observers[0].view if observers else None, console),
        contextlib.suppress(asyncio.CancelledError),
    ):
        await serving


class _News:
    """Prints how the swarm is whenever that has changed."""

    def __init__(self, console: Console) -> None:
        self.run: Run | None = None
        self._console = console
        self._size = (-1, -1)
        self._domains: list[tuple[str, int]] = []

    def on_refresh(self, presence: "Presence") -> None:
        """The directory was read."""
        members = presence.members()
        num_nodes = 1 + sum(card.role == "bootstrap" for card in presence.cards.values())
        if (len(members), num_nodes) != self._size:
            self._size = (len(members), num_nodes)
            rounds = [presence.cards[peer].round for peer in members]
            at = f", round {max(rounds)}" if rounds else ""
            nodes = f", {num_nodes} bootstrap nodes" if num_nodes > 1 else ""
            self._console.print(f"{len(members)} peers{at}{nodes}", highlight=False)
        found = standings(self.run.manifest, presence.cards) if self.run else ()
        if (domains := [(each.words, len(each.peers)) for each in found]) != self._domains:
            self._domains = domains
            line = domain_line(found)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _is_folder(word: str) -> bool:
    """Whether a word names a folder, perhaps one that does not exist, and no ticket."""
    if len(word) >= LONGEST_PATH or Path(word).is_file():
        return False
    return Path(word).is_dir() or not word.startswith(PREFIX)


def _ticket_of(word: str) -> Ticket:
    """Returns the ticket that a word is, or that is in the file or folder that it names.

    Raises:
        ConfigError: none of them.
    """
    is_path = len(word) < LONGEST_PATH and Path(word).exists()
    return read_ticket(Path(word)) if is_path else parse_ticket(word)
