"""Every room's commands under one name."""

from typing import Annotated

import typer

from bootstrap.cli import bootstrap, new
from peer.cli.contribution import contribution
from peer.cli.demo import demo
from peer.cli.doctor import doctor
from peer.cli.experts import experts
from peer.cli.export import export
from peer.cli.generate import generate
from peer.cli.join import join
from peer.cli.plan import plan
from peer.cli.simulate import simulate
from peer.cli.status import status
from thinwire import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    new,
    bootstrap,
    join,
    status,
    contribution,
    demo,
    generate,
    export,
    simulate,
    plan,
    doctor,
):
    app.command()(command)
app.add_typer(experts, name="experts")


@app.callback(invoke_without_command=True)
def thinwire(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Train one model together, over the wires you already have."""
    if version:
        typer.echo(f"thinwire {__version__}")
        raise typer.Exit
