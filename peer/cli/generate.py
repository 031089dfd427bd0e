"""`thinwire generate`: text from one model or an ensemble, as it is drawn."""

import io
import re
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.style import Style
from rich.text import Text

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from peer.experts.ensemble import Ensemble
    from peer.experts.folder import ModelFolder
    from peer.experts.generate import Piece

_COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def generate(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An export, or a peer's folder of a run.")
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What the text begins with; else read from stdin.")
    ] = None,
    expert: Annotated[str | None, typer.Option(help="Ask this expert alone.")] = None,
    num_bytes: Annotated[int, typer.Option("--bytes", min=1, help="How many to draw.")] = 400,
    temperature: Annotated[
        float, typer.Option(help="Above 1 is bolder; 0 is always the likeliest byte.")
    ] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Draw of the likeliest bytes that together have this probability.")
    ] = 0.95,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Equal seeds give equal texts.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="At each byte only so many experts count.")
    ] = None,
    sparse: Annotated[
        bool, typer.Option("--sparse/--dense", help="Ask likely experts only, or all.")
    ] = False,
    average: Annotated[
        bool, typer.Option("--average", help="Average the experts' parameters instead.")
    ] = False,
    show_experts: Annotated[
        bool, typer.Option("--show-experts", help="Tell which expert weighs most where.")
    ] = False,
) -> None:
    """Generate text from the models in DIR, all of them together if there are several.

    Ctrl+C ends it.
    """
    if average and expert is not None:
        raise ConfigError("--average is of all experts, and --expert is one: give one of the two")
    notes = Console(stderr=True, highlight=False)
    begun = _prompt(prompt)
    with notes.status("loading") as status:
        import torch

        from peer.experts.folder import read_folder
        from peer.experts.generate import generate as drawn
        from peer.experts.generate import require_sampling

        try:
            require_sampling(temperature, top_p)
        except ValueError as error:
            raise ConfigError(f"--{error}") from None
        models = read_folder(directory)
        ensemble = _ensemble(models, expert, top_k, is_sparse=sparse, is_average=average)
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        pieces = drawn(
            ensemble,
            begun,
            num_bytes=num_bytes,
            generator=generator,
            temperature=temperature,
            top_p=top_p,
        )
        status.update("reading the prompt")
        first = next(pieces, None)
    screen = _Screen(ensemble.names if show_experts else ())
    try:
        screen.write(begun.decode(errors="replace"))
        for piece in chain([first] if first else [], pieces):
            screen.show(piece)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        screen.write("\n")
        if show_experts:
            notes.print(screen.summary(), soft_wrap=True)


def _prompt(given: str | None) -> bytes:
    if given is not None:
        return given.encode(errors="surrogateescape")  # as it was typed, also if it is no UTF-8
    return b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()


def _ensemble(
    models: "ModelFolder", name: str | None, top_k: int | None, *, is_sparse: bool, is_average: bool
) -> "Ensemble":
    from peer.experts.asking import require_top_k
    from peer.experts.ensemble import Ensemble
    from peer.experts.mean import mean_of

    experts, prior = models.experts, None
    if models.prior is not None:
        prior = [models.prior[each.name] for each in experts]
    if is_average:
        experts, prior = [mean_of(experts)], None
    if name is not None:
        found = [each for each in experts if each.name == name]
        if not found:
            names = ", ".join(each.name for each in experts)
            raise ConfigError(f"there is no expert {name} in {models.path}; there is {names}")
        experts, prior = found, None
    try:
        require_top_k(top_k, len(experts))
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    return Ensemble.of(experts, prior=prior, top_k=top_k, is_sparse=is_sparse)


class _Screen:
    """Standard output; who leads is told by colours on a terminal, by marks elsewhere.

    Args:
        names: Of the experts to tell apart; none if nobody asked.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # not every terminal knows every character
        console = Console()
        self._is_terminal = console.is_terminal
        self._has_colours = self._is_terminal and not console.no_color
        self._names = names
        self._led = Counter[str]()
        self._leader = ""

    def write(self, text: str, colour: str = "") -> None:
        """Writes at once."""
        if self._is_terminal:
            # A model may say what a terminal would obey.
            text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        if colour:
            text = Style(color=colour).render(text)
        sys.stdout.write(text)
        sys.stdout.flush()

    def show(self, piece: "Piece") -> None:
        """Writes a piece, and whose it is if that was asked for."""
        self._led[piece.expert] += len(piece.text)
        if self._names and not self._has_colours and piece.expert != self._leader:
            self.write(f"[{piece.expert}]")
        self.write(piece.text, self._colour(piece.expert))
        self._leader = piece.expert

    def summary(self) -> Text:
        """Returns who led how much of what was shown, such as `led: math 62 %, law 38 %`."""
        total = self._led.total()
        shares = [
            Text(f"{name} {led / total * 100:.0f} %", self._colour(name))
            for name, led in self._led.most_common()
        ]
        return Text("led: ") + (Text(", ").join(shares) if shares else Text("nobody"))

    def _colour(self, name: str) -> str:
        has_one = self._has_colours and name in self._names
        return _COLOURS[self._names.index(name) % len(_COLOURS)] if has_one else ""
