"""A folder with experts for people who have no thinwire: tensors, a catalogue, a small loader.

    OUT/experts.json        what is here, see `peer.experts.catalogue`
    OUT/law.safetensors     the parameters of one expert, fp32, by their names in the model
    OUT/load_experts.py     loads and mixes them with torch, safetensors and numpy alone
    OUT/README.md           says so

It is written beside its place and renamed, so it is there in full or not at all.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from peer.experts import load_experts
from peer.experts.catalogue import CATALOGUE, Catalogue, ExpertEntry
from peer.experts.expert import Expert
from peer.experts.figures import Figures
from peer.experts.folder import ModelFolder
from peer.train.tensor_file import write_tensors
from protocol.errors import ConfigError

LOADER = "load_experts.py"
README = "README.md"


def require_complete(models: ModelFolder) -> None:
    """Refuses a folder in which an expert is missing, or short of its budget.

    Raises:
        ConfigError: names them all, and says what to do.
    """
    problems = [f"expert {name} is missing" for name in models.absent]
    problems += [
        f"expert {expert.name} is at step {expert.step} of {expert.total_steps}"
        for expert in models.experts
        if expert.step < expert.total_steps
    ]
    if problems:
        is_export = (models.path / CATALOGUE).exists()
        todo = "" if is_export else "wait until this peer keeps the final ones, "
        raise ConfigError(
            f"{models.path} is not complete: {', '.join(problems)}; {todo}export from the folder "
            "of a peer that keeps the final ones, or take what is there with --partial"
        )


def export(
    models: ModelFolder, experts: Sequence[Expert], to: Path, figures: Figures | None = None
) -> Catalogue:
    """Writes experts of a folder to a new one, and returns its catalogue.

    Args:
        models: Where they are from.
        experts: Those to write: `models.experts`, or what was made of them.
        to: The new folder; the one around it is made if need be.
        figures: From an evaluation of the same experts.

    Raises:
        ConfigError: there is something at `to`, or it cannot be written.
    """
    figures = figures or Figures()
    if to.exists() or to.is_symlink():
        raise ConfigError(f"{to} is there already; choose another folder with --to")
    staged = to.with_name(f".{to.name}-{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)  # of one who had our number, and died
    try:
        staged.mkdir(parents=True)
        catalogue = Catalogue(
            run_id=models.run_id,
            experts=[_write_expert(staged, expert, models, figures) for expert in experts],
            prior=None if figures.prior is None else dict(figures.prior),
            absent=list(models.absent),
        )
        (staged / CATALOGUE).write_text(catalogue.to_json())
        (staged / README).write_text(_readme(catalogue))
        shutil.copyfile(load_experts.__file__, staged / LOADER)
        staged.rename(to)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise ConfigError(f"cannot write {to}: {error.strerror}") from None
    except BaseException:  # Ctrl+C, too, leaves nothing half written
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return catalogue


def _write_expert(
    folder: Path, expert: Expert, models: ModelFolder, figures: Figures
) -> ExpertEntry:
    file = f"{expert.name}.safetensors"
    written = write_tensors(folder / file, expert.theta)
    return ExpertEntry(
        name=expert.name,
        file=file,
        blake3=written.digest,
        model=expert.spec,
        tokenizer=expert.tokenizer,
        data=models.texts.get(expert.name),
        step=expert.step,
        total_steps=expert.total_steps,
        bits_per_byte=figures.bits_per_byte.get(expert.name),
    )


def _readme(catalogue: Catalogue) -> str:
    run = f" of the thinwire run `{catalogue.run_id[:12]}`" if catalogue.run_id else ""
    rows = [
        f"| {entry.name} | `{entry.file}` | {entry.model.layers} x {entry.model.dim} | "
        f"{entry.step} of {entry.total_steps or '?'} | "
        f"{'' if entry.bits_per_byte is None else format(entry.bits_per_byte, '.3f')} |"
        for entry in catalogue.experts
    ]
    absent = f"\nNot here: {', '.join(catalogue.absent)}.\n" if catalogue.absent else ""
    return _README.format(
        num=len(catalogue.experts), run=run, rows="\n".join(rows), absent=absent, loader=LOADER
    )


_README = """\
# {num} experts{run}

Each expert is a small language model over bytes that knows one domain best. Together they are one
model: at each byte, each expert weighs as much as it foretold the text so far (the posterior).

| expert | file | layers x dim | steps | bits per byte |
|---|---|---|---|---|
{rows}
{absent}
Without thinwire, with `pip install torch safetensors numpy`:

    python {loader} "Once upon a time"

    from load_experts import load
    mixture = load()
    log_probs = mixture(tokens)    # [B, T] bytes -> [B, T, 256]: of the byte after each position

With it: `thinwire generate`, `thinwire experts eval`. The parameters are fp32, named as in
`{loader}`, which is also their documentation; `experts.json` has shapes, recipes and digests.
"""
