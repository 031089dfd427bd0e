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
    steps: Annotated[
        int | None, typer.Option(min=60, help="Inner steps of each peer; of a domain, on average.")
    ] = None,
    experts: Annotated[
        bool, typer.Option("--experts", help="Three domains of text, an expert of each.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where everything goes; default runs/demo-TIME.")
    ] = None,
) -> None:
    """Show a real swarm on this machine: peers train, one is killed, one joins, the host dies.

    With --experts: peers find domains, one is killed, another takes over, one model remains.
    """
    console = Console()
    folder = directory or Path("runs") / time.strftime(
        f"demo-{'experts' if experts else method}-%Y%m%d-%H%M%S"
    )
    with console.status("loading"):
        from peer import demo as one_model
        from peer.demo import experts as domains
    play = domains.run_experts_demo if experts else one_model.run_demo
    default_steps = domains.DEFAULT_STEPS if experts else one_model.DEFAULT_STEPS
    folder.mkdir(parents=True, exist_ok=True)
    code = play(method, seed=seed, steps=steps or default_steps, directory=folder, console=console)
    raise typer.Exit(code)
