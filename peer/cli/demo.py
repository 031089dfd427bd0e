"""`thinwire demo`: a swarm on this machine, with accidents."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def demo(
    method: Annotated[
        str, typer.Option(help="A preset, such as diloco, streaming, noloco.")
    ] = "diloco",
    seed: Annotated[int, typer.Option(min=0, help="Of the run.")] = 0,
    steps: Annotated[int | None, typer.Option(min=60, help="Inner steps of each peer.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where everything goes; default runs/demo-TIME.")
    ] = None,
) -> None:
    """Show a real swarm on this machine: peers train, one is killed, one joins, the host dies."""
    console = Console()
    with console.status("loading"):
        from peer.demo import DEFAULT_STEPS, run_demo
    folder = directory or Path("runs") / time.strftime(f"demo-{method}-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    code = run_demo(
        method, seed=seed, steps=steps or DEFAULT_STEPS, directory=folder, console=console
    )
    raise typer.Exit(code)
