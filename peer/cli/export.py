"""`thinwire export`: the model of a run as files that other programs load."""

import contextlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from peer.cli.join import LONGEST_PATH, run_loop
from peer.cli.status import ticket_of
from peer.run_folder import IDENTITY, MANIFEST
from protocol.errors import ConfigError
from protocol.ticket import PREFIX, Ticket

if TYPE_CHECKING:
    from peer.export.folder import Export, Format
    from peer.export.snapshot import Snapshot

FORMATS = ("auto", "safetensors", "hf")
DTYPES = ("fp32", "bf16")


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TICKET|DIR",
            help="A ticket, or a file that holds one; or a peer's folder with checkpoints.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The new folder; default thinwire-model-RUN[-DOMAIN].")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="hf: for transformers; safetensors; auto: hf if it fits")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    domain: Annotated[str | None, typer.Option(help="In a run with domains: whose model.")] = None,
    wait: Annotated[
        float, typer.Option(min=1, help="With a ticket, seconds to look for who has the model.")
    ] = 60.0,
) -> None:
    """Write the model of a run to a folder that needs no thinwire.

    With a ticket it comes from the peers that train now, and this machine takes no part; with a
    peer's folder from its last checkpoint, also while the peer runs. Of a run with domains, take
    one with --domain, or all of them with `thinwire experts export`.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: it is one of {', '.join(FORMATS)}")
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: it is one of {', '.join(DTYPES)}")
    plan = _Plan(out, cast("Format", form), dtype, domain or "")
    if _is_peers(source):
        plan.from_folder(Path(source))
    else:
        plan.from_peers(_ticket(source), wait_s=wait)


def _is_peers(word: str) -> bool:
    """Whether a word names a peer's folder, rather than a ticket or what holds one."""
    if len(word) >= LONGEST_PATH or not Path(word).is_dir():
        return False
    return (Path(word) / MANIFEST).exists() and (Path(word) / IDENTITY).exists()


def _ticket(word: str) -> Ticket:
    if not word.startswith(PREFIX) and not (len(word) < LONGEST_PATH and Path(word).exists()):
        raise ConfigError(
            f"{word:.80} is neither a folder nor a file here, and no ticket: these begin with "
            f"{PREFIX!r}"
        )
    return ticket_of(word)


class _Plan:
    """What is to be written, and where.

    Args:
        out: The folder that was named.
        form, dtype: How.
        domain: Whose model.
    """

    def __init__(self, out: Path | None, form: "Format", dtype: str, domain: str) -> None:
        self._out = out
        self._form: Format = form
        self._dtype = dtype
        self._domain = domain

    def from_folder(self, folder: Path) -> None:
        """Exports what is in a peer's folder."""
        with _doing("loading"):
            from peer.export.folder import require_place
            from peer.export.snapshot import snapshot_in
        if self._out is not None:
            require_place(self._out)
        with _doing(f"reading {folder}"):
            snapshot = snapshot_in(folder, self._domain)
        self._write(snapshot)

    def from_peers(self, ticket: Ticket, *, wait_s: float) -> None:
        """Exports what the peers of a run have."""
        with _doing("loading"):  # takes seconds; outside the loop Ctrl+C ends it at once
            import peer.export.fetching
            import peer.watch.visit  # noqa: F401
            from peer.export.folder import require_place
        require_place(self._place(ticket.run_id))
        with tempfile.TemporaryDirectory(prefix="thinwire-export-") as place:
            snapshot = run_loop(self._fetch(ticket, Path(place), wait_s))
            # Outside the loop, which would not look for Ctrl+C while we write.
            self._write(snapshot)

    async def _fetch(self, ticket: Ticket, place: Path, wait_s: float) -> "Snapshot":
        """Returns the model; its run's tokenizer is in `place` then, if it is a file."""
        from peer.export.fetching import Fetching
        from peer.export.folder import is_huggingface, require_place, tokenizer_file
        from peer.fetch_files import fetch_files, spelled
        from peer.run_files import files_folder
        from peer.train.model import layout_of_run
        from peer.watch.visit import visiting

        async with contextlib.AsyncExitStack() as stack:
            doing = stack.enter_context(_doing(f"looking for run {ticket.run_id[:12]}"))
            visit = await stack.enter_async_context(visiting(ticket, wait_s=wait_s))
            fetching = Fetching(visit.manifest, self._domain, visit.presence, visit.wire)
            manifest = fetching.manifest
            is_hf = is_huggingface(manifest, self._form)
            num_elements = layout_of_run(manifest).num_elements
            require_place(self._place(ticket.run_id), num_elements, self._dtype)
            if is_hf and (name := tokenizer_file(manifest)):
                await fetch_files(
                    *(visit.manifest, place, visit.wire, visit.presence),
                    wait_s=wait_s,
                    names={name},
                    on_progress=lambda *far: doing.update(spelled(*far)),
                )
            return await fetching.run(
                wait_s=wait_s,
                files=files_folder(place),
                on_progress=lambda here, total: doing.update(_how_far(here, total)),
            )

    def _place(self, run_id: str) -> Path:
        domain = f"-{self._domain}" if self._domain else ""
        return self._out or Path(f"thinwire-model-{run_id[:12]}{domain}")

    def _write(self, snapshot: "Snapshot") -> None:
        from peer.export.folder import write_export

        out = self._place(snapshot.run.run_id)
        with _doing(f"writing {out}"):
            done = write_export(
                snapshot, out, at=datetime.now(UTC), form=self._form, dtype=self._dtype
            )
        _say(snapshot, done)


def _doing(words: str) -> Status:
    return Console(stderr=True).status(escape(words))


def _how_far(here_bytes: int, total_bytes: int) -> str:
    if not here_bytes:
        return "looking for peers that have the model"
    return f"fetching the model: {here_bytes / total_bytes:.0%} of {total_bytes / 1e6:,.1f} MB"


def _say(snapshot: "Snapshot", done: "Export") -> None:
    say = f"{done.folder}: the model after round {snapshot.round}, step {snapshot.step:,}"
    loads = "AutoModelForCausalLM.from_pretrained loads it" if done.is_huggingface else ""
    size = f"{done.weights.num_bytes / 1e6:,.1f} MB"
    words = ", ".join(filter(None, (say, size, loads)))
    Console().print(words, markup=False, highlight=False, soft_wrap=True)
