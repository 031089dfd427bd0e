"""`thinwire plan`: which method suits a link, what it will cost, and who gets how much compute."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from peer.units import parse_count, parse_duration_s, parse_rate_bps
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from peer.plan.advice import Case


def plan(
    params: Annotated[
        str | None, typer.Option(help="Parameters of the model: 1B, 350M, 1e9.")
    ] = None,
    step_s: Annotated[
        str | None, typer.Option("--step-s", help="An inner step takes so long: 0.5, 300ms.")
    ] = None,
    up: Annotated[str, typer.Option(help="Upload of every peer, in bit/s.")] = "20M",
    down: Annotated[str, typer.Option(help="Download of every peer, in bit/s.")] = "100M",
    rtt: Annotated[str, typer.Option(help="Round trip between two peers.")] = "80ms",
    peers: Annotated[int, typer.Option(min=2, help="How many train together.")] = 8,
    loss_frac: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Part of the packets that get lost.")
    ] = 0.0,
    layers: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Default: usual for such a model.")
    ] = None,
    tokens_per_step: Annotated[
        str | None, typer.Option(help="Of one peer's inner step; tells how long a run takes.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Look at this preset alone, and search its settings.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Show the bandwidth that methods need, by model.")
    ] = False,
    experts: Annotated[
        Path | None, typer.Option(help="Divide the compute of the domains in this run.toml.")
    ] = None,
    division: Annotated[
        str | None, typer.Option(help="With --experts: equal, steps, size or both.")
    ] = None,
    probe: Annotated[
        bool | None,
        typer.Option(
            help="With --experts, measure the difficulties that are not given; default: if needed."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan a run: the method that suits a link, its bytes, memory and loss, and what would help.

    Give --params and --step-s, or --table, or --experts.
    """
    if experts is not None:
        with Console(stderr=True).status("loading"):
            from peer.cli.division_screen import plan_experts
        plan_experts(experts, probe=probe, division=division, as_json=as_json, console=Console())
        return
    if division is not None or probe is not None:
        raise ConfigError("--division and --probe are for --experts run.toml")
    with Console(stderr=True).status("loading"):  # torch takes seconds
        from peer.cli.plan_screen import show, show_table
        from peer.plan.answer import answer, as_data
    if table:
        show_table(Console(), as_json=as_json)
        return
    if params is None or step_s is None:
        raise ConfigError("give --params and --step-s, or --table, or --experts")
    case = _case(
        num_params=_number("--params", params, parse_count, least=1000),
        step_s=_number("--step-s", step_s, parse_duration_s),
        layers=layers,
        link={
            "up_bps": _number("--up", up, parse_rate_bps),
            "down_bps": _number("--down", down, parse_rate_bps),
            "rtt_s": _number("--rtt", rtt, parse_duration_s, least=0),
            "loss_frac": loss_frac,
        },
        peers=peers,
    )
    tokens = None
    if tokens_per_step is not None:
        tokens = _number("--tokens-per-step", tokens_per_step, parse_count, least=1)
    try:
        found = answer(case, method, tokens_per_step=tokens)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if as_json:
        print(json.dumps(as_data(found), allow_nan=False))
    else:
        show(found, Console())


def _case(
    *, num_params: float, step_s: float, layers: int | None, link: dict[str, float], peers: int
) -> "Case":
    from peer.plan.advice import Case
    from peer.plan.estimate import Link, layers_of
    from peer.plan.utilisation import Workload

    workload = Workload(
        num_params=num_params, layers=layers or layers_of(num_params), step_s=step_s
    )
    return Case(workload, Link(**link), peers)


def _number(
    option: str, given: str, parse: Callable[[str], float], *, least: float = 1e-9
) -> float:
    try:
        number = parse(given)
    except ValueError as error:
        raise ConfigError(f"{option} {error}") from None
    if not least <= number <= 1e15:
        raise ConfigError(f"{option} {given}: too {'small' if number < least else 'large'}")
    return number
