"""The command `thinwire`: every room's commands under one name."""

import sys
from typing import Annotated

import typer

from bootstrap.cli import bootstrap, new
from peer.cli.demo import demo
from peer.cli.doctor import doctor
from peer.cli.experts import experts
from peer.cli.generate import generate
from peer.cli.join import join
from peer.cli.plan import plan
from peer.cli.simulate import simulate
from peer.cli.status import status
from protocol.errors import ConfigError, ThinwireError
from thinwire import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (new, bootstrap, join, status, demo, generate, simulate, plan, doctor):
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


def main() -> None:
    """Runs the command; an operator's mistake gets one line and exit code 2."""
    try:
        app()
    except ConfigError as error:
        typer.echo(f"thinwire: {error}", err=True)
        sys.exit(2)
    except ThinwireError as error:
        typer.echo(f"thinwire: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
