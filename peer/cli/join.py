"""`thinwire join`: train with others."""

import asyncio
import logging
import os
import shlex
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler

from peer.cli.web_page import Web, page_served
from peer.config import PeerConfig, cap_of, parse_listen, parse_metrics, parse_place
from peer.log_file import LogFile
from peer.run_folder import folder_here, read_ticket, with_kept_addresses
from protocol.errors import ConfigError
from protocol.ticket import parse_ticket

Outcome = TypeVar("Outcome")

LISTEN = "127.0.0.1"
LONGEST_PATH = 250
"""A longer word is a ticket; file systems refuse to look for it."""

Up = Annotated[
    str | None, typer.Option(help="Send at most so many bit/s: 20M, or 20M,08:00-18:00=5M.")
]
Down = Annotated[str | None, typer.Option(help="Fetch at most so many bit/s; hours as with --up.")]


def join(
    ticket: Annotated[
        str | None, typer.Argument(help="The ticket, or a file that holds it.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="This peer's folder; default thinwire-RUN here."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="As --dir, and there must be a checkpoint to go on from.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, although there is a checkpoint.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for training; 0: all.")] = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=0, help="Stop training at this step of the run.")
    ] = None,
    listen: Annotated[
        str, typer.Option(help="HOST[:PORT] to listen on; the next port is used too.")
    ] = LISTEN,
    announce: Annotated[
        str | None, typer.Option(help="IP address that others reach this machine at.")
    ] = None,
    up: Up = None,
    down: Down = None,
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Rounds between two looks at the validation text.")
    ] = 5,
    evaluation_bytes: Annotated[
        int, typer.Option(min=1024, help="Validation text read by one look.")
    ] = 64 * 1024,
    checkpoint_every: Annotated[
        float, typer.Option(min=1, help="Seconds between two checkpoints.")
    ] = 300.0,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints that are kept.")] = 2,
    wait: Annotated[
        float, typer.Option(min=1, help="Seconds to look for somebody who knows the run.")
    ] = 60.0,
    allow_text: Annotated[
        bool, typer.Option(help="Let a run train on files of yours that its manifest names.")
    ] = False,
    domain: Annotated[
        str | None, typer.Option(help="In a run with domains: where to begin; default by need.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="[HOST:]PORT at which Prometheus may ask; default is none.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write event files for TensorBoard there.")
    ] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Tell Weights & Biases how it goes.")
    ] = None,
    web: Web = None,
    plain: Annotated[bool, typer.Option(help="Plain lines instead of a live screen.")] = False,
) -> None:
    """Join a run and train with the others.

    All you need is the ticket; to come back, not even that: the peer goes on from its last
    checkpoint. Nothing listens beyond this machine unless --listen says so.
    """
    if resume is not None and directory is not None and resume != directory:
        raise ConfigError("--resume names this peer's folder already; leave --dir out")
    if resume is not None and fresh:
        raise ConfigError("--resume goes on from a checkpoint, --fresh does not; leave one out")
    folder = resume or directory
    if ticket is None:
        folder = folder or folder_here(Path())
        parsed = read_ticket(folder)
    else:
        is_path = len(ticket) < LONGEST_PATH and Path(ticket).exists()
        parsed = read_ticket(Path(ticket)) if is_path else parse_ticket(ticket)
        folder = folder or Path(f"thinwire-{parsed.run_id[:12]}")
        parsed = with_kept_addresses(parsed, folder)
    host, port = parse_listen(listen)
    config = PeerConfig(
        ticket=parsed,
        directory=folder,
        resume=False if fresh else True if resume else None,
        device=device,
        threads=threads,
        max_steps=max_steps,
        listen_host=host,
        listen_port=port,
        announce_host=announce,
        up=cap_of("--up", up),
        down=cap_of("--down", down),
        evaluate_every_rounds=evaluate_every,
        evaluation_bytes=evaluation_bytes,
        checkpoint_every_s=checkpoint_every,
        keep_checkpoints=keep,
        wait_s=wait,
        allow_text_recipe=allow_text,
        domain=domain,
        metrics=None if metrics is None else parse_metrics(metrics),
        web=None if web is None else parse_place("--web", web),
        watches_swarm=web is not None,
        tensorboard=tensorboard,
        wandb_project=wandb,
    )
    console = Console()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _log_to(console, folder)
    except OSError as error:
        raise ConfigError(f"cannot use the folder {folder}: {error.strerror}") from None
    run_loop(_live(config, console, plain=plain))


async def _live(config: PeerConfig, console: Console, *, plain: bool) -> None:
    title = f"thinwire, run {config.ticket.run_id[:12]}"
    console.print(f"{title}, in {config.directory}", markup=False, highlight=False)
    with console.status("loading"):  # importing torch and hivemind takes seconds
        from peer.cli.contribution import part_in_words
        from peer.cli.screen import show
        from peer.lives import Lives
        from peer.metrics import served
        from peer.trackers import open_trackers, tracked
    trackers = open_trackers(config)  # before the screen is drawn: one may ask for a key
    peer = Lives(config)
    leave_on_signals(peer.leave)
    with page_served(config.web, lambda: peer.view, console):
        async with tracked(peer.status, trackers):  # what they say at last comes after the screen
            showing = asyncio.create_task(show(peer.status, console, title=title, plain=plain))
            try:
                with served(peer.status, config.metrics):
                    await peer.live()
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
    if words := part_in_words(config.directory, config.ticket.run_id):
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"left at step {peer.status.step}, round {peer.status.round}; come back with: "
        f"{way_back(config)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def way_back(config: PeerConfig) -> str:
    """Returns the command that begins a peer's next life where others will look for it."""
    words = ["thinwire", "join", "--dir", str(config.directory)]
    host, port = config.listen_host, config.listen_port
    if (host, port) != parse_listen(LISTEN):
        words += ["--listen", f"{host}:{port}" if port else host]
    if config.announce_host is not None:
        words += ["--announce", config.announce_host]
    return shlex.join(words)


def leave_on_signals(leave: Callable[[], object]) -> None:
    """The first SIGINT or SIGTERM leaves in order, the second at once."""
    is_leaving = False

    def on_signal() -> None:
        nonlocal is_leaving
        if is_leaving:
            os._exit(130)
        is_leaving = True
        leave()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)


def run_loop(main: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Runs `main` on uvloop where there is one, and returns what it returns."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    outcome: Outcome = uvloop.run(main)
    return outcome


def _log_to(console: Console, folder: Path) -> None:
    """Warnings reach the screen; everything goes to peer.log."""
    screen = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    screen.setLevel(logging.WARNING)
    screen.setFormatter(logging.Formatter("%(message)s"))
    file = LogFile(folder / "peer.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[screen, file], force=True)
